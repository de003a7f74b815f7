"""Ignite: a handler that steps a pilot.

``ignite.handlers.Checkpoint({"pilot": pilot, ...}, ...)`` saves a pilot as it does an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trimtab.fit.framework import needed
from trimtab.fit.tally import Tally
from trimtab.pilot import Pilot

with needed("ignite", "ignite"):
    import ignite as ignite


class PilotHandler:
    """Goes into ``trainer.add_event_handler(Events.ITERATION_COMPLETED, PilotHandler(pilot))``.

    Gradient accumulation is counted in optimizer steps, so a handler at each iteration is right there too.

    Args:
        pilot: attached to the optimizer that the trainer steps.
        loss_of: takes an iteration's loss out of ``engine.state.output``; by default the output is the loss.
    """

    def __init__(self, pilot: Pilot, loss_of: Callable[[Any], Any] = lambda output: output) -> None:
        self._pilot, self._loss_of, self._tally = pilot, loss_of, Tally()

    def __call__(self, engine: Any) -> None:
        """Take the iteration's loss, and step the pilot where the optimizer has stepped."""
        self._tally.add(self._loss_of(engine.state.output))
        self._tally.settle(self._pilot)
