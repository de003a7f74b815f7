"""How many environment steps a second, beside DACBench's SGD environment on the same network, data and batch size.

Both train digits-mlp-v1's network (64-32-10, tanh, batches of 32, AdamW) on the same rows, one thread, rounds
interleaved, medians, in seconds of the processor, so that other programs count little. DACBench (0.5.6) runs as
published, but for its images, which come as tensors that are ready, through a stand-in for torchvision (which has no
build for every torch): that makes it faster than it is. Between epochs it looks at one batch of 32 validation examples
a step; `every=1, judged=32` is the same for ours: one optimizer step and one such look an environment step. About half
a minute.

    python benchmarks/env.py [--results results/env.jsonl]

Without DACBench, ours alone is measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from rows import append, facts
from torch import nn
from torch.utils.data import TensorDataset

from trimtab.env import vector_environment
from trimtab.tasks import task_named

TASK, MEMBERS = "digits-mlp-v1", (1, 64)
CASES = ((1, "progress", 32), (1, "progress", 256), (1, "terminal", 256), (10, "progress", 256), (10, "terminal", 256))
Run = tuple[Callable[[int], None], dict[str, Any]]


def main() -> None:
    """Measure and print; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = {
        f"trimtab every={every} {reward} judged={judged} B={members}": ours(members, every, reward, judged)
        for every, reward, judged in CASES
        for members in MEMBERS
    }
    if find_spec("dacbench"):
        runs |= {f"dacbench {'epochs' if epochs else 'steps'}": theirs(epochs=epochs) for epochs in (False, True)}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(args.rounds + 1):
        for name, (run, known) in runs.items():
            begin = time.process_time()
            run(known["turns"])
            if number:  # the first round warms up
                rates[name].append(known["turns"] * known["members"] / (time.process_time() - begin))
    peer = rates.get("dacbench steps")
    for name, found in rates.items():
        known, rate = runs[name][1], statistics.median(found)
        row = {"case": name, **known, "env_steps_per_s": round(rate, 1)}
        row["optimizer_steps_per_s"] = round(rate * known["optimizer_steps"], 1)
        if peer is not None:
            pairs = [mine / theirs for mine, theirs in zip(found, peer, strict=True)]
            row["env_steps_ratio"] = round(statistics.median(pairs), 2)
            row["optimizer_steps_ratio"] = round(statistics.median(pairs) * known["optimizer_steps"], 2)
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        if args.results is not None:
            append(args.results, facts() | {"benchmark": "env", "task": TASK, "threads": 1} | row)


def ours(members: int, every: int, reward: str, judged: int) -> Run:
    """Step our vector environment by moves drawn beforehand."""
    env = vector_environment(TASK, members, every=every, reward=reward, judged=judged, starts=(1e-3, 1e-3))
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-0.1, 0.1, (16, members, 1)).astype(np.float32)

    def run(turns: int) -> None:
        for turn in range(turns):
            env.step(actions[turn % 16])

    return run, {"members": members, "optimizer_steps": every, "turns": 40 if every == 1 else 20}


def theirs(*, epochs: bool) -> Run:
    """Step DACBench's environment at a fixed rate."""
    _stand_in()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dacbench.benchmarks.sgd_benchmark import SGDBenchmark
        from dacbench.envs.sgd import SGDEnv, SGDInstance

        config = SGDBenchmark().config
    network = lambda: nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10), nn.LogSoftmax(1))  # noqa: E731
    config["dataset_config"] = {"Digits": {"train_transform": None, "test_transform": None}}
    config["instance_set"] = {0: SGDInstance(network, torch.optim.AdamW, {"lr": 1e-3}, "", "Digits", 32, 1.0, 0.75, 0)}
    config["epoch_mode"], config["cutoff"] = epochs, 10**9
    env = SGDEnv(config)
    env.reset()

    def run(turns: int) -> None:
        for _ in range(turns):
            env.step([1e-3])

    steps = len(env.train_loader) if epochs else 1
    return run, {"members": 1, "optimizer_steps": steps, "turns": 5 if epochs else 100}


def _stand_in() -> None:
    """Let our digits be a data set of torchvision's, and its transforms do nothing."""

    class Digits(TensorDataset):
        def __init__(self, path: str, *, train: bool = True, download: bool = False, transform: object = None) -> None:
            super().__init__(*task_named(TASK).data("train" if train else "test"))

    class Nothing:
        download = None

        def __init__(self, *args: object) -> None: ...

    whole, datasets, transforms = (ModuleType(f"torchvision{name}") for name in ("", ".datasets", ".transforms"))
    vars(datasets).update(Digits=Digits, CIFAR10=Nothing)
    vars(transforms).update(Compose=Nothing, ToTensor=Nothing, Normalize=Nothing)
    vars(whole).update(datasets=datasets, transforms=transforms)
    for module in (whole, datasets, transforms):
        module.__spec__ = ModuleSpec(module.__name__, None)
        sys.modules[module.__name__] = module


if __name__ == "__main__":
    main()
