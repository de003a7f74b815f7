"""Scores are what their sources say."""

import math
import random

import pytest
import torch

from trimtab.bench.rows import Row
from trimtab.bench.score import interval, iqm, standings
from trimtab.bench.table import cells, columns


def row(contender: str, lr: float, seed: int, val_loss: float, **changes: object) -> Row:
    """Make a row of a run that never was."""
    fields = {
        "key": f"{contender}{lr}{seed}",
        "task": "t-v1",
        "contender": contender,
        "settings": "",
        "lr": lr,
        "seed": seed,
        "steps": 10,
        "train_loss": val_loss,
        "val_loss": val_loss,
        "curve": ((0, 1.0), (10, val_loss)),
        "target": 0.5,
        "steps_to_target": 10 if val_loss <= 0.5 else None,
        "seconds_to_target": 1.0 if val_loss <= 0.5 else None,
        "seconds": 1.0,
        "step_seconds": 0.1,
        "restores": 1,
        "is_diverged": not val_loss <= 1,
        "commit": "c",
        "machine": "m",
        "torch": "2",
        "command": "x",
        "date": "d",
    }
    return Row(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 3, 4, 9, 40])
def test_iqm_is_scipys_trimmed_mean(count):
    """The interquartile mean is scipy's mean trimmed by a quarter at each end."""
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(count)
    values = [draw.gauss(0, 1) for _ in range(count)]
    assert iqm(values) == pytest.approx(float(stats.trim_mean(values, 0.25)))


def test_an_interval_covers_and_repeats():
    """A bootstrap's interval covers the truth, is drawn by its generator alone, and is a point for equal values."""
    draw = random.Random(0)
    strata = [[draw.gauss(5, 1) for _ in range(20)] for _ in range(3)]
    low, high = interval(strata, rng=torch.Generator().manual_seed(1), samples=300)
    assert low < 5 < high
    assert (low, high) == interval(strata, rng=torch.Generator().manual_seed(1), samples=300)
    assert (2.0, 2.0) == interval([[2.0, 2.0]], rng=torch.Generator(), samples=10)


def test_a_bootstrap_keeps_strata_apart():
    """Each sample has as many values of a stratum as the stratum has."""
    counts = []

    def note(values):
        counts.append((values.count(0.0), values.count(1.0)))
        return 0.0

    interval([[0.0] * 3, [1.0] * 5], rng=torch.Generator(), statistic=note, samples=5)
    assert {(3, 5)} == set(counts)


def test_standings_by_hand():
    """Choice, regret, reach and overhead of two contenders are those worked out by hand."""
    rows = [
        *(row("a", 0.1, seed, loss) for seed, loss in enumerate((0.2, 0.4))),
        *(row("a", 1.0, seed, loss) for seed, loss in enumerate((0.9, math.nan))),
        *(row("plain-a", 0.1, seed, 0.6, seconds=0.5) for seed in range(2)),
        *(row("plain-a", 1.0, seed, 0.7, seconds=0.5) for seed in range(2)),
    ]
    first, second = standings(rows, {"a0.10": 0.8, "a0.11": 0.9})
    assert (first.contender, first.lr, first.val_loss) == ("a", 0.1, pytest.approx(0.3))
    assert (first.test, first.test_std) == (pytest.approx(0.85), pytest.approx(0.0707107))
    assert (first.regret_median, first.regret_worst) == (math.inf, math.inf)
    assert (first.reached, first.steps_to_target, first.overhead) == (0.5, 10, pytest.approx(1.0))
    assert (first.restores, first.diverged, first.runs) == (4, 1, 4)
    assert (second.regret_median, second.regret_worst) == (pytest.approx(13 / 6), pytest.approx(7 / 3))
    assert (second.overhead, second.steps_to_target) == (0.0, None)
    assert len(columns("accuracy")) == len(cells(first))


def test_many_seeds_bring_an_interval():
    """From eight seeds on, the interquartile mean and its interval stand beside the mean."""
    (few,) = standings([row("a", 0.1, seed, 0.1 + seed) for seed in range(7)])
    (many,) = standings([row("a", 0.1, seed, 0.1 + seed) for seed in range(8)])
    assert few.val_iqm is None
    assert many.val_iqm == pytest.approx(3.6)
    assert many.val_interval is not None
    assert many.val_interval[0] < 3.6 < many.val_interval[1]
    assert ("3.6 ± 2.4", "–") == (cells(many)[2], cells(few)[3])
    assert cells(many)[3].startswith("3.6 [")
