"""Tally: the losses of the micro-batches that make up one optimizer step."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.pilot import Pilot


class Tally:
    """Collects micro-batches' losses until the optimizer has stepped, and tells the pilot their mean."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []

    def add(self, loss: Tensor | float) -> None:
        """Take a micro-batch's loss; does not synchronise."""
        self._losses.append(torch.as_tensor(loss).detach())

    def settle(self, pilot: Pilot) -> bool:
        """Step a pilot whose optimizer has stepped.

        Args:
            pilot: whose.

        Returns:
            Whether it was; the tally then begins anew.
        """
        if not pilot.is_due:
            return False
        pilot.step(self.mean())
        self.clear()
        return True

    def mean(self) -> Tensor | None:
        """Give the mean of what was collected, None where that is nothing."""
        return torch.stack(self._losses).mean() if len(self._losses) > 1 else next(iter(self._losses), None)

    def clear(self) -> None:
        """Begin anew."""
        self._losses.clear()
