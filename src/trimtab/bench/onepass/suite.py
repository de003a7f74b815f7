"""Suite: the random starts, and who takes part.

Clarke, Oldewage & Hernández-Lobato 2022, arXiv:2110.10461, Sec. 4 and Table 1: networks trained by SGD with momentum
and weight decay, from hyperparameters drawn anew for each run. Differs from the source: the data split is the first of
Gal & Ghahramani's; momentum moves on ``-log(1 - m)``, not its logit.

Letters: ``B`` runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.bench.onepass.rivals import Baydin, SteppedRate
from trimtab.controller import Controller
from trimtab.controllers import Constant, Hypergradient
from trimtab.errors import TaskError
from trimtab.hypergrad import Estimator, Implicit, OneStepValidation, Unroll
from trimtab.hypergrad.followers import Adam, Follower, Sign
from trimtab.knobs import Knob, Panel

LOW, SPAN = (-6.0, 0.0, -7.0), (5.0, 1.0, 5.0)  # of log10 lr, momentum, log10 weight decay: where runs begin
KNOBS = (
    Knob("lr", 1e-10, 1.0),
    Knob("momentum", 0.0, 0.999999, "one_minus_log"),
    Knob("weight_decay", 1e-12, 1e3),
)
LIKE = Adam(0.05)  # the source's
WIDE, WHOLE = math.inf, 25.0  # no clipping; more e-folds than the rate's whole range has


@dataclass(frozen=True)
class Method:
    """Who takes part.

    Attributes:
        name: as in the table.
        make: gives the controller of runs that begin with that number.
        turns: the knobs' names; the others stay where they were drawn.
        every: steps between its decisions.
        needs_val: whether the validation examples are kept from the training.
        rate: the largest change of a knob that is turned, per decision; None: the knob's own.
        fresh: validation examples drawn anew for each hypergradient; None: as many as the table says.
    """

    name: str
    make: Callable[[int], Controller]
    turns: tuple[str, ...] = ("lr", "momentum", "weight_decay")
    every: int = 10
    needs_val: bool = True
    rate: float | None = None
    fresh: int | None = None

    @property
    def panel(self) -> Panel:
        """All three knobs; those that are not turned move by nothing that counts."""
        return Panel(
            replace(knob, rate=self.rate or knob.rate) if knob.name in self.turns else replace(knob, rate=1e-12)
            for knob in KNOBS
        )


def _constant(first: int) -> Controller:
    return Constant()


def _followed(estimator: Estimator, follower: Follower = LIKE, *, is_fine: bool = False) -> Callable[[int], Controller]:
    return lambda first: Hypergradient(estimator, follower, clip=WIDE, per_parameter=is_fine)


def _implicit(lookback: int, examples: int | None = None) -> Callable[[int], Controller]:
    return _followed(Implicit(lookback, examples))


METHODS = (
    Method("random", _constant, needs_val=False),
    Method("random, validation kept", _constant),
    Method("random, rate stepped (xLR)", SteppedRate, ("lr",), needs_val=False),
    Method("LR (Baydin), T=1", lambda first: Baydin(), ("lr",), every=1, needs_val=False, rate=WHOLE),
    Method("WD (Lorraine)", _implicit(5), ("weight_decay",)),
    Method("WD+LR, T=10 i=5", _implicit(5), ("lr", "weight_decay")),
    Method("WD+LR+M, T=10 i=5", _implicit(5)),
    Method("WD+LR+M, T=10 i=1", _implicit(1)),
    Method("WD+LR+M, T=5 i=5", _implicit(5), every=5),
    Method("WD+LR+M, T=5 i=1", _implicit(1), every=5),
    Method("WD+LR+M, T=5 i=5, 64 examples", _implicit(5, 64), every=5),
    Method("WD+LR+M, T=5 i=5, 64 examples, 16 to validate", _implicit(5, 64), every=5, fresh=16),
    Method("WD+LR+M, T=5 i=5, 64 examples, Adam 0.1", _followed(Implicit(5, 64), Adam(0.1)), every=5),
    Method("WD+LR+M, T=5 i=5, 64 examples, sign", _followed(Implicit(5, 64), Sign(0.05)), every=5),
    Method("WD+LR+M, T=5 i=1, 64 examples, half carried", _followed(Implicit(1, 64, carry=0.5)), every=5),
    Method("WD+LR+M, T=3 i=5, 64 examples", _implicit(5, 64), every=3),
    Method("WD+LR+M, T=10 i=5, 64 examples", _implicit(5, 64)),
    Method("WD+LR+M, T=5 i=5, 16 examples", _implicit(5, 16), every=5),
    Method("WD+HDLR+M, T=10 i=5", _followed(Implicit(5), is_fine=True)),
    Method("WD+HDLR+M, T=5 i=5, 64 examples", _followed(Implicit(5, 64), is_fine=True), every=5),
    Method("one-step validation, T=1", _followed(OneStepValidation(), Adam(0.005)), every=1),
    Method("through 5 steps, T=10", _followed(Unroll(5))),
)
"""Those of the paper's Table 1 that are here, and the quality–cost frontier around its method. T: steps between
updates; i: terms of the series; examples: that the Hessian is of, where not all; HDLR: a rate for each parameter."""


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
