"""Evolution: evolution strategies over whole lessons.

A generation draws directions ``e`` and teaches two policies in each, ``w + s e`` and ``w - s e``, on the same lesson
from the same weights, order of examples and starting values. What is better by more moves ``w`` by more.

Algorithm 1, Salimans et al. 2017, "Evolution strategies as a scalable alternative to reinforcement learning",
arXiv:1703.03864, with its antithetic pairs and Adam. Differs from the source: a pair's difference is divided by the
root mean square over its lesson's pairs and cut to ±2 (the source ranks all returns), so that each lesson weighs the
same and one lost run no more than others; the rate falls linearly to 0; the weights' decay is AdamW's.

Randomness is counted, not carried: a direction follows from seed, generation and lesson. So a state is a few tensors,
and teaching goes on bit for bit after a kill.

Letters: ``N`` pairs, ``P`` taught weights, ``B`` = 2 N members, the plus ones first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from trimtab.controllers import Population
from trimtab.knobs import Panel
from trimtab.teach.ascent import Ascent, check, directions, falling, gradient, read_ascent, scaled
from trimtab.teach.distribution import Lesson
from trimtab.teach.fitness import Baseline, attempt, fitness
from trimtab.teach.genome import Genome
from trimtab.workers import Spread

Record = dict[str, float]
Lessons = Callable[[int], Lesson]
"""Gives the lesson that is taught after so many others."""


class Teacher(Protocol):
    """Learns a policy's weights from whole lessons."""

    @property
    def generations(self) -> int:
        """After how many it is done."""
        ...

    def start(self, mean: Tensor) -> Any:
        """Give the state before the first generation; ``state.ascent`` is where it stands."""
        ...

    def generation(self, state: Any, lessons: Lessons, spread: Spread = map) -> tuple[Any, Record]:
        """Teach once more; `state` is not changed, and nothing else is remembered."""
        ...

    def tree(self, state: Any) -> dict[str, Any]:
        """Give a state as dictionaries, tuples, tensors and numbers."""
        ...

    def of_tree(self, tree: dict[str, Any]) -> Any:
        """Take what `tree` gave."""
        ...


@dataclass(frozen=True)
class Lives:
    """The state of :class:`Evolution`.

    Attributes:
        ascent: where it stands.
    """

    ascent: Ascent


@dataclass(frozen=True)
class Evolution:
    """Evolution strategies with antithetic pairs.

    Args:
        genome: what is taught.
        panel: the knobs that are turned.
        by: what is a site: "run", "layer" or "block".
        pairs: ``N`` of each lesson.
        tasks: lessons a generation.
        sigma: how far a direction goes, in units of the weights.
        rate: Adam's at the start; it falls linearly to 0 over the generations.
        generations: how many there will be.
        decay: of the policy's weights, a generation and unit of the rate, so that what tells nothing fades.
        seed: of the directions.
        baseline: gives a lesson's best static cost, for fitness as regret; None: fitness is the cost itself.

    Raises:
        TaskError: a setting is out of range.
    """

    genome: Genome
    panel: Panel
    by: str = "run"
    pairs: int = 32
    tasks: int = 2
    sigma: float = 0.1
    rate: float = 0.04
    generations: int = 500
    decay: float = 0.0
    seed: int = 0
    baseline: Baseline | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self.pairs, self.tasks, self.sigma, self.rate, self.generations, self.decay)

    def start(self, mean: Tensor) -> Lives:
        """Stand at a policy's taught weights, ``[P]``."""
        return Lives(Ascent.begin(mean.double()))

    def generation(self, state: Lives, lessons: Lessons, spread: Spread = map) -> tuple[Lives, Record]:
        """Teach `tasks` lessons; a pure function of its arguments.

        Args:
            state: what `start` or the last call handed back.
            lessons: gives them by number.
            spread: runs the lessons, one after the other or side by side; the result is the same.

        Returns:
            The new state; and the mean cost, the pairs' root mean square difference and the gradient's norm.
        """
        ascent = state.ascent
        trials = [self._trial(ascent, lessons(ascent.number * self.tasks + task), task) for task in range(self.tasks)]
        found = list(spread(_tried, trials))
        gradients = [
            gradient(directions(self, ascent.number, task), scaled(differences)) / self.sigma
            for task, (differences, _) in enumerate(found)
        ]
        mean = torch.stack(gradients).mean(0)
        new = ascent.climb(mean, falling(self.rate, ascent.number, self.generations), self.decay)
        sizes = torch.stack([differences.square().mean().sqrt() for differences, _ in found])
        return Lives(new), {
            "cost": sum(cost for _, cost in found) / len(found),
            "difference": float(sizes.mean()),
            "gradient": float(mean.norm()),
        }

    def tree(self, state: Lives) -> dict[str, Any]:
        """Give a state as a dictionary of tensors and a number."""
        return dict(vars(state.ascent))

    def of_tree(self, tree: dict[str, Any]) -> Lives:
        """Take what `tree` gave.

        Args:
            tree: of a state.

        Returns:
            The state.

        Raises:
            StateError: it is of another teacher, or of another policy.
        """
        return Lives(read_ascent(tree, self.genome))

    def _trial(self, ascent: Ascent, lesson: Lesson, task: int) -> Trial:
        baseline = None if self.baseline is None else self.baseline(lesson)
        return Trial(replace(self, baseline=None), ascent, lesson, task, baseline)


@dataclass(frozen=True)
class Trial:
    """One lesson of a generation, with all that another process needs to try it."""

    teacher: Evolution
    ascent: Ascent
    lesson: Lesson
    task: int
    baseline: float | None


@torch.no_grad()
def _tried(trial: Trial) -> tuple[Tensor, float]:
    """Give ``[N]`` fitness of plus less that of minus, and the mean cost."""
    teacher, lesson = trial.teacher, trial.lesson
    noise = teacher.sigma * directions(teacher, trial.ascent.number, trial.task)
    rows = trial.ascent.mean + torch.cat([noise, -noise])
    policy = teacher.genome.policy(trial.ascent.mean)
    controller = Population(policy, teacher.genome.weights(rows))
    starts = lesson.starts(teacher.panel, teacher.pairs).repeat(2, 1)
    plant = lesson.plant(teacher.panel, teacher.by)
    done, _ = attempt(lesson, plant, controller, starts, lesson.seeds(teacher.pairs) * 2)
    plus, minus = fitness(done.cost(), trial.baseline).chunk(2)
    return plus - minus, float(done.cost().mean())
