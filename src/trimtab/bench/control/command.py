"""Command: what ``trimtab bench control`` does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab import charts
from trimtab.bench.anylr.bout import append_rows, read_rows
from trimtab.bench.control.page import as_json, as_markdown, write_page
from trimtab.bench.control.run import Job, run, with_seconds
from trimtab.bench.control.suite import FREE, TASKS, Desk, contenders
from trimtab.bench.machine import Provenance
from trimtab.errors import TaskError
from trimtab.tasks import task_named
from trimtab.workers import crew


def control(
    tasks: Sequence[str],
    names: Sequence[str],
    out: Path,
    *,
    decisions: int = 16384,
    seconds: float = 60.0,
    seeds: int = 3,
    jobs: int = 2,
    is_json: bool = False,
    words: Sequence[str] = (),
) -> str:
    """Make and judge the contenders that are not finished yet, for both budgets, and write the page.

    The second budget follows from the first: a contender gets as many decisions as should take the seconds.

    Args:
        tasks: names; none for the suite's.
        names: of contenders; none for all.
        out: the folder: ``rows.jsonl`` and ``control.html``.
        decisions: that each may spend.
        seconds: of the processor that each may spend, in the second comparison; 0 leaves it out.
        seeds: times that each is made.
        jobs: contenders at the same time, one thread each.
        is_json: give the result as JSON.
        words: of the command, for the rows.

    Returns:
        What to print.

    Raises:
        TaskError: a name is unknown, or a number out of range.
    """
    charts.check()
    if decisions < 1 or seconds < 0 or seeds < 1:
        raise TaskError(
            f"`--decisions` and `--seeds` must be at least 1 and `--seconds` at least 0, got {decisions}, {seeds} and "
            f"{seconds:g}."
        )
    chosen, where = contenders(names), [task_named(name).name for name in tasks or TASKS]
    for task in where:
        fewest = 2 * Desk.of(task, 1, 0).setting.turns
        if decisions < fewest:
            raise TaskError(f"Two runs of {task} take {fewest} decisions: give at least as many, got {decisions}.")
    path, origin = out / "rows.jsonl", vars(Provenance.now(["trimtab", *words]))
    first = [
        Job(task, name, seed, decisions, "decisions", decisions)
        for task in where
        for name in chosen
        for seed in range(1 if name in FREE else seeds)
    ]
    rows = _made(first, path, jobs, origin)
    if seconds:
        pairs = zip(first, rows, strict=True)
        due = [with_seconds(job, row, seconds) for job, row in pairs if job.contender not in FREE]
        rows += _made(due, path, jobs, origin)
    page = write_page(rows, out / "control.html")
    return as_json(rows) if is_json else f"{as_markdown(rows)}\n\nThe page: {page}"


def _made(jobs: Sequence[Job], path: Path, count: int, origin: dict[str, Any]) -> list[dict[str, Any]]:
    """Run what has no row yet, and give the rows of all, in order."""
    known = {row["key"]: row for row in read_rows(path)}
    due = [job for job in jobs if job.key not in known]
    with crew(count) as spread:
        for row in spread(run, due):
            known[row["key"]] = {**row, **origin, "date": datetime.now(UTC).isoformat(timespec="seconds")}
            append_rows(path, [known[row["key"]]])
            sys.stderr.write(f"{row['key']}: {row['seconds']:.0f} s\n")
    return [known[job.key] for job in jobs]
