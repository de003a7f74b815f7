"""What a hypergradient costs a live run: the same training with and without a pilot that follows one, side by side.

SGD with momentum in plain PyTorch, one run: the 8-50-1 network of UCI Energy's size, all 613 examples in a batch, and
perceptrons of 0.1 and 1.3 million parameters in batches of 128; all on noise. The plain run and the piloted one take
turns of forty steps in one process; the ratio is of the medians' processor time::

    OMP_NUM_THREADS=1 python benchmarks/hypergrad_live.py

Rows go to ``results/hypergrad_live.jsonl``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rows import append, facts
from torch import Tensor, nn

import trimtab
from trimtab.controllers import Hypergradient
from trimtab.hypergrad import Implicit

RESULTS = Path(__file__).parent.parent / "results" / "hypergrad_live.jsonl"
TURN, TURNS = 40, 9
NETS = {"8-50-1": (8, 50, 1), "100-400-150-10": (100, 400, 150, 10), "784-1024-512-10": (784, 1024, 512, 10)}
WHO: dict[str, tuple[Callable[[], Hypergradient], int]] = {
    "one-step, every 10": (lambda: Hypergradient("one-step"), 10),
    "one-step-validation, every 10": (lambda: Hypergradient("one-step-validation"), 10),
    "implicit 5, every 10": (lambda: Hypergradient("implicit", lookback=5), 10),
    "implicit 5 of 64 examples, every 10": (lambda: Hypergradient(Implicit(5, 64)), 10),
    "implicit 5 of 64 examples, every 5": (lambda: Hypergradient(Implicit(5, 64)), 5),
    "unroll 5, every 10": (lambda: Hypergradient("unroll", lookback=5), 10),
    "forward, every 10": (lambda: Hypergradient("forward"), 10),
    "distilled, every 10": (lambda: Hypergradient("distilled"), 10),
    "zeroth-order, every 10": (lambda: Hypergradient("zeroth-order"), 10),
    "implicit 5 of 64, every 5, per parameter": (lambda: Hypergradient(Implicit(5, 64), per_parameter=True), 5),
}


def main() -> None:
    """Measure, print, append."""
    torch.set_num_threads(1)
    for net, widths in NETS.items():
        for who, (make, every) in WHO.items():
            row = {"net": net, "who": who} | measure(widths, make(), every)
            append(RESULTS, facts() | row | {"command": "python benchmarks/hypergrad_live.py"})
            print(f"{net:18s} {who:42s} {row['plain_ms']:8.3f} ms  x{row['ratio']:.2f}", flush=True)


def measure(widths: tuple[int, ...], controller: Hypergradient, every: int) -> dict[str, Any]:
    """Time one controller on one network."""
    plain, piloted = trainer(widths, None, every), trainer(widths, controller, every)
    for _ in range(2):
        plain(), piloted()
    pairs = [(timed(plain), timed(piloted)) for _ in range(TURNS)]
    return {
        "plain_ms": 1e3 * statistics.median(a for a, _ in pairs) / TURN,
        "ratio": statistics.median(b / a for a, b in pairs),
    }


def trainer(widths: tuple[int, ...], controller: Hypergradient | None, every: int) -> Callable[[], None]:
    """Give a function that trains for a turn more."""
    torch.manual_seed(0)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())][:-1]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    count = 613 if widths[-1] == 1 else 128
    x, y = torch.randn(count, widths[0]), torch.randn(count, widths[-1])
    x_val, y_val = torch.randn(78 if widths[-1] == 1 else 128, widths[0]), torch.randn(1)

    def loss_fn(batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]) - batch[1]).square().mean()

    pilot = None
    if controller is not None:
        pilot = trimtab.attach(
            optimizer,
            controller,
            knobs=("lr", "momentum", "weight_decay"),
            model=model,
            every=every,
            guard=False,
            loss_fn=loss_fn if "loss_fn" in controller.needs else None,
            validation_loss=(lambda: (model(x_val) - y_val).square().mean())
            if "val_hypergrad" in controller.needs
            else None,
        )

    def more() -> None:
        for _ in range(TURN):
            loss = loss_fn((x, y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if pilot is not None:
                pilot.step(loss, batch=(x, y))

    return more


def timed(more: Callable[[], None]) -> float:
    """Give processor seconds of a turn."""
    begun = time.process_time()
    more()
    return time.process_time() - begun


if __name__ == "__main__":
    main()
