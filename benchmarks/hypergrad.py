"""What a hypergradient costs: time and peak memory of each estimator against plain training.

A perceptron of two hidden layers on normal noise, SGD with momentum, batches of 64, one member of the plant. Plain
training and an estimator take turns of a few steps in one process of their own; every step leads to a reading, so that
the extra time is the price of one hypergradient in plain steps (of one step, for those that follow every step). Peak
memory is the process's beyond that of plain training, what torch loads for it included. Three sweeps: 1e4 to 1e7
parameters at one hyperparameter; 1 to 10,000 hyperparameters (three knobs at as many sites as it takes) at about 3e4
parameters; and a learning rate for every parameter, 1e4 to 1e7 of them, followed by Adam. What has a row is not run
again::

    OMP_NUM_THREADS=1 python benchmarks/hypergrad.py

Predicted, in plain steps, with L the look-back, h hyperparameters and q directions: a gradient 1, the held-out one of
as many examples 1, a product with the Hessian 4/3 (twice the backward pass, which is 2/3 of a step), a loss alone 1/3;
so one step 0, one step validation 1, implicit 2 + 4/3 (L - 1), forward 2 + 4/3 h, distilled 2, zeroth order 2 q / 3,
unroll 1 + L + 4/3 (L - 1). Rows go to ``results/hypergrad.jsonl``.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rows import append, facts
from torch import Tensor, nn

from trimtab.hypergrad import ESTIMATORS, Estimator, ForwardMode, HyperDistill, PerParameter, estimator_named
from trimtab.hypergrad.followers import Adam
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rules import SGD
from trimtab.stream import Stream
from trimtab.task import Batch, Reference, Split
from trimtab.tasks.seeded import build_seeded

RESULTS = Path(__file__).parent.parent / "results" / "hypergrad.jsonl"
KNOBS = ("lr", "momentum", "weight_decay")
TURNS, LOOKBACK, PAIRS, PRODUCT = 5, 5, 4, 4 / 3
WIDTHS = {10_000: 76, 100_000: 290, 1_000_000: 975, 10_000_000: 3137}
SITES = {1: 1, 12: 4, 102: 34, 1002: 334, 10_002: 3334}
FEW = ("one-step-validation", "implicit")  # what is measured at the most sites: reverse mode does not see them


class Noise:
    """Ten numbers from fifty, both noise.

    Args:
        widths: of the hidden layers.
    """

    name, horizon, batch_size, optimizer, metric = "noise", 100, 64, "sgd", "loss"
    noise_shape: tuple[int, ...] | None = None
    card = "Noise."
    reference = Reference(1.0, 1.0, 1.0, "none")

    def __init__(self, widths: tuple[int, ...]) -> None:
        self.widths = widths

    def build(self, seed: int) -> nn.Module:
        """Make the network."""

        def made() -> nn.Module:
            layers: list[nn.Module] = []
            for wide, narrow in pairwise((50, *self.widths)):
                layers += [nn.Linear(wide, narrow), nn.Tanh()]
            return nn.Sequential(*layers, nn.Linear(self.widths[-1], 10))

        return build_seeded(made, seed)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give 128 examples."""
        rng = torch.Generator().manual_seed(0)
        return torch.randn(128, 50, generator=rng), torch.randn(128, 10, generator=rng)

    def loss(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """Give the squared error."""
        return (model(batch.x) - batch.y).square().mean()

    def score(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """Give the same."""
        return self.loss(model, batch)


def main() -> None:
    """Sweep both."""
    cases = [("parameters", size, 1) for size in WIDTHS] + [("hyperparameters", 30_000, count) for count in SITES]
    cases += [("rates", size, 1) for size in WIDTHS]
    had = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for sweep, size, count in cases:
        for name in ESTIMATORS:
            if name == "forward" and (sweep == "rates" or count > 200 or size * count > 2e7):
                continue  # it carries as many copies of the weights
            if (count > 2000 and name not in FEW) or (sweep == "rates" and name == "zeroth-order"):
                continue
            if any(is_of(row, sweep, size, count, name) for row in had):
                continue
            asked = json.dumps({"sweep": sweep, "size": size, "count": count, "estimator": name})
            done = subprocess.run([sys.executable, __file__, asked], capture_output=True, text=True, check=False)
            if done.returncode:
                print(asked, done.stderr[-500:], flush=True)
                continue
            row = facts() | json.loads(done.stdout.splitlines()[-1])
            append(RESULTS, row | {"command": "python benchmarks/hypergrad.py"})
            print(done.stdout.splitlines()[-1], flush=True)


def is_of(row: dict[str, Any], sweep: str, size: int, count: int, name: str) -> bool:
    """Say whether a row is of a case."""
    near = abs(row["parameters"] / size - 1) < 0.3 and (sweep == "rates" or row["hyperparameters"] == count)
    return bool(near and row["sweep"] == sweep and row["estimator"] == name)


def measure(sweep: str, size: int, count: int, estimator: str) -> dict[str, Any]:
    """Time one estimator in this process."""
    torch.set_num_threads(1)
    knobs = KNOBS[:1] if count == 1 else KNOBS
    wide, deep = WIDTHS.get(size, 130), max(2, SITES[count] // 2 - 1)
    widths = (wide, wide) if deep == 2 else (round((size / deep) ** 0.5),) * deep
    task = Noise(widths)
    names = [name for name, _ in task.build(0).named_parameters()]
    groups = [names[i :: SITES[count]] for i in range(min(SITES[count], len(names)))]
    plain = runner(task, knobs, groups, None)
    plain()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chosen = made(estimator)
    follower = runner(task, knobs, groups, PerParameter(chosen, Adam()) if sweep == "rates" else chosen)
    follower()
    pairs = [(timed(plain), timed(follower)) for _ in range(TURNS)]
    extra = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    weights = sum(p.numel() for p in task.build(0).parameters())
    hypers = weights if sweep == "rates" else len(groups) * len(knobs)
    return {
        "sweep": sweep,
        "estimator": estimator,
        "parameters": weights,
        "hyperparameters": hypers,
        "plain_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "extra_steps": statistics.median(b / a for a, b in pairs) - 1,
        "predicted_steps": predicted(estimator, hypers),
        "extra_mib": extra / 2**20,
    }


def made(name: str) -> Estimator:
    """Make an estimator as it is measured."""
    if name == "forward":
        return ForwardMode()
    if name == "distilled":
        return HyperDistill(refit=0)
    return estimator_named(name, LOOKBACK if name in ("implicit", "unroll") else None)


def predicted(name: str, hypers: int) -> float:
    """Give the price of one hypergradient in plain steps, counted in passes."""
    return {
        "one-step": 0.0,
        "one-step-validation": 1.0,
        "implicit": 2 + PRODUCT * (LOOKBACK - 1),
        "forward": 2 + PRODUCT * hypers,
        "distilled": 2.0,
        "zeroth-order": 2 * PAIRS / 3,
        "unroll": 1 + LOOKBACK + PRODUCT * (LOOKBACK - 1),
    }[name]


def runner(
    task: Noise, knobs: tuple[str, ...], groups: list[list[str]], estimator: Estimator | None
) -> Callable[[], int]:
    """Give a function that takes three steps more."""
    plant = Plant(task, SGD(), Panel.of(list(knobs)), sites=groups, every=1, estimator=estimator)
    start = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
    values = torch.tensor([start[name] for name in knobs], dtype=torch.float64).repeat(1, len(groups), 1)
    stream = Stream(task, (0,))
    standing: list[Any] = [plant.start((0,)), None, 0]

    def more() -> int:
        for _ in range(3):
            standing[2] += 1
            standing[0], _, standing[1], _ = plant.step(standing[0], values, stream.next(), standing[2], standing[1])
        return int(standing[2])

    return more


def timed(more: Callable[[], int]) -> float:
    """Give processor seconds of a turn."""
    begun = time.process_time()
    more()
    return time.process_time() - begun


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(**{**json.loads(sys.argv[1])})))
    else:
        main()
