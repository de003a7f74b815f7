"""What a step of each family of teach-v1's networks costs on the plant.

The first examined lessons of each family, each under its own optimizer and batch size, readings included; processor
time of one thread, the least of several rounds, so that other programs on the machine count little. About three minutes
on an idle machine.

    python benchmarks/exercises.py [--members 64 128] [--lessons 8] [--results results/exercises.jsonl]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
from rows import append, facts

from trimtab.knobs import Panel
from trimtab.stream import Stream
from trimtab.teach import Distribution, Lesson
from trimtab.teach.networks import FAMILIES

WARM, STEPS = 10, 30  # steps before, and of a round: three readings


def main() -> None:
    """Measure and print; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--lessons", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    drawn = Distribution().examined(1000)
    for members in args.members:
        usual = 0.0
        for family, share in FAMILIES.items():
            lessons = [lesson for lesson in drawn if lesson.task.sketch.family == family][: args.lessons]
            costs = torch.tensor([cost(lesson, members, args.rounds) for lesson in lessons], dtype=torch.float64)
            usual = usual or float(costs.mean())
            row = {
                "family": family,
                "share": share,
                "members": members,
                "lessons": len(lessons),
                "ms_per_step": round(float(costs.mean()), 3),
                "ms_least": round(float(costs.min()), 3),
                "ms_most": round(float(costs.max()), 3),
                "to_mlp": round(float(costs.mean()) / usual, 2),
                "batch": round(sum(lesson.task.batch_size for lesson in lessons) / len(lessons), 1),
                "load": round(os.getloadavg()[0], 1),
            }
            print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)
            if args.results is not None:
                append(args.results, facts() | {"benchmark": "exercises"} | row)


def cost(lesson: Lesson, members: int, rounds: int) -> float:
    """Time a lesson's step, all members together: milliseconds of the processor."""
    plant, seeds = lesson.plant(Panel.of(["lr"])), lesson.seeds(members)
    stream, copies, look = Stream(lesson.task, seeds), plant.start(seeds), None
    values = torch.full((members, 1, 1), 1e-3, dtype=torch.float64)
    least = float("inf")
    for number in range(1, WARM + rounds * STEPS + 1):
        if number > WARM and (number - WARM) % STEPS == 1:
            begin = time.process_time()
        copies, _, look, _ = plant.step(copies, values, stream.next(), number, look)
        if number > WARM and (number - WARM) % STEPS == 0:
            least = min(least, time.process_time() - begin)
    return least / STEPS * 1e3


if __name__ == "__main__":
    main()
