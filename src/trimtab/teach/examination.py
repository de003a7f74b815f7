"""Examination: a fixed set of lessons, never taught on, on which a controller is scored by regret.

The regret of a run is its held-out loss at the end over that of the best static run of the same lesson: 39 of them,
three schedules from thirteen learning rates. 1 is as good as a tuned schedule, from a start that nobody tuned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from trimtab.controller import Controller
from trimtab.errors import StateError
from trimtab.knobs import Panel
from trimtab.teach.distribution import LR_RANGE, Lesson
from trimtab.teach.fitness import Grid, attempt, static_grid
from trimtab.teach.sources import SOURCES
from trimtab.whole import written_whole
from trimtab.workers import Spread

RATES = 7  # learning rates that an examined lesson begins from, over the range that lessons begin in
SEEDS = 2
LOST = math.log(1.1)  # above chance: nothing was learned, and more than noise was lost


@dataclass(frozen=True)
class Mark:
    """A controller's score, over lessons and initial learning rates.

    Attributes:
        median: of the regrets, ratios to the best static run.
        ninety: their 90th percentile.
        worst: the largest.
        mean: their geometric mean, which no lesson's difficulty hides from.
        lost: share of runs that ended more than a tenth above the best constant answer's loss, or nowhere.
        restores: mean number of times that the guard went back.
    """

    median: float
    ninety: float
    worst: float
    mean: float
    lost: float
    restores: float


class Grids:
    """The static runs of lessons, each made once.

    Args:
        panel: gives the learning rate's bounds.
        path: a JSON file to keep them in; None: they are kept in memory.
        seeds: runs of each.

    Raises:
        StateError: the file is damaged.
    """

    def __init__(self, panel: Panel, path: Path | None = None, seeds: int = SEEDS) -> None:
        self._panel, self._path, self._seeds = panel, path, seeds
        self._known: dict[str, Grid] = {}
        self._written = 0
        if path is not None and path.is_file():
            try:
                self._known = {key: Grid(**grid) for key, grid in json.loads(path.read_text()).items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise StateError(f"{path} is damaged ({error}): delete it, and it is made anew.") from error
            self._written = len(self._known)

    def of(self, lesson: Lesson) -> Grid:
        """Give a lesson's static runs, trained at the first call."""
        self.prepare([lesson])
        return self._known[self._key(lesson)]

    def prepare(self, lessons: Sequence[Lesson], spread: Spread = map) -> None:
        """Train the static runs of several lessons that are not known yet, as `spread` does."""
        due = [lesson for lesson in lessons if self._key(lesson) not in self._known]
        problems = [(lesson, self._panel, self._seeds) for lesson in due]
        for lesson, grid in zip(due, spread(_grid, problems), strict=True):
            self._known[self._key(lesson)] = grid

    def cost(self, lesson: Lesson) -> float:
        """Give the lowest cost of a lesson's static runs."""
        return self.of(lesson).cost

    def _key(self, lesson: Lesson) -> str:
        which = lesson.number if (lesson.task.sources, lesson.task.kind) == (SOURCES, "usual") else lesson.task.name
        return f"{which} {lesson.horizon} {lesson.rule!r} {self._seeds}"

    def save(self) -> None:
        """Write the file, if something is new."""
        if self._path is not None and len(self._known) > self._written:
            with written_whole(self._path) as file:
                file.write(json.dumps({key: asdict(grid) for key, grid in self._known.items()}, indent=1).encode())
            self._written = len(self._known)


class Examination:
    """Scores controllers on the same lessons, starts and seeds.

    Args:
        lessons: never taught on.
        panel: the knobs that controllers turn; those other than lr begin at the rule's default.
        grids: the static runs.
        by: what is a site: "run", "layer" or "block".
    """

    def __init__(self, lessons: Sequence[Lesson], panel: Panel, grids: Grids, by: str = "run") -> None:
        self.lessons, self.panel, self.by, self._grids = tuple(lessons), panel, by, grids

    def regrets(self, controller: Controller, spread: Spread = map) -> tuple[Tensor, Tensor, Tensor]:
        """Give ``[lessons, rates]`` regrets, ``[lessons, rates, seeds]`` log ends over chance, and restores.

        Args:
            controller: drives the lessons.
            spread: runs them, one after the other or side by side; the result is the same.

        Returns:
            The three.
        """
        self._grids.prepare(self.lessons, spread)
        papers = [Paper(lesson, self.panel, self.by, controller) for lesson in self.lessons]
        ends, restored = (torch.stack(part) for part in zip(*spread(_written, papers), strict=True))
        best = torch.tensor([self._grids.of(lesson).end for lesson in self.lessons], dtype=ends.dtype)
        return torch.exp(ends.mean(2) - best[:, None]), ends, restored

    def mark(self, controller: Controller, spread: Spread = map) -> Mark:
        """Score a controller; see :meth:`regrets`."""
        regrets, ends, restores = self.regrets(controller, spread)
        return Mark(
            float(regrets.median()),
            float(regrets.quantile(0.9)),
            float(regrets.max()),
            float(regrets.log().mean().exp()),
            float((ends > LOST).double().mean()),
            float(restores.mean()),
        )


@dataclass(frozen=True)
class Paper:
    """One lesson of an examination, with all that another process needs to sit it."""

    lesson: Lesson
    panel: Panel
    by: str
    controller: Controller


@torch.no_grad()
def _written(paper: Paper) -> tuple[Tensor, Tensor]:
    """Give ``[rates, seeds]`` log ends over chance, and ``[rates * seeds]`` restores."""
    lesson = paper.lesson
    starts = first_values(lesson, paper.panel).repeat_interleave(SEEDS, 0)
    plant = lesson.plant(paper.panel, paper.by)
    outcome, restores = attempt(lesson, plant, paper.controller, starts, lesson.seeds(SEEDS) * RATES)
    return outcome.end.reshape(RATES, SEEDS), restores.double()


def _grid(problem: tuple[Lesson, Panel, int]) -> Grid:
    return static_grid(*problem)


def first_values(lesson: Lesson, panel: Panel) -> Tensor:
    """Give ``[rates, K]`` where knobs begin in an examination: lr over its range, others at the rule's default."""
    columns = []
    for knob in lesson.panel(panel):
        if knob.name == "lr":
            low, high = (math.log10(min(max(bound, knob.low), knob.high)) for bound in LR_RANGE)
            columns.append(torch.logspace(low, high, RATES, dtype=torch.float64))
        else:
            usual = torch.full((RATES,), lesson.rule.defaults.get(knob.name, knob.low), dtype=torch.float64)
            columns.append(usual.clamp(knob.low, knob.high))
    return torch.stack(columns, -1)
