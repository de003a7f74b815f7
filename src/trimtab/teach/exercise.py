"""Exercise: a small base-model problem to teach on, drawn from its seed alone.

Most of them are random teachers (a tanh network that names classes or estimates a number), the rest real sets, thinned
and with some labels spoilt, and texts of random Markov chains; perceptrons mostly, and small convolutional, recurrent
and attention networks.

Letters: ``n`` examples of a batch, ``N`` of a split, ``D`` inputs, ``C`` classes, ``L`` places of a text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import final

import torch
from torch import Tensor, nn

from trimtab.task import Batch, Model, Reference, Split
from trimtab.tasks import classification
from trimtab.tasks.seeded import build_seeded
from trimtab.teach.draw import Draw
from trimtab.teach.networks import network
from trimtab.teach.sketch import Kind, sketch
from trimtab.teach.sources import FLAT, INVENTED, SCORED, SOURCES, examples

DATA = 2  # what the examples' generator is for
SEEN = 300  # validation examples at most: looks at more would cost more than the training


@final
class Exercise:
    """A task of the distributions ``teach-v1`` to ``teach-v5``; pickled as its seed, sources and kind.

    Args:
        seed: everything follows from it.
        sources: names in :data:`trimtab.teach.sources.FLAT`, in any order; others than the usual ones are another
            exercise of another name.
        kind: one of ``teach-v2``'s; see :func:`trimtab.teach.sketch.sketch`.

    Example:
        >>> Exercise(3).name
        'teach-3-v1'
    """

    horizon: int = 200
    optimizer: str = "adamw"
    noise_shape: tuple[int, ...] | None = None
    reference: Reference = Reference(math.nan, math.nan, math.nan, "None: nobody has tuned anything here.")

    def __init__(self, seed: int, sources: Iterable[str] = SOURCES, kind: Kind = "usual") -> None:
        asked = set(sources)
        self.seed, self.sources, self.kind = seed, tuple(source for source in FLAT if source in asked), kind
        self.sketch = sketch(seed, self.sources, kind)
        drawn_from = "" if self.sources == SOURCES else "-" + "-".join(self.sources)
        drawn_from += "" if kind == "usual" else f"-{kind}"
        self.name = f"teach-{seed}{drawn_from}-v1"
        self.card = f"A {kind} exercise, drawn from seed {seed}, its splits too: {self.sketch}."
        self.batch_size = self.sketch.batch_size
        self.metric = "rmse" if self.sketch.classes == 1 else "accuracy"

    def __reduce__(self) -> tuple[type[Exercise], tuple[int, tuple[str, ...], Kind]]:
        """Pickle what it is drawn from."""
        return Exercise, (self.seed, self.sources, self.kind)

    @cached_property
    def chance(self) -> float:
        """The training loss of the best constant answer: the entropy of the classes, or the targets' variance."""
        y = self.data("train")[1]
        if y.is_floating_point():
            return float(y.double().var(correction=0))
        share = torch.bincount(y.flatten()).double() / y.numel()
        return float(-(share * share.clamp_min(1e-12).log()).sum())

    def build(self, seed: int) -> nn.Module:
        """Make the network, float32 on the CPU."""
        s = self.sketch
        return build_seeded(
            lambda: network(s.family, s.inputs, s.classes, s.widths, s.activation, s.gain, s.has_norm), seed
        )

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give inputs ``[N, D]`` float32, standardised, and classes or numbers ``[N]``; of a text both ``[N, L]``."""
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
        if x.is_floating_point():
            deviation, mean = torch.std_mean(x[:train], 0)
            x = ((x - mean) / deviation.clamp_min(1e-3)).float()
        bounds: dict[Split, slice] = {
            "train": slice(0, train),
            "val": slice(train, train + val),
            "test": slice(train + val, None),
        }
        return {split: (x[rows], y[rows]) for split, rows in bounds.items()}
