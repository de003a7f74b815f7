"""Where hyperparameters and weights go in single runs of `trimtab bench one-pass`.

A run of the bench leaves its final score alone; this follows some of them, `--piece` steps at a time: learning rate,
momentum, weight decay, the weights' norm and the training loss.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from rows import append, facts

from trimtab.bench.onepass.problems import problem_named
from trimtab.bench.onepass.run import plant_of
from trimtab.bench.onepass.suite import KNOBS, method_named, starts
from trimtab.rollout import Voyage

RESULTS = Path(__file__).parent.parent / "results/one-pass-courses.jsonl"


def main() -> None:
    """Follow the starts asked for; one row each."""
    parser = argparse.ArgumentParser(description="Follow runs of one-pass.")
    parser.add_argument("table")
    parser.add_argument("--method", required=True)
    parser.add_argument("--starts", required=True, help="numbers, from 0: 2,3,17")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--piece", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(1)
    numbers = [int(number) for number in given.starts.split(",")]
    for number, course in zip(
        numbers, follow(given.table, given.method, numbers, given.steps, given.piece), strict=True
    ):
        row = {"table": given.table, "method": given.method, "start": number, "piece": given.piece, **course}
        append(RESULTS, {**facts(), **row})
        print(f"start {number}: " + ", ".join(f"{name} {course[name][-1]:.3g}" for name in course))


def follow(table: str, method: str, numbers: list[int], steps: int, piece: int) -> list[dict[str, Any]]:
    """Give for each start what its knobs, its weights' norm and its loss are after every piece."""
    who = method_named(method)
    voyage = Voyage(plant_of(problem_named(table), who), who.make(0))
    passage = voyage.begin(starts(max(numbers) + 1)[numbers][:, None], numbers)
    columns = []
    for _ in range(steps // piece):
        passage, done = voyage.advance(passage, piece)
        columns.append([*passage.state["values"].flatten(1).T, passage.copies.weights.norm(dim=1), done.losses[-1]])
    names = [*(knob.name for knob in KNOBS), "norm", "loss"]
    return [
        {name: [float(columns[at][place][run]) for at in range(len(columns))] for place, name in enumerate(names)}
        for run in range(len(numbers))
    ]


if __name__ == "__main__":
    main()
