"""Oracles of Exp3: estimates without bias, regret below the theorem's bound and growing as the root of the rounds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trimtab.errors import SignalError, TaskError
from trimtab.teach.bandit import Exp3, bound

F64 = torch.float64
MEANS = torch.tensor([0.9, 0.5, 0.5, 0.4, 0.1], dtype=F64)


def test_the_estimate_of_a_loss_has_no_bias() -> None:
    """Summed over the arms that may be drawn, each times its chance, the update adds exactly every arm's loss."""
    bandit = Exp3(4, 0.3)
    state = torch.tensor([0.0, 1.0, 4.0, 9.0], dtype=F64)
    rewards = torch.tensor([0.1, 0.5, 1.0, 0.0], dtype=F64)
    added = [bandit.update(state, torch.tensor(arm), rewards[arm]) - state for arm in range(4)]
    expected = (bandit.chances(state)[:, None] * torch.stack(added)).sum(0)
    torch.testing.assert_close(expected, 1 - rewards, rtol=1e-12, atol=1e-12)


def test_chances_are_the_softmax_and_draws_follow_them() -> None:
    """A loss that is larger by ln 2 over the rate halves the chance; of many draws the shares are the chances."""
    bandit = Exp3(2, 0.5)
    state = torch.tensor([0.0, math.log(2) / 0.5], dtype=F64)
    torch.testing.assert_close(bandit.chances(state), torch.tensor([2 / 3, 1 / 3], dtype=F64), rtol=1e-12, atol=1e-12)
    drawn = bandit.draw(state.expand(100_000, 2), torch.Generator().manual_seed(0)).double().mean()
    assert pytest.approx(1 / 3, abs=0.005) == float(drawn)


def regret(rounds: int, bandits: int = 200) -> Tensor:
    """Give ``[bandits]`` pseudo-regrets of tuned bandits on arms that pay 1 with the chances `MEANS`."""
    bandit, rng = Exp3.tuned(len(MEANS), rounds), torch.Generator().manual_seed(rounds)
    state, lost = bandit.start(bandits), torch.zeros(bandits, dtype=F64)
    for _ in range(rounds):
        arm = bandit.draw(state, rng)
        lost += MEANS.max() - MEANS[arm]
        state = bandit.update(state, arm, (torch.rand(bandits, generator=rng, dtype=F64) < MEANS[arm]).to(F64))
    return lost


@pytest.mark.slow
def test_regret_stays_below_the_bound_and_grows_as_the_root() -> None:
    """Over rounds from 100 to 6400, sixty-four times as many, regret is multiplied by about eight."""
    rounds = (100, 400, 1600, 6400)
    means = [float(regret(count).mean()) for count in rounds]
    assert all(mean < bound(len(MEANS), count) for mean, count in zip(means, rounds, strict=True))
    slope = math.log(means[-1] / means[0]) / math.log(rounds[-1] / rounds[0])
    assert 0.4 < slope < 0.6


def test_what_does_not_hold_is_refused() -> None:
    """Rewards outside [0, 1] and bandits with one arm."""
    with pytest.raises(SignalError, match=r"rewards in \[0, 1\]"):
        Exp3(2, 0.1).update(torch.zeros(2, dtype=F64), torch.tensor(0), torch.tensor(float("nan")))
    with pytest.raises(TaskError, match="arms >= 2"):
        Exp3(1, 0.1)
