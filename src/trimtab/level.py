"""Level: where a run's loss lies, how much it scatters there, and how high a reading may be beside that.

What the guard goes by (:mod:`trimtab.guard`). All terms scale with the loss; none needs it to be positive.

Letters: ``B`` members.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

Memory = dict[str, Tensor]
FAR = 0.02  # share of the way made, below which a level counts no further
GAINS = (0.3, 0.05, 0.1)  # per reading: the fast mean, the slow mean, the noise
EARLY, EARLY_MARGIN = 10, 0.85  # up to this step a loss may rise by no more than this share of its level


@dataclass(frozen=True)
class Bounds:
    """What a reading's mean loss is held to, ``[B]`` each; NaN, which nothing is above, while there is no level yet.

    Attributes:
        usual: ``level + 3 noise + margin max(|level|, far)``, with `level` the larger of the two means.
        now: the same, up to step 10 with the smaller margin.
        is_early: bool, whether it is no later than that.
        free: ``level + 3 noise``.
        height: ``margin |level|``.
        far: ``margin`` times 2 % of the way made.
    """

    usual: Tensor
    now: Tensor
    is_early: Tensor
    free: Tensor
    height: Tensor
    far: Tensor

    @property
    def close(self) -> Tensor:
        """``level + 3 noise + margin |level|``."""
        return self.free + self.height

    @property
    def is_low(self) -> Tensor:
        """Whether `usual` is wide beside the level: that is less than 2 % of the way made."""
        return self.height < self.far


def none_yet(members: int) -> Tensor:
    """Give the means ``[B, 3]`` before the first reading: the fast and the slow one not known, no noise."""
    return torch.tensor([[math.nan, math.nan, 0.0]], dtype=torch.float64).repeat(members, 1)


def bounds(memory: Memory, margin: float, step: Tensor) -> Bounds:
    """Say how high a loss may be.

    Args:
        memory: the guard's, from before the reading.
        margin: how many times its level a loss may rise beyond noise.
        step: ``[B]`` optimizer steps.

    Returns:
        The bounds.
    """
    fast, slow, noise = memory["means"].unbind(-1)
    level, is_early = torch.fmax(fast, slow), step <= EARLY
    far = FAR * (memory["first"] - memory["best"]).clamp_min(0)
    free, wide = level + 3 * noise, torch.fmax(level.abs(), far)
    usual = free + margin * wide
    now = torch.where(is_early, free + min(margin, EARLY_MARGIN) * wide, usual)
    return Bounds(usual, now, is_early, free, margin * level.abs(), margin * far)


def followed(mean: Tensor, memory: Memory, bad: Tensor) -> Memory:
    """Carry a fast and a slow mean of the loss and its mean deviation from the fast one, past what is bad.

    Args:
        mean: ``[B]`` the reading's mean loss.
        memory: the guard's, from before.
        bad: ``[B]`` bool, whose reading is not to be followed.

    Returns:
        ``means`` ``[B, 3]``, and ``[B]`` each the first mean loss and the best fast mean.
    """
    use = mean.isfinite() & ~bad
    old = memory["means"]
    fresh = old[:, :1].isnan()
    apart = (mean - old[:, 0]).abs().masked_fill(fresh[:, 0], 0.0)
    seen = torch.stack([mean, mean, apart], -1)
    blended = torch.where(fresh, seen, old + _gains(mean.device) * (seen - old))
    means = torch.where(use[:, None], blended, old)
    return {
        "means": means,
        "first": torch.where(memory["first"].isnan() & use, mean, memory["first"]),
        "best": torch.where(use, torch.fmin(memory["best"], means[:, 0]), memory["best"]),
    }


@cache
def _gains(device: torch.device) -> Tensor:
    return torch.tensor(GAINS, dtype=torch.float64, device=device)
