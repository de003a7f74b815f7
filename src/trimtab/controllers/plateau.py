"""Cut the learning rate when the loss stops falling.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.controller import State
from trimtab.controllers.feedback import pay, start_owing, watch
from trimtab.errors import KnobError
from trimtab.knobs import Panel
from trimtab.signals import Observation


@dataclass(frozen=True)
class Plateau:
    """Multiplies the learning rate by `factor` after more than `patience` readings without a new best loss.

    It watches the validation loss in a run that measures one (readings without a measurement do not count), else the
    mean training loss since the last reading. A cut wider than one move is paid over the next readings. All sites
    are cut alike.

    ``torch.optim.lr_scheduler.ReduceLROnPlateau``, mode "min", threshold_mode "rel". Differs from the source: counts
    readings, not epochs; the lower bound is the knob's range; no `eps` below which a cut is left out; a cut takes
    several readings where the knob's rate asks for it.

    Args:
        factor: what the learning rate is multiplied by, in (0, 1).
        patience: readings without improvement that are let pass.
        threshold: relative: a loss below ``best * (1 - threshold)`` is an improvement.
        cooldown: readings after a cut that do not count as bad.

    Raises:
        KnobError: an argument is outside its range.

    Example:
        >>> Plateau().start(Panel.of(["lr"]), members=2, sites=1)["bad"].tolist()
        [0, 0]
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    name = "plateau"
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not 0 < self.factor < 1:
            raise KnobError(f"Controller 'plateau' needs `factor` in (0, 1), got {self.factor}.")
        if not 0 <= self.threshold < 1:
            raise KnobError(f"Controller 'plateau' needs `threshold` in [0, 1), got {self.threshold}.")
        if self.patience < 0 or self.cooldown < 0:
            raise KnobError(
                f"Controller 'plateau' needs `patience >= 0` and `cooldown >= 0`, got {self.patience}, {self.cooldown}."
            )

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give None: the constant 1."""
        return None

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give the memory to begin with: ``best`` ``[B]``, ``bad`` and ``cooling`` ``[B]`` int64, and the debt."""
        return {
            "best": torch.full((members,), math.inf, dtype=torch.float64),
            "bad": torch.zeros(members, dtype=torch.int64),
            "cooling": torch.zeros(members, dtype=torch.int64),
            **start_owing(panel, members, sites, self.name),
        }

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Count this reading, and pay what is owed; see :class:`trimtab.controller.Controller`."""
        loss, counts = watch(seen.signals)
        is_better = counts & (loss < state["best"] * (1 - self.threshold))
        best = torch.where(is_better, loss, state["best"])
        bad = torch.where(is_better, 0, state["bad"] + counts)
        is_cooling = counts & (state["cooling"] > 0)
        bad = torch.where(is_cooling, 0, bad)
        is_cut = counts & (bad > self.patience)
        cooling = torch.where(is_cut, self.cooldown, state["cooling"] - is_cooling.long())
        bad = torch.where(is_cut, 0, bad)
        move, owed = pay(seen, state, state["owed"] + (is_cut.to(loss) * math.log(self.factor))[:, None])
        return move, {**state, "best": best, "bad": bad, "cooling": cooling, "owed": owed}
