"""From the same logs alone: does a model-based teacher beat model-free ones?

256 runs of quadratic-v1 under random moves about none (deviation 0.4), from rates of 1e-5 to 1; policies of 8 hidden
units taught by behaviour cloning, implicit Q-learning and stochastic value gradients (penalties 0 and 0.3), each at one
setting that was not searched; judged on 48 held-out instances by the fall of the log validation loss. One log a seed.

    python benchmarks/offline_control.py [--seeds 5] [--results results/offline_control.jsonl]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rows import append, facts

from trimtab.controllers import Policy
from trimtab.env import Setting
from trimtab.knobs import Panel
from trimtab.tasks import task_named
from trimtab.teach.genome import Genome
from trimtab.teach.offline.cloning import cloned
from trimtab.teach.offline.iql import ImplicitQLearning
from trimtab.teach.offline.score import worths
from trimtab.teach.offline.transitions import Transitions
from trimtab.teach.surrogate import Log
from trimtab.teach.svg import Sketched, ValueGradients, collected, taught_from

RUNS, HELD, NOISE = 256, 48, 0.4


def main() -> None:
    """Teach, judge, print; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    genome = Genome(Policy.for_panel(Panel.of(["lr"]), 8, prior="hold").spec, ("*", "!mean_*", "!rank_*"))
    setting = Setting(task_named("quadratic-v1"), prior="hold")
    still = genome.policy(genome.untaught())
    for seed in range(args.seeds):
        numbers = list(range(1000 + RUNS * seed, 1000 + RUNS * (seed + 1)))
        rng = torch.Generator().manual_seed(seed)
        log = collected(setting, Sketched(still, genome), genome, numbers, rng, NOISE)
        rows = Transitions.of_log(log, genome)
        climb = ValueGradients(length=12, steps=60)
        by_model = partial(modelled, log, genome, seed)
        methods: dict[str, Callable[[], Policy]] = {
            "no move": partial(genome.policy, genome.untaught()),
            "behaviour cloning": partial(cloned, genome, rows, seed=seed),
            "implicit Q-learning": partial(implicit, rows, genome, seed),
            "value gradients": partial(by_model, climb),
            "value gradients, penalty 0.3": partial(by_model, replace(climb, penalty=0.3)),
        }
        for name, teach in methods.items():
            begin = time.process_time()
            policy = teach()
            seconds = round(time.process_time() - begin, 1)
            worth = worths(replace(setting, instances="held-out"), policy, list(range(HELD)))
            row = {"method": name, "seed": seed, "worth": round(float(worth.mean()), 4), "seconds": seconds}
            row |= {"worst": round(float(worth.min()), 4), "logged": round(float(log.reward.sum(1).mean()), 4)}
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            if args.results is not None:
                append(args.results, facts() | {"benchmark": "offline_control", "task": "quadratic-v1"} | row)


def modelled(log: Log, genome: Genome, seed: int, climb: ValueGradients) -> Policy:
    """Teach by value gradients."""
    return taught_from(log, genome, climb, seed=seed)[0]


def implicit(rows: Transitions, genome: Genome, seed: int) -> Policy:
    """Teach by implicit Q-learning."""
    return ImplicitQLearning(beta=3.0, seed=seed).taught(genome, rows)[0]


if __name__ == "__main__":
    main()
