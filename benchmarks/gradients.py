"""Measure bias and variance of what each teacher takes for the gradient of a lesson's cost.

One lesson of 60 steps, one policy of few weights, the same for all: what evolution strategies smooth is the cost that
teaching sees, so their mean over very many pairs on whole lessons is the reference. Every estimate has 32 members of
its own, each with its own seed and starting rate, once from rates that train (1e-4 to 1e-2), once from the seven
decades that lessons begin in::

    OMP_NUM_THREADS=1 python benchmarks/gradients.py

Rows go to ``results/gradients.jsonl``: the cosine of the mean estimate with the reference, the distance between them
and an estimate's standard deviation, both in units of the reference's length, and the seconds of one estimate.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import append, facts
from torch import Tensor

from trimtab.controllers import Policy, Population
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.rollout import Voyage
from trimtab.rules import AdamW
from trimtab.teach import Exercise, Genome, Lesson
from trimtab.teach.ascent import gradient
from trimtab.teach.draw import Draw
from trimtab.teach.fitness import held_out
from trimtab.teach.journey import begun, piece
from trimtab.teach.sketch import sketch
from trimtab.teach.unroll import Unroll, clipped, cut_loose, slopes_of

RESULTS = Path(__file__).parent.parent / "results"
LR = Panel.of(["lr"])
GENOME = Genome(Policy.for_panel(LR, hidden=4).spec, ("progress", "age", "trend_mid", "lr_dog"))
MEAN = 0.3 * Draw(1).normal(GENOME.size)
STEPS, PIECE, MEMBERS, SIGMA, ESTIMATES, REFERENCE = 60, 15, 32, 0.1, 40, 500
RANGES = {"rates that train": (1e-4, 1e-2), "seven decades": (1e-6, 10.0)}
Estimate = Callable[[Lesson, tuple[float, float], int], Tensor]
"""Gives ``[P]`` from a lesson, a range of starting rates and a seed."""


def starts_of(bounds: tuple[float, float], seed: int, members: int) -> Tensor:
    """Draw ``[members, 1]`` rates, log-uniform."""
    low, high = (math.log(bound) for bound in bounds)
    return torch.exp(low + (high - low) * Draw(seed, 1).uniforms(members, 1))


def evolved(unroll: int, *, is_persistent: bool) -> Estimate:
    """Estimate by antithetic pairs over pieces of so many steps, their sum over the lesson."""

    def estimate(lesson: Lesson, bounds: tuple[float, float], seed: int) -> Tensor:
        pairs, plant, total = MEMBERS // 2, lesson.plant(LR), torch.zeros(GENOME.size, dtype=torch.float64)
        starts, seeds = starts_of(bounds, seed, pairs).repeat(2, 1), [seed * 1000 + i for i in range(pairs)] * 2
        here = None
        for number in range(STEPS // unroll):
            noise = SIGMA * Draw(seed, 2, number).normal(pairs, GENOME.size)
            rows = MEAN + torch.cat([noise, -noise])
            crew = Population(GENOME.policy(MEAN), GENOME.weights(rows))
            voyage = Voyage(plant, crew, horizon=STEPS, guard=Guard())
            here = here or begun(0, lesson, voyage, starts, seeds, torch.zeros_like(noise))
            passage, done = voyage.advance(here.passage, unroll)
            held = held_out(lesson, plant, passage.result)
            plus, minus = piece(lesson, done.losses, here.held, held).chunk(2)
            here = type(here)(0, passage, held, here.drift + noise)
            total += gradient((here.drift if is_persistent else noise) / SIGMA**2, plus - minus)
        return total

    return estimate


def unrolled(unroll: int, clip: float) -> Estimate:
    """Estimate by backpropagation through pieces of so many steps, their sum over the lesson."""

    def estimate(lesson: Lesson, bounds: tuple[float, float], seed: int) -> Tensor:
        plant, total = lesson.plant(LR, differentiable=True), torch.zeros(GENOME.size, dtype=torch.float64)
        starts, seeds = starts_of(bounds, seed, MEMBERS), [seed * 1000 + i for i in range(MEMBERS)]
        here: list[Any] = []

        def cost(controller: Any) -> Tensor:
            voyage = Voyage(plant, controller, horizon=STEPS, guard=Guard())
            before = here.pop() if here else begun(0, lesson, voyage, starts, seeds, torch.zeros(0, GENOME.size))
            passage, done = voyage.advance(before.passage, unroll)
            held = held_out(lesson, plant, passage.result)
            here.append(type(before)(0, cut_loose(passage), held.detach(), before.drift))
            return piece(lesson, done.losses, before.held, held)

        for _ in range(STEPS // unroll):
            total += clipped(slopes_of(GENOME, MEAN, cost, MEMBERS)[0], clip)[0].mean(0)
        return total

    return estimate


ESTIMATORS = {
    "evolution, whole lessons": evolved(STEPS, is_persistent=False),
    "evolution, pieces of 15": evolved(PIECE, is_persistent=False),
    "persistent evolution, pieces of 15": evolved(PIECE, is_persistent=True),
    "unroll, pieces of 15": unrolled(PIECE, math.inf),
    "unroll, pieces of 15, cut to 1": unrolled(PIECE, Unroll.clip),
    "unroll, whole lessons": unrolled(STEPS, math.inf),
    "unroll, whole lessons, cut to 1": unrolled(STEPS, Unroll.clip),
}


def main() -> None:
    """Measure every estimator in both ranges."""
    torch.set_num_threads(1)
    seed = next(s for s in range(10_000, 20_000) if is_fitting(s))
    lesson = Lesson(seed, Exercise(seed), AdamW(), STEPS, None)
    for name, bounds in RANGES.items():
        whole = ESTIMATORS["evolution, whole lessons"]
        with torch.no_grad():
            many = torch.stack([whole(lesson, bounds, 1_000_000 + i) for i in range(REFERENCE)])
        reference = many.mean(0)
        sure = float(many.std(0).norm() / REFERENCE**0.5 / reference.norm())
        for estimator, estimate in ESTIMATORS.items():
            begin = time.process_time()
            with torch.no_grad():
                found = torch.stack([estimate(lesson, bounds, i) for i in range(ESTIMATES)])
            seconds = (time.process_time() - begin) / ESTIMATES
            row = facts() | {"lesson": str(lesson.task.sketch), "weights": GENOME.size, "rates": name}
            row |= {"estimator": estimator, **judged(found, reference), "reference_error": sure, "seconds": seconds}
            append(RESULTS / "gradients.jsonl", row)
            print(json.dumps({key: row[key] for key in list(row)[-7:]}), flush=True)


def is_fitting(seed: int) -> bool:
    """Whether an exercise is a smooth perceptron of middling size."""
    s = sketch(seed)
    return s.family == "mlp" and s.activation == "tanh" and not s.has_norm and 300 < s.rows < 1500 and s.noise < 0.1


def judged(found: Tensor, reference: Tensor) -> dict[str, float]:
    """Set estimates ``[N, P]`` beside the reference ``[P]``; the distance is less what chance alone would give."""
    mean, length = found.mean(0), reference.norm()
    chance = found.var(0).sum() / len(found)
    return {
        "cosine": float(torch.cosine_similarity(mean, reference, 0)),
        "bias": float(((mean - reference).square().sum() - chance).clamp_min(0).sqrt() / length),
        "deviation": float(found.std(0).norm() / length),
    }


if __name__ == "__main__":
    main()
