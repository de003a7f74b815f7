"""Suite: the problems, the random starts, and who takes part.

Clarke, Oldewage & Hernández-Lobato 2022, arXiv:2110.10461, Sec. 4 and Table 1: a network of one hidden layer of 50,
trained by SGD with momentum and weight decay on all examples at once for 4,000 steps, from hyperparameters drawn
anew for each run. Differs from the source: the data split is the first of Gal & Ghahramani's; momentum moves on
``-log(1 - m)``, not its logit.

Letters: ``B`` runs, ``N`` examples of a split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor, nn

from trimtab.controller import Controller
from trimtab.controllers import Constant, Hypergradient
from trimtab.errors import TaskError
from trimtab.hypergrad import Implicit, OneStepValidation, Unroll
from trimtab.hypergrad.followers import Adam
from trimtab.knobs import Knob, Panel
from trimtab.task import Batch, Model, Reference, Split
from trimtab.tasks import energy_mlp, kin8nm_mlp
from trimtab.tasks.regression import Table, normalised, squared_error
from trimtab.tasks.seeded import build_seeded
from trimtab.tasks.uci import read_table

STEPS, HIDDEN = 4000, 50
LOW, SPAN = (-6.0, 0.0, -7.0), (5.0, 1.0, 5.0)  # of log10 lr, momentum, log10 weight decay: where runs begin
KNOBS = (
    Knob("lr", 1e-10, 1.0),
    Knob("momentum", 0.0, 0.999999, "one_minus_log"),
    Knob("weight_decay", 1e-12, 1e3),
)
FILES = {"energy": energy_mlp.FILES, "kin8nm": kin8nm_mlp.FILES}
SHARES = {"energy": 0.11272, "kin8nm": 0.2}  # of what is not for testing, validates
WIDE = float("inf")


@final
class FullBatch:
    """A UCI table, all training examples in every batch.

    Args:
        table: "energy" or "kin8nm".
        is_merged: train on the validation examples too, as methods do that need none.

    Raises:
        TaskError: there is no such table.
    """

    optimizer: str = "sgd"
    metric: str = "mse"
    noise_shape: tuple[int, ...] | None = None
    horizon: int = STEPS
    card: str = "A UCI table in the first split of Gal & Ghahramani 2016, arXiv:1506.02142."
    reference: Reference = Reference(float("nan"), float("nan"), float("nan"), "see docs/one-pass.md")

    def __init__(self, table: str, *, is_merged: bool = False) -> None:
        if table not in FILES:
            raise TaskError(f"One-pass has no table {table!r}: there are {', '.join(FILES)}.")
        self.name, self._table, self._is_merged = f"one-pass-{table}", table, is_merged
        self.batch_size: int = len(self.data("train")[0])

    @cached_property
    def table(self) -> Table:
        """The numbers, normalised by the examples that are not for testing."""
        known = read_table(FILES[self._table])
        x, y = known.x, known.y
        count = len(x) - (known.rows["test"].start or 0)
        seen = len(x) - count
        train = seen - round(SHARES[self._table] * seen)
        rows: dict[Split, slice] = {
            "train": slice(0, seen),
            "val": slice(train, seen),
            "test": slice(seen, None),
        }
        found = normalised(torch.cat([x.double(), y.double()[:, None] * known.deviation], 1), rows)
        if not self._is_merged:
            rows["train"] = slice(0, train)
        return Table(found.x, found.y, rows, found.deviation)

    def build(self, seed: int) -> nn.Module:
        """Make the network, float32 on the CPU."""
        wide = self.table.x.shape[1]
        return build_seeded(
            lambda: nn.Sequential(nn.Linear(wide, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1), nn.Flatten(-2, -1)), seed
        )

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give a split, ``[N, D]`` and ``[N]``."""
        return self.table.split(split)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Give the squared error of the normalised target, ``[]``."""
        return squared_error(model, batch)

    def score(self, model: Model, batch: Batch) -> Tensor:
        """Give the squared error in the target's own unit, ``[]``."""
        return squared_error(model, batch) * self.table.deviation**2


@dataclass(frozen=True)
class Method:
    """Who takes part.

    Attributes:
        name: as in the table.
        make: gives the controller.
        turns: the knobs' names; the others stay where they were drawn.
        every: steps between its decisions.
        needs_val: whether the validation examples are kept from the training.
    """

    name: str
    make: Callable[[], Controller]
    turns: tuple[str, ...] = ("lr", "momentum", "weight_decay")
    every: int = 10
    needs_val: bool = True

    @property
    def panel(self) -> Panel:
        """All three knobs; those that are not turned move by nothing that counts."""
        return Panel(knob if knob.name in self.turns else replace(knob, rate=1e-12) for knob in KNOBS)


def _implicit(lookback: int, examples: int | None = None, lr: float = 0.05) -> Callable[[], Controller]:
    return lambda: Hypergradient(Implicit(lookback, examples), Adam(lr), clip=WIDE)


METHODS = (
    Method("random", Constant, needs_val=False),
    Method("random, validation kept", Constant),
    Method("WD (Lorraine)", _implicit(5), ("weight_decay",)),
    Method("WD+LR, T=10 i=5", _implicit(5), ("lr", "weight_decay")),
    Method("WD+LR+M, T=10 i=5", _implicit(5)),
    Method("WD+LR+M, T=10 i=1", _implicit(1)),
    Method("WD+LR+M, T=5 i=5", _implicit(5), every=5),
    Method("WD+LR+M, T=5 i=1", _implicit(1), every=5),
    Method("WD+LR+M, T=5 i=5, 64 examples", _implicit(5, 64), every=5),
    Method("WD+LR+M, T=3 i=5, 64 examples", _implicit(5, 64), every=3),
    Method("WD+LR+M, T=10 i=5, 64 examples", _implicit(5, 64)),
    Method("one-step validation, T=1", lambda: Hypergradient(OneStepValidation(), Adam(0.005), clip=WIDE), every=1),
    Method("through 5 steps, T=10", lambda: Hypergradient(Unroll(5), Adam(), clip=WIDE)),
)
"""Those of the paper's Table 1 that are here, and the quality–cost frontier around its method. T: steps between
updates; i: terms of the series; examples: that the Hessian is of, where not all."""


def starts(count: int) -> Tensor:
    """Draw where runs begin: ``[count, 3]`` lr, momentum, weight decay, the same for every method."""
    draw = torch.rand(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    place = torch.tensor(LOW, dtype=torch.float64) + draw * torch.tensor(SPAN, dtype=torch.float64)
    return torch.stack([10 ** place[:, 0], place[:, 1], 10 ** place[:, 2]], 1)


def method_named(name: str) -> Method:
    """Give a method.

    Args:
        name: one in :data:`METHODS`.

    Returns:
        It.

    Raises:
        TaskError: there is none of that name.
    """
    for method in METHODS:
        if method.name == name:
            return method
    raise TaskError(f"One-pass has no method {name!r}: there are {'; '.join(method.name for method in METHODS)}.")
