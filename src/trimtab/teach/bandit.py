"""Bandit: Exp3, for choices that are made in phases and paid at their end.

Bubeck & Cesa-Bianchi 2012, "Regret analysis of stochastic and nonstochastic multi-armed bandit problems",
arXiv:1204.5721, Fig. 3.1, after Auer et al. 2002, SIAM J. Comput. 32(1). Differs from the source: nothing.

Letters: ``A`` arms; ``T`` rounds; ``...`` bandits side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import SignalError, TaskError


@dataclass(frozen=True)
class Exp3:
    """Exponential weights over arms, each loss divided by the chance that its arm had, so that estimates have no bias.

    Args:
        arms: ``A``.
        rate: how fast weights answer to losses.

    Raises:
        TaskError: a setting is out of range.

    Example:
        >>> bandit = Exp3(2, 0.5)
        >>> bandit.chances(bandit.update(bandit.start(), torch.tensor(1), torch.tensor(0.0))).tolist()[1] < 0.5
        True
    """

    arms: int
    rate: float

    def __post_init__(self) -> None:
        """Check the settings."""
        if not (self.arms >= 2 and 0 < self.rate < math.inf):
            raise TaskError(f"Exp3 needs `arms >= 2` and `rate > 0`, got {self.arms} and {self.rate}.")

    @classmethod
    def tuned(cls, arms: int, rounds: int) -> Exp3:
        """Give the one whose expected regret over ``T`` rounds is at most :func:`bound` (Theorem 3.1)."""
        return cls(arms, math.sqrt(2 * math.log(arms) / (rounds * arms)))

    def start(self, *bandits: int) -> Tensor:
        """Give the estimated losses before the first round, ``[..., A]`` float64."""
        return torch.zeros(*bandits, self.arms, dtype=torch.float64)

    def chances(self, state: Tensor) -> Tensor:
        """Give ``[..., A]`` chances with which arms are drawn."""
        return torch.softmax(-self.rate * state, -1)

    def draw(self, state: Tensor, rng: torch.Generator) -> Tensor:
        """Draw an arm, ``[...]`` int64."""
        place = torch.rand(*state.shape[:-1], 1, generator=rng, dtype=torch.float64)
        return (self.chances(state).cumsum(-1) < place).sum(-1).clamp(max=self.arms - 1)

    def update(self, state: Tensor, arm: Tensor, reward: Tensor) -> Tensor:
        """Learn from one round.

        Args:
            state: ``[..., A]``; not changed in place.
            arm: ``[...]`` the one drawn.
            reward: ``[...]`` in [0, 1].

        Returns:
            The new state.

        Raises:
            SignalError: a reward is outside [0, 1], or no number.
        """
        if not bool(((reward >= 0) & (reward <= 1)).all()):
            raise SignalError(f"Exp3 needs rewards in [0, 1], got {reward.tolist()}.")
        chance = self.chances(state).gather(-1, arm[..., None])
        return state.scatter_add(-1, arm[..., None], (1 - reward[..., None].to(state)) / chance)


def bound(arms: int, rounds: int) -> float:
    """Give ``sqrt(2 T A ln A)``, what the expected regret of a tuned bandit stays below (Theorem 3.1)."""
    return math.sqrt(2 * rounds * arms * math.log(arms))
