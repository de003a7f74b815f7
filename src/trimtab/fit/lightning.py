"""Lightning: a callback that tells a pilot its losses, and Lightning's loggers what the pilot did.

The pilot itself is the scheduler that ``configure_optimizers`` returns, so Lightning steps, saves and loads it::

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        pilot = trimtab.attach(optimizer, horizon=10_000, model=self)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": pilot, "interval": "step"}}
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trimtab.errors import OrderError
from trimtab.fit.framework import needed
from trimtab.pilot import Pilot

with needed("lightning", "lightning"):
    from lightning.pytorch import Callback


class PilotCallback(Callback):  # type: ignore[misc]  # untyped where Lightning is not installed
    """Goes into ``Trainer(callbacks=[...])`` beside a module whose scheduler is a pilot.

    After each decision ``pilot.metrics()`` go to the trainer's loggers. The loss is the one that is differentiated, a
    micro-batch's share of it where gradients are accumulated.
    """

    def __init__(self) -> None:
        self._pilot: Pilot | None = None
        self._total: Tensor | float = 0.0
        self._logged = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the pilot.

        Args:
            trainer: Lightning's.
            pl_module: not used.

        Raises:
            OrderError: the module's scheduler is no pilot, or Lightning would not step it after each optimizer step.
        """
        found = [config for config in trainer.lr_scheduler_configs if isinstance(config.scheduler, Pilot)]
        if len(found) != 1:
            raise OrderError(
                f"PilotCallback needs one pilot among the schedulers that `configure_optimizers` returns, found "
                f'{len(found)}: return {{"optimizer": optimizer, "lr_scheduler": {{"scheduler": trimtab.attach('
                f'optimizer, ...), "interval": "step"}}}}.'
            )
        if (found[0].interval, found[0].frequency) != ("step", 1):
            raise OrderError(
                f'A pilot must be stepped after each optimizer step: "interval": "step", "frequency": 1 in '
                f"`configure_optimizers`, got {found[0].interval!r} and {found[0].frequency}."
            )
        self._pilot = found[0].scheduler
        self._logged = self._pilot.trace.decided

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Begin a new optimizer step; called before the first of its micro-batches' backward passes."""
        self._total = 0.0

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Take a micro-batch's share of the loss, without the scale that mixed precision has put on it."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        loss = loss.detach()
        self._total = self._total + (loss if scaler is None else loss / scaler.scale(torch.ones_like(loss)))
        if self._pilot is not None:
            self._pilot.note(self._total)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log what a decision has changed."""
        if self._pilot is None or self._pilot.trace.decided == self._logged or not trainer.loggers:
            return
        self._logged = self._pilot.trace.decided
        metrics = self._pilot.metrics()
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
