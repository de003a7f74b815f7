"""Command: what ``trimtab bench one-pass`` does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from trimtab import charts
from trimtab.bench.anylr.bout import append_rows, read_rows
from trimtab.bench.machine import Provenance
from trimtab.bench.onepass.page import as_json, as_markdown, write_page
from trimtab.bench.onepass.problems import problem_named
from trimtab.bench.onepass.run import COST_RUNS, Job, cost, run
from trimtab.bench.onepass.suite import METHODS, method_named
from trimtab.errors import TaskError
from trimtab.workers import crew


def one_pass(
    table: str,
    names: Sequence[str],
    out: Path,
    *,
    count: int = 200,
    steps: int = 0,
    jobs: int = 2,
    is_fast: bool = False,
    is_json: bool = False,
    words: Sequence[str] = (),
) -> str:
    """Run the methods that are not finished yet, then time them one by one, and write the page.

    Args:
        table: one in :data:`trimtab.bench.onepass.problems.PROBLEMS`.
        names: of methods; none for all.
        out: the folder: ``rows.jsonl`` and ``one-pass.html``.
        count: runs of each.
        steps: of each run; 0: as many as the paper's.
        jobs: methods at the same time, one thread each; timing is always alone.
        is_fast: compile the training step; timing never is.
        is_json: give the result as JSON.
        words: of the command, for the rows.

    Returns:
        What to print.

    Raises:
        TaskError: a name is unknown, `count` is below 1, or `steps` below 0.
    """
    charts.check()
    if count < 1 or steps < 0:
        raise TaskError(f"`--runs` must be at least 1 and `--steps` at least 0, got {count} and {steps}.")
    problem_named(table)
    chosen = [method_named(name).name for name in names] or [method.name for method in METHODS]
    due = [Job(table, name, count, steps, is_fast) for name in chosen]
    origin, path = vars(Provenance.now(["trimtab", *words])), out / "rows.jsonl"
    known = {row["key"] for row in read_rows(path)}
    torch.set_num_threads(1)

    def keep(row: dict[str, Any]) -> None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        append_rows(path, [{**row, **origin, "date": date}])
        sys.stderr.write(f"{row['key']}\n")

    with crew(jobs) as spread:
        for row in spread(run, [job for job in due if job.key not in known]):
            keep(row)
    for job in due:
        key = f"cost.{job.table}.{job.method}"
        if key not in known:
            ratio = cost(job.table, method_named(job.method), min(COST_RUNS, count))
            keep({"key": key, "table": job.table, "method": job.method, "runs": min(COST_RUNS, count), "ratio": ratio})
    rows = [row for row in read_rows(path) if row["table"] == table and row["method"] in chosen]
    page = write_page(rows, out / "one-pass.html")
    return as_json(rows) if is_json else f"{as_markdown(rows)}\n\nThe page: {page}"
