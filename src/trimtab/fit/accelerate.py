"""Accelerate: a pilot in a loop with ``accelerator.accumulate``; saved and loaded by ``accelerator.save_state``.

Attach the pilot to the raw optimizer, before ``accelerator.prepare``, and do not prepare it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trimtab.errors import OrderError
from trimtab.fit.framework import needed
from trimtab.fit.tally import Tally
from trimtab.pilot import Pilot

with needed("accelerate", "hf"):
    from accelerate import Accelerator


class PilotSteps:
    """Steps a pilot after each optimizer step with the mean loss of its micro-batches; registers it for checkpoints.

    Args:
        accelerator: the loop's.
        pilot: attached to the raw optimizer.

    Raises:
        OrderError: the first is no Accelerator, or the second no pilot.
    """

    def __init__(self, accelerator: Any, pilot: Pilot) -> None:
        if not isinstance(accelerator, Accelerator) or not isinstance(pilot, Pilot):
            raise OrderError(
                f"PilotSteps takes an Accelerator and a pilot (trimtab.attach on the raw optimizer, not prepared), got "
                f"{type(accelerator).__name__} and {type(pilot).__name__}."
            )
        accelerator.register_for_checkpointing(pilot)
        self._accelerator, self._pilot, self._tally = accelerator, pilot, Tally()

    def step(self, loss: Tensor | float) -> None:
        """Take a micro-batch's loss; called where ``scheduler.step()`` was, after each ``optimizer.step()``.

        Args:
            loss: the micro-batch's own, not divided by their number.
        """
        self._tally.add(loss)
        if not self._tally.settle(self._pilot) and self._accelerator.sync_gradients:
            self._tally.clear()  # the step was skipped: gradients had overflown
