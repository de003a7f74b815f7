"""Oracles of rewards: power laws whose speed-up is known, sums that telescope."""

from __future__ import annotations

import math

import pytest
import torch

from trimtab.env.reward import HIGH, LOW, MOST, Curve, Reward
from trimtab.errors import TaskError

F64 = torch.float64


def test_a_power_law_is_found_and_its_speed_up_exact() -> None:
    """On ``3 step^-0.4`` the fit is exact, and the loss of step 400 reached at 100 is a speed-up of 4."""
    law = [(step, 3 * step**-0.4) for step in (1, 5, 30, 200)]
    curve = Curve.fitted(law)
    assert pytest.approx(math.log(3), abs=1e-12) == curve.level
    assert pytest.approx(0.4, abs=1e-12) == curve.slope
    gain = curve.speed_up(torch.tensor([3 * 400**-0.4, 3 * 100**-0.4, 3 * 25**-0.4], dtype=F64), 100)
    torch.testing.assert_close(gain, torch.tensor([math.log(4), 0.0, -math.log(4)], dtype=F64), rtol=1e-12, atol=1e-12)
    assert [-MOST, -MOST, MOST] == curve.speed_up(torch.tensor([math.nan, math.inf, 0.0]), 100).tolist()


def test_worth_is_the_fall_of_the_log_loss() -> None:
    """It is free of the loss's unit, cut at both ends, and a number for a run that is none."""
    reward, first = Reward(), torch.full((5,), 2.0, dtype=F64)
    loss = torch.tensor([1.0, 2.0, math.nan, 1e9, 0.0], dtype=F64)
    wanted = torch.tensor([math.log(2), 0.0, -HIGH, -HIGH, -LOW], dtype=F64)
    for unit in (1.0, 1e3):
        torch.testing.assert_close(reward.worth(unit * loss, unit * first, 10), wanted, rtol=1e-12, atol=1e-12)


def test_what_does_not_hold_is_refused() -> None:
    """Unknown kinds, curves that rise or are too short, and curves where none belongs."""
    with pytest.raises(TaskError, match="one of progress, terminal, speed-up, got 'speed'"):
        Reward("speed")  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="goes with the reward 'speed-up'"):
        Reward("speed-up")
    with pytest.raises(TaskError, match="goes with the reward 'speed-up'"):
        Reward("terminal", Curve(0.0, 1.0))
    with pytest.raises(TaskError, match="must fall"):
        Curve.fitted([(1, 0.5), (10, 0.6)])
    with pytest.raises(TaskError, match="at two steps or more"):
        Curve.fitted([(3, 0.5)])
