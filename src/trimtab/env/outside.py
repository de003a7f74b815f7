"""Outside: who stands at the helm where moves come from outside.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trimtab.controller import State
from trimtab.controllers.schedule import SCHEDULES
from trimtab.errors import OrderError, TaskError
from trimtab.knobs import Panel
from trimtab.signals import Observation


@dataclass(frozen=True)
class Outside:
    """Stands at the helm where moves come from outside: only the schedule under them is its own.

    Args:
        schedule: a name in :data:`trimtab.controllers.schedule.SCHEDULES`.

    Raises:
        TaskError: there is no such schedule.
    """

    schedule: str = "constant"

    name = "outside"
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        """Check the schedule."""
        if self.schedule not in SCHEDULES:
            raise TaskError(f"`prior` must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}.")

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give the schedule's factors."""
        return SCHEDULES[self.schedule]().prior(panel, horizon)

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Remember nothing."""
        return None

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Refuse: an episode never asks."""
        raise OrderError("The moves of an episode come from outside.")
