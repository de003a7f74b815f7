"""Seconds to the target, live: what a step costs, times the steps that `trimtab bench any-lr` counted.

On each task of the bench everybody takes turns of ten live steps in one process: torch's own optimizer under a cosine,
the same with the default card attached, each peer. A turn's mean step over the cosine's of the same round, median over
rounds, is the cost of a step; times the median ratio of steps to the target (`results/any-lr.jsonl`) it is the ratio of
seconds::

    OMP_NUM_THREADS=1 python benchmarks/seconds.py

Rows go to ``results/seconds.jsonl``. The card decides once a turn, which is its cadence.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from rows import append, facts
from torch.optim.lr_scheduler import CosineAnnealingLR

import trimtab
from trimtab.bench.anylr.bout import read_rows
from trimtab.bench.anylr.page import score
from trimtab.bench.anylr.peers import PEERS
from trimtab.bench.anylr.suite import Entry, entries
from trimtab.controllers.cards import DEFAULT
from trimtab.stream import Stream
from trimtab.task import Batch

RESULTS = Path(__file__).parent.parent / "results"
TURN, ROUNDS, WARM = 10, 30, 3
CARD, PLAIN = DEFAULT, "cosine"


def main() -> None:
    """Measure every task that has rows."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of other people's packages
    found = {(s.task, s.contender): s.steps_ratio for s in score(read_rows(RESULTS / "any-lr.jsonl"))}
    for entry in entries("any-lr-v1", tuple(dict.fromkeys(task for task, _ in found if task))):
        costs = measured(entry)
        for name, (milliseconds, cost) in costs.items():
            steps = 1.0 if name == PLAIN else found.get((entry.name, name), math.inf)
            row = facts() | {"task": entry.name, "contender": name, "step_ms": milliseconds, "step_cost": cost}
            row |= {"steps": steps if math.isfinite(steps) else None}
            row |= {"seconds": steps * cost if math.isfinite(steps) else None}
            append(RESULTS / "seconds.jsonl", row)
            print(json.dumps({key: row[key] for key in list(row)[-6:]}), flush=True)


def measured(entry: Entry) -> dict[str, tuple[float, float]]:
    """Give each contender's milliseconds a step, and their ratio to the plain optimizer's."""
    steps = {name: build(entry, name) for name in (PLAIN, CARD, *PEERS)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM + ROUNDS):
        for name in list(steps)[:: 1 if number % 2 else -1]:
            begin = time.perf_counter()
            for _ in range(TURN):
                steps[name]()
            if number >= WARM:
                times[name].append((time.perf_counter() - begin) / TURN)
    plain = times[PLAIN]
    ratios = {n: statistics.median(a / b for a, b in zip(mine, plain, strict=True)) for n, mine in times.items()}
    return {name: (1e3 * statistics.median(times[name]), ratio) for name, ratio in ratios.items()}


def build(entry: Entry, name: str) -> Callable[[], None]:
    """Make a live training step of an entry's task."""
    model, stream = entry.task.build(0), Stream(entry.task, [0])
    if name in PEERS:
        optimizer = PEERS[name].make(importlib.import_module(PEERS[name].package), model, entry.rule)
        if hasattr(optimizer, "train"):  # Schedule-Free's two points
            optimizer.train()
    else:
        optimizer = entry.twin().optimizer(model.parameters())
    is_falling = name == PLAIN or (name in PEERS and PEERS[name].has_cosine)
    schedule = CosineAnnealingLR(optimizer, 10 * entry.steps) if is_falling else None
    pilot = trimtab.attach(optimizer, CARD, horizon=10 * entry.steps, model=model) if name == CARD else None
    average = None
    if name in PEERS and PEERS[name].averages:
        average = importlib.import_module(PEERS[name].package).PolynomialDecayAverager(model)

    def step() -> None:
        x, y, noise = stream.next()
        loss = entry.task.loss(model, Batch(x[0], y[0], None if noise is None else noise[0]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if average is not None:
            average.step()
        if schedule is not None:
            schedule.step()
        if pilot is not None:
            pilot.step(loss)

    return step


if __name__ == "__main__":
    main()
