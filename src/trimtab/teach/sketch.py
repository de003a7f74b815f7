"""Sketch: what an exercise is, before its examples are drawn; ``teach-v1`` has one kind of them, the others four.

`docs/teaching.md` lists the laws of the draw; a change to them is a new version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from trimtab.teach.draw import Draw
from trimtab.teach.networks import ACTIVATIONS, FAMILIES, SIDE, Family
from trimtab.teach.sources import FLAT, INVENTED, LENGTH, SIZES, SOURCES, SQUARE, Source, among

Kind = Literal["usual", "clean", "image", "few", "text"]
KINDS: dict[str, dict[Kind, float]] = {
    "teach-v1": {"usual": 1.0},
    "teach-v2": {"usual": 0.5, "clean": 0.3, "image": 0.1, "few": 0.1},
    "teach-v3": {"usual": 0.35, "clean": 0.25, "image": 0.15, "few": 0.25},
    "teach-v4": {"usual": 0.3, "clean": 0.2, "image": 0.15, "few": 0.15, "text": 0.2},
    "teach-v5": {"usual": 0.3, "clean": 0.3, "image": 0.15, "few": 0.1, "text": 0.15},
}
"""Every distribution there is, with the shares of its kinds."""

SKETCH, CHANGED = 1, 3  # what draws are for
LARGE = 0.6  # share of random teachers that name 3,000 examples or more, which a small network does not learn by heart
SMOOTH: dict[Source, float] = {"numbers": 0.7, "concrete": 0.1, "power-plant": 0.1, "yacht": 0.1}  # of clean numbers
PICTURES: tuple[Source, ...] = ("digits", "classes", "fashion")  # of kind "image"
NEEDED: tuple[Source, ...] = ("classes", "numbers")  # by the kinds beside the usual one


@dataclass(frozen=True)
class Sketch:
    """What an exercise is.

    Attributes:
        family: what network.
        source: where its examples come from.
        rows: examples for training and validation (of real data: of all three splits).
        inputs: ``D``; of real data, as many as it has.
        classes: ``C``; of real data, as many as it has; 1 for a number.
        noise: share of labels replaced by a random one; for numbers the deviation of the noise added.
        widths: units of the hidden layers.
        activation: a name in :data:`ACTIVATIONS`.
        gain: factor on the first weights.
        has_norm: whether batch norm stands before each activation.
        batch_size: ``n``.
    """

    family: Family
    source: Source
    rows: int
    inputs: int
    classes: int
    noise: float
    widths: tuple[int, ...]
    activation: str
    gain: float
    has_norm: bool
    batch_size: int


def sketch(seed: int, sources: Iterable[str] = SOURCES, kind: Kind = "usual") -> Sketch:
    """Draw what an exercise is, without its data.

    Args:
        seed: everything follows from it.
        sources: names in :data:`trimtab.teach.sources.FLAT`.
        kind: "usual"; "clean", a number almost without noise; "image", a convolutional net on labels none of which is
            spoilt; "few", a small noisy set that is soon learned by heart; "text", a small transformer that foretells
            each next symbol.

    Returns:
        The sketch.
    """
    usual = _usual(seed, sources)
    return usual if kind == "usual" else CHANGES[kind](usual, Draw(seed, CHANGED), sources)


def _usual(seed: int, sources: Iterable[str]) -> Sketch:
    """Draw as teach-v1 does; a perceptron where no source gives 8 by 8."""
    draw = Draw(seed, SKETCH)
    family: Family = draw.weighted(FAMILIES)
    if not (square := among(SQUARE, sources)):
        family = "mlp"
    source: Source = draw.weighted(among(FLAT, sources) if family == "mlp" else square)
    is_large = draw.uniform() < LARGE
    rows = draw.log_whole(3000, 6000) if is_large else draw.log_whole(150, 3000)
    inputs, classes = draw.whole(10, 40), 1 if source == "numbers" else draw.whole(2, 10)
    inputs = inputs if family == "mlp" else SIDE**2
    if source in SIZES:
        most, inputs, classes = SIZES[source]
        rows = draw.log_whole(max(150, most // 2), most)
    is_clean = draw.uniform() < (0.4 if source in INVENTED else 0.5)
    batches = (16, 32, 64, 128 if rows >= 300 else 64) if family == "mlp" else (8, 16, 32)
    widest = {"mlp": 64, "cnn": 12, "gru": 24, "attention": 16}[family]
    narrowest = 4 if family == "cnn" else 8
    return Sketch(
        family,
        source,
        rows,
        inputs,
        classes,
        0.0 if is_clean else draw.log_uniform(0.02, 0.5),
        widths=tuple(draw.log_whole(narrowest, widest) for _ in range(draw.whole(1, 3))),
        activation=draw.one_of(tuple(ACTIVATIONS)),
        gain=draw.one_of((0.25, 0.5, 1.0, 1.0, 2.0, 4.0)),
        has_norm=draw.uniform() < 0.2,
        batch_size=draw.one_of(batches),
    )


def _clean(usual: Sketch, draw: Draw, sources: Iterable[str]) -> Sketch:
    source: Source = draw.weighted(among(SMOOTH, sources))
    rows, inputs = draw.log_whole(400, 3000), draw.whole(4, 12)
    if source in SIZES:
        most, inputs, _ = SIZES[source]
        rows = min(rows, most)
    return replace(
        usual,
        family="mlp",
        source=source,
        rows=rows,
        inputs=inputs,
        classes=1,
        noise=0.0 if source in SIZES or draw.uniform() < 0.5 else draw.log_uniform(0.005, 0.05),
        widths=tuple(draw.log_whole(16, 64) for _ in range(draw.whole(1, 2))),
        gain=draw.one_of((0.5, 1.0, 1.0, 2.0)),
        has_norm=False,
        batch_size=min(draw.one_of((32, 64, 128, 256)), rows // 2),
    )


def _image(usual: Sketch, draw: Draw, sources: Iterable[str]) -> Sketch:
    source: Source = draw.weighted(among({name: SQUARE[name] for name in PICTURES}, sources))
    most, _, classes = SIZES.get(source, (3000, 0, draw.whole(2, 10)))
    return replace(
        usual,
        family="cnn",
        source=source,
        rows=draw.log_whole(most // 2, most),
        inputs=SIDE**2,
        classes=classes,
        noise=0.0,
        widths=tuple(draw.log_whole(6, 16) for _ in range(2)),
        batch_size=draw.one_of((16, 32, 64)),
    )


def _few(usual: Sketch, draw: Draw, sources: Iterable[str]) -> Sketch:
    is_number = draw.uniform() < 0.5
    return replace(
        usual,
        family="mlp",
        source="numbers" if is_number else "classes",
        rows=draw.log_whole(150, 500),
        inputs=draw.whole(5, 15),
        classes=1 if is_number else draw.whole(2, 5),
        noise=draw.log_uniform(0.5, 1.5) if is_number else draw.log_uniform(0.2, 0.5),
        widths=tuple(draw.log_whole(16, 64) for _ in range(draw.whole(1, 2))),
        has_norm=False,
        batch_size=draw.one_of((16, 32, 64)),
    )


def _text(usual: Sketch, draw: Draw, sources: Iterable[str]) -> Sketch:
    return replace(
        usual,
        family="transformer",
        source="text",
        rows=draw.log_whole(300, 3000),
        inputs=LENGTH,
        classes=draw.whole(8, 24),
        noise=0.0,
        widths=(draw.log_whole(8, 24),) * draw.whole(1, 2),
        gain=draw.one_of((0.5, 1.0, 1.0, 2.0)),
        has_norm=False,
        batch_size=draw.one_of((8, 16)),
    )


CHANGES: dict[Kind, Callable[[Sketch, Draw, Iterable[str]], Sketch]] = {
    "clean": _clean,
    "image": _image,
    "few": _few,
    "text": _text,
}
"""What other kinds than the usual one change of a sketch."""
