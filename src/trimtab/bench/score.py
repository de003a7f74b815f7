"""Numbers: from the rows of a race to one standing a contender.

Letters: ``L`` initial learning rates, ``N`` seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from trimtab.bench.contender import PLAIN
from trimtab.bench.rows import Row

FEW = 8  # seeds; with fewer an interquartile mean leaves next to nothing


@dataclass(frozen=True)
class Standing:
    """What one contender did in a race.

    Attributes:
        contender: its name.
        lr: its initial learning rate with the lowest mean final validation loss.
        val_loss: that mean, over seeds; infinite where one was not finite.
        val_std: the standard deviation beside it; 0 for one seed.
        val_iqm: the interquartile mean; None with fewer than 8 seeds.
        val_interval: its 95 % bootstrap interval; None likewise.
        test: mean of the test metric at `lr`, NaN where not opened.
        test_std: the standard deviation beside it.
        regret_median: the median over ``L`` of (mean final validation loss / the lowest in the race); 1 is the best.
        regret_worst: the largest, likewise.
        steps_to_target: the median over seeds at `lr`; None where that is never.
        seconds_to_target: likewise.
        overhead: time of a step over a step without a pilot, less 1; None where no such run took part.
        restores: the guard's, over all runs.
        diverged: runs that ended a tenth above where they began, or not finite.
        reached: share of all runs that reached the target at some point.
        runs: how many there are.
    """

    contender: str
    lr: float
    val_loss: float
    val_std: float
    val_iqm: float | None
    val_interval: tuple[float, float] | None
    test: float
    test_std: float
    regret_median: float
    regret_worst: float
    steps_to_target: float | None
    seconds_to_target: float | None
    overhead: float | None
    restores: int
    diverged: int
    reached: float
    runs: int


def standings(
    rows: Iterable[Row], tests: Mapping[str, float] | None = None, *, rng: torch.Generator | None = None
) -> list[Standing]:
    """Rank contenders by their mean final validation loss, each at its own best initial learning rate.

    Args:
        rows: the race's, all of one task and length.
        tests: the test metric by the row's key, where it was opened.
        rng: draws the bootstrap's samples; None for a generator seeded with 0.

    Returns:
        One a contender, the best first.
    """
    rng = rng or torch.Generator().manual_seed(0)
    every = list(rows)
    names = list(dict.fromkeys(row.contender for row in every))
    best = min((loss for name in names for loss in losses_by_lr(every, name).values()), default=math.inf)
    made = [_standing(name, every, best, tests or {}, rng) for name in names]
    return sorted(made, key=lambda standing: standing.val_loss)


def losses_by_lr(rows: Iterable[Row], contender: str) -> dict[float, float]:
    """Give the mean final validation loss at each initial learning rate; infinite where a run's is not finite."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if row.contender == contender:
            found.setdefault(row.lr, []).append(_or_infinity(row.val_loss))
    return {lr: statistics.fmean(losses) for lr, losses in sorted(found.items())}


def chosen_lr(rows: Iterable[Row], contender: str) -> float:
    """Give the initial learning rate of the lowest mean final validation loss; the lowest of those that tie."""
    losses = losses_by_lr(rows, contender)
    return min(losses, key=lambda lr: losses[lr])


def iqm(values: Sequence[float]) -> float:
    """Give the interquartile mean: that of the middle half.

    Agarwal et al. 2021, arXiv:2108.13264, sec. 4.2, as ``scipy.stats.trim_mean(values, 0.25)``. Differs from the
    source: nothing.

    Args:
        values: at least one.

    Returns:
        The mean without the lowest and highest quarter, each rounded down to whole values.

    Example:
        >>> iqm([0.0, 1.0, 2.0, 100.0])
        1.5
    """
    cut = len(values) // 4
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def interval(
    strata: Sequence[Sequence[float]],
    *,
    rng: torch.Generator,
    statistic: Callable[[Sequence[float]], float] = iqm,
    samples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Give a stratified bootstrap's percentile interval of a statistic over all values together.

    Each sample draws, with replacement, as many values of each stratum (a task, a learning rate) as it has. Agarwal et
    al. 2021, arXiv:2108.13264, sec. 4.1. Differs from the source: nothing.

    Args:
        strata: values of each; none empty.
        rng: draws.
        statistic: of the values of one sample.
        samples: how many.
        level: the interval's coverage, in (0, 1).

    Returns:
        Its ends.
    """
    found = []
    for _ in range(samples):
        drawn: list[float] = []
        for values in strata:
            chosen = torch.randint(len(values), (len(values),), generator=rng).tolist()
            drawn.extend(values[i] for i in chosen)
        found.append(statistic(drawn))
    found.sort()
    tail = (1 - level) / 2
    return found[int(tail * (samples - 1))], found[math.ceil((1 - tail) * (samples - 1))]


def _standing(
    name: str, every: Sequence[Row], best: float, tests: Mapping[str, float], rng: torch.Generator
) -> Standing:
    mine = [row for row in every if row.contender == name]
    by_lr = losses_by_lr(every, name)
    lr = chosen_lr(every, name)
    chosen = [row for row in mine if row.lr == lr]
    losses = [_or_infinity(row.val_loss) for row in chosen]
    opened = [tests[row.key] for row in chosen if row.key in tests]
    regrets = [_ratio(loss, best) for loss in by_lr.values()]
    is_many = len(losses) >= FEW and all(map(math.isfinite, losses))
    return Standing(
        contender=name,
        lr=lr,
        val_loss=by_lr[lr],
        val_std=deviation(losses),
        val_iqm=iqm(losses) if is_many else None,
        val_interval=interval([losses], rng=rng) if is_many else None,
        test=statistics.fmean(opened) if opened else math.nan,
        test_std=deviation(opened),
        regret_median=statistics.median(regrets),
        regret_worst=max(regrets),
        steps_to_target=_median([row.steps_to_target for row in chosen]),
        seconds_to_target=_median([row.seconds_to_target for row in chosen]),
        overhead=_overhead(name, every),
        restores=sum(row.restores for row in mine),
        diverged=sum(row.is_diverged for row in mine),
        reached=statistics.fmean(row.steps_to_target is not None for row in mine),
        runs=len(mine),
    )


def deviation(values: Sequence[float]) -> float:
    """Give the standard deviation; 0 for fewer than two values, NaN where one is not finite."""
    if len(values) < 2:
        return 0.0
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def _overhead(name: str, every: Sequence[Row]) -> float | None:
    """Compare mean steps, since a pilot's cost is in the few steps where it decides; the median over runs."""
    cost: dict[str, list[float]] = {}
    for row in every:
        cost.setdefault(row.contender, []).append(row.seconds / row.steps)
    plain = [steps for other, steps in cost.items() if other.startswith(PLAIN)]
    if not plain:
        return None
    twin = cost.get(PLAIN + name) or [seconds for steps in plain for seconds in steps]
    return statistics.median(cost[name]) / statistics.median(twin) - 1 if name not in _plains(cost) else 0.0


def _plains(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith(PLAIN)}


def _median(values: Sequence[float | None]) -> float | None:
    median = statistics.median(math.inf if value is None else value for value in values)
    return median if math.isfinite(median) else None


def _ratio(loss: float, best: float) -> float:
    return loss / best if math.isfinite(loss) and best > 0 else math.inf


def _or_infinity(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
