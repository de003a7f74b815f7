"""Exercise: a small base-model problem to teach on, drawn from its seed alone.

Most of them are random teachers (a tanh network that names classes or estimates a number), the rest scikit-learn's
digits, breast cancer and wine, thinned and with some labels spoilt; perceptrons mostly, and small convolutional,
recurrent and attention networks. `docs/teaching.md` lists the laws of the draw.

Letters: ``n`` examples of a batch, ``N`` of a split, ``D`` inputs, ``C`` classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from trimtab.errors import DataError
from trimtab.task import Batch, Model, Reference, Split
from trimtab.tasks import classification
from trimtab.tasks.digits import digits
from trimtab.tasks.seeded import build_seeded
from trimtab.teach.draw import Draw
from trimtab.teach.networks import ACTIVATIONS, FAMILIES, SIDE, Family, network

Source = Literal["digits", "cancer", "wine", "classes", "numbers"]
FLAT: dict[Source, float] = {"digits": 0.15, "cancer": 0.1, "wine": 0.05, "classes": 0.45, "numbers": 0.25}
SQUARE: dict[Source, float] = {"digits": 0.4, "classes": 0.4, "numbers": 0.2}  # of networks that read 8 by 8
SIZES = {"digits": (1197, 64, 10), "cancer": (569, 30, 2), "wine": (178, 13, 3)}  # rows, inputs, classes
SKETCH, DATA = 1, 2  # what an exercise's two generators are for
LARGE = 0.6  # share of random teachers that name 3,000 examples or more, which a small network does not learn by heart
TEACHER = 16  # hidden units of a random teacher
SEEN = 300  # validation examples at most: looks at more would cost more than the training
SCORED = 400  # examples of a random teacher's test split: many, for they are free and steady the fitness


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
    """A task of the distribution ``teach-v1``; pickled as its seed.

    Args:
        seed: everything follows from it.

    Example:
        >>> Exercise(3).name
        'teach-3-v1'
    """

    horizon: int = 200
    optimizer: str = "adamw"
    noise_shape: tuple[int, ...] | None = None
    reference: Reference = Reference(math.nan, math.nan, math.nan, "None: nobody has tuned anything here.")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.sketch = sketch(seed)
        self.name = f"teach-{seed}-v1"
        self.card = f"An exercise of teach-v1, drawn from seed {seed}, its splits too: {self.sketch}."
        self.batch_size = self.sketch.batch_size
        self.metric = "rmse" if self.sketch.classes == 1 else "accuracy"

    def __reduce__(self) -> tuple[type[Exercise], tuple[int]]:
        """Pickle the seed alone."""
        return Exercise, (self.seed,)

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
        draw = Draw(self.seed, DATA)
        made = self.sketch.source in {"classes", "numbers"}
        x, y = _invented(self.sketch, draw) if made else _real(self.sketch, draw)
        rest = SCORED if made else len(x) // 5
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


def sketch(seed: int) -> Sketch:
    """Draw what an exercise is, without its data."""
    draw = Draw(seed, SKETCH)
    family: Family = draw.weighted(FAMILIES)
    source: Source = draw.weighted(FLAT if family == "mlp" else SQUARE)
    is_large = draw.uniform() < LARGE
    rows = draw.log_whole(3000, 6000) if is_large else draw.log_whole(150, 3000)
    inputs, classes = draw.whole(10, 40), 1 if source == "numbers" else draw.whole(2, 10)
    inputs = inputs if family == "mlp" else SIDE**2
    if source in SIZES:
        most, inputs, classes = SIZES[source]
        rows = draw.log_whole(max(150, most // 2), most)
    is_clean = draw.uniform() < (0.4 if source in {"classes", "numbers"} else 0.5)
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


def _invented(sketch: Sketch, draw: Draw) -> tuple[Tensor, Tensor]:
    """Let a random tanh network answer random inputs, the scored ones too: ``[N, D]`` float64 and ``[N]``."""
    count = sketch.rows + SCORED
    x = draw.normal(count, sketch.inputs)
    first = draw.normal(sketch.inputs, TEACHER) * draw.log_uniform(0.5, 3.0) / math.sqrt(sketch.inputs)
    answer = torch.tanh(x @ first) @ draw.normal(TEACHER, sketch.classes)
    answer = (answer - answer.mean(0)) / answer.std(0)
    if sketch.classes == 1:
        return x, (answer[:, 0] + sketch.noise * draw.normal(count)).float()
    return x, _spoilt(answer.argmax(1), sketch, draw)


def _real(sketch: Sketch, draw: Draw) -> tuple[Tensor, Tensor]:
    """Take some rows of a real set in an order of their own: ``[N, D]`` float64 and ``[N]``."""
    if sketch.source == "digits":
        x, y = digits("train")  # the shipped tasks' validation and test rows are never taught on
    else:
        x, y = _table(sketch.source)
    rows = draw.order(len(x))[: sketch.rows]
    return x[rows].double(), _spoilt(y[rows], sketch, draw)


def _table(source: Source) -> tuple[Tensor, Tensor]:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            "The exercises' real data comes inside scikit-learn, which is not installed: pip install 'trimtab[tasks]'."
        ) from error
    read: dict[str, Any] = {"cancer": datasets.load_breast_cancer, "wine": datasets.load_wine}
    x, y = read[source](return_X_y=True)
    return torch.from_numpy(x), torch.from_numpy(y).long()


def _spoilt(y: Tensor, sketch: Sketch, draw: Draw) -> Tensor:
    """Replace a share of the labels by random ones."""
    random = (draw.uniforms(len(y)) * sketch.classes).long()
    return torch.where(draw.uniforms(len(y)) < sketch.noise, random, y)
