"""Find each task's reference score: the best tuned schedule of one learning rate, and what it reaches on other seeds.

Run it with one thread, for all tasks or for some::

    OMP_NUM_THREADS=1 python benchmarks/reference.py digits-mlp-v1 fashion-mlp-v1

The schedule is a linear warm-up over 5 % of the horizon and a cosine to zero. Its peak is chosen from a grid of half
decades by the final validation loss, mean of 3 seeds (100, 101, 102); the figures come from 10 other seeds (0 to 9).
Each run is a row of ``results/reference.runs.jsonl``, and a run found there is not made again, so that a stopped
command goes on where it was; a finished task is a row of ``results/reference.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import append, facts

from trimtab.stream import Stream
from trimtab.task import Batch, Task
from trimtab.tasks import CATALOGUE, task_named
from trimtab.tasks.quadratic import Quadratic

RESULTS = Path(__file__).parent.parent / "results"
CHOOSING, MEASURING = (100, 101, 102), tuple(range(10))
SCHEDULE = "linear warm-up over 5 %, then cosine to 0"
GRIDS = {  # half decades: seven values and more, the best one inside
    "sgd": [10 ** (k / 2) for k in range(-7, 1)],
    "adamw": [10 ** (k / 2) for k in range(-8, 0)],
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=1.0, momentum=0.9),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=1.0),
}


def main() -> None:
    """Measure the tasks named on the command line; all by default."""
    parser = argparse.ArgumentParser(description="Find the tasks' reference scores.")
    parser.add_argument("tasks", nargs="*", default=list(CATALOGUE), help="names; all by default")
    torch.set_num_threads(1)
    for name in parser.parse_args().tasks:
        task = task_named(name)
        row = measure_exactly(task) if isinstance(task, Quadratic) else measure(task)
        if not _is_known(row):
            append(RESULTS / "reference.jsonl", row)
        print(json.dumps({k: row[k] for k in ("task", "lr", "val_loss", "test_metric", "seconds")}))


def measure(task: Task) -> dict[str, Any]:
    """Choose the peak by 3 seeds, then give the figures of ten others."""
    made: list[dict[str, Any]] = []

    def final_loss(lr: float) -> float:
        runs = [_run_once(task, lr, seed) for seed in CHOOSING]
        made.extend(runs)
        losses = [run["val_loss"] for run in runs]
        return math.inf if None in losses else statistics.fmean(losses)

    chosen = {lr: final_loss(lr) for lr in GRIDS[task.optimizer]}
    best = min(chosen, key=lambda lr: chosen[lr])
    runs = [_run_once(task, best, seed) for seed in MEASURING]
    seconds = sum(run["seconds"] for run in made + runs)
    return _row(task, chosen, seconds) | {
        "choosing_seeds": list(CHOOSING),
        "seeds": list(MEASURING),
        "val_loss": _spread([run["val_loss"] for run in runs]),
        "test_metric": _spread([run["test_metric"] for run in runs]),
        "seconds_per_run": round(seconds / len(made + runs), 2),
    }


def measure_exactly(task: Quadratic) -> dict[str, Any]:
    """Choose the peak and give the figures in expectation, by the closed form."""
    begin = time.perf_counter()
    shape = schedule(task.horizon)

    def expect(lr: float, split: Any) -> float:
        lrs = [lr * factor for factor in shape]
        return task.expected_loss(lrs, split=split, momentum=0.9, batch_size=task.batch_size)

    chosen = {lr: expect(lr, "val") for lr in GRIDS[task.optimizer]}
    best = min(chosen, key=lambda lr: chosen[lr])
    excess = expect(best, "test") - task.lowest_loss("test")
    return _row(task, chosen, time.perf_counter() - begin) | {
        "choosing_seeds": "none: exact expectation",
        "seeds": "none: exact expectation",
        "val_loss": {"mean": chosen[best], "std": 0.0},
        "test_metric": {"mean": excess, "std": 0.0},
    }


def train(task: Task, lr: float, seed: int) -> tuple[float, float]:
    """Train once.

    Args:
        task: the problem.
        lr: the schedule's peak.
        seed: of the weights, the batches and the noise.

    Returns:
        Final validation loss and test metric, over the whole splits, in evaluation mode.
    """
    model = task.build(seed)
    optimizer = OPTIMIZERS[task.optimizer](model.parameters())
    stream = Stream(task, [seed])  # the order that `trimtab race` and the plant train in
    for factor in schedule(task.horizon):
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        loss = task.loss(model, Batch(*(None if part is None else part[0] for part in stream.next())))  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    with torch.no_grad():
        val_loss = float(task.loss(model, Batch(*task.data("val"))))
        return val_loss, float(task.score(model, Batch(*task.data("test"))))


def schedule(horizon: int) -> list[float]:
    """Give each step's share of the peak: linear warm-up over 5 %, then a cosine that would be 0 one step later."""
    warm = max(1, round(0.05 * horizon))
    rise = [(step + 1) / warm for step in range(warm)]
    return rise + [0.5 + 0.5 * math.cos(math.pi * (step + 1) / (horizon - warm + 1)) for step in range(horizon - warm)]


def _run_once(task: Task, lr: float, seed: int) -> dict[str, Any]:
    """Give the row of a run, from the file or by training."""
    path = RESULTS / "reference.runs.jsonl"
    key = {"task": task.name, "optimizer": task.optimizer, "horizon": task.horizon, "batch_size": task.batch_size}
    key |= {"lr": float(f"{lr:.6g}"), "seed": seed}
    for line in path.read_text().splitlines() if path.exists() else []:
        row: dict[str, Any] = json.loads(line)
        if all(row.get(name) == value for name, value in key.items()):
            return row
    begin = time.perf_counter()
    val_loss, test_metric = train(task, lr, seed)
    scores = {"val_loss": _or_none(val_loss), "test_metric": _or_none(test_metric)}
    row = key | scores | {"seconds": time.perf_counter() - begin}
    append(path, row)
    return row


def _is_known(row: dict[str, Any]) -> bool:
    """Say whether the results hold this row already, found at another time."""
    path = RESULTS / "reference.jsonl"
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    same = ("task", "optimizer", "schedule", "steps", "batch_size", "lr_grid", "torch", "val_loss", "test_metric")
    return any(all(other.get(name) == row[name] for name in same) for other in known)


def _or_none(value: float) -> float | None:
    """Give null, which JSON has, for the loss of a run that diverged."""
    return value if math.isfinite(value) else None


def _row(task: Task, chosen: dict[float, float], seconds: float) -> dict[str, Any]:
    """Give what a task's row says whatever the task."""
    return {
        **facts(),
        "python": platform.python_version(),
        "task": task.name,
        "optimizer": {"sgd": "SGD, momentum 0.9", "adamw": "AdamW, defaults"}[task.optimizer],
        "schedule": SCHEDULE,
        "steps": task.horizon,
        "batch_size": task.batch_size,
        "lr_grid": [float(f"{lr:.6g}") for lr in chosen],
        "grid_val_loss": [_or_none(chosen[lr]) for lr in chosen],
        "lr": float(f"{min(chosen, key=lambda lr: chosen[lr]):.6g}"),
        "metric": task.metric,
        "seconds": round(seconds, 2),
    }


def _spread(values: list[float]) -> dict[str, float]:
    """Give mean and standard deviation."""
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values)}


if __name__ == "__main__":
    main()
