"""Page: an any-lr bench as one HTML file that needs no other, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trimtab.bench.anylr.bout import Row, heats_of
from trimtab.bench.anylr.field import PATHS, REPLAY, STATIC
from trimtab.bench.anylr.scores import Bar, Standing, bars, finals, standings
from trimtab.bench.pictures import style
from trimtab.bench.rows import plain
from trimtab.bench.sheet import Part, write_sheet
from trimtab.charts import PALETTE, Line, Panel, grid
from trimtab.controllers.cards import shipped

LOWEST, TALLEST = 0.4, 30.0  # regrets beyond are drawn at the edge
HEADS = (
    ("contender", "who; +val: the controller sees half of the validation split; +replay: the open-loop replay of its "
     "own mean course; +paths: of its mean course from each learning rate"),
    ("IQM", "interquartile mean of the regrets of all runs: final loss over the best tuned schedule's"),
    ("95 %", "its stratified bootstrap interval"),
    ("median", "median regret over learning rates"),
    ("90 %", "90th percentile over learning rates"),
    ("unseen", "median and 90th percentile against what tuning gives on seeds that it has not seen"),
    ("worst", "the largest regret of a learning rate"),
    ("diverged", "runs that ended a tenth above their first loss, or nowhere"),
    ("reached", "share of learning rates from which 1.10 × the tuned cosine's loss was reached"),
    ("steps", "steps to that target over the tuned cosine's, median over learning rates"),
)  # fmt: skip


def score(rows: Sequence[Row]) -> list[Standing]:
    """Score a bout's rows, with the same draws for the intervals every time."""
    return standings(rows, torch.Generator().manual_seed(0))


def cells(standing: Standing) -> list[str]:
    """Give a standing as a table's cells, in the order of :data:`HEADS`."""
    low, high = standing.interval
    return [
        standing.task or standing.contender,
        _number(standing.iqm),
        f"{_number(low)} – {_number(high)}",
        _number(standing.regret_median),
        _number(standing.regret_ninety),
        f"{_number(standing.unseen_median)}, {_number(standing.unseen_ninety)}",
        _number(standing.regret_worst),
        f"{standing.diverged} of {standing.runs}",
        f"{standing.reached:.0%}",
        "never" if math.isinf(standing.steps_ratio) else f"{standing.steps_ratio:.2f}",
    ]


def write_page(rows: Sequence[Row], path: Path, title: str) -> Path:
    """Write the page.

    Args:
        rows: of a bout.
        path: where to; replaced as a whole or not at all.
        title: of the page.

    Returns:
        The path.

    Raises:
        TraceError: it cannot be written.
        ImportError: matplotlib or jinja2 is not installed.
    """
    found, level = score(rows), bars(rows)
    lead = (
        "Who trains well from a learning rate that nobody tuned? Regret is the final loss over that of the best tuned "
        "schedule of the same task: 1 is as good, below is better. "
        f"All rows together took {sum(row['core_seconds'] for row in rows) / 3600:.1f} core-hours."
    )
    over_all = "Sorted by the interquartile mean. The tuned schedules' own rows count every learning rate, the bad too."
    flat = "A flat line at 1 needs no tuning and gives what tuning gives; who has no learning rate is a level line."
    did = "The learning rate in force, geometric mean over seeds, from each initial learning rate."
    drawn = schedules(rows)
    parts = [
        Part("Over all tasks", over_all, _over_all(found, len(level))),
        Part("How much does the initial learning rate matter?", flat, chart=sensitivity(rows)),
        *([Part("What the cards did", did, chart=drawn)] if drawn else []),
        *(_task(task, level[task], [s for s in found if s.task == task]) for task in level),
    ]
    return write_sheet(path, title, lead, HEADS, parts, rows)


def _over_all(found: Sequence[Standing], tasks: int) -> list[list[str]]:
    """Give the rows of the table over all tasks; who was not run on some says on how many."""
    rows = []
    for standing in found:
        if not standing.task:
            took = sum(one.contender == standing.contender for one in found) - 1
            name = standing.contender + ("" if took == tasks else f" ({took} of {tasks} tasks)")
            rows.append([name, *cells(standing)[1:]])
    return rows


def _task(name: str, bar: Bar, found: Sequence[Standing]) -> Part:
    note = (
        f"Best tuned schedule: {bar.winner}, {bar.best:.4g}; on seeds it was not chosen on, {bar.unseen:.4g}. "
        f"Target: {bar.target:.4g}."
    )
    return Part(name, note, [[s.contender, *cells(s)[1:]] for s in sorted(found, key=lambda s: s.iqm)])


def as_json(rows: Sequence[Row]) -> str:
    """Give the standings as JSON; what is not finite is null."""
    level = {task: dataclasses.asdict(bar) for task, bar in bars(rows).items()}
    fields = {"bars": level, "standings": [dataclasses.asdict(standing) for standing in score(rows)]}
    return json.dumps(plain(fields), indent=2)


def as_markdown(rows: Sequence[Row]) -> str:
    """Give the standings as two tables: over all tasks, and each contender's median regret task by task."""
    found, tasks = score(rows), list(bars(rows))
    lines = [" | ".join(["", *(name for name, _ in HEADS), ""]).strip(), "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(row) + " |" for row in _over_all(found, len(tasks))]
    lines += ["", "| median regret | " + " | ".join(tasks) + " |", "|" + "---|" * (1 + len(tasks))]
    for name in dict.fromkeys(standing.contender for standing in found):
        medians = {standing.task: standing.regret_median for standing in found if standing.contender == name}
        lines.append("| " + " | ".join([name, *(_number(medians[t]) if t in medians else "–" for t in tasks)]) + " |")
    return "\n".join(lines)


def sensitivity(rows: Sequence[Row]) -> str:
    """Draw regret against the initial learning rate, a panel a task; what has no learning rate is a level line."""
    level, drawn = bars(rows), []
    for task, bar in level.items():
        lines = []
        for where, name, mine in heats_of(rows):
            if where != task or name.endswith((REPLAY, PATHS)):
                continue
            lrs = [row["lr"] for row in mine]
            means = [min(float(finals(row).mean()) / bar.best, TALLEST) for row in mine]
            look = {**_look(name), "marker": ""}
            if lrs == [None]:
                lrs, means = list(_span(rows)), means * 2
            lines.append(Line(lrs, means, name, **look))
        drawn.append(
            Panel(task, "initial learning rate", "regret", lines, is_log_x=True, is_log_y=True, guide=(1.0, ""),
                  y_range=(LOWEST, TALLEST))
        )  # fmt: skip
    return grid(drawn, columns=2, title="Regret against the initial learning rate", height=3.0)


def schedules(rows: Sequence[Row]) -> str:
    """Draw the learning rates that the shipped card used, a panel a task; "" where it took no part."""
    from trimtab.charts import shades

    drawn, cards = [], [name for name in shipped() if any(row["contender"] == name for row in rows)]
    for task, name, mine in heats_of(rows):
        if name not in cards:
            continue
        lines = [
            Line(list(range(0, 101, 5)), row["schedule"], f"from {row['lr']:.0e}", color=color, marker="")
            for row, color in zip(mine, shades(len(mine)), strict=True)
        ]
        where = task if len(cards) == 1 else f"{name.removeprefix('trimtab-')}, {task}"
        drawn.append(Panel(where, "% of the run", "learning rate", lines, is_log_y=True, y_range=(1e-6, 10.0)))
    columns = min(len(cards), 4) if len(cards) > 1 else 3  # more would be too narrow to read
    return grid(drawn, columns=columns, title="Learning rates that the cards used") if drawn else ""


def _look(name: str) -> dict[str, Any]:
    if name in STATIC or name.partition("+")[0] in shipped():
        return style(name)
    look = style(name)
    return look if look["color"] not in PALETTE else {**look, "dash": "-."}


def _span(rows: Sequence[Row]) -> tuple[float, float]:
    lrs = [row["lr"] for row in rows if row["lr"] is not None]
    return min(lrs), max(lrs)


def _number(value: float) -> str:
    if math.isinf(value):
        return "∞"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 1e4 else f"{value:.0e}".replace("e+", "e")
