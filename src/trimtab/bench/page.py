"""Page: one race as one HTML file that needs no other, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trimtab.bench import pictures
from trimtab.bench.machine import Provenance
from trimtab.bench.race import Result
from trimtab.bench.rows import Row, plain
from trimtab.bench.score import FEW, Standing
from trimtab.bench.table import cells, columns, number
from trimtab.tasks import task_named
from trimtab.templates import render, save_page

MOST_EVENTS = 60


def write_page(result: Result, path: Path, provenance: Provenance) -> Path:
    """Write the page.

    Args:
        result: the race.
        path: where to; replaced as a whole or not at all.
        provenance: of this command; rows carry their own.

    Returns:
        The path.

    Raises:
        TraceError: it cannot be written.
        ImportError: matplotlib or jinja2 is not installed.
    """
    return save_page(path, page(result, provenance))


def page(result: Result, provenance: Provenance) -> str:
    """Give the page's text; see `write_page`."""
    from markupsafe import Markup

    plan, task = result.plan, task_named(result.plan.task)
    traces = pictures.read_traces(result)
    events = pictures.events(result, traces)
    drawn = {
        "sensitivity": pictures.sensitivity(result),
        "curves": pictures.curves(result),
        "panels": pictures.panels(result),
        "trajectories": pictures.trajectories(result, traces),
    }
    fields: dict[str, Any] = {
        "title": f"Race on {task.name}",
        "lead": _lead(result),
        "warnings": _warnings(result, provenance),
        "columns": columns(task.metric),
        "table": _table(result, task.metric),
        "seeds_note": _seeds_note(len(plan.seeds)),
        "first_seed": plan.seeds[0],
        "sites_note": " and site" if any(contender.by != "run" for contender in plan.contenders) else "",
        "events": events[:MOST_EVENTS],
        "more_events": max(0, len(events) - MOST_EVENTS),
        "runs": [_run(row) for row in result.rows],
        "command": provenance.command,
        "origin": _origin(result, task.card),
        **{name: Markup(svg) for name, svg in drawn.items()},  # our own drawings, already escaped
    }
    return render("race.html", fields)


def as_json(result: Result) -> str:
    """Give the ranking as JSON; what is not finite is null."""
    plan = result.plan
    fields = {
        "task": plan.task,
        "steps": plan.steps,
        "lrs": plan.lrs,
        "seeds": plan.seeds,
        "target": task_named(plan.task).reference.target,
        "standings": [dataclasses.asdict(standing) for standing in result.standings],
        "rows": str(result.folder / "rows.jsonl"),
        "page": str(result.folder / "race.html"),
    }
    return json.dumps(plain(fields), indent=2)


def _lead(result: Result) -> str:
    plan, task = result.plan, task_named(result.plan.task)
    diverged = sum(row.is_diverged for row in result.rows)
    return (
        f"{len(plan.contenders)} contenders, each from {len(plan.lrs)} initial learning rates "
        f"({', '.join(f'{lr:g}' for lr in plan.lrs)}) with {len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}: "
        f"{len(result.rows)} runs of {plan.steps} steps, {diverged} of which diverged. The target is a validation loss "
        f"of {task.reference.target:g}; a tuned schedule ends at {task.reference.val_loss:g} after "
        f"{task.horizon} steps."
    )


def _warnings(result: Result, provenance: Provenance) -> list[str]:
    found = []
    commits = {row.commit for row in result.rows}
    if commits != {provenance.commit}:
        found.append(
            f"Rows come from other code than this page ({', '.join(sorted(commits))}; the page: {provenance.commit}): "
            f"give --fresh to run all again."
        )
    if len({row.machine for row in result.rows}) > 1:
        found.append("Rows come from several machines: seconds cannot be compared.")
    return found


def _seeds_note(count: int) -> str:
    if count >= FEW:
        return "IQM: interquartile mean over seeds, with a 95 % bootstrap interval."
    return f"With {count} seed{'s' * (count > 1)} a difference within the ± says nothing; --seeds 10 says more."


def _table(result: Result, metric: str) -> list[dict[str, Any]]:
    best = _best(result.standings, metric)
    return [
        {
            "cells": cells(standing),
            "color": pictures.style(standing.contender)["color"],
            "best": [at for at, names in best.items() if standing.contender in names],
        }
        for standing in result.standings
    ]


def _best(standings: Sequence[Standing], metric: str) -> dict[int, set[str]]:
    """Give, by column, who is best in it; ties are all named, and nobody where all are alike."""
    sign = -1.0 if metric == "accuracy" else 1.0
    scores: dict[int, dict[str, float]] = {
        2: {s.contender: s.val_loss for s in standings},
        4: {s.contender: math.inf if math.isnan(s.test) else sign * s.test for s in standings},
        5: {s.contender: s.regret_median for s in standings},
        6: {s.contender: s.regret_worst for s in standings},
        7: {s.contender: -s.reached for s in standings},
        8: {s.contender: _or_infinity(s.steps_to_target) for s in standings},
        9: {s.contender: _or_infinity(s.seconds_to_target) for s in standings},
    }
    return {at: _lowest(values) for at, values in scores.items()}


def _lowest(values: dict[str, float]) -> set[str]:
    lowest = min(values.values())
    if not math.isfinite(lowest) or len(set(values.values())) == 1:
        return set()
    return {name for name, value in values.items() if value == lowest}


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value


def _run(row: Row) -> tuple[str, ...]:
    return (
        row.contender,
        f"{row.lr:g}",
        str(row.seed),
        number(row.train_loss),
        number(row.val_loss),
        "–" if row.steps_to_target is None else str(row.steps_to_target),
        f"{row.seconds:.2f}",
        f"{1e3 * row.step_seconds:.2f}",
        str(row.restores),
        "diverged" if row.is_diverged else "",
    )


def _origin(result: Result, card: str) -> list[tuple[str, str]]:
    rows, plan = result.rows, result.plan
    return [
        ("commit", _told(row.commit for row in rows)),
        ("machine", _told(row.machine for row in rows)),
        ("torch", _told(row.torch for row in rows)),
        ("rows made", f"{min(row.date for row in rows)} to {max(row.date for row in rows)}"),
        ("seeds", ", ".join(map(str, plan.seeds))),
        ("optimizer", f"{task_named(plan.task).optimizer}, all but the learning rate at its default"),
        ("time of training", f"{sum(row.seconds for row in rows):.0f} s over all runs, one thread each"),
        ("data", " ".join(card.split())),
    ]


def _told(values: Iterable[str]) -> str:
    return "; ".join(sorted(set(values)))
