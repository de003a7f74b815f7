"""Run: one contender made within a budget, and judged on instances that nobody was taught on."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trimtab.bench.control.judge import ends
from trimtab.bench.control.suite import CONTENDERS, FREE, Desk

HELD = 48  # held-out instances: 0 to 47
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One contender on one task, picklable.

    Attributes:
        task: its name.
        contender: its name.
        seed: of what is drawn while it is made.
        decisions: that it may spend.
        mode: "decisions" where all have the same, "seconds" where their number is such as to take the same time.
        budget: what is the same for all, in the mode's unit.
    """

    task: str
    contender: str
    seed: int
    decisions: int
    mode: str
    budget: float

    @property
    def key(self) -> str:
        """What makes its row one of a kind."""
        return f"{self.task}.{self.contender}.{self.seed}.{self.mode}.{self.budget:g}"


def run(job: Job) -> Row:
    """Make a contender, and judge it once.

    Args:
        job: it.

    Returns:
        A row: the processor seconds that it took to make, and the final losses of the held-out instances on the
        validation split, which chooses, and the test split, which is reported; null where there is no number.
    """
    torch.set_num_threads(1)
    desk, clock = Desk.of(job.task, job.decisions, job.seed), time.process_time()
    player = CONTENDERS[job.contender](desk)
    seconds = time.process_time() - clock
    found = ends(replace(desk.setting, instances="held-out"), player, range(HELD), ("val", "test"))
    return {
        "key": job.key,
        **vars(job),
        "decisions": 0 if job.contender in FREE else job.decisions,
        "seconds": round(seconds, 2),
        "lr": player.lr,
        **{name: _listed(losses) for name, losses in found.items()},
    }


def with_seconds(job: Job, row: Row, seconds: float) -> Job:
    """Give the job that should take so many seconds, by what a first one took; at least one run."""
    fewest = Desk.of(job.task, 1, 0).setting.turns
    decisions = max(fewest, round(row["decisions"] * seconds / max(row["seconds"], 0.01)))
    return replace(job, decisions=decisions, mode="seconds", budget=seconds)


def _listed(losses: Tensor) -> list[float | None]:
    return [None if loss == torch.inf else loss for loss in losses.tolist()]
