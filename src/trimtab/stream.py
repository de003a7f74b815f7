"""Stream: the order in which members see their training examples, each from its own generator.

Letters: ``B`` members, ``N`` examples of a split, ``n`` of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import TaskError
from trimtab.task import Batch, Task

ORDER, NOISE = 1, 2  # each member has one generator for its order and one for its noise


class Stream:
    """Draws batches for ``B`` members: shuffled epochs without replacement, the incomplete last batch dropped.

    A member's draws depend on its seed alone, so ``B`` members see what ``B`` runs of one see.

    Args:
        task: gives the training split, the batch size and the noise's shape.
        seeds: one a member.
        device: where batches go.
        dtype: of floating-point inputs, targets and noise.

    Raises:
        TaskError: the training split is smaller than one batch.
    """

    def __init__(
        self,
        task: Task,
        seeds: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.x, self.y = (_cast(part, device, dtype) for part in task.data("train"))
        self._size, self._shape = task.batch_size, task.noise_shape
        self._per_epoch = len(self.x) // self._size
        if self._per_epoch == 0:
            raise TaskError(f"{task.name} has {len(self.x)} training examples, less than one batch of {self._size}.")
        self._device, self._dtype = device, dtype
        self._order = [torch.Generator().manual_seed(_mix(seed, ORDER)) for seed in seeds]
        self._noise = [torch.Generator().manual_seed(_mix(seed, NOISE)) for seed in seeds]
        self._drawn = [0] * len(self._order)
        self._epoch = torch.zeros(len(self._order), self._per_epoch, self._size, dtype=torch.int64, device=device)

    def next(self) -> Batch:
        """Draw each member's next batch: ``x [B, n, ...]``, ``y [B, n, ...]``, ``noise [B, n, ...]`` or None."""
        at = [drawn % self._per_epoch for drawn in self._drawn]
        if 0 in at:
            self._epoch = self._shuffled([member for member, place in enumerate(at) if place == 0])
        self._drawn = [drawn + 1 for drawn in self._drawn]
        index = self._epoch[torch.arange(len(at)), torch.tensor(at)]
        noise = None
        if self._shape is not None:
            shape = (self._size, *self._shape)
            noise = torch.stack([torch.rand(shape, generator=g, dtype=torch.float32) for g in self._noise])
            noise = noise.to(self._device, self._dtype)
        return Batch(self.x[index], self.y[index], noise)

    def state_dict(self) -> dict[str, Any]:
        """Give what is needed to go on exactly, a member an entry: draws so far, this epoch's order, the generators."""
        return {
            "drawn": list(self._drawn),
            "epoch": self._epoch.cpu(),
            "order": [g.get_state() for g in self._order],
            "noise": [g.get_state() for g in self._noise],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._drawn, self._epoch = list(state["drawn"]), state["epoch"].to(self._device)
        for mine, saved in zip(self._order + self._noise, state["order"] + state["noise"], strict=True):
            mine.set_state(saved)

    def _shuffled(self, members: list[int]) -> Tensor:
        """``[B, batches, n]`` indices of one epoch, those of some members drawn anew; another tensor than before."""
        whole = self._per_epoch * self._size
        orders = [torch.randperm(len(self.x), generator=self._order[member])[:whole] for member in members]
        new = torch.stack(orders).reshape(len(orders), self._per_epoch, self._size).to(self._device)
        return self._epoch.index_copy(0, torch.tensor(members, device=self._epoch.device), new)


def _cast(part: Tensor, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    return part.to(device, dtype) if part.is_floating_point() else part.to(device)


def _mix(seed: int, use: int) -> int:
    return (seed * 1_000_003 + use) % (2**63)
