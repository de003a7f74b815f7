"""Ascent: what all evolution strategies share: directions, the gradient estimated from pairs, a step of Adam.

Letters: ``N`` pairs, ``P`` taught weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from trimtab.errors import StateError, TaskError
from trimtab.teach.draw import Draw
from trimtab.teach.genome import Genome

NOISE = 21  # what a generation's draws are for
CUT = 2.0  # root mean squares that a pair's difference may count
DECAYS = (0.9, 0.999)  # of Adam's moments, its authors' defaults


@dataclass(frozen=True)
class Ascent:
    """Where a teacher stands: what Adam carries.

    Attributes:
        mean: ``[P]`` float64, the policy's taught weights.
        first: ``[P]`` moving mean of the gradient.
        second: ``[P]`` moving mean of its square.
        number: generations done.
    """

    mean: Tensor
    first: Tensor
    second: Tensor
    number: int

    @classmethod
    def begin(cls, mean: Tensor) -> Ascent:
        """Stand at a policy, before the first generation."""
        return cls(mean, torch.zeros_like(mean), torch.zeros_like(mean), 0)

    def climb(self, gradient: Tensor, rate: float, decay: float = 0.0) -> Ascent:
        """Take a step of AdamW uphill (Algorithm 2 of Loshchilov & Hutter 2019, arXiv:1711.05101; differs: nothing).

        Args:
            gradient: ``[P]``.
            rate: the step's.
            decay: of the weights themselves, a step and unit of the rate.

        Returns:
            Where it stands then.
        """
        number, (keep, keep_square) = self.number + 1, DECAYS
        first = keep * self.first + (1 - keep) * gradient
        second = keep_square * self.second + (1 - keep_square) * gradient**2
        step = (first / (1 - keep**number)) / ((second / (1 - keep_square**number)).sqrt() + 1e-8)
        return Ascent((1 - rate * decay) * self.mean + rate * step, first, second, number)


class Drawn(Protocol):
    """What directions depend on beside the generation."""

    @property
    def genome(self) -> Genome:
        """Gives ``P``."""
        ...

    @property
    def pairs(self) -> int:
        """``N``."""
        ...

    @property
    def seed(self) -> int:
        """Other seeds, other directions."""
        ...


def directions(teacher: Drawn, number: int, task: int) -> Tensor:
    """Draw ``[N, P]`` directions from N(0, 1), by a teacher's seed, the generation and the lesson's place in it."""
    return Draw(teacher.seed, number, task, NOISE).normal(teacher.pairs, teacher.genome.size)


def gradient(noise: Tensor, differences: Tensor) -> Tensor:
    """Estimate a gradient from antithetic pairs: the mean over pairs of ``noise * difference / 2``.

    Args:
        noise: ``[N, P]``; for plain evolution strategies ``e / s``, where the pair was at ``w ± s e``; for persistent
            ones the sum of a pair's perturbations over ``s^2``.
        differences: ``[N]`` plus less minus.

    Returns:
        ``[P]``; unbiased for the gradient of the objective smoothed by the perturbations, exact for quadratics.
    """
    return (noise * differences[:, None]).mean(0) / 2


def scaled(differences: Tensor, size: Tensor | None = None) -> Tensor:
    """Divide differences by a size, their own root mean square by default, and cut them to ±2; zeros stay zeros."""
    size = differences.square().mean().sqrt() if size is None else size
    return (differences / size.clamp_min(1e-12)).clamp(-CUT, CUT)


def falling(rate: float, number: int, generations: int) -> float:
    """Give Adam's rate at a generation: linear from `rate` towards 0."""
    return rate * max(0.0, 1 - number / generations)


def check(pairs: int, tasks: int, sigma: float, rate: float, generations: int, decay: float) -> None:
    """Check what all evolution strategies are set by.

    Args:
        pairs: of a lesson.
        tasks: of a generation.
        sigma: of a direction.
        rate: Adam's.
        generations: in all; of none, what a teaching begins with is examined and made a card.
        decay: of the weights.

    Raises:
        TaskError: one is out of range.
    """
    counts = pairs >= 2 and tasks >= 1 and generations >= 0
    if not (counts and 0 < sigma < math.inf and 0 < rate < math.inf and 0 <= decay < math.inf):
        raise TaskError(
            "A teacher needs `pairs >= 2`, `tasks >= 1`, `generations >= 0`, `sigma > 0`, `rate > 0` and "
            f"`decay >= 0`, got pairs={pairs}, tasks={tasks}, generations={generations}, sigma={sigma}, rate={rate}, "
            f"decay={decay}."
        )


def read_ascent(tree: dict[str, Any], genome: Genome) -> Ascent:
    """Take an ascent out of a teacher's tree.

    Args:
        tree: has an ascent's fields among others.
        genome: of the policy that is taught.

    Returns:
        The ascent.

    Raises:
        StateError: it is of another policy, or none.
    """
    try:
        ascent = Ascent(**{name: tree[name] for name in ("mean", "first", "second", "number")})
    except KeyError as error:
        raise StateError(f"This is no state of a teacher: {error} is missing.") from error
    if tuple(ascent.mean.shape) != (genome.size,):
        raise StateError(f"This state is of {len(ascent.mean)} taught weights, the policy has {genome.size}.")
    return ascent
