"""Journey: lessons under way, for teachers that take them piece by piece.

Letters: ``N`` pairs, ``P`` taught weights, ``B`` members, ``T`` steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.passage import Passage
from trimtab.rollout import Voyage
from trimtab.teach.ascent import Ascent, read_ascent
from trimtab.teach.distribution import Lesson
from trimtab.teach.fitness import SOON, relative
from trimtab.teach.genome import Genome


@dataclass(frozen=True)
class Underway:
    """One lesson's members between two pieces.

    Attributes:
        count: which lesson, as :data:`trimtab.teach.evolution.Lessons` counts.
        passage: where they stand.
        held: ``[B]`` held-out loss at the last piece's end, log-ratio to chance; 0 before the first.
        drift: ``[N, P]`` the sum of a pair's perturbations so far; ``[0, P]`` of a teacher that has none.
    """

    count: int
    passage: Passage
    held: Tensor
    drift: Tensor


@dataclass(frozen=True)
class Journeys:
    """The state of a teacher that takes lessons piece by piece.

    Attributes:
        ascent: where it stands.
        underway: one a lesson at a time; None: the next one begins there.
        begun: lessons begun so far.
        size: ``[]`` moving mean square of the pairs' differences; 0 of a teacher that has none.
    """

    ascent: Ascent
    underway: tuple[Underway | None, ...]
    begun: int
    size: Tensor

    @classmethod
    def begin(cls, mean: Tensor, tasks: int) -> Journeys:
        """Stand at a policy's taught weights, ``[P]``, nobody under way."""
        return cls(Ascent.begin(mean.double()), (None,) * tasks, 0, torch.zeros((), dtype=torch.float64))

    def counted(self) -> list[tuple[int, Underway | None]]:
        """Give for each place the number of its lesson and who is under way; a free place takes the next number."""
        found, begun = [], self.begun
        for before in self.underway:
            found.append((begun if before is None else before.count, before))
            begun += before is None
        return found

    def further(
        self, ascent: Ascent, afters: Sequence[Underway], horizons: Sequence[int], size: Tensor | None = None
    ) -> Journeys:
        """Give the state after a piece of every lesson; a lesson at its horizon is over."""
        underway = tuple(
            None if after.passage.step >= horizon else after for after, horizon in zip(afters, horizons, strict=True)
        )
        begun = self.begun + sum(before is None for before in self.underway)
        return Journeys(ascent, underway, begun, self.size if size is None else size)

    def tree(self) -> dict[str, Any]:
        """Give it as dictionaries, tuples, tensors and numbers."""
        underway = [None if u is None else {**vars(u), "passage": u.passage.tree()} for u in self.underway]
        return {**vars(self.ascent), "underway": underway, "begun": self.begun, "size": self.size}

    @classmethod
    def of_tree(cls, tree: dict[str, Any], genome: Genome) -> Journeys:
        """Take what `tree` gave.

        Args:
            tree: of a state.
            genome: of the policy that is taught.

        Returns:
            The state.

        Raises:
            StateError: it is of another teacher, or of another policy.
        """
        ascent = read_ascent(tree, genome)
        underway = tuple(
            None if u is None else Underway(**{**u, "passage": Passage.of_tree(u["passage"])}) for u in tree["underway"]
        )
        return cls(ascent, underway, tree["begun"], tree["size"])


def begun(count: int, lesson: Lesson, voyage: Voyage, starts: Tensor, seeds: Sequence[int], drift: Tensor) -> Underway:
    """Give a lesson's members before their first step.

    Args:
        count: which lesson.
        lesson: the same.
        voyage: what they are taken on.
        starts: ``[B, K]`` knob values, the same at every site.
        seeds: one a member.
        drift: no perturbations yet.

    Returns:
        The members.
    """
    values = starts[:, None].expand(-1, len(voyage.plant.sites), -1)
    return Underway(count, voyage.begin(values, seeds), torch.zeros(len(starts), dtype=torch.float64), drift)


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
    cost = (1 + SOON) * (after - before)
    return cost + lesson.pace * relative(losses, lesson).sum(0) / lesson.horizon
