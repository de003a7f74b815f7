"""What traces of mixed controllers teach: cloning and implicit Q-learning on digits-mlp-v1, from many learning rates.

Three controllers (random moves, multiplicative hypergradient descent, cosine) drive `--members` training instances,
from first rates of 1e-5 to 1; every method is taught from all of their traces, with two seeds, and drives the
held-out instances. Worth: the fall of the log validation loss (the first 256 examples) from before the first step to
the end. Nothing is chosen by these scores. About three minutes on a free core.

    python benchmarks/offline.py --results results/offline.jsonl
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rows import append, facts

from trimtab.controller import Controller
from trimtab.controllers import Policy, controller_named
from trimtab.env.setting import HELD_OUT, Setting
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.tasks import task_named
from trimtab.teach.genome import Genome
from trimtab.teach.offline.cloning import cloned
from trimtab.teach.offline.episode import read_episodes
from trimtab.teach.offline.iql import ImplicitQLearning
from trimtab.teach.offline.played import play
from trimtab.teach.offline.score import fit, worths
from trimtab.teach.offline.transitions import Transitions

TASK, BEHAVIOURS, SEEDS = "digits-mlp-v1", ("random", "hypergradient", "cosine"), (0, 1)
STEPS = 2000
REFERENCES = ("constant", "trimtab-v1")
PRIOR, FEATURES = "hold", ("*", "!mean_*", "!rank_*")
METHODS: dict[str, Any] = {
    "clone": lambda genome, rows, seed: cloned(genome, rows, steps=STEPS, seed=seed),
    "iql": lambda genome, rows, seed: ImplicitQLearning(steps=STEPS, seed=seed).taught(genome, rows)[0],
    "iql, expectile 0.9, beta 3": lambda genome, rows, seed: ImplicitQLearning(0.9, 3.0, steps=STEPS, seed=seed).taught(
        genome, rows
    )[0],
    "clone, temperature 0.5": lambda genome, rows, seed: cloned(genome, rows, temperature=0.5, steps=STEPS, seed=seed),
}


def main() -> None:
    """Record, teach, score and print; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--instances", type=int, default=64, help="held-out ones, at most 100")
    parser.add_argument("--folder", type=Path, default=Path("runs/offline"))
    parser.add_argument("--results", type=Path)
    parser.add_argument("--table", action="store_true", help="print the table in docs/offline.md from the rows there")
    args = parser.parse_args()
    if args.table:
        print(table(args.results.read_text()))
        return
    torch.set_num_threads(1)
    setting = Setting(task_named(TASK))
    traces = args.folder / "traces"
    traces.mkdir(parents=True, exist_ok=True)
    origin = facts() | {"benchmark": "offline", "task": TASK, "members": args.members, "instances": args.instances}

    def tell(row: dict[str, Any]) -> None:
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        if args.results is not None:
            append(args.results, origin | row)

    recorded(setting, traces, args.members)
    held_out = replace(setting, instances="held-out")
    known = set()  # a benchmark that was stopped goes on where it was
    if args.results is not None and args.results.is_file():
        known = {json.loads(line)["who"] for line in args.results.read_text().splitlines()}
    for name in (name for name in (*BEHAVIOURS, *REFERENCES) if name not in known):
        tell({"who": name} | scored([controller_named(name)], held_out, args.instances))
    genome = Genome(Policy.for_panel(Panel.of(["lr"]), 16, prior=PRIOR).spec, FEATURES)
    if "untaught" not in known:  # the schedule that every taught policy lies on, without a move
        tell({"who": "untaught"} | scored([genome.policy(genome.untaught())], held_out, args.instances))
    rows = Transitions.of(read_episodes(traces, prior=PRIOR), genome.spec)
    for name, method in ((name, method) for name, method in METHODS.items() if name not in known):
        begin = time.perf_counter()
        policies = [method(genome, rows, seed) for seed in SEEDS]
        seconds = (time.perf_counter() - begin) / len(SEEDS)
        told = {"moves": len(rows), "fit": round(statistics.mean(fit(policy, rows) for policy in policies), 3)}
        tell({"who": name, **told, "seconds": round(seconds, 1)} | scored(policies, held_out, args.instances))


def recorded(setting: Setting, folder: Path, members: int) -> None:
    """Write the behaviours' traces on training instances, others for each; those that are there stay."""
    for number, name in enumerate(BEHAVIOURS):
        seeds = [HELD_OUT + number * members + n for n in range(members)]
        if not list(folder.glob(f"{name}-{seeds[0]}.*")):
            plant = setting.plant()
            values = setting.values(plant, seeds)
            play(plant, controller_named(name), values, folder, seeds=seeds, horizon=setting.steps, guard=Guard())


def scored(controllers: list[Controller], setting: Setting, count: int) -> dict[str, Any]:
    """Give what controllers are worth on held-out instances, each instance's mean over them."""
    each = torch.stack([worths(setting, controller, range(count)) for controller in controllers])
    mean = each.mean(0)
    return {
        "worth": round(float(mean.mean()), 3),
        "error": round(float(mean.std() / count**0.5), 3),
        "median": round(float(mean.median()), 3),
        "worst": round(float(each.min()), 3),
        "of_seeds": [round(float(row.mean()), 3) for row in each],
    }


def table(text: str) -> str:
    """Make the page's table of a file of rows, best first."""
    rows = sorted((json.loads(line) for line in text.splitlines()), key=lambda row: -row["worth"])
    lines = ["| | worth | ± | median | worst run | seeds | fit | seconds |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        seeds = ", ".join(f"{worth:.2f}" for worth in row["of_seeds"]) if len(row["of_seeds"]) > 1 else ""
        taught = f"{row['fit']:.2f} | {row['seconds']:.0f}" if "fit" in row else " | "
        columns = f"{row['worth']:.2f} | {row['error']:.2f} | {row['median']:.2f} | {row['worst']:.2f}"
        lines.append(f"| {row['who']} | {columns} | {seeds} | {taught} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
