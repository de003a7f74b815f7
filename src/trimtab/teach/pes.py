"""PES: persistent evolution strategies, which learn from pieces of lessons, and so from long ones.

Members stay under way; each generation perturbs the policy anew, takes them `unroll` steps further and weighs what
came of the piece by the sum of all perturbations that a member has had. So a policy is told, without bias, how it acts
on what comes after the piece, which evolution strategies over pieces alone are not.

Algorithm 2 (antithetic) of Vicol, Metz & Sohl-Dickstein 2021, "Unbiased gradient estimation in unrolled computation
graphs with persistent evolution strategies", arXiv:2112.13835. Differs from the source: differences are divided by a
moving root mean square and cut to ±2; Adam, its rate falling linearly; a piece's loss is what it adds to the cost of
the whole lesson (:func:`trimtab.teach.journey.piece`).

Letters: ``N`` pairs, ``P`` taught weights, ``B`` = 2 N members, the plus ones first, ``T`` steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.controllers import Population
from trimtab.errors import TaskError
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.rollout import Voyage
from trimtab.teach.ascent import Ascent, check, directions, falling, gradient, scaled
from trimtab.teach.distribution import Lesson
from trimtab.teach.evolution import Lessons, Record
from trimtab.teach.fitness import held_out
from trimtab.teach.genome import Genome
from trimtab.teach.journey import Journeys, Underway, begun, piece
from trimtab.workers import Spread

KEEP = 0.9  # of the moving mean square of differences, per generation


@dataclass(frozen=True)
class PersistentEvolution:
    """Persistent evolution strategies with antithetic pairs.

    Args:
        genome: what is taught.
        panel: the knobs that are turned.
        by: what is a site: "run", "layer" or "block".
        pairs: ``N`` of each lesson.
        tasks: lessons under way at the same time.
        sigma: how far a direction goes, in units of the weights.
        rate: Adam's at the start; it falls linearly to 0 over the generations.
        generations: how many there will be.
        decay: of the policy's weights, a generation and unit of the rate, so that what tells nothing fades.
        seed: of the directions.
        unroll: optimizer steps of a piece.

    Raises:
        TaskError: a setting is out of range.
    """

    genome: Genome
    panel: Panel
    by: str = "run"
    pairs: int = 32
    tasks: int = 4
    sigma: float = 0.1
    rate: float = 0.04
    generations: int = 1000
    decay: float = 0.0
    seed: int = 0
    unroll: int = 50

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self.pairs, self.tasks, self.sigma, self.rate, self.generations, self.decay)
        if self.unroll < 1:
            raise TaskError(f"A teacher needs `unroll >= 1`, got {self.unroll}.")

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
            The new state; and the mean cost of the pieces, the pairs' root mean square difference and the gradient's
            norm.
        """
        ascent = state.ascent
        legs = [
            Leg(self, ascent, lessons(count), count, task, before)
            for task, (count, before) in enumerate(state.counted())
        ]
        found = list(spread(_taken, legs))
        square = torch.stack([differences.square().mean() for _, differences, _ in found]).mean()
        size = square if ascent.number == 0 else KEEP * state.size + (1 - KEEP) * square
        gradients = [
            gradient(after.drift / self.sigma**2, scaled(differences, size.sqrt())) for after, differences, _ in found
        ]
        mean = torch.stack(gradients).mean(0)
        new = ascent.climb(mean, falling(self.rate, ascent.number, self.generations), self.decay)
        afters = [after for after, _, _ in found]
        costs = [cost for _, _, cost in found]
        record = {
            "cost": sum(costs) / len(costs),
            "difference": float(square.sqrt()),
            "gradient": float(mean.norm()),
        }
        return state.further(new, afters, [leg.lesson.horizon for leg in legs], size), record

    def tree(self, state: Journeys) -> dict[str, Any]:
        """Give a state as dictionaries, tuples, tensors and numbers."""
        return state.tree()

    def of_tree(self, tree: dict[str, Any]) -> Journeys:
        """Take what `tree` gave; see :meth:`trimtab.teach.journey.Journeys.of_tree`."""
        return Journeys.of_tree(tree, self.genome)


@dataclass(frozen=True)
class Leg:
    """One piece of a lesson, with all that another process needs to take it."""

    teacher: PersistentEvolution
    ascent: Ascent
    lesson: Lesson
    count: int
    task: int
    before: Underway | None


@torch.no_grad()
def _taken(leg: Leg) -> tuple[Underway, Tensor, float]:
    """Give where the members stand after the piece, ``[N]`` gains of plus over minus, and the mean cost."""
    teacher, lesson = leg.teacher, leg.lesson
    noise = teacher.sigma * directions(teacher, leg.ascent.number, leg.task)
    rows = leg.ascent.mean + torch.cat([noise, -noise])
    controller = Population(teacher.genome.policy(leg.ascent.mean), teacher.genome.weights(rows))
    plant = lesson.plant(teacher.panel, teacher.by)
    voyage = Voyage(plant, controller, horizon=lesson.horizon, guard=Guard(), validate_every=lesson.validate_every)
    pairs, size = teacher.pairs, teacher.genome.size
    before = leg.before
    if before is None:
        starts, seeds = lesson.starts(teacher.panel, pairs).repeat(2, 1), lesson.seeds(pairs) * 2
        before = begun(leg.count, lesson, voyage, starts, seeds, torch.zeros(pairs, size, dtype=torch.float64))
    steps = min(teacher.unroll, lesson.horizon - before.passage.step)
    passage, done = voyage.advance(before.passage, steps)
    held = held_out(lesson, plant, passage.result)
    cost = piece(lesson, done.losses, before.held, held)
    plus, minus = cost.chunk(2)
    return Underway(leg.count, passage, held, before.drift + noise), minus - plus, float(cost.mean())
