"""The rate of each learner in the control bench: chosen from three by the validation loss, on a task of its own.

Each is taught on diabetes-mlp-v1 within 4,096 decisions, three seeds, and judged on other training instances of it by
the mean log validation loss: neither the bench's tasks nor a test split is looked at.

    python benchmarks/control_rates.py [--seeds 3] [--results results/control-rates.jsonl]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rows import append, facts

from trimtab.bench.control.judge import Player, ends
from trimtab.bench.control.suite import OFFLINE, ONLINE, Desk, climbed, from_log
from trimtab.teach.practice import practised
from trimtab.teach.svg import practised_by_model

TASK, DECISIONS, JUDGES = "diabetes-mlp-v1", 4096, 48
RATES = {
    "evolution": (0.01, 0.04, 0.16),
    "PPO": (1e-3, 3e-3, 1e-2),
    "SAC": (1e-3, 3e-3, 1e-2),
    "value gradients, online": (1e-3, 3e-3, 1e-2),
    "value gradients, offline": (1e-3, 3e-3, 1e-2),
}


def main() -> None:
    """Teach, judge, print; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learners", nargs="+", default=list(RATES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for who in args.learners:
        for rate in RATES[who]:
            for seed in range(args.seeds):
                desk, begin = Desk.of(TASK, DECISIONS, seed), time.process_time()
                player = taught(who, rate)(desk)
                seconds = time.process_time() - begin
                judges = replace(desk, seed=1000 + seed).numbers(JUDGES)
                loss = ends(desk.setting, player, judges, ("val",))["val"].log().clamp(max=10.0).mean()
                row = {"learner": who, "rate": rate, "seed": seed, "log_loss": round(float(loss), 4)}
                row |= {"seconds": round(seconds, 1)}
                print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
                if args.results is not None:
                    append(args.results, facts() | {"benchmark": "control_rates", "task": TASK} | row)


def taught(who: str, rate: float) -> Callable[[Desk], Player]:
    """Give how a learner is taught at a rate."""

    def make(desk: Desk) -> Player:
        if who == "value gradients, online":
            climb = replace(ONLINE, rate=rate)
            return Player(practised_by_model(desk.setting, desk.genome, DECISIONS, gradients=climb, seed=desk.seed)[0])
        method = who.lower()
        return Player(practised(desk.setting, desk.genome, method, DECISIONS, rate=rate, seed=desk.seed))  # type: ignore[arg-type]

    return from_log(climbed(replace(OFFLINE, rate=rate))) if who == "value gradients, offline" else make


if __name__ == "__main__":
    main()
