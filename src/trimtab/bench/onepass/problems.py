"""Problems: what is trained, for how long, and how it ends.

Clarke, Oldewage & Hernández-Lobato 2022, arXiv:2110.10461, Sec. 4: three UCI tables, all examples in every batch for
4,000 steps, and Fashion-MNIST, batches of 50 for 10,000 steps, each with one hidden layer of 50; and the Penn Treebank
and CIFAR-10 in a form reduced for two cores.

Letters: ``B`` runs, ``N`` examples of a split, ``D`` features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.bench.onepass.blocks import estimate, squared_error
from trimtab.bench.onepass.clipped import ClippedSGD
from trimtab.datasets import DataFile, fetch
from trimtab.errors import TaskError
from trimtab.rules import SGD, Rule
from trimtab.task import Batch, Model, Reference, Split, Task
from trimtab.tasks import classification, energy_mlp, fashion_mlp, kin8nm_mlp, power_mlp
from trimtab.tasks.cifar_resnet18 import CifarResNet18
from trimtab.tasks.ptb_lstm import PtbLSTM
from trimtab.tasks.regression import Table, normalised
from trimtab.tasks.seeded import build_seeded
from trimtab.tasks.uci import read_table

HIDDEN = 50
FILES = {"energy": energy_mlp.FILES, "kin8nm": kin8nm_mlp.FILES, "power": power_mlp.FILES}
SHARES = {"energy": 0.11272, "kin8nm": 0.2, "power": 0.2}  # of what is not for testing, validates
ORDER = DataFile(
    "uci/energy/clarke_permutation.txt",
    "https://raw.githubusercontent.com/rmclarke/OptimisingWeightUpdateHyperparameters/"
    "d4e532b323b947cd83dd49a269d431528049b8c5/data/UCI_Energy/permutation_indices.txt",
    "e7f266408b1145b0df9715b9886a84f503bf4c3b2d83760d8f4ae8c734ec8ed9",
    2962,
)
TESTED = 0.1  # of a table in an order of its own: the last rows
REFERENCE = Reference(float("nan"), float("nan"), float("nan"), "see docs/one-pass.md")


@final
class FullBatch:
    """A UCI table, all training examples in every batch.

    Args:
        table: "energy", "kin8nm" or "power".
        is_merged: train on the validation examples too, as methods do that need none.
        order: of its rows: training, validation, and a tenth for testing; None: the table's own first split.
    """

    optimizer: str = "sgd"
    metric: str = "mse"
    noise_shape: tuple[int, ...] | None = None
    horizon: int = 4000
    card: str = "A UCI table in the first split of Gal & Ghahramani 2016, arXiv:1506.02142."
    reference: Reference = REFERENCE

    def __init__(self, table: str, *, is_merged: bool = False, order: DataFile | None = None) -> None:
        self.name, self._table, self._is_merged, self._order = f"one-pass-{table}", table, is_merged, order
        self.batch_size: int = len(self.data("train")[0])

    @cached_property
    def table(self) -> Table:
        """The numbers, normalised by the examples that are not for testing."""
        x, y, seen = self._ordered()
        train = seen - round(SHARES[self._table] * seen)
        rows: dict[Split, slice] = {
            "train": slice(0, seen),
            "val": slice(train, seen),
            "test": slice(seen, None),
        }
        found = normalised(torch.cat([x, y[:, None]], 1), rows)
        if not self._is_merged:
            rows["train"] = slice(0, train)
        return Table(found.x, found.y, rows, found.deviation)

    def _ordered(self) -> tuple[Tensor, Tensor, int]:
        """Give ``[N, D]`` and ``[N]`` float64, and how many come before the test examples."""
        if self._order is None:
            known = read_table(FILES[self._table])
            return known.x.double(), known.y.double() * known.deviation, known.rows["test"].start or 0
        numbers, order = np.loadtxt(fetch(FILES[self._table][0])), np.loadtxt(fetch(self._order), dtype=int)
        rows = torch.from_numpy(numbers[order])
        return rows[:, :-1], rows[:, -1], len(rows) - int(TESTED * len(rows))

    def build(self, seed: int) -> nn.Module:
        """Make the network, float32 on the CPU."""
        return build_seeded(partial(_Estimate, self.table.x.shape[1]), seed)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give a split, ``[N, D]`` and ``[N]``."""
        return self.table.split(split)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Give the squared error of the normalised target, ``[]``."""
        return model(batch.x, batch.y)

    def score(self, model: Model, batch: Batch) -> Tensor:
        """Give the squared error in the target's own unit, ``[]``."""
        return self.loss(model, batch) * self.table.deviation**2


@final
class Fashion:
    """Fashion-MNIST in batches of 50, each pixel with its own mean and deviation, by a network 784-50-10.

    `fashion-mlp-v1` has batches of 100, one mean and one deviation for all pixels, and a fifth of the steps.

    Args:
        is_merged: train on the validation examples too.
    """

    name: str = "one-pass-fashion"
    optimizer: str = "sgd"
    metric: str = "cross_entropy"
    noise_shape: tuple[int, ...] | None = None
    horizon: int = 10_000
    batch_size: int = 50
    card: str = fashion_mlp.FashionMLP.card
    reference: Reference = REFERENCE

    def __init__(self, *, is_merged: bool = False) -> None:
        self._is_merged = is_merged

    def build(self, seed: int) -> nn.Module:
        """Make the network, float32 on the CPU."""
        return fashion_mlp.FashionMLP().build(seed)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give pixels ``[N, 784]`` and classes ``[N]``."""
        if split == "test":
            return _standardised()[split]
        x, y = _standardised()["train"]
        count = len(fashion_mlp.FashionMLP().data("train")[0])
        rows = slice(count, None) if split == "val" else slice(None) if self._is_merged else slice(count)
        return x[rows], y[rows]

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Give the mean cross-entropy, ``[]`` nats."""
        return classification.cross_entropy(model, batch)

    def score(self, model: Model, batch: Batch) -> Tensor:
        """Give the mean cross-entropy, ``[]`` nats: what the paper's table shows."""
        return self.loss(model, batch)


@final
class Reduced:
    """A task of the catalogue, as the bench trains it.

    Args:
        task: it.
        horizon: steps.
        is_merged: train on the validation examples too.
    """

    card: str = "A task of the catalogue."
    reference: Reference = REFERENCE

    def __init__(self, task: Task, horizon: int, *, is_merged: bool = False) -> None:
        self._task, self._is_merged, self.horizon = task, is_merged, horizon
        self.name, self.batch_size, self.optimizer = f"one-pass-{task.name}", task.batch_size, task.optimizer
        self.noise_shape, self.build, self.loss = task.noise_shape, task.build, task.loss
        self.metric = "cross_entropy" if task.metric == "accuracy" else task.metric

    @cached_property
    def _merged(self) -> tuple[Tensor, Tensor]:
        parts = [self._task.data(split) for split in ("train", "val")]
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give a split; "train" with the validation examples where merged."""
        return self._merged if split == "train" and self._is_merged else self._task.data(split)

    def score(self, model: Model, batch: Batch) -> Tensor:
        """Give what the paper's table shows, ``[]``: the metric, or the cross-entropy for an accuracy."""
        return self.loss(model, batch) if self.metric == "cross_entropy" else self._task.score(model, batch)


@dataclass(frozen=True)
class Problem:
    """What a table of the paper needs beside its task.

    Attributes:
        make: gives the task, merged or not.
        at_once: runs in one plant: more do not go faster.
        fresh: validation examples that are drawn anew for each hypergradient; None: all, always the same.
        lost: a final score from here on counts as a run that was lost, as it does in the source.
        unit: of the score.
        rule: the optimizer.
        piece: steps of a timed piece.
    """

    make: Callable[[bool], Task]
    at_once: int
    fresh: int | None = None
    lost: float = math.inf
    unit: str = "squared error in the target's unit"
    rule: Rule = field(default_factory=SGD)
    piece: int = 60


PROBLEMS = {
    "energy": Problem(lambda merged: FullBatch("energy", is_merged=merged), 100),
    "energy-authors": Problem(lambda merged: FullBatch("energy", is_merged=merged, order=ORDER), 100),
    "kin8nm": Problem(lambda merged: FullBatch("kin8nm", is_merged=merged), 20),
    "power": Problem(lambda merged: FullBatch("power", is_merged=merged), 20),
    "fashion": Problem(lambda merged: Fashion(is_merged=merged), 20, 50, 1e3, "cross-entropy in nats"),
    "ptb": Problem(
        lambda merged: Reduced(PtbLSTM(), 1000, is_merged=merged), 20, 40, 1e5, "perplexity", ClippedSGD(0.25), 10
    ),
    "cifar": Problem(
        lambda merged: Reduced(CifarResNet18(), 2000, is_merged=merged), 10, 100, unit="cross-entropy in nats", piece=10
    ),
}


def problem_named(table: str) -> Problem:
    """Give a problem.

    Args:
        table: one in :data:`PROBLEMS`.

    Returns:
        It.

    Raises:
        TaskError: there is none of that name.
    """
    if table not in PROBLEMS:
        raise TaskError(f"One-pass has no table {table!r}: there are {', '.join(PROBLEMS)}.")
    return PROBLEMS[table]


@final
class _Estimate(nn.Module):
    """``Linear(D, 50), ReLU, Linear(50, 1)`` on ``[N, D]``: ``[N]``; with targets ``[N]``, the squared error ``[]``."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(wide, HIDDEN)
        self.answer = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        weights = self.hidden.weight, self.hidden.bias, self.answer.weight, self.answer.bias
        return estimate(*weights, x) if y is None else squared_error(*weights, x, y)


@cache
def _standardised() -> dict[Split, tuple[Tensor, Tensor]]:
    """Give all 60,000 training images as "train", and "test", each pixel standardised by the former."""
    whole = fashion_mlp.FashionMLP()
    parts = [whole.data(split) for split in ("train", "val")]
    x, y = (torch.cat([part[place] for part in parts]) for place in (0, 1))
    deviation, mean = torch.std_mean(x, 0)
    test = whole.data("test")
    return {"train": ((x - mean) / deviation, y), "test": ((test[0] - mean) / deviation, test[1])}
