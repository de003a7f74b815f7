"""Reward: what an episode is worth, from the validation loss alone.

Losses count by the logarithm of their ratio to the loss before the first step, cut to [LOW, HIGH], so that a loss's
unit drops out and a run that diverged is a number. No reward knows of a test split.

Letters: ``B`` members, ``N`` points of a curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trimtab.errors import TaskError

LOW, HIGH = math.log(1e-4), 4.0  # of a log-ratio: below is a ratio of almost nothing, above is divergence
MOST = math.log(100.0)  # a speed-up beyond a hundred says that the curve does not fit
Kind = Literal["progress", "terminal", "speed-up"]
KINDS: tuple[Kind, ...] = ("progress", "terminal", "speed-up")


@dataclass(frozen=True)
class Curve:
    """A reference run's validation loss as a power law of the steps, ``log loss = level - slope log step``.

    Attributes:
        level: log loss at step 1.
        slope: how fast it falls, above 0.

    Raises:
        TaskError: the curve does not fall.
    """

    level: float
    slope: float

    def __post_init__(self) -> None:
        """Check that it falls."""
        if not (math.isfinite(self.level) and 0 < self.slope < math.inf):
            raise TaskError(f"A reference curve must fall: `slope > 0`, got level={self.level}, slope={self.slope}.")

    @classmethod
    def fitted(cls, points: Sequence[tuple[int, float]]) -> Curve:
        """Fit by least squares in the logarithms.

        Args:
            points: steps, from 1, and the losses there, above 0; at least two different steps.

        Returns:
            The curve.

        Raises:
            TaskError: there are fewer, a loss is not above 0, or the fitted curve does not fall.

        Example:
            >>> curve = Curve.fitted([(10, 0.5), (40, 0.25)])
            >>> round(curve.slope, 12)
            0.5
        """
        if len({step for step, _ in points}) < 2 or any(step < 1 or not 0 < loss < math.inf for step, loss in points):
            raise TaskError(f"A curve needs losses above 0 at two steps or more, from step 1, got {list(points)}.")
        x = torch.tensor([math.log(step) for step, _ in points], dtype=torch.float64)
        y = torch.tensor([math.log(loss) for _, loss in points], dtype=torch.float64)
        slope = -float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
        return cls(float(y.mean()) + slope * float(x.mean()), slope)

    def speed_up(self, loss: Tensor, step: int) -> Tensor:
        """Give ``[B]`` how many times as fast as the reference a loss was reached, as a logarithm in ±:data:`MOST`."""
        gain = (self.level - torch.log(loss.double().clamp_min(1e-30))) / self.slope - math.log(step)
        return torch.nan_to_num(gain, nan=-MOST, posinf=MOST, neginf=-MOST).clamp(-MOST, MOST)


@dataclass(frozen=True)
class Reward:
    """How validation losses become rewards.

    - "progress": at each decision, the fall of the log loss since the last; summed, the fall over the episode.
    - "terminal": the same sum, all of it at the end.
    - "speed-up": at the end, the log of how many times as fast as a reference curve the final loss was reached; after
      the reward of OpenAI's LHOPT, as far as that is public.

    Args:
        kind: which.
        curve: of "speed-up", and of it alone.

    Raises:
        TaskError: there is no such kind, or the curve is missing or not wanted.
    """

    kind: Kind = "progress"
    curve: Curve | None = None

    def __post_init__(self) -> None:
        """Check the kind."""
        if self.kind not in KINDS:
            raise TaskError(f"A reward must be one of {', '.join(KINDS)}, got {self.kind!r}.")
        if (self.curve is not None) != (self.kind == "speed-up"):
            raise TaskError(f"A reference curve goes with the reward 'speed-up' and no other, got {self!r}.")

    @property
    def is_late(self) -> bool:
        """Whether all of it comes at the end, so that losses on the way need not be measured."""
        return self.kind != "progress"

    def worth(self, loss: Tensor, first: Tensor, horizon: int) -> Tensor:
        """Give ``[B]`` what an episode is worth so far.

        Args:
            loss: ``[B]`` validation loss now.
            first: ``[B]`` before the first step.
            horizon: steps of the episode.

        Returns:
            float64, finite whatever the losses.
        """
        if self.curve is not None:
            return self.curve.speed_up(loss, horizon)
        ratio = torch.log(loss.double().clamp_min(1e-30)) - torch.log(first.double().clamp_min(1e-30))
        return -torch.nan_to_num(ratio, nan=HIGH, posinf=HIGH, neginf=LOW).clamp(LOW, HIGH)
