"""Fitness: what came of a lesson, as one number for each member.

Losses count by the logarithm of their ratio to chance (the best constant answer's), so that a lesson's unit and height
drop out. The held-out loss is that of the test split, which neither the guard nor the controller sees.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``T`` steps, ``G`` static runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.controller import Controller
from trimtab.controllers.schedule import SCHEDULES
from trimtab.copies import Copies
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import Voyage
from trimtab.stream import Stream
from trimtab.teach.distribution import LR_RANGE, Lesson

LOW, HIGH = math.log(1e-4), 4.0  # of a log-ratio to chance: below is a ratio of almost nothing, above is divergence
BEFORE = 0.9  # share of the horizon at which "just before the end" is
SOON = 0.5  # weight of the loss just before the end, beside the end's 1
SOFT = 2.0  # a regret's size from which on more counts less
STATIC = ("constant", "cosine", "linear")
PEAKS = 13  # learning rates of the static grid, over the range that lessons begin in
Baseline = Callable[[Lesson], float]


@dataclass(frozen=True)
class Outcome:
    """What came of a lesson, in log-ratios to chance, each in [LOW, HIGH].

    Attributes:
        end: ``[B]`` held-out loss at the end.
        before: ``[B]`` held-out loss just before.
        mean: ``[B]`` mean over the run's training losses.
        pace: that one's weight.
    """

    end: Tensor
    before: Tensor
    mean: Tensor
    pace: float

    def cost(self) -> Tensor:
        """Give ``[B]``, the weighted sum; lower is better, and never NaN."""
        return self.end + SOON * self.before + self.pace * self.mean


def relative(losses: Tensor, lesson: Lesson) -> Tensor:
    """Give the log-ratio of losses to chance, float64, cut to [LOW, HIGH]; what is no number is HIGH."""
    ratio = torch.log((losses.double() / lesson.task.chance).clamp_min(1e-30))
    return torch.nan_to_num(ratio, nan=HIGH, posinf=HIGH).clamp(LOW, HIGH)


def attempt(
    lesson: Lesson, plant: Plant, controller: Controller, starts: Tensor, seeds: tuple[int, ...]
) -> tuple[Outcome, Tensor]:
    """Let a controller take members through a lesson, guarded.

    Args:
        lesson: what to train, and how long.
        plant: the lesson's own.
        controller: decides.
        starts: ``[B, K]`` knob values to begin with, the same at every site.
        seeds: one a member.

    Returns:
        What came of it, and ``[B]`` how often the guard went back.
    """
    voyage = Voyage(plant, controller, horizon=lesson.horizon, guard=Guard(), validate_every=lesson.validate_every)
    values = starts[:, None].expand(-1, len(plant.sites), -1)
    mark = max(1, round(BEFORE * lesson.horizon))
    passage, early = voyage.advance(voyage.begin(values, seeds), mark)
    before = held_out(lesson, plant, passage.result)
    passage, late = voyage.advance(passage, lesson.horizon - mark)
    restores: Tensor = passage.state["guard"]["restores"]
    losses = torch.cat([early.losses, late.losses])
    return outcome(lesson, losses, before, held_out(lesson, plant, passage.result)), restores


def held_out(lesson: Lesson, plant: Plant, copies: Copies) -> Tensor:
    """Give ``[B]`` held-out losses, in log-ratios to chance; at the averages of the weights, where they are kept."""
    return relative(plant.loss_on(copies, plant.split("test")), lesson)


def outcome(lesson: Lesson, losses: Tensor, before: Tensor, end: Tensor) -> Outcome:
    """Sum up a run.

    Args:
        lesson: what was trained.
        losses: ``[T, B]`` training losses.
        before: ``[B]`` held-out loss just before the end, relative to chance.
        end: ``[B]`` at the end, likewise.

    Returns:
        The outcome.
    """
    return Outcome(end, before, relative(losses, lesson).mean(0), lesson.pace)


def fitness(cost: Tensor, baseline: float | None = None) -> Tensor:
    """Turn costs into fitness; higher is better.

    Args:
        cost: ``[B]``.
        baseline: the best static run's cost on the same lesson; the fitness then is ``-2 tanh(regret / 2)``: near the
            baseline all lessons weigh by their log-ratios, and a run that is lost beyond e^2 weighs no more.

    Returns:
        ``[B]``.
    """
    return -cost if baseline is None else -SOFT * torch.tanh((cost - baseline) / SOFT)


@dataclass(frozen=True)
class Grid:
    """The static runs of a lesson: three schedules from thirteen learning rates.

    Attributes:
        end: the lowest held-out loss at the end, over the runs; log-ratio to chance, mean over seeds.
        cost: the lowest cost.
        schedule: whose end is the lowest.
        lr: its peak.
    """

    end: float
    cost: float
    schedule: str
    lr: float


@torch.no_grad()
def static_grid(lesson: Lesson, panel: Panel, seeds: int = 1) -> Grid:
    """Train a lesson from a grid of learning rates under fixed schedules, without guard or controller.

    Args:
        lesson: what to train; hyperparameters other than the learning rate stay at the rule's defaults.
        panel: gives the learning rate's bounds.
        seeds: runs of each.

    Returns:
        The best.
    """
    lr = Panel.of([panel[panel.names.index("lr")] if "lr" in panel.names else "lr"])
    plant = lesson.plant(lr)
    low, high = (min(max(bound, lr[0].low), lr[0].high) for bound in LR_RANGE)
    peaks = torch.logspace(math.log10(low), math.log10(high), PEAKS, dtype=torch.float64)
    factors = [SCHEDULES[name]().prior(lr, lesson.horizon) for name in STATIC]
    tables = torch.cat([torch.ones(lesson.horizon, 1, dtype=torch.float64) if f is None else f for f in factors], 1)
    values = (tables[:, :, None, None] * peaks[:, None]).expand(-1, -1, -1, seeds)  # [T, schedules, peaks, seeds]
    shape = values.shape[1:]
    done = _trained(
        lesson, plant, values.reshape(lesson.horizon, -1, 1, 1), lesson.seeds(seeds) * (len(STATIC) * PEAKS)
    )
    end, cost = (numbers.reshape(shape).mean(-1).reshape(-1) for numbers in (done.end, done.cost()))
    best = int(end.argmin())
    return Grid(float(end.min()), float(cost.min()), STATIC[best // PEAKS], float(peaks[best % PEAKS]))


def _trained(lesson: Lesson, plant: Plant, values: Tensor, seeds: tuple[int, ...]) -> Outcome:
    """Train members on values known beforehand, ``[T, B, 1, 1]``."""
    stream, copies, losses = Stream(plant.task, seeds), plant.start(seeds), []
    mark = max(1, round(BEFORE * lesson.horizon))
    before = torch.empty(0)
    for number, now in enumerate(values, 1):
        copies, loss, _, _ = plant.step(copies, now, stream.next(), number, None)
        losses.append(loss)
        if number == mark:
            before = held_out(lesson, plant, copies)
    return outcome(lesson, torch.stack(losses), before, held_out(lesson, plant, copies))
