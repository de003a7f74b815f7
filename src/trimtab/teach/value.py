"""Value: what a piece of a run would have been worth under another policy, by a model, differentiable.

Heess et al. 2015, arXiv:1510.09142, Sec. 4.1, SVG(∞), as :mod:`trimtab.teach.svg` says where it differs.

Letters: ``E`` networks, ``N`` runs, ``T`` moves, ``F`` features, ``K`` knobs, ``D`` = F + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from trimtab.teach.surrogate import Log

Act = Callable[[Tensor], Tensor]
"""``[..., F]`` features on one scale to ``[..., K]`` actions, differentiable."""


class Model(Protocol):
    """What a piece is rolled out in."""

    def inferred(self, log: Log) -> Tensor:
        """Give the noise behind a log, ``[E, N, T, D]``."""
        ...

    def __call__(self, seen: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Give mean and deviation, ``[E, N, D]`` each."""
        ...


def worth(model: Model, act: Act, log: Log, *, discount: float = 1.0, penalty: float = 0.0) -> Tensor:
    """Give what a piece would have been worth under a policy, ``[]``, differentiable by whatever `act` depends on.

    Args:
        model: of the dynamics.
        act: the policy.
        log: pieces of ``H`` moves, each begun where its first features are.
        discount: of a reward for each move that it is late.
        penalty: on the deviation between the networks' predicted rewards, a move.

    Returns:
        The mean over networks and runs.
    """
    noise = model.inferred(log)
    seen = log.seen[:, 0].expand(noise.shape[0], -1, -1)
    total = torch.zeros((), dtype=torch.float64)
    for move in range(log.reward.shape[1]):
        mean, deviation = model(seen, act(seen))
        after = mean + deviation * noise[:, :, move]
        known = log.known[:, move]
        reward = torch.where(known, after[..., -1], 0.0).mean()
        if penalty:
            spread = mean[..., -1].std(0, correction=0) + mean[..., :-1].std(0, correction=0).mean(-1)
            reward = reward - penalty * torch.where(known, spread, 0.0).mean()
        total = total + discount**move * reward
        seen = torch.where(known[:, None], after[..., :-1], seen)
    return total
