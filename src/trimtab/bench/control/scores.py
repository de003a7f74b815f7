"""Scores: from rows to one standing a contender, task by task and budget by budget.

A regret is the final test loss of a held-out instance over that of the tuned schedule on the same instance. Of the
tuned schedules the one that ends with the lower validation loss is the bar, its loss the geometric mean over seeds.
Where both ended at no number the regret is 1.

Letters: ``N`` instances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.bench.anylr.scores import LOST, interquartile_mean, interval, percentile
from trimtab.bench.control.suite import BARS, CONTENDERS, FREE

Row = dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """One contender on one task within one budget.

    Attributes:
        task: its name.
        mode: "decisions" or "seconds".
        contender: its name.
        iqm: interquartile mean over instances of its mean regret over seeds.
        interval: its 95 % bootstrap interval, instances drawn anew.
        median: of all regrets.
        ninety: their 90th percentile.
        worst: the largest.
        lost: runs that ended above where they began, or at no number.
        runs: how many there were.
        decisions: spent, mean over seeds.
        seconds: of making it, mean over seeds.
    """

    task: str
    mode: str
    contender: str
    iqm: float
    interval: tuple[float, float]
    median: float
    ninety: float
    worst: float
    lost: int
    runs: int
    decisions: float
    seconds: float


def standings(rows: Sequence[Row]) -> list[Standing]:
    """Score rows; in their tasks' and budgets' order, the best first. Who spends nothing stands within every budget.

    Args:
        rows: of a bench; tasks and budgets without a tuned schedule are left out.

    Returns:
        The standings.
    """
    found: list[Standing] = []
    for task, mode in dict.fromkeys((row["task"], row["mode"]) for row in rows):
        mine = [row for row in rows if row["task"] == task and (row["mode"] == mode or row["contender"] in FREE)]
        bar = _bar(mine)
        if bar is not None:
            each = {name: [row for row in mine if row["contender"] == name] for name in CONTENDERS}
            made = [_standing(task, mode, name, some, bar) for name, some in each.items() if some]
            found += sorted(made, key=lambda standing: standing.iqm)
    return found


def _bar(rows: Sequence[Row]) -> Tensor | None:
    tuned = {name: [row for row in rows if row["contender"] == name] for name in BARS}
    tuned = {name: mine for name, mine in tuned.items() if mine}
    if not tuned:
        return None
    best = min(tuned, key=lambda name: float(torch.stack([_losses(row, "val").log() for row in tuned[name]]).mean()))
    return torch.stack([_losses(row, "test").log() for row in tuned[best]]).mean(0).exp()


def _losses(row: Row, what: str) -> Tensor:
    return torch.tensor([math.inf if loss is None else loss for loss in row[what]], dtype=torch.float64)


def _standing(task: str, mode: str, name: str, rows: Sequence[Row], bar: Tensor) -> Standing:
    both = [torch.stack([_losses(row, "test"), bar]) for row in rows]
    regrets = torch.stack([torch.where(pair.isinf().all(0), 1.0, pair[0] / pair[1]) for pair in both])
    values, each = regrets.flatten().tolist(), regrets.mean(0)  # an instance counts once, however many the seeds
    lost = sum(int((~(_losses(row, "val") <= LOST * _losses(row, "first"))).sum()) for row in rows)
    return Standing(
        task,
        mode,
        name,
        float(interquartile_mean(each)),
        interval([each], torch.Generator().manual_seed(0)),
        percentile(values, 0.5),
        percentile(values, 0.9),
        max(values),
        lost,
        len(values),
        sum(row["decisions"] for row in rows) / len(rows),
        sum(row["seconds"] for row in rows) / len(rows),
    )
