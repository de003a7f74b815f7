"""Scores: from rows to one standing a contender, over an entry's learning rates and over entries.

A regret is a final scored loss over the lowest mean of the tuned schedules on the same entry: 52 of them, four
schedules from thirteen learning rates, chosen on the very runs that score, which favours them: of 52 means of ten seeds
the lowest is a lucky one. What tuning gives on runs that it has not seen is asked by choosing on half of the seeds.

Letters: ``S`` strata (a task and a learning rate), ``N`` seeds, ``P`` points of a curve.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.bench.anylr.bout import Row, heats_of
from trimtab.bench.anylr.field import STATIC

LOST = 1.1  # times the first loss: what ends above has lost ground
NEAR = 1.1  # times the tuned cosine's final loss is the target
SAMPLES = 2000


@dataclass(frozen=True)
class Bar:
    """What the tuned schedules reach on a task.

    Attributes:
        best: the lowest mean final scored loss.
        unseen: the mean loss, on half of the seeds, of who is best on the other half: what to expect of tuning.
        winner: whose, and from which learning rate.
        target: :data:`NEAR` times the best cosine's mean final loss.
        steps: that cosine's to the target.
    """

    best: float
    unseen: float
    winner: str
    target: float
    steps: float


@dataclass(frozen=True)
class Standing:
    """One contender on one task, or over all.

    Attributes:
        contender: its name.
        task: the task's name; "" over all.
        regret_median: of the regrets over learning rates (and tasks).
        regret_ninety: their 90th percentile.
        regret_worst: the largest.
        unseen_median: of the regrets against :attr:`Bar.unseen`.
        unseen_ninety: their 90th percentile.
        iqm: interquartile mean of all runs' regrets.
        interval: its 95 % stratified bootstrap interval.
        diverged: runs that were lost.
        runs: how many there were.
        reached: share of learning rates from which the target was reached.
        steps_ratio: steps to the target over the tuned cosine's, median; infinite where most never reach it.
    """

    contender: str
    task: str
    regret_median: float
    regret_ninety: float
    regret_worst: float
    unseen_median: float
    unseen_ninety: float
    iqm: float
    interval: tuple[float, float]
    diverged: int
    runs: int
    reached: float
    steps_ratio: float


def bars(rows: Sequence[Row]) -> dict[str, Bar]:
    """Give what the tuned schedules reach, task by task.

    Args:
        rows: of the static contenders, and others.

    Returns:
        A bar a task; tasks without a static contender's rows have none.
    """
    found: dict[str, Bar] = {}
    static = [row for row in rows if row["contender"] in STATIC]
    for task in dict.fromkeys(row["task"] for row in static):
        mine = {(row["contender"], row["lr"]): row for row in static if row["task"] == task}
        means = {who: float(finals(row).mean()) for who, row in mine.items()}
        name, lr = min(means, key=lambda who: means[who])
        cosine = min((who for who in means if who[0] == "cosine"), key=lambda who: means[who], default=(name, lr))
        target = NEAR * means[cosine]
        found[task] = Bar(
            means[name, lr],
            unseen(list(mine.values())),
            f"{name} from {lr:.3g}",
            target,
            steps_to(mine[cosine], target),
        )
    return found


def unseen(rows: Sequence[Row]) -> float:
    """Give what the best of several gives on seeds that it was not chosen on; of one seed, on that.

    Args:
        rows: one each, of the same seeds.

    Returns:
        The final scored loss, mean over all ways to choose by the larger half of the seeds and to score on the others.
        (To leave out one seed at a time is nothing to lean on: where two are nearly level, all choices fall alike.)
    """
    losses = torch.stack([finals(row) for row in rows])  # [runs, seeds]
    seeds = range(losses.shape[1])
    found = []
    for chosen in itertools.combinations(seeds, len(seeds) - len(seeds) // 2):
        others = [seed for seed in seeds if seed not in chosen] or list(chosen)
        found.append(losses[losses[:, list(chosen)].mean(1).argmin(), others].mean())
    return float(torch.stack(found).mean())


def standings(rows: Sequence[Row], rng: torch.Generator) -> list[Standing]:
    """Score everyone, on each task and over all tasks that have a bar.

    Args:
        rows: of a bout.
        rng: draws for the intervals.

    Returns:
        The best over all tasks first, each followed by its tasks.
    """
    level = bars(rows)
    by_name: dict[str, dict[str, list[Row]]] = {}
    for task, name, mine in heats_of(rows):
        if task in level:
            by_name.setdefault(name, {})[task] = mine
    groups = []
    for name, tasks in by_name.items():
        every = [(level[task], row) for task, mine in tasks.items() for row in mine]
        groups.append(
            [
                _standing(name, "", every, rng),
                *(_standing(name, task, [(level[task], row) for row in mine], rng) for task, mine in tasks.items()),
            ]
        )
    groups.sort(key=lambda group: (group[0].iqm, group[0].regret_median))
    return [standing for group in groups for standing in group]


def _standing(name: str, task: str, rows: Sequence[tuple[Bar, Row]], rng: torch.Generator) -> Standing:
    means = [float(finals(row).mean()) / bar.best for bar, row in rows]
    fair = [float(finals(row).mean()) / bar.unseen for bar, row in rows]
    regrets = [finals(row) / bar.best for bar, row in rows]
    lost = sum(int((~(finals(row) <= LOST * row["curve"][0])).sum()) for _, row in rows)
    ratios = [steps_to(row, bar.target) / bar.steps for bar, row in rows]
    return Standing(
        contender=name,
        task=task,
        regret_median=statistics.median(means),
        regret_ninety=percentile(means, 0.9),
        regret_worst=max(means),
        unseen_median=statistics.median(fair),
        unseen_ninety=percentile(fair, 0.9),
        iqm=float(interquartile_mean(torch.cat(regrets))),
        interval=interval(regrets, rng),
        diverged=lost,
        runs=sum(map(len, regrets)),
        reached=statistics.fmean(math.isfinite(ratio) for ratio in ratios),
        steps_ratio=statistics.median(ratios),
    )


def finals(row: Row) -> Tensor:
    """Give ``[N]`` final scored losses, infinite where lost."""
    return torch.tensor([math.inf if loss is None else loss for loss in row["finals"]], dtype=torch.float64)


def steps_to(row: Row, target: float) -> float:
    """Give the steps until the mean curve is at the target, log-linear between points; infinite where it never is."""
    curve = [math.inf if loss is None else loss for loss in row["curve"]]
    stride = float(row["steps"]) / (len(curve) - 1)
    for point, loss in enumerate(curve):
        if loss <= target:
            if point == 0 or not math.isfinite(curve[point - 1]):
                return point * stride
            above, below = math.log(curve[point - 1] / target), math.log(target / max(loss, 1e-300))
            return (point - below / (above + below)) * stride if above + below > 0 else point * stride
    return math.inf


def percentile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def interquartile_mean(values: Tensor) -> Tensor:
    """Give the mean of the middle half along the last axis (Agarwal et al. 2021, arXiv:2108.13264; differs: nothing).

    A quarter of the values is left out at each end, a fraction of one counts as a fraction.

    Args:
        values: ``[..., V]``.

    Returns:
        ``[...]``.
    """
    ordered, count = values.sort(-1).values, values.shape[-1]
    edges = torch.arange(count + 1, dtype=values.dtype, device=values.device)
    weights = edges[1:].clamp(max=0.75 * count) - edges[:-1].clamp(min=0.25 * count)
    weights = weights.clamp(min=0)
    kept = torch.where(weights > 0, ordered, torch.zeros_like(ordered))
    return (kept * weights).sum(-1) / weights.sum()


def interval(strata: Sequence[Tensor], rng: torch.Generator, level: float = 0.95) -> tuple[float, float]:
    """Give the stratified bootstrap's percentile interval of the interquartile mean.

    Args:
        strata: ``[N]`` values of each.
        rng: draws.
        level: the interval's coverage.

    Returns:
        Its ends (Agarwal et al. 2021, arXiv:2108.13264, sec. 4.1; differs: nothing).
    """
    drawn = [
        values[torch.randint(len(values), (SAMPLES, len(values)), generator=rng)] for values in strata
    ]  # fmt: skip
    means = interquartile_mean(torch.cat(drawn, -1)).sort().values
    tail = (1 - level) / 2
    return float(means[int(tail * (SAMPLES - 1))]), float(means[math.ceil((1 - tail) * (SAMPLES - 1))])
