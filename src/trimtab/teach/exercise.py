"""Exercise: a small base-model problem to teach on, drawn from its seed alone.

Most of them are random teachers (a tanh network that names classes or estimates a number), the rest real sets, thinned
and with some labels spoilt; perceptrons mostly, and small convolutional, recurrent and attention networks.
`docs/teaching.md` lists the laws of the draw.

Letters: ``n`` examples of a batch, ``N`` of a split, ``D`` inputs, ``C`` classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor, nn

from trimtab.task import Batch, Model, Reference, Split
from trimtab.tasks import classification
from trimtab.tasks.seeded import build_seeded
from trimtab.teach.draw import Draw
from trimtab.teach.networks import ACTIVATIONS, FAMILIES, SIDE, Family, network
from trimtab.teach.sources import FLAT, INVENTED, SCORED, SIZES, SOURCES, SQUARE, Source, among, examples

SKETCH, DATA = 1, 2  # what an exercise's two generators are for
LARGE = 0.6  # share of random teachers that name 3,000 examples or more, which a small network does not learn by heart
SEEN = 300  # validation examples at most: looks at more would cost more than the training


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


@final
class Exercise:
    """A task of the distribution ``teach-v1``; pickled as its seed and sources.

    Args:
        seed: everything follows from it.
        sources: names in :data:`trimtab.teach.sources.FLAT`, in any order; others than the usual ones are another
            exercise of another name.

    Example:
        >>> Exercise(3).name
        'teach-3-v1'
    """

    horizon: int = 200
    optimizer: str = "adamw"
    noise_shape: tuple[int, ...] | None = None
    reference: Reference = Reference(math.nan, math.nan, math.nan, "None: nobody has tuned anything here.")

    def __init__(self, seed: int, sources: Iterable[str] = SOURCES) -> None:
        asked = set(sources)
        self.seed, self.sources = seed, tuple(source for source in FLAT if source in asked)
        self.sketch = sketch(seed, self.sources)
        drawn_from = "" if self.sources == SOURCES else "-" + "-".join(self.sources)
        self.name = f"teach-{seed}{drawn_from}-v1"
        self.card = f"An exercise of teach-v1, drawn from seed {seed}, its splits too: {self.sketch}."
        self.batch_size = self.sketch.batch_size
        self.metric = "rmse" if self.sketch.classes == 1 else "accuracy"

    def __reduce__(self) -> tuple[type[Exercise], tuple[int] | tuple[int, tuple[str, ...]]]:
        """Pickle the seed, and the sources where they are not the usual ones."""
        return Exercise, (self.seed,) if self.sources == SOURCES else (self.seed, self.sources)

    @cached_property
    def chance(self) -> float:
        """The training loss of the best constant answer: the entropy of the classes, or the targets' variance."""
        y = self.data("train")[1]
        if y.is_floating_point():
            return float(y.double().var(correction=0))
        share = torch.bincount(y).double() / len(y)
        return float(-(share * share.clamp_min(1e-12).log()).sum())

    def build(self, seed: int) -> nn.Module:
        """Make the network, float32 on the CPU."""
        s = self.sketch
        return build_seeded(
            lambda: network(s.family, s.inputs, s.classes, s.widths, s.activation, s.gain, s.has_norm), seed
        )

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give inputs ``[N, D]`` float32, standardised, and classes ``[N]`` int64 or numbers ``[N]`` float32."""
        return self._splits[split]

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Give the mean cross-entropy in nats, or the mean squared error: ``[]``."""
        if self.sketch.classes == 1:
            return (model(batch.x).squeeze(-1) - batch.y).square().mean()
        return classification.cross_entropy(model, batch)

    def score(self, model: Model, batch: Batch) -> Tensor:
        """Give the accuracy, or the root mean squared error: ``[]``."""
        return self.loss(model, batch).sqrt() if self.sketch.classes == 1 else classification.accuracy(model, batch)

    @cached_property
    def _splits(self) -> dict[Split, tuple[Tensor, Tensor]]:
        s = self.sketch
        x, y = examples(s.source, Draw(self.seed, DATA), rows=s.rows, inputs=s.inputs, classes=s.classes, noise=s.noise)
        rest = SCORED if s.source in INVENTED else len(x) // 5
        val = min((len(x) - rest) // 5, SEEN)
        train = len(x) - rest - val
        deviation, mean = torch.std_mean(x[:train], 0)
        x = (x - mean) / deviation.clamp_min(1e-3)
        bounds: dict[Split, slice] = {
            "train": slice(0, train),
            "val": slice(train, train + val),
            "test": slice(train + val, None),
        }
        return {split: (x[rows].float(), y[rows]) for split, rows in bounds.items()}


def sketch(seed: int, sources: Iterable[str] = SOURCES) -> Sketch:
    """Draw what an exercise is, without its data; a perceptron where no source gives 8 by 8."""
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
