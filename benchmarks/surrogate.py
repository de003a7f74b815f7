"""Is the learned model of how runs answer to moves any good? Prediction errors against runs that it has not seen.

Runs of one task under random moves about none (deviation 0.4), from rates of 1e-5 to 1; an ensemble is fitted to 64 of
them and measured on 32 held-out instances. Errors are in deviations of what is predicted: 1 is as good as knowing the
mean change.

    python benchmarks/surrogate.py [--tasks quadratic-v1 digits-mlp-v1] [--results results/surrogate.jsonl]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rows import append, facts

from trimtab.controllers import Policy
from trimtab.env import Setting
from trimtab.knobs import Panel
from trimtab.tasks import task_named
from trimtab.teach.genome import Genome
from trimtab.teach.surrogate import Surrogate, errors
from trimtab.teach.svg import Sketched, collected

RUNS, HELD, NOISE, FITS = 64, 32, 0.4, 600
AHEAD = (1, 4, 8)


def main() -> None:
    """Fit, measure, print; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["quadratic-v1", "digits-mlp-v1"])
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.tasks:
        row = {"task": name, **measured(name)}
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        if args.results is not None:
            append(args.results, facts() | {"benchmark": "surrogate"} | row)


def measured(name: str) -> dict[str, Any]:
    """Give the errors of one task's surrogate."""
    genome = Genome(Policy.for_panel(Panel.of(["lr"]), 8, prior="hold").spec, ("*", "!mean_*", "!rank_*"))
    setting = Setting(task_named(name), prior="hold", horizon=min(200, task_named(name).horizon))
    still, rng = Sketched(genome.policy(genome.untaught()), genome), torch.Generator().manual_seed(0)
    log = collected(setting, still, genome, list(range(1000, 1000 + RUNS)), rng, NOISE)
    held = collected(replace(setting, instances="held-out"), still, genome, list(range(HELD)), rng, NOISE)
    surrogate = Surrogate(len(genome.read), 1, rng)
    begin = time.process_time()
    surrogate.fit(log, FITS)
    seconds = round(time.process_time() - begin, 1)
    told = {key: round(value, 4) for key, value in errors(surrogate, held, AHEAD).items()}
    return {"moves": int(log.known.sum()), "seconds": seconds, **told}


if __name__ == "__main__":
    main()
