"""Run: all starts of one method at once, on the plant; and what a method costs beside plain training.

Letters: ``B`` runs, ``K`` knobs.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.bench.onepass.suite import STEPS, FullBatch, Method, method_named, starts
from trimtab.controllers import Constant
from trimtab.hypergrad import estimator_of
from trimtab.passage import Passage
from trimtab.plant import Plant
from trimtab.rollout import Voyage
from trimtab.rules import SGD

MOST, COST_RUNS = 100, 50  # runs at a time: more do not go faster; runs that are timed
PIECE, REPEATS = 60, 12  # steps of a timed piece, and how many of each


@dataclass(frozen=True)
class Job:
    """One method on one table, picklable.

    Attributes:
        table: its name.
        method: its name.
        count: runs.
        steps: of each.
    """

    table: str
    method: str
    count: int
    steps: int = STEPS

    @property
    def key(self) -> str:
        """What makes its row one of a kind."""
        return f"{self.table}.{self.method}.{self.count}.{self.steps}"


def run(job: Job) -> dict[str, Any]:
    """Run a job.

    Args:
        job: it.

    Returns:
        A row: final squared errors on the test split in the target's unit (None where a run diverged), and the
        processor seconds.
    """
    method = method_named(job.method)
    drawn, finals, begun = starts(job.count), [], time.process_time()
    for first in range(0, job.count, MOST):
        part = drawn[first : first + MOST]
        voyage, passage = _begun(job.table, method, part, list(range(first, first + len(part))))
        passage, _ = voyage.advance(passage, job.steps)
        task = voyage.plant.task
        finals.append(voyage.plant.evaluate(passage.copies, task.data("test"))[1])
    seconds = time.process_time() - begun
    errors = [float(x) if bool(x.isfinite()) else None for x in torch.cat(finals)]
    row = {"key": job.key, "table": job.table, "method": job.method, "runs": job.count, "steps": job.steps}
    return {**row, "finals": errors, "core_seconds": seconds}


def cost(table: str, method: Method, count: int) -> float:
    """Time a method against plain training, piece by piece in turn.

    Args:
        table: on what.
        method: who.
        count: runs at once.

    Returns:
        The median over pieces of its processor seconds per step over plain training's.
    """
    plain = Method("plain", Constant, needs_val=method.needs_val)
    voyages, passages = zip(
        *(_begun(table, who, starts(count), list(range(count))) for who in (plain, method)), strict=True
    )
    standing, ratios = list(passages), []
    for number in range(REPEATS):
        spent = [0.0, 0.0]
        for place in ((0, 1), (1, 0))[number % 2]:  # neither is always the first
            begun = time.process_time()
            standing[place] = voyages[place].advance(standing[place], PIECE)[0]
            spent[place] = time.process_time() - begun
        ratios.append(spent[1] / spent[0])
    return statistics.median(ratios)


def _begun(table: str, method: Method, drawn: Tensor, seeds: list[int]) -> tuple[Voyage, Passage]:
    """Stand before the first step of a method's runs."""
    controller = method.make()
    task = FullBatch(table, is_merged=not method.needs_val)
    held_out, estimator = task.data("val"), estimator_of(controller)
    plant = Plant(task, SGD(), method.panel, every=method.every, estimator=estimator, held_out=held_out)
    voyage = Voyage(plant, controller)
    return voyage, voyage.begin(drawn[:, None], seeds)
