"""The Controller protocol: what turns an observation into a move.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from trimtab.knobs import Panel
from trimtab.signals import Observation

State = Any
"""A controller's memory within a run: a tensor, or a dict or tuple of them, each with leading ``B``; or None."""


@runtime_checkable
class Controller(Protocol):
    """Decides how far each knob moves; pure, never learns, knows nothing of optimizers.

    The value a knob gets at step ``t`` is ``value(position) * prior[t]`` (see :meth:`trimtab.knobs.Knob.scaled`): the
    controller owns both halves, `act` the feedback, `prior` the open-loop schedule under it.

    Attributes:
        name: a short name for tables and traces, e.g. ``"cosine"``.
        needs: what it cannot do without, asked once at attach: ``"hypergrad"``, ``"val_hypergrad"`` (beside it: of
            held-out examples, not of the next batch), ``"val_loss"``, ``"horizon"``, ``"average"`` (the run is read
            at an average of its weights).
    """

    name: str
    needs: frozenset[str]

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give the open-loop schedule; called once, at the start.

        Args:
            panel: the knobs to be turned.
            horizon: planned optimizer steps, or None where the user declared none.

        Returns:
            ``[horizon, K]`` float64 factors, row ``t - 1`` for step ``t`` (the last row holds after the horizon), or
            None for the constant 1.
        """
        ...

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give the memory to begin a run with; called once, before the first step."""
        ...

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Decide; called at every reading.

        Args:
            seen: what there is to know.
            state: what the last call handed back.

        Returns:
            ``[B, S, K]`` moves in [-1, 1], as shares of each knob's largest change per decision (zero: leave it), and
            the new memory.
        """
        ...
