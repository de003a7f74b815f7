"""School: teaches a course from its beginning, or from its last checkpoint, to a card.

A folder holds it all: ``state.pt`` (the checkpoint), ``curve.jsonl`` (the score over generations), ``grids.json`` (the
static runs that regrets refer to), and in the end the card, ``NAME.safetensors`` and ``NAME.md``.
"""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from trimtab.errors import StateError, TraceError
from trimtab.teach.card import write_card
from trimtab.teach.course import DEFAULTS, Course
from trimtab.teach.evolution import Record, Teacher
from trimtab.teach.examination import Examination, Grids
from trimtab.whole import written_whole
from trimtab.workers import Metered, Spread

FORMAT = "trimtab-teaching-2"
SAVE_EVERY = 60.0  # seconds
Tell = Callable[["News"], None]
Point = dict[str, float]


@dataclass(frozen=True)
class News:
    """What a spectator hears after each generation.

    Attributes:
        number: generations done.
        generations: planned.
        minutes: spent so far, by the clock.
        record: of this generation.
        point: the last score of the curve.
        is_examined: whether the score is new.
    """

    number: int
    generations: int
    minutes: float
    record: Record
    point: Point
    is_examined: bool


@dataclass
class Log:
    """What a teaching has cost and scored so far.

    Attributes:
        wall: seconds by the clock.
        cpu: seconds of processors, as many at a time as there were workers.
        curve: a point an examination: generation, core-minutes, and :class:`trimtab.teach.examination.Mark`.
    """

    wall: float = 0.0
    cpu: float = 0.0
    curve: list[Point] = field(default_factory=list)


class School:
    """Teaches a course in a folder.

    Args:
        course: what is taught, on what and how.
        folder: where everything lies; made if need be.
        tell: hears of each generation.
        save_every: seconds between two checkpoints; one is written at the end, and when a teaching is stopped, too.
        spread: runs lessons, one after the other or side by side (:mod:`trimtab.workers`); the result is the same.

    Raises:
        StateError: the folder holds another course's teaching, or a damaged one.
        TraceError: the folder cannot be written.
    """

    def __init__(
        self,
        course: Course,
        folder: Path,
        tell: Tell = lambda news: None,
        *,
        save_every: float = SAVE_EVERY,
        spread: Spread = map,
    ) -> None:
        self.course, self.folder, self._tell, self._save_every = course, folder, tell, save_every
        self._spread = Metered(spread)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TraceError(f"The folder {folder} cannot be made ({error.strerror}): give another.") from error
        panel = course.panel()
        self._taught = Grids(panel, folder / "grids-taught.json", seeds=1)
        self._grids = Grids(panel, folder / "grids.json")
        self.teacher: Teacher = course.teacher(self._taught.cost)
        self._lessons = course.distribution()
        sat = course.tables["examination"]
        examined = self._lessons.examined(sat["lessons"], of_each_kind=sat["of_each_kind"])
        self._examination = Examination(examined, panel, self._grids, course.by)
        self.log = Log()
        self.state = self._resumed()

    def teach(self, minutes: float | None = None, origin: Mapping[str, str] | None = None) -> Path:
        """Teach until the course or the time is over, and write the card; what was done before is not done again.

        Args:
            minutes: by the clock, earlier ones of this teaching included; None: the course's own bound.
            origin: what the card says of where it was made: commit, command, machine.

        Returns:
            The card's weights.
        """
        limit = 60 * (self.course.minutes if minutes is None else minutes) or float("inf")
        clock, saved = _Clock(self.log, self._spread), time.monotonic()
        record: Record = {}
        board = _board(self.folder)
        try:
            while True:
                number, is_over = self.state.ascent.number, clock.read().wall >= limit
                is_over |= number >= self.teacher.generations
                is_due = is_over or number % self.course.tables["examination"]["every"] == 0
                is_new = is_due and self._examine(number, clock)
                news = News(number, self.teacher.generations, self.log.wall / 60, record, self.log.curve[-1], is_new)
                self._tell(news)
                _draw(board, news)
                if is_over:
                    break
                self.state, record = self.teacher.generation(self.state, self._lessons.taught, self._spread)
                if time.monotonic() - saved >= self._save_every:
                    self._save(clock)
                    saved = time.monotonic()
        finally:
            self._save(clock)
            if board is not None:
                board.close()
        policy = self._policy()
        return write_card(self.folder, self.course, policy, self.log.curve, cpu=self.log.cpu, origin=origin or {})

    def _examine(self, number: int, clock: _Clock) -> bool:
        """Score the policy, unless that was done before; say whether the score is new."""
        if self.log.curve and self.log.curve[-1]["generation"] == number:
            return False
        mark = self._examination.mark(self._policy(), self._spread)
        self.log.curve.append({"generation": number, "core_minutes": clock.read().cpu / 60, **asdict(mark)})
        return True

    def _policy(self) -> Any:
        return self.course.genome().policy(self.state.ascent.mean)

    def _save(self, clock: _Clock) -> None:
        log = clock.read()
        tree = {
            "format": FORMAT,
            "course": self.course.identity,
            "state": self.teacher.tree(self.state),
            "log": {"wall": log.wall, "cpu": log.cpu, "curve": json.dumps(log.curve)},
        }
        try:
            with written_whole(self.folder / "state.pt") as file:
                torch.save(tree, file)
            with written_whole(self.folder / "curve.jsonl") as file:
                file.write("".join(json.dumps(point) + "\n" for point in log.curve).encode())
            self._grids.save()
            self._taught.save()
        except OSError as error:
            raise TraceError(f"The folder {self.folder} cannot be written ({error}): give another.") from error

    def _resumed(self) -> Any:
        """Give the state of the checkpoint, or that of a beginning."""
        path = self.folder / "state.pt"
        if not path.is_file():
            return self.teacher.start(self.course.beginning())
        try:
            tree = torch.load(path, weights_only=True)
            is_ours = tree["format"] == FORMAT
        except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise StateError(f"{path} is damaged ({error}): delete it to begin anew.") from error
        if not is_ours:
            raise StateError(f"{path} is no teaching of this version: delete it to begin anew.")
        _compare(self.course.identity, tree["course"], self.folder)
        log = tree["log"]
        self.log = Log(log["wall"], log["cpu"], json.loads(log["curve"]))
        return self.teacher.of_tree(tree["state"])


class _Clock:
    """Adds what has passed to a log."""

    def __init__(self, log: Log, spread: Metered) -> None:
        self._log, self._spread = log, spread
        self._wall, self._cpu = self._now()

    def read(self) -> Log:
        wall, cpu = self._now()
        self._log.wall += wall - self._wall
        self._log.cpu += cpu - self._cpu
        self._wall, self._cpu = wall, cpu
        return self._log

    def _now(self) -> tuple[float, float]:
        return time.monotonic(), time.process_time() + self._spread.seconds


def _compare(ours: str, theirs: str, folder: Path) -> None:
    """Refuse a checkpoint of another course, and say what differs; a key that it does not know had its default."""
    new, known = json.loads(ours), json.loads(theirs)
    old = {name: DEFAULTS[name] | known.get(name, {}) for name in new}
    if new == old:
        return
    differ = [
        f"{f'[{name}] ' if name else ''}{key} was {old[name].get(key)!r}, is {value!r}"
        for name, table in new.items()
        for key, value in table.items()
        if old[name].get(key) != value
    ]
    raise StateError(f"{folder} holds the teaching of another course ({'; '.join(differ)}): give another folder.")


def _board(folder: Path) -> Any:
    """Give a writer for TensorBoard, or None where it is not installed."""
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))


def _draw(board: Any, news: News) -> None:
    if board is None:
        return
    for name, value in news.record.items():
        board.add_scalar(f"generation/{name}", value, news.number)
    if news.is_examined:
        for name in ("median", "ninety", "worst", "mean", "lost", "restores"):
            board.add_scalar(f"examination/{name}", news.point[name], news.number)
