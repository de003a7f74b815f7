"""Exp3's regret over rounds, and class-incremental digits by bandit, by fixed settings and by search.

    python benchmarks/bandit.py regret [--results results/bandit.jsonl] [--plot docs/exp3.svg]
    python benchmarks/bandit.py digits [--results results/bandit.jsonl]
    python benchmarks/bandit.py cifar [--results results/bandit.jsonl]

`regret`: five arms that pay 1 with chances 0.9, 0.5, 0.5, 0.4 and 0.1, 200 bandits a number of rounds, each tuned
to it. `digits`: split-digits-v1, ten seeds, accuracy over all classes so far, mean over the five phases, on the test
split; the bandit has 36 trials a phase, the search 36 courses, each of five phases: the same number of trainings. About
five minutes. `cifar`: the same on split-cifar-v1, three seeds, about half an hour.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from rows import append, facts
from torch import Tensor

from trimtab.tasks.phases import Phases
from trimtab.tasks.split_cifar import SplitCifar
from trimtab.tasks.split_digits import SplitDigits
from trimtab.teach.bandit import Exp3, bound
from trimtab.teach.incremental import CHOICES, BanditChooser, Choice, Fixed, course, searched

MEANS = torch.tensor([0.9, 0.5, 0.5, 0.4, 0.1], dtype=torch.float64)
ROUNDS, BANDITS = (100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600), 200
TASKS: dict[str, tuple[Phases, int]] = {"digits": (SplitDigits(), 10), "cifar": (SplitCifar(), 3)}  # seeds
TRIALS = 36
STUDENT = {3: 4.303, 10: 2.262}  # of two degrees of freedom, and of nine; 95 %


def main() -> None:
    """Measure one of the three; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["regret", *TASKS])
    parser.add_argument("--results", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for row in regrets(args.plot) if args.what == "regret" else courses(*TASKS[args.what]):
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        if args.results is not None:
            append(args.results, facts() | {"benchmark": f"bandit {args.what}"} | row)


def regrets(plot: Path | None) -> list[dict[str, Any]]:
    """Give a row a number of rounds, and one of the fitted power."""
    rows = []
    for rounds in ROUNDS:
        lost = regret(rounds)
        error = float(lost.std() / math.sqrt(BANDITS))
        rows.append(
            {"rounds": rounds, "regret": float(lost.mean()), "error": error, "bound": bound(len(MEANS), rounds)}
        )
    x, y = (torch.tensor([row[name] for row in rows]).log() for name in ("rounds", "regret"))
    power = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    if plot is not None:
        draw(rows, power, plot)
    return [*rows, {"power": power}]


def regret(rounds: int) -> Tensor:
    """Give ``[bandits]`` pseudo-regrets."""
    bandit, rng = Exp3.tuned(len(MEANS), rounds), torch.Generator().manual_seed(rounds)
    state, lost = bandit.start(BANDITS), torch.zeros(BANDITS, dtype=torch.float64)
    for _ in range(rounds):
        arm = bandit.draw(state, rng)
        lost += MEANS.max() - MEANS[arm]
        state = bandit.update(
            state, arm, (torch.rand(BANDITS, generator=rng, dtype=torch.float64) < MEANS[arm]).double()
        )
    return lost


def draw(rows: list[dict[str, Any]], power: float, path: Path) -> None:
    """Plot regret and bound over rounds, both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "trimtab"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    rounds = [row["rounds"] for row in rows]
    axes.loglog(rounds, [row["bound"] for row in rows], "--", color="0.5", label="bound, $\\sqrt{2 T A \\ln A}$")
    mean = [row["regret"] for row in rows]
    axes.errorbar(
        rounds, mean, [2 * row["error"] for row in rows], fmt="o-", label=f"Exp3: grows as $T^{{{power:.2f}}}$"
    )
    axes.set(xlabel="rounds T", ylabel="regret, mean of 200 bandits")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def courses(task: Phases, seeds: int) -> list[dict[str, Any]]:
    """Give a row a way of choosing: the mean over seeds, and each seed's."""
    rows = [summed(name(choice), [Fixed(choice)] * seeds, task) for choice in CHOICES]
    fixed = torch.tensor([row["accuracies"] for row in rows]).mean(0)
    rows.append(told("fixed, mean of all twelve", fixed.tolist(), task))
    rows.append(summed("fixed, by search", [Fixed(searched(task, TRIALS, seed)) for seed in range(seeds)], task))
    rows.append(summed("Exp3", [BanditChooser(TRIALS)] * seeds, task))
    return rows


def name(choice: Choice) -> str:
    """Say what a fixed setting is."""
    return f"fixed, distillation {choice.distillation:g}, lr {choice.lr:g}, {choice.classifier}"


def summed(what: str, choosers: list[Any], task: Phases) -> dict[str, Any]:
    """Go through the course with each seed."""
    found = [course(task, chooser, seed, "test")[0] for seed, chooser in enumerate(choosers)]
    last = sum(each[-1] for each in found) / len(found)
    return told(what, [sum(each) / len(each) for each in found], task) | {"last_phase": last}


def told(what: str, accuracies: list[float], task: Phases) -> dict[str, Any]:
    """Give mean and a 95 % interval by Student's t."""
    each = torch.tensor(accuracies, dtype=torch.float64)
    return {
        "task": task.name,
        "chooser": what,
        "accuracy": float(each.mean()),
        "interval": float(STUDENT[len(each)] * each.std() / math.sqrt(len(each))),
        "accuracies": [round(value, 4) for value in accuracies],
    }


if __name__ == "__main__":
    main()
