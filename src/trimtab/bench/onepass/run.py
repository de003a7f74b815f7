"""Run: all starts of one method, on the plant; and what a method costs beside plain training.

Letters: ``B`` runs, ``K`` knobs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.bench.onepass.problems import Problem, problem_named
from trimtab.bench.onepass.suite import Method, method_named, starts
from trimtab.controllers import Constant
from trimtab.copies import Copies
from trimtab.hypergrad import estimator_of
from trimtab.passage import Passage
from trimtab.plant import Plant
from trimtab.rollout import Voyage
from trimtab.task import Split, Task

COST_RUNS = 50  # that are timed, at most
REPEATS = 12  # timed pieces of each


@dataclass(frozen=True)
class Job:
    """One method on one table, picklable.

    Attributes:
        table: its name.
        method: its name.
        count: runs.
        steps: of each; 0: as many as the paper's.
        is_fast: compile the training step; the same to rounding.
    """

    table: str
    method: str
    count: int
    steps: int = 0
    is_fast: bool = False

    @property
    def key(self) -> str:
        """What makes its row one of a kind."""
        return f"{self.table}.{self.method}.{self.count}.{self.length}"

    @property
    def length(self) -> int:
        """Steps of each run."""
        return self.steps or problem_named(self.table).make(False).horizon


def run(job: Job) -> dict[str, Any]:
    """Run a job.

    Args:
        job: it.

    Returns:
        A row: final scores on the test split (None where a run diverged), on the validation split where that was kept
        from the training, and the processor seconds.
    """
    method, problem = method_named(job.method), problem_named(job.table)
    drawn, clock = starts(job.count), time.process_time()
    finals: dict[Split, list[float | None]] = {"test": [], "val": []}
    plant = plant_of(problem, method, is_fast=job.is_fast)
    for first in range(0, job.count, problem.at_once):
        voyage, passage = begun(plant, method, drawn[first : first + problem.at_once], first)
        passage, _ = voyage.advance(passage, job.length)
        for split in finals:
            finals[split] += _ended(plant, passage.copies, split, problem.lost)
    row = {"key": job.key, "table": job.table, "method": job.method, "runs": job.count, "steps": job.length}
    row |= {"finals": finals["test"], "core_seconds": time.process_time() - clock}
    return row | ({"held_out": finals["val"]} if method.needs_val else {})


def cost(table: str, method: Method, count: int) -> float:
    """Time a method against plain training, piece by piece in turn.

    Args:
        table: on what.
        method: who.
        count: runs at once, at most as many as the table's runs are made at once.

    Returns:
        The median over pieces of its processor seconds per step over plain training's.
    """
    problem = problem_named(table)
    plain = Method("plain", lambda first: Constant(), needs_val=method.needs_val)
    drawn = starts(min(count, problem.at_once))
    voyages, passages = zip(*(begun(plant_of(problem, who), who, drawn, 0) for who in (plain, method)), strict=True)
    standing, ratios = list(passages), []
    for number in range(REPEATS):
        spent = [0.0, 0.0]
        for place in ((0, 1), (1, 0))[number % 2]:  # neither is always the first
            clock = time.process_time()
            standing[place] = voyages[place].advance(standing[place], problem.piece)[0]
            spent[place] = time.process_time() - clock
        ratios.append(spent[1] / spent[0])
    return statistics.median(ratios)


def plant_of(problem: Problem, method: Method, *, is_fast: bool = False) -> Plant:
    """Make what a method's runs are trained in.

    Args:
        problem: what is trained.
        method: by whom.
        is_fast: compile the step.

    Returns:
        The plant.
    """
    task, estimator = problem.make(not method.needs_val), estimator_of(method.make(0))
    fresh = method.fresh or problem.fresh
    held_out = _drawing(task, fresh) if fresh else task.data("val")
    return Plant(
        task, problem.rule, method.panel, every=method.every, estimator=estimator, held_out=held_out, fast=is_fast
    )


def begun(plant: Plant, method: Method, drawn: Tensor, first: int = 0) -> tuple[Voyage, Passage]:
    """Stand before the first step of a method's runs.

    Args:
        plant: what `plant_of` gave.
        method: it.
        drawn: ``[B, K]`` where they begin.
        first: the first one's number, from which weights and order of examples are drawn.

    Returns:
        The voyage, and where it stands.
    """
    voyage = Voyage(plant, method.make(first))
    return voyage, voyage.begin(drawn[:, None], list(range(first, first + len(drawn))))


def _drawing(task: Task, count: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Give what draws validation examples for a step, the same for all runs."""
    x, y = task.data("val")

    def draw(number: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(number))[:count]
        return x[chosen], y[chosen]

    return draw


def _ended(plant: Plant, copies: Copies, split: Split, lost: float) -> list[float | None]:
    """Give the runs' final scores on a split; None where a run was lost."""
    scores = plant.evaluate(copies, plant.task.data(split))[1]
    return [float(x) if bool(x.isfinite()) and float(x) < lost else None for x in scores]
