"""What makes our one-pass runs on Energy end better than the authors': three differences, switched off one by one.

``WD+LR+M, T=10 i=5, 64 examples`` as ``trimtab bench one-pass`` runs it: decisions at steps 1, 2, 4 and 7 too,
momentum on ``-ln(1 - m)``, values that hold from the step after next. The other rows lack one of these, the last one
all: momentum on its logit, values that hold from the next step, as in the source. Same starts, same split.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rows import append, facts
from torch import Tensor

from trimtab.bench.onepass.problems import FullBatch
from trimtab.bench.onepass.suite import method_named, starts
from trimtab.copies import Look
from trimtab.hypergrad import Implicit
from trimtab.plant import Plant
from trimtab.rules import SGD
from trimtab.signals import EARLY
from trimtab.stream import Stream

RESULTS = Path(__file__).parent.parent / "results/one-pass-parts.jsonl"
EVERY, RATE, BETAS = 10, 0.05, (0.9, 0.999)


@dataclass(frozen=True)
class Variant:
    """Which of the three are on, and the row's name."""

    name: str
    is_early: bool = True
    is_logit: bool = False
    is_late: bool = True


VARIANTS = (
    Variant("as it is"),
    Variant("no early decisions", is_early=False),
    Variant("momentum on its logit", is_logit=True),
    Variant("values hold from the next step", is_late=False),
    Variant("all three", is_early=False, is_logit=True, is_late=False),
)


def main() -> None:
    """Run the variants that have no row yet."""
    parser = argparse.ArgumentParser(description="Take one-pass apart.")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for variant in VARIANTS:
        if any((row["variant"], row["runs"], row["steps"]) == (variant.name, given.runs, given.steps) for row in known):
            continue
        begun = time.process_time()
        ends = [float(x) if bool(x.isfinite()) else None for x in train(variant, given.runs, given.steps)]
        row = {"variant": variant.name, "table": "energy", "runs": given.runs, "steps": given.steps, "finals": ends}
        append(RESULTS, {**facts(), **row, "core_seconds": time.process_time() - begun})
        left = torch.tensor([x for x in ends if x is not None], dtype=torch.float64)
        print(f"{variant.name}: mean {left.mean():.3f}, median {left.median():.3f}, lost {len(ends) - len(left)}")


def train(variant: Variant, runs: int, steps: int) -> Tensor:
    """Train all runs of a variant: ``[runs]`` squared errors on the test split."""
    task, seeds = FullBatch("energy"), list(range(runs))
    plant = Plant(
        task,
        SGD(),
        method_named("random").panel,
        every=EVERY,
        estimator=Implicit(5, 64),
        held_out=task.data("val"),
    )
    copies, stream = plant.start(seeds), Stream(task, seeds)
    values, look = starts(runs)[:, None], None
    place, memory = to_place(values, variant), (torch.zeros_like(values), torch.zeros_like(values), 0)
    waiting = values
    for number in range(1, steps + 1):
        copies, _, look, _ = plant.step(copies, values, stream.next(), number, look)
        values = waiting
        if not (look is not None and is_time(number + 1, variant)):
            continue
        place, memory = turned(place, slope_of(look, values, variant), memory)
        waiting = to_values(place, variant)
        if not variant.is_late:
            values = waiting
    return plant.evaluate(copies, task.data("test"))[1]


def is_time(step: int, variant: Variant) -> bool:
    """Say whether a decision follows the step before this one."""
    return step % EVERY == 0 or (variant.is_early and step in EARLY)


def slope_of(look: Look, values: Tensor, variant: Variant) -> Tensor:
    """Give the hypergradient by the places, ``[B, 1, 3]``; what is no number is 0."""
    assert look.memory is not None
    lr, momentum, decay = values.unbind(-1)
    by_momentum = momentum * (1 - momentum) if variant.is_logit else 1 - momentum
    factors = torch.stack([lr * math.log(10), by_momentum, decay * math.log(10)], -1)
    slope: Tensor = look.memory["slope"] * factors
    return torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)


def turned(
    place: Tensor, slope: Tensor, memory: tuple[Tensor, Tensor, int]
) -> tuple[Tensor, tuple[Tensor, Tensor, int]]:
    """Take a step of Adam on the places; the rate stays in [1e-10, 1]."""
    mean = BETAS[0] * memory[0] + (1 - BETAS[0]) * slope
    square = BETAS[1] * memory[1] + (1 - BETAS[1]) * slope**2
    count = memory[2] + 1
    size = (square / (1 - BETAS[1] ** count)).sqrt().clamp_min(1e-150)
    place = place - RATE * mean / (1 - BETAS[0] ** count) / size
    place = torch.cat([place[..., :1].clamp(-10, 0), place[..., 1:]], -1)
    return place, (mean, square, count)


def to_place(values: Tensor, variant: Variant) -> Tensor:
    """Give ``log10 lr``, momentum's place, ``log10`` weight decay."""
    lr, momentum, decay = values.unbind(-1)
    shown = torch.logit(momentum, eps=1e-9) if variant.is_logit else -torch.log1p(-momentum)
    return torch.stack([lr.log10(), shown, decay.log10()], -1)


def to_values(place: Tensor, variant: Variant) -> Tensor:
    """Give what `to_place` took."""
    lr, shown, decay = place.unbind(-1)
    momentum = shown.sigmoid() if variant.is_logit else -torch.expm1(-shown.clamp_min(0))
    return torch.stack([10**lr, momentum, 10**decay], -1)


if __name__ == "__main__":
    main()
