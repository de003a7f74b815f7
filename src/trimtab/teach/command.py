"""The command ``trimtab teach``: a course in a file, a line of progress, a card."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import torch

from trimtab.errors import TaskError
from trimtab.teach.course import read_course
from trimtab.teach.school import News, School
from trimtab.workers import cluster, crew


def teach(
    file: Path,
    out: Path | None,
    minutes: float | None,
    origin: Mapping[str, str],
    *,
    jobs: int = 1,
    ray: str | None = None,
    stream: TextIO | None = None,
) -> Path:
    """Teach the course in a file, from where its folder's checkpoint is.

    Args:
        file: the course, TOML.
        out: the folder; by default ``runs/NAME``.
        minutes: of teaching by the clock, earlier ones included; None: the course's own bound.
        origin: what the card says of where it was made.
        jobs: processes that lessons are spread over; the result does not depend on it.
        ray: the address of a Ray cluster that they are spread over instead, "local" to start one here.
        stream: gets the line of progress; stderr by default.

    Returns:
        The card's weights.

    Raises:
        TaskError: there is no such file, a setting does not hold, or `minutes` is not above 0.
    """
    if not file.is_file():
        raise TaskError(f"There is no course at {file}; `examples/teach.toml` is one.")
    if minutes is not None and not minutes > 0:
        raise TaskError(f"`--minutes` must be above 0, got {minutes:g}.")
    course = read_course(file)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, small sums come out in another order, and slower
    view = _View(stream or sys.stderr)
    try:
        with crew(jobs) if ray is None else cluster(ray) as spread:
            return School(course, out or Path("runs") / course.name, view.tell, spread=spread).teach(minutes, origin)
    finally:
        torch.set_num_threads(threads)
        view.end()


class _View:
    """One line, rewritten in place on a terminal; elsewhere one line an examination."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._is_live = stream, stream.isatty()

    def tell(self, news: News) -> None:
        point = news.point
        line = (
            f"generation {news.number} of {news.generations}, {news.minutes:.1f} min; at {point['generation']:.0f}: "
            f"median regret {point['median']:.3f}, mean {point['mean']:.3f}, "
            f"90 % {point['ninety']:.2f}, lost {point['lost']:.1%}"
        )
        if self._is_live:
            self._stream.write(f"\r\x1b[K{line}")
        elif news.is_examined:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def end(self) -> None:
        if self._is_live:
            self._stream.write("\n")
            self._stream.flush()
