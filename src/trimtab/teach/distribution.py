"""Distribution: the lessons that a controller is taught on, ``teach-v1`` to ``-v5``.

A lesson is an exercise, an optimizer, a horizon and where the knobs begin. All of it follows from the lesson's number.
`docs/teaching.md` states the laws of the draw; a change to them is a new version.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import TaskError
from trimtab.knobs import STANDARD, Panel
from trimtab.plant import Plant
from trimtab.rules import SGD, Adam, AdamW, Rule
from trimtab.sites import sites_of
from trimtab.teach.draw import Draw, mixed
from trimtab.teach.exercise import Exercise
from trimtab.teach.sketch import KINDS, NEEDED, Kind
from trimtab.teach.sources import FLAT, SOURCES, Source, require

LESSON, STARTS, SEED, KIND = 11, 12, 13, 14  # what a lesson's draws are for
LR_RANGE = (1e-6, 10.0)  # seven decades, the upper end that of the standard knob
LONG = (1000, 3000)  # the shortest and the longest horizon of clean lessons
RESERVED = 10_000  # lessons below are for examinations and are never taught on
LOOKS = 20  # times the controller sees the validation loss, in lessons where it does
PACE = 0.15  # how much a lesson's training losses count beside its end; more teaches to learn by heart
UNHURRIED: dict[str, tuple[Kind, ...]] = dict.fromkeys(
    ("teach-v3", "teach-v4", "teach-v5"), ("few",)
)  # kinds whose training losses do not count at all
SHARE_SEEING = 0.5  # of lessons, in which the controller sees validation losses
SHARE_DEFAULT = 0.5  # of knobs other than lr, that begin at the rule's default
SETTLED = {"teach-v5": 0.9}  # where that share is another


BETAS = (0.95, 0.99, 0.999, 0.999)  # Adam's second


def _sgd(draw: Draw) -> Rule:
    momentum = draw.one_of((0.0, 0.9, 0.9, 0.95))
    return SGD(momentum=momentum, nesterov=momentum > 0 and draw.uniform() < 0.25)


def _adam(draw: Draw) -> Rule:
    return Adam(beta2=draw.one_of(BETAS))


def _adamw(draw: Draw) -> Rule:
    return AdamW(beta2=draw.one_of(BETAS), weight_decay=draw.one_of((0.0, 0.01, 0.1)))


RULES: dict[str, Callable[[Draw], Rule]] = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}


@dataclass(frozen=True)
class Lesson:
    """One thing to be taught on; pickled small, for its exercise is.

    Attributes:
        number: everything but the horizon's range follows from it.
        task: the exercise.
        rule: the optimizer's twin.
        horizon: optimizer steps.
        validate_every: how often the controller sees the validation loss, in steps; None: never.
        pace: weight of the mean training loss in its cost.
        settled: share of knobs other than lr, that begin at the rule's default.
    """

    number: int
    task: Exercise
    rule: Rule
    horizon: int
    validate_every: int | None
    pace: float = PACE
    settled: float = SHARE_DEFAULT

    def panel(self, panel: Panel) -> Panel:
        """Give the knobs by this rule's names: ``beta1`` for ``momentum`` where the rule calls it so."""
        other = {"momentum": "beta1", "beta1": "momentum"}
        return Panel.of(
            [knob if knob.name in self.rule.defaults else STANDARD[other.get(knob.name, knob.name)] for knob in panel]
        )

    def plant(self, panel: Panel, by: str = "run", **settings: Any) -> Plant:
        """Build the simulator.

        Args:
            panel: the knobs; ``momentum`` and ``beta1`` stand for one another.
            by: what is a site: "run", "layer" or "block".
            **settings: any other of the plant's.

        Returns:
            A plant of the exercise under the rule.
        """
        sites = None if by == "run" else sites_of(self.task.build(0), by)
        return Plant(self.task, self.rule, self.panel(panel), sites=sites, **settings)

    def starts(self, panel: Panel, count: int) -> Tensor:
        """Draw where knobs begin: ``[count, K]`` float64.

        Learning rates are log-uniform over :data:`LR_RANGE` within the knob's bounds, one in each of `count` equal
        shares of it; any other knob is at the rule's default in `settled` of the cases, else uniform over its range.

        Args:
            panel: the knobs.
            count: how many.

        Returns:
            The values.
        """
        draw, columns = Draw(self.number, STARTS), []
        for knob in self.panel(panel):
            place = (draw.order(count) + draw.uniforms(count)) / count
            if knob.name == "lr":
                low, high = (math.log(min(max(bound, knob.low), knob.high)) for bound in LR_RANGE)
                columns.append(torch.exp(low + place * (high - low)))
                continue
            usual = torch.full_like(place, self.rule.defaults.get(knob.name, knob.low)).clamp(knob.low, knob.high)
            columns.append(torch.where(draw.uniforms(count) < self.settled, usual, knob.from_unit(place)))
        return torch.stack(columns, -1)

    def seeds(self, count: int) -> tuple[int, ...]:
        """Give the members' seeds, each other ones."""
        return tuple(mixed(self.number, SEED, member) for member in range(count))


@dataclass(frozen=True)
class Distribution:
    """Gives lessons by number.

    Args:
        horizons: the shortest and the longest, in optimizer steps; log-uniform between.
        rules: names in :data:`RULES`, all alike.
        seed: other seeds teach on other lessons; those for examinations are the same for all.
        pool: how many lessons there are to teach on, in turn; 0: no end of them.
        sources: names in :data:`trimtab.teach.sources.FLAT`; with others than the usual ones, which every machine
            has, a lesson's number means another lesson.
        name: "teach-v1", or "teach-v2" to "teach-v5", in which some lessons are of other kinds; `horizons` is not for
            clean ones.

    Raises:
        TaskError: a setting is out of range.
        DataError: a source's data is not on this machine and cannot be downloaded; says how to get it.

    Example:
        >>> lessons = Distribution()
        >>> lessons.taught(0).number >= RESERVED > lessons.examined(1)[0].number
        True
    """

    horizons: tuple[int, int] = (50, 600)
    rules: tuple[str, ...] = tuple(RULES)
    seed: int = 0
    pool: int = 0
    sources: tuple[Source, ...] = SOURCES
    name: str = "teach-v1"

    def __post_init__(self) -> None:
        """Check the settings."""
        needed = NEEDED if len(KINDS.get(self.name, {})) > 1 else ()
        laws = {
            f"`name` out of {', '.join(KINDS)}, got {self.name!r}": self.name in KINDS,
            f"`horizons` as two whole numbers, 10 <= shortest <= longest, got {list(self.horizons)}": (
                len(self.horizons) == 2 and 10 <= self.horizons[0] <= self.horizons[1]
            ),
            f"`rules` out of {', '.join(RULES)}, got {list(self.rules)}": (
                len(self.rules) > 0 and set(self.rules) <= set(RULES)
            ),
            f"`seed >= 0`, got {self.seed}": self.seed >= 0,
            f"`pool >= 0`, got {self.pool}": self.pool >= 0,
            f"`sources` out of {', '.join(FLAT)}, got {list(self.sources)}": (
                len(self.sources) > 0 and set(self.sources) <= set(FLAT)
            ),
            f"{' and '.join(needed)} among the `sources` of {self.name}": set(needed) <= set(self.sources),
        }
        for law, holds in laws.items():
            if not holds:
                raise TaskError(f"A distribution needs {law}.")
        require(self.sources)

    def taught(self, count: int) -> Lesson:
        """Give the lesson that is taught after `count` others."""
        place = count % self.pool if self.pool else count
        return self._lesson(RESERVED + mixed(self.seed, place) % 2**40)

    def examined(self, count: int, *, of_each_kind: bool = False) -> tuple[Lesson, ...]:
        """Give the first `count` lessons that are never taught on, or the first so many of each kind."""
        if not of_each_kind:
            return tuple(self._lesson(number) for number in range(min(count, RESERVED)))
        known = [self._lesson(number) for number in range(min(100 * count, RESERVED))]
        return tuple(
            lesson
            for kind in KINDS[self.name]
            for lesson in [lesson for lesson in known if lesson.task.kind == kind][:count]
        )

    def _lesson(self, number: int) -> Lesson:
        kind = Draw(number, KIND).weighted(KINDS[self.name])
        draw = Draw(number, LESSON)
        horizon = draw.log_whole(*(LONG if kind == "clean" else self.horizons))
        every = max(10, horizon // LOOKS // 10 * 10)
        return Lesson(
            number,
            Exercise(number, self.sources, kind),
            RULES[draw.one_of(self.rules)](draw),
            horizon,
            validate_every=every if draw.uniform() < SHARE_SEEING else None,
            pace=0.0 if kind in UNHURRIED.get(self.name, ()) else PACE,
            settled=SETTLED.get(self.name, SHARE_DEFAULT),
        )
