"""Unroll: teaching by backpropagation through pieces of lessons.

Members are taken `unroll` steps with the graph of every step kept, and what the piece adds to the lesson's cost is
differentiated by the policy's weights: through the moves, the knobs and the base model's weights and slots, second
derivatives of its loss included. The graph ends where the piece begins, so what the policy does to later pieces is not
told: a bias that longer pieces lessen, at the price of a variance that grows with them wherever training is chaotic
(Metz et al. 2019, arXiv:1810.10180). `benchmarks/gradients.py` measures both against evolution strategies.

Truncated backpropagation through an unrolled optimization: Andrychowicz et al. 2016, "Learning to learn by gradient
descent by gradient descent", arXiv:1606.04474, sec. 2.1. Differs from the source: what is learned turns an optimizer's
knobs; it keeps the second derivatives that the source drops, and drops, as the source does, how features depend on the
weights, and so on past moves; each member's gradient is cut to `clip` in norm, and counts as 0 where it is no number.

Letters: ``P`` taught weights, ``B`` members.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trimtab.controller import State
from trimtab.controllers import Population
from trimtab.errors import TaskError
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.passage import Passage
from trimtab.rollout import Voyage
from trimtab.signals import Observation
from trimtab.teach.ascent import Ascent, falling
from trimtab.teach.distribution import Lesson
from trimtab.teach.evolution import Lessons, Record
from trimtab.teach.fitness import held_out
from trimtab.teach.genome import Genome
from trimtab.teach.journey import Journeys, Underway, begun, piece
from trimtab.workers import Spread


@dataclass(frozen=True)
class Unroll:
    """Truncated backpropagation through the plant.

    Args:
        genome: what is taught.
        panel: the knobs that are turned.
        by: what is a site: "run", "layer" or "block".
        members: ``B`` of each lesson, from as many starts.
        tasks: lessons under way at the same time.
        rate: Adam's at the start; it falls linearly to 0 over the generations.
        generations: how many there will be.
        decay: of the policy's weights, a generation and unit of the rate, so that what tells nothing fades.
        seed: of nothing here; lessons have their own.
        unroll: optimizer steps of a piece; memory grows with it.
        clip: the largest norm of one member's gradient.

    Raises:
        TaskError: a setting is out of range.
    """

    genome: Genome
    panel: Panel
    by: str = "run"
    members: int = 32
    tasks: int = 4
    rate: float = 0.01
    generations: int = 1000
    decay: float = 0.0
    seed: int = 0
    unroll: int = 50
    clip: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        counts = {name: getattr(self, name) for name in ("members", "tasks", "generations", "unroll")}
        is_able = min(counts.values()) >= 1 and 0 <= self.decay < math.inf
        if not (is_able and 0 < self.rate < math.inf and 0 < self.clip < math.inf):
            raise TaskError(
                "A teacher that unrolls needs `members`, `tasks`, `generations`, `unroll` of at least 1, `rate > 0`, "
                f"`clip > 0` and `decay >= 0`, got {counts}, rate={self.rate}, clip={self.clip}, decay={self.decay}."
            )

    def start(self, mean: Tensor) -> Journeys:
        """Stand at a policy's taught weights, ``[P]``, nobody under way."""
        return Journeys.begin(mean, self.tasks)

    def generation(self, state: Journeys, lessons: Lessons, spread: Spread = map) -> tuple[Journeys, Record]:
        """Take every lesson under way one piece further; a pure function of its arguments.

        Args:
            state: what `start` or the last call handed back.
            lessons: gives them by number.
            spread: takes the pieces, one after the other or side by side; the result is the same.

        Returns:
            The new state; and the mean cost of the pieces, the share of members whose gradient was cut, and the
            gradient's norm.
        """
        ascent = state.ascent
        legs = [Stretch(self, ascent, lessons(count), count, before) for count, before in state.counted()]
        found = list(spread(_taken, legs))
        cuts = [clipped(slopes, self.clip) for _, slopes, _ in found]
        mean = torch.stack([slopes.mean(0) for slopes, _ in cuts]).mean(0)
        new = ascent.climb(-mean, falling(self.rate, ascent.number, self.generations), self.decay)
        record = {
            "cost": sum(cost for _, _, cost in found) / len(found),
            "clipped": float(torch.stack([was_cut.double().mean() for _, was_cut in cuts]).mean()),
            "gradient": float(mean.norm()),
        }
        return state.further(new, [after for after, _, _ in found], [leg.lesson.horizon for leg in legs]), record

    def tree(self, state: Journeys) -> dict[str, Any]:
        """Give a state as dictionaries, tuples, tensors and numbers."""
        return state.tree()

    def of_tree(self, tree: dict[str, Any]) -> Journeys:
        """Take what `tree` gave; see :meth:`trimtab.teach.journey.Journeys.of_tree`."""
        return Journeys.of_tree(tree, self.genome)


@dataclass(frozen=True)
class Stretch:
    """One piece of a lesson, with all that another process needs to take it."""

    teacher: Unroll
    ascent: Ascent
    lesson: Lesson
    count: int
    before: Underway | None


class Differentiable:
    """A population whose moves carry a graph to its weights, and to no reading.

    Args:
        crew: decides.
    """

    name = "population"
    needs = frozenset[str]()

    def __init__(self, crew: Population) -> None:
        self._crew = crew
        self.prior, self.start = crew.prior, crew.start

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Decide from features that are taken as they are."""
        with torch.enable_grad():
            return self._crew.act(replace(seen, features=seen.features.detach()), state)


def slopes_of(
    genome: Genome, mean: Tensor, cost: Callable[[Differentiable], Tensor], members: int
) -> tuple[Tensor, Tensor]:
    """Differentiate every member's cost by the weights of its own copy of a policy.

    Args:
        genome: maps vectors to weights.
        mean: ``[P]`` the policy.
        cost: trains members under a controller and gives ``[B]`` costs.
        members: ``B``.

    Returns:
        ``[B, P]`` derivatives and ``[B]`` costs.
    """
    rows = mean.expand(members, -1).clone().requires_grad_()
    with torch.enable_grad():
        costs = cost(Differentiable(Population(genome.policy(mean), genome.weights(rows))))
        total = costs.sum() + 0 * rows.sum()  # a piece in which nothing is decided has slopes too: zeros
        slopes = torch.autograd.grad(total, rows)[0]
    return slopes, costs.detach()


def clipped(slopes: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Cut members' gradients ``[B, P]`` to a norm; what is no number counts as 0. Gives too whose was cut, ``[B]``."""
    norm = slopes.norm(dim=1)
    is_sane = norm.isfinite()
    factor = (clip / norm.clamp_min(1e-12)).clamp(max=1.0)
    return torch.where(is_sane[:, None], slopes * factor[:, None], 0.0), ~(norm <= clip)


def _taken(leg: Stretch) -> tuple[Underway, Tensor, float]:
    """Give where the members stand after the piece, ``[B, P]`` derivatives of its cost, and the mean cost."""
    teacher, lesson = leg.teacher, leg.lesson
    plant = lesson.plant(teacher.panel, teacher.by, differentiable=True)
    after: list[Underway] = []

    def cost(controller: Differentiable) -> Tensor:
        voyage = Voyage(plant, controller, horizon=lesson.horizon, guard=Guard(), validate_every=lesson.validate_every)
        before = leg.before
        if before is None:
            starts, seeds = lesson.starts(teacher.panel, teacher.members), lesson.seeds(teacher.members)
            drift = torch.zeros(0, teacher.genome.size, dtype=torch.float64)
            before = begun(leg.count, lesson, voyage, starts, seeds, drift)
        passage, done = voyage.advance(before.passage, min(teacher.unroll, lesson.horizon - before.passage.step))
        held = held_out(lesson, plant, passage.result)
        after.append(Underway(leg.count, cut_loose(passage), held.detach(), before.drift))
        return piece(lesson, done.losses, before.held, held)

    slopes, costs = slopes_of(teacher.genome, leg.ascent.mean, cost, teacher.members)
    return after[0], slopes, float(costs.mean())


def cut_loose(passage: Passage) -> Passage:
    """Give a passage without the graph that led to it."""
    return Passage.of_tree(_detached(passage.tree()))


def _detached(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _detached(entry) for name, entry in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_detached(entry) for entry in tree)
    return tree.detach() if isinstance(tree, Tensor) else tree
