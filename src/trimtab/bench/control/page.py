"""Page: what a control bench found, as tables, as JSON, and as one HTML file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.bench.control.scores import Standing, standings
from trimtab.bench.rows import plain
from trimtab.bench.sheet import Part, write_sheet
from trimtab.charts import PALETTE, Line, Mark, Panel, grid

Row = dict[str, Any]
SHAPES = "osD^vX*h"
HEADS = (
    ("contender", "who steers; tuned schedules begin every run with the learning rate that their search found, all "
     "others with the instance's own"),
    ("IQM", "interquartile mean over held-out instances of the regret, its mean over seeds: final test loss over the "
     "better tuned schedule's"),
    ("95 %", "its bootstrap interval, instances drawn anew"),
    ("median", "of all regrets"),
    ("90 %", "their 90th percentile"),
    ("worst", "the largest; ∞ where a run ended at no number"),
    ("lost", "runs whose validation loss ended a tenth above where it began, or at no number"),
    ("decisions", "that making the contender could spend, mean over seeds; whole runs of all members are played"),
    ("seconds", "of the processor that making it took, mean over seeds"),
)  # fmt: skip
MODES = {"decisions": "the same decisions", "seconds": "about the same seconds of teaching"}


def cells(standing: Standing) -> list[str]:
    """Give a standing as a table's cells, in the order of :data:`HEADS`."""
    low, high = standing.interval
    return [
        standing.contender,
        _short(standing.iqm),
        f"{_short(low)} – {_short(high)}",
        *(_short(value) for value in (standing.median, standing.ninety, standing.worst)),
        f"{standing.lost} of {standing.runs}",
        f"{standing.decisions:,.0f}",
        f"{standing.seconds:.0f}",
    ]


def tables(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Give a Markdown table for each task and budget."""
    found: dict[tuple[str, str], list[Standing]] = {}
    for standing in standings(rows):
        found.setdefault((standing.task, standing.mode), []).append(standing)
    head = ["| " + " | ".join(name for name, _ in HEADS) + " |", "|" + "---|" * len(HEADS)]
    return {key: "\n".join([*head, *(f"| {' | '.join(cells(s))} |" for s in mine)]) for key, mine in found.items()}


def as_markdown(rows: Sequence[Row]) -> str:
    """Give all tables, one under the other."""
    return "\n\n".join(f"{task}, {MODES[mode]}:\n\n{table}" for (task, mode), table in tables(rows).items())


def as_json(rows: Sequence[Row]) -> str:
    """Give the standings as JSON; what is not finite is null."""
    return json.dumps(plain({"standings": [asdict(standing) for standing in standings(rows)]}), indent=2)


def against_seconds(rows: Sequence[Row]) -> str:
    """Draw regret against seconds of teaching, a panel a task; a line joins a contender's two budgets."""
    found = [standing for standing in standings(rows) if standing.seconds > 0.5]
    names, panels = list(dict.fromkeys(standing.contender for standing in found)), []
    look = {name: (PALETTE[n % len(PALETTE)], SHAPES[n // len(PALETTE)]) for n, name in enumerate(names)}
    for task in dict.fromkeys(standing.task for standing in found):
        mine = [standing for standing in found if standing.task == task]
        lines = [
            Line([s.seconds for s in mine if s.contender == name], [s.iqm for s in mine if s.contender == name],
                 color=look[name][0])
            for name in names
        ]  # fmt: skip
        marks = [Mark(s.seconds, s.iqm, s.contender, *look[s.contender]) for s in mine]
        panels.append(
            Panel(
                task,
                "seconds of teaching",
                "regret, IQM",
                lines,
                marks,
                is_log_x=True,
                is_log_y=True,
                guide=(1.0, "tuned"),
            )
        )
    return grid(panels, columns=2, title="Regret against seconds of teaching", height=4.2) if panels else ""


def write_page(rows: Sequence[Row], path: Path) -> Path:
    """Write the page.

    Args:
        rows: of a bench.
        path: where to; replaced as a whole or not at all.

    Returns:
        The path.

    Raises:
        TraceError: it cannot be written.
        ImportError: matplotlib or jinja2 is not installed.
    """
    lead = (
        "Who steers best for the same number of decisions, and for the same seconds of teaching? Regret is the final "
        "test loss of a held-out run over that of the better tuned schedule on the same run: below 1 is better."
    )
    found = standings(rows)
    chart = against_seconds(rows)
    parts = [Part("Regret against seconds", "A line joins a contender's two budgets.", chart=chart)] if chart else []
    for task, mode in dict.fromkeys((s.task, s.mode) for s in found):
        mine = [cells(s) for s in found if (s.task, s.mode) == (task, mode)]
        parts.append(Part(f"{task}, {MODES[mode]}", table=mine))
    return write_sheet(path, "Control: who steers best", lead, HEADS, parts, rows)


def _short(value: float) -> str:
    return "∞" if value == float("inf") else f"{value:.3f}" if value < 10 else f"{value:.3g}"
