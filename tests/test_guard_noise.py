"""What noise alone costs: the shares of false alarms that `docs/faults.md` tells, each over 256 runs."""

from __future__ import annotations

import itertools
import statistics

import pytest
import torch
from torch import Tensor

from tests.test_guard import EARLY_READINGS, FALLING, T, judged, noise, windows
from trimtab.judgement import HARMED, RISEN

RUNS, STEPS = 256, 30


def scattered(scatter: float) -> Tensor:
    """Give ``[RUNS, STEPS]`` losses of an ordinary course, log-normal from batch to batch."""
    return FALLING[:STEPS] * torch.exp(scatter * noise(STEPS, 2, RUNS))


@pytest.mark.parametrize(("scatter", "cut", "again", "harmed"), [
    (0.1, (0.0, 0.0), (0.0, 0.0), (0.08, 0.2)),
    (0.25, (0.01, 0.07), (0.0, 0.03), (0.36, 0.52)),
    (0.5, (0.24, 0.36), (0.08, 0.2), (0.36, 0.52)),
])  # fmt: skip
def test_false_alarms_of_the_first_steps_are_as_rare_as_told(
    scatter: float, cut: tuple[float, float], again: tuple[float, float], harmed: tuple[float, float]
) -> None:
    """Shares of runs that are cut, cut more than once, and sent back for harm, which cuts nothing."""
    verdicts = judged(scattered(scatter))[:EARLY_READINGS]
    is_harmed = torch.stack([verdict.reason == HARMED for verdict in verdicts])
    is_cut = torch.stack([verdict.restore for verdict in verdicts]) & ~is_harmed
    factors = torch.stack([verdict.cut for verdict in verdicts])
    assert bool((factors[is_harmed] == 1).all())
    for share, (low, high) in (
        (is_cut.any(0), cut),
        (is_cut.sum(0) > 1, again),
        (is_harmed.any(0), harmed),
    ):
        assert low <= float(share.double().mean()) <= high


PLATEAU = 0.3 + 0.7 * torch.exp(-T / 100)
STILL_FALLING = 0.1 + 0.9 * torch.exp(-T / 300)


@pytest.mark.parametrize(("course", "scatter", "low", "high"), [
    (STILL_FALLING, 0.05, 0.0, 0.0), (STILL_FALLING, 0.1, 0.01, 0.1), (PLATEAU, 0.02, 0.0, 0.0),
    (PLATEAU, 0.05, 0.22, 0.42), (PLATEAU, 0.1, 0.56, 0.76),
])  # fmt: skip
def test_a_scattered_validation_loss_is_taken_for_over_fitting_as_often_as_told(
    course: Tensor, scatter: float, low: float, high: float
) -> None:
    """Shares of runs of twenty validations that fall, or have long stopped to, while the training loss falls."""
    val = course * torch.exp(scatter * noise(1000, 11, RUNS))
    verdicts = judged(FALLING.expand(RUNS, -1), val=val)
    taken = torch.stack([verdict.reason == RISEN for verdict in verdicts]).any(0)
    assert low <= float(taken.double().mean()) <= high


def test_on_a_plateau_the_snapshot_is_as_old_as_told() -> None:
    """Nothing is gone back from, and the longest time without a new snapshot is most of the run in the median."""
    scatter = (share * noise(10_000, seed, 32) for share, seed in ((0.02, 3), (0.01, 4)))
    losses, val = (torch.exp(part) for part in scatter)
    verdicts = judged(losses, val=val)
    steps = torch.tensor([step for step, _ in windows(losses)])
    keep = torch.stack([verdict.keep for verdict in verdicts])
    kept = [[*steps[column].tolist(), 10_000] for column in keep.T]
    longest = [max(after - before for before, after in itertools.pairwise(each)) for each in kept]
    assert not any(bool(verdict.restore.any()) for verdict in verdicts)
    assert 6000 <= statistics.median(longest) <= 7800
