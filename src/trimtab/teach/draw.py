"""Draw: numbers from a seed and a purpose, by the laws that lessons are written in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Choice = TypeVar("Choice")
PRIME = 1_000_003


def mixed(*numbers: int) -> int:
    """Mix numbers to one seed of 63 bits: other numbers, or another order of them, give another seed."""
    seed = 0
    for number in numbers:
        seed = (seed * PRIME + number + 1) % (2**63)
    return seed


class Draw:
    """Draws numbers; two with the same seeds draw the same.

    Args:
        seeds: mixed into one.

    Example:
        >>> Draw(1, 2).whole(3, 9) == Draw(1, 2).whole(3, 9)
        True
    """

    def __init__(self, *seeds: int) -> None:
        self._rng = torch.Generator().manual_seed(mixed(*seeds))

    def uniform(self) -> float:
        """Draw from [0, 1)."""
        return float(self.uniforms(1))

    def uniforms(self, *shape: int) -> Tensor:
        """Draw a tensor from [0, 1), float64."""
        return torch.rand(*shape, generator=self._rng, dtype=torch.float64)

    def normal(self, *shape: int) -> Tensor:
        """Draw a tensor from N(0, 1), float64."""
        return torch.randn(*shape, generator=self._rng, dtype=torch.float64)

    def order(self, count: int) -> Tensor:
        """Draw a permutation, ``[count]`` int64."""
        return torch.randperm(count, generator=self._rng)

    def log_uniform(self, low: float, high: float) -> float:
        """Draw from [low, high), uniform in the logarithm."""
        return low * math.exp(self.uniform() * math.log(high / low))

    def whole(self, low: int, high: int) -> int:
        """Draw a whole number from low to high, both included."""
        return low + int(self.uniform() * (high - low + 1))

    def log_whole(self, low: int, high: int) -> int:
        """Draw a whole number from low to high, uniform in the logarithm."""
        return round(self.log_uniform(low, high))

    def one_of(self, choices: Sequence[Choice]) -> Choice:
        """Draw one of several, all alike."""
        return choices[self.whole(0, len(choices) - 1)]

    def weighted(self, choices: Mapping[Choice, float]) -> Choice:
        """Draw one of several, by the weights behind them, which sum to 1."""
        left = self.uniform()
        for choice, weight in choices.items():
            left -= weight
            if left < 0:
                return choice
        return next(iter(choices))
