"""PES: persistent evolution strategies, which learn from pieces of lessons, and so from long ones.

Members stay under way; each generation perturbs the policy anew, takes them `unroll` steps further and weighs what
came of the piece by the sum of all perturbations that a member has had. So a policy is told, without bias, how it acts
on what comes after the piece, which evolution strategies over pieces alone are not.

Algorithm 2 (antithetic) of Vicol, Metz & Sohl-Dickstein 2021, "Unbiased gradient estimation in unrolled computation
graphs with persistent evolution strategies", arXiv:2112.13835. Differs from the source: differences are divided by a
moving root mean square and cut to ±2; Adam, its rate falling linearly; a piece's loss is what it adds to the cost of
the whole lesson (:func:`piece`).

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
from trimtab.plant import Plant
from trimtab.rollout import Passage, Voyage
from trimtab.teach.ascent import Ascent, check, directions, falling, gradient, read_ascent, scaled
from trimtab.teach.distribution import Lesson
from trimtab.teach.evolution import Lessons, Record
from trimtab.teach.fitness import WEIGHTS, held_out, relative
from trimtab.teach.genome import Genome
from trimtab.workers import Spread

KEEP = 0.9  # of the moving mean square of differences, per generation


@dataclass(frozen=True)
class Underway:
    """One lesson's members between two pieces.

    Attributes:
        count: which lesson, as :data:`trimtab.teach.evolution.Lessons` counts.
        passage: where they stand.
        drift: ``[N, P]`` the sum of a pair's perturbations so far.
        held: ``[B]`` held-out loss at the last piece's end, log-ratio to chance; 0 before the first.
    """

    count: int
    passage: Passage
    drift: Tensor
    held: Tensor


@dataclass(frozen=True)
class Journeys:
    """The state of :class:`PersistentEvolution`.

    Attributes:
        ascent: where it stands.
        underway: one a lesson at a time; None: the next one begins there.
        begun: lessons begun so far.
        size: ``[]`` moving mean square of the pairs' differences.
    """

    ascent: Ascent
    underway: tuple[Underway | None, ...]
    begun: int
    size: Tensor


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
    seed: int = 0
    unroll: int = 50

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self.pairs, self.tasks, self.sigma, self.rate, self.generations)
        if self.unroll < 1:
            raise TaskError(f"A teacher needs `unroll >= 1`, got {self.unroll}.")

    def start(self, mean: Tensor) -> Journeys:
        """Stand at a policy's taught weights, ``[P]``, nobody under way."""
        return Journeys(Ascent.begin(mean.double()), (None,) * self.tasks, 0, torch.zeros((), dtype=torch.float64))

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
        ascent, begun, legs = state.ascent, state.begun, []
        for task, before in enumerate(state.underway):
            count = begun if before is None else before.count
            begun += before is None
            legs.append(Leg(self, ascent, lessons(count), count, task, before))
        found = list(spread(_taken, legs))
        square = torch.stack([differences.square().mean() for _, differences, _ in found]).mean()
        size = square if ascent.number == 0 else KEEP * state.size + (1 - KEEP) * square
        gradients = [
            gradient(after.drift / self.sigma**2, scaled(differences, size.sqrt())) for after, differences, _ in found
        ]
        mean = torch.stack(gradients).mean(0)
        new = ascent.climb(mean, falling(self.rate, ascent.number, self.generations))
        underway = tuple(
            None if after.passage.step >= leg.lesson.horizon else after
            for leg, (after, _, _) in zip(legs, found, strict=True)
        )
        costs = [cost for _, _, cost in found]
        record = {
            "cost": sum(costs) / len(costs),
            "difference": float(square.sqrt()),
            "gradient": float(mean.norm()),
        }
        return Journeys(new, underway, begun, size), record

    def tree(self, state: Journeys) -> dict[str, Any]:
        """Give a state as dictionaries, tuples, tensors and numbers."""
        underway = [None if u is None else {**vars(u), "passage": u.passage.tree()} for u in state.underway]
        return {**vars(state.ascent), "underway": underway, "begun": state.begun, "size": state.size}

    def of_tree(self, tree: dict[str, Any]) -> Journeys:
        """Take what `tree` gave.

        Args:
            tree: of a state.

        Returns:
            The state.

        Raises:
            StateError: it is of another teacher, or of another policy.
        """
        ascent = read_ascent(tree, self.genome)
        underway = tuple(
            None if u is None else Underway(**{**u, "passage": Passage.of_tree(u["passage"])}) for u in tree["underway"]
        )
        return Journeys(ascent, underway, tree["begun"], tree["size"])


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
    before = leg.before if leg.before is not None else _begun(leg, plant, voyage)
    steps = min(teacher.unroll, lesson.horizon - before.passage.step)
    passage, done = voyage.advance(before.passage, steps)
    held = held_out(lesson, plant, passage.copies)
    cost = piece(lesson, done.losses, before.held, held)
    plus, minus = cost.chunk(2)
    return Underway(leg.count, passage, before.drift + noise, held), minus - plus, float(cost.mean())


def _begun(leg: Leg, plant: Plant, voyage: Voyage) -> Underway:
    teacher, lesson = leg.teacher, leg.lesson
    starts = lesson.starts(teacher.panel, teacher.pairs).repeat(2, 1)
    values = starts[:, None].expand(-1, len(plant.sites), -1)
    passage = voyage.begin(values, lesson.seeds(teacher.pairs) * 2)
    drift = torch.zeros(teacher.pairs, teacher.genome.size, dtype=torch.float64)
    return Underway(leg.count, passage, drift, torch.zeros(2 * teacher.pairs, dtype=torch.float64))


def piece(lesson: Lesson, losses: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Give what a piece adds to a lesson's cost; summed over a lesson, the loss at the start and nothing more is gone.

    The held-out loss at the end counts here for what just before the end counts in whole lessons too: 1.5.

    Args:
        lesson: what is trained.
        losses: ``[T, B]`` training losses of the piece.
        before: ``[B]`` held-out loss where it began, log-ratio to chance.
        after: ``[B]`` where it ended.

    Returns:
        ``[B]``; lower is better, and never NaN.
    """
    cost = (1 + WEIGHTS["before"]) * (after - before)
    return cost + WEIGHTS["mean"] * relative(losses, lesson).sum(0) / lesson.horizon
