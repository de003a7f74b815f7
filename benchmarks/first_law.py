"""How closely live runs and simulated runs agree, for every rule, controller, task and site: the whole table.

The tests hold a part of it at every change; this runs all of it: 200 steps under the guard, one of two simulated
members compared with a live run, in float64 and float32. A row for each task, sites and precision, with the worst
relative difference in losses and knob values over all rules and controllers. About half an hour.

    python benchmarks/first_law.py [--tasks quadratic-v1 ...] [--results results/first_law.jsonl]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from rows import append, facts

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import test_first_law as law

TASKS = ("quadratic-v1", "digits-mlp-v1", "digits-mlp-dropout0.2-v1", "digits-cnn-v1")


def main() -> None:
    """Run the table and print it; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in args.tasks:
        for by in ("run", "layer"):
            for dtype in (law.F64, law.F32):
                row = measure(name, by, dtype)
                print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
                if args.results is not None:
                    append(args.results, facts() | {"benchmark": "first_law"} | row)


def measure(name: str, by: str, dtype: torch.dtype) -> dict[str, Any]:
    """Compare all rules and controllers on one task."""
    worst: dict[str, float] = {}
    for rule in law.RULES:
        if rule == "muon" and name != "digits-mlp-v1":
            continue  # it trains matrices only: there on a task of its own
        for controller in law.CASES:
            worst[f"{rule}/{controller}"] = compare(name, by, dtype, rule, controller)
    bound = law.BELOW[dtype]
    at = max(worst, key=lambda pair: worst[pair])
    return {
        "task": name,
        "sites": by,
        "dtype": str(dtype).removeprefix("torch."),
        "pairs": len(worst),
        "worst": float(f"{worst[at]:.2g}"),
        "worst_at": at,
        "bound": bound,
        "above": sorted(pair for pair, value in worst.items() if not value <= bound),
    }


def compare(name: str, by: str, dtype: torch.dtype, rule: str, controller: str) -> float:
    """Run one member live and simulated; the worst relative difference."""
    task = law.DigitsMLP(dropout=0.2) if "dropout" in name else law.TASKS[name]()
    made = law.RULES[rule](one_by_one=True) if rule == "muon" else law.RULES[rule]()
    if rule == "muon":
        task = law.Matrices()
    panel = law.Panel.of(["lr"])
    start = {"lr": law.RATES.get(rule, 1e-4)}
    course = law.Course(made, law.CASES[controller](panel), task, by, start=start, dtype=dtype)
    simulated, live = law.simulate(course), law.fly(course)
    pairs = [
        (live.losses, simulated.losses[:, law.LIVE]),
        (live.values, simulated.values[:, law.LIVE]),
    ]
    return max(difference(a, b) for a, b in pairs)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Give the worst difference, in shares of the larger of 1 and the value (values: of the value)."""
    a, b = a.double(), b.double()
    scale = b.abs().clamp_min(1) if a.dim() == 1 else b.abs().clamp_min(1e-300)
    return float(((a - b).abs() / scale).max())


if __name__ == "__main__":
    main()
