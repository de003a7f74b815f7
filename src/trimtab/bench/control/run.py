"""Run: one contender made within a budget, and judged on instances that nobody was taught on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trimtab.bench.control.judge import ends
from trimtab.bench.control.suite import CONTENDERS, FREE, Desk

HELD = 48  # held-out instances: 0 to 47
TRIES, NEAR = 3, 0.15  # times that a contender is made for a budget of seconds, and how far off the last may be
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One contender on one task, picklable.

    Attributes:
        task: its name.
        contender: its name.
        seed: of what is drawn while it is made.
        decisions: that it may spend; in the mode "seconds" at first.
        mode: "decisions" where all have the same, "seconds" where their number is such as to take the same time.
        budget: what is the same for all, in the mode's unit.
        took: seconds that so many decisions took before, in the mode "seconds".
    """

    task: str
    contender: str
    seed: int
    decisions: int
    mode: str
    budget: float
    took: tuple[int, float] | None = None

    @property
    def key(self) -> str:
        """What makes its row one of a kind."""
        return f"{self.task}.{self.contender}.{self.seed}.{self.mode}.{self.budget:g}"


def run(job: Job) -> Row:
    """Make a contender, and judge it once; for a budget of seconds make it anew until it takes about as many.

    Args:
        job: it.

    Returns:
        A row: the processor seconds that it took to make, and the final losses of the held-out instances on the
        validation split, which chooses, and the test split, which is reported; null where there is no number.
    """
    torch.set_num_threads(1)
    if job.contender in ("PPO", "SAC"):  # their library is loaded before the clock runs
        CONTENDERS[job.contender](Desk.of(job.task, 1, job.seed))
    spent = [] if job.took is None else [job.took]
    desk = Desk.of(job.task, job.decisions, job.seed)
    for _ in range(TRIES):
        clock = time.process_time()
        player = CONTENDERS[job.contender](desk)
        spent.append((desk.decisions, time.process_time() - clock))
        wanted = desk.decisions if job.mode == "decisions" else estimated(spent, job.budget, 2 * desk.setting.turns)
        if abs(spent[-1][1] / job.budget - 1) <= NEAR or wanted == desk.decisions:
            break
        desk = replace(desk, decisions=wanted)
    found = ends(desk.setting, player, range(HELD), ("val", "test"))
    return {
        "key": job.key,
        **{name: value for name, value in vars(job).items() if name != "took"},
        "decisions": 0 if job.contender in FREE else spent[-1][0],
        "seconds": round(spent[-1][1], 2),
        "lr": player.lr,
        **{name: _listed(losses) for name, losses in found.items()},
    }


def with_seconds(job: Job, row: Row, seconds: float) -> Job:
    """Give the job that should take so many seconds, by what a first one took."""
    took = (row["decisions"], row["seconds"])
    decisions = estimated([took], seconds, 2 * Desk.of(job.task, 1, 0).setting.turns)
    return replace(job, decisions=decisions, mode="seconds", budget=seconds, took=took)


def estimated(spent: Sequence[tuple[int, float]], seconds: float, fewest: int) -> int:
    """Give the decisions that should take so many seconds: on the line through the last two, or in proportion.

    Args:
        spent: decisions and the seconds that they took, at least one pair.
        seconds: wanted.
        fewest: decisions in any case.

    Returns:
        The number.
    """
    (last, took), price = spent[-1], 0.0
    if len(spent) > 1 and last != spent[-2][0]:
        price = (took - spent[-2][1]) / (last - spent[-2][0])
    if price <= 0:
        return max(fewest, round(last * seconds / max(took, 0.01)))
    return max(fewest, round(last + (seconds - took) / price))


def _listed(losses: Tensor) -> list[float | None]:
    return [None if loss == torch.inf else loss for loss in losses.tolist()]
