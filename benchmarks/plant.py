"""How many member-steps a second the plant trains, beside a plain loop of torch.optim over the same nets.

Both train digits-mlp-v1 (64-32-10, batch 32) with AdamW. The loop is the fastest plain one: module, loss, backward,
``optimizer.step()``, batches indexed from the same data, no controller, no measuring. The plant is measured twice: the
bare step, and a whole rollout (controller, features, guard, readings every 10 steps). Ratios are of the same process,
interleaved, medians of several rounds. About six minutes, most of it compilation.

    python benchmarks/plant.py [--threads 1] [--device cpu] [--members 1 16 64 256] [--results results/plant.jsonl]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rows import append, facts

from trimtab.controllers import controller_named
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import rollout
from trimtab.rules import AdamW
from trimtab.stream import Stream
from trimtab.task import Batch
from trimtab.tasks import task_named

TASK = "digits-mlp-v1"
EVERY = 10


def main() -> None:
    """Measure and print; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peak = gemm_peak(args.device)
    for members in args.members:
        row = measure(members, args.device, args.rounds)
        row |= {"threads": args.threads, "gemm_gflops": round(peak / 1e9, 1)}
        for kind in ("eager", "compiled"):
            row[f"{kind}_share_of_peak"] = round(row[f"{kind}_steps_per_s"] * flops_of_a_step() / peak, 4)
        print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)
        if args.results is not None:
            append(args.results, facts() | {"benchmark": "plant", "task": TASK, "device": args.device} | row)


def measure(members: int, device: str, rounds: int) -> dict[str, float]:
    """Time one number of members: member-steps per second, and their ratios to the loop."""
    runs = {
        "loop": loop(device),
        "eager": plant(members, device, fast=False),
        "compiled": plant(members, device, fast=True),
    }
    runs["rollout"] = whole(members, device, fast=True)
    steps = {"loop": 200, "eager": 40, "compiled": 100, "rollout": 100}
    for name, run in runs.items():
        run(steps[name] // 4 + EVERY)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run(steps[name])
            synchronise(device)
            each = 1 if name == "loop" else members
            rates[name].append(steps[name] * each / (time.perf_counter() - begin))
    row: dict[str, float] = {"members": members}
    for name, found in rates.items():
        row[f"{name}_steps_per_s"] = round(statistics.median(found))
    for name in ("eager", "compiled", "rollout"):
        pairs = [a / b for a, b in zip(rates[name], rates["loop"], strict=True)]
        row[f"{name}_ratio"] = round(statistics.median(pairs), 2)
    return row


def loop(device: str) -> Callable[[int], None]:
    """Train one net the plain way."""
    task = task_named(TASK)
    model = task.build(0).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    stream = Stream(task, [0], device=device)

    def run(steps: int) -> None:
        for _ in range(steps):
            x, y, _ = stream.next()
            loss = task.loss(model, Batch(x[0], y[0]))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def plant(members: int, device: str, *, fast: bool) -> Callable[[int], None]:
    """Step the plant, readings included."""
    task, seeds = task_named(TASK), list(range(members))
    made = Plant(task, AdamW(), Panel.of(["lr"]), every=EVERY, fast=fast, device=device)
    stream = Stream(task, seeds, device=device)
    values = torch.full((members, 1, 1), 1e-3, dtype=torch.float64, device=device)
    state = {"copies": made.start(seeds), "look": None, "number": 0}

    def run(steps: int) -> None:
        for _ in range(steps):
            state["number"] += 1
            copies, _, look, _ = made.step(state["copies"], values, stream.next(), state["number"], state["look"])
            state["copies"], state["look"] = copies, look

    return run


def whole(members: int, device: str, *, fast: bool) -> Callable[[int], None]:
    """Run whole rollouts, controller and guard included."""
    task = task_named(TASK)
    made = Plant(task, AdamW(), Panel.of(["lr"]), every=EVERY, fast=fast, device=device)
    values = torch.full((members, 1, 1), 1e-3, dtype=torch.float64, device=device)

    def run(steps: int) -> None:
        controller = controller_named("cosine")
        rollout(made, controller, values, seeds=range(members), steps=steps, horizon=steps, guard=Guard())

    return run


def gemm_peak(device: str) -> float:
    """Measure what the machine's matrix product reaches, in floating-point operations a second."""
    size = 1024 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(40):  # the first ones find a processor that has not yet woken up
        begin = time.perf_counter()
        a @ a
        synchronise(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def flops_of_a_step() -> float:
    """Count the matrix products of one member's step: forward, gradient of weights, gradient of the hidden layer."""
    batch, sizes = 32, ((64, 32), (32, 10))
    forward = sum(2 * batch * a * b for a, b in sizes)
    return 2 * forward + 2 * batch * 32 * 10


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
