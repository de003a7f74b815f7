"""Logbook: one run as one page that needs no other: losses, knobs, what the guard did and why, what it all cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trimtab.charts import PALETTE, Line, Mark, Panel, chart
from trimtab.heat import Heat, heat_map
from trimtab.templates import render, save_page
from trimtab.trace import Header, Row

MOST_LINES = 8  # sites that are drawn as lines; more are shown as a map only
GHOST = "#8c959f"


class Recorded(Protocol):
    """What a page is made of: a live :class:`trimtab.trace.Trace`, or a :class:`Record` read from a file."""

    @property
    def header(self) -> Header:
        """What holds for the whole run."""
        ...

    @property
    def rows(self) -> Iterable[Row]:
        """One row a decision and site."""
        ...


@dataclass(frozen=True)
class Record:
    """A finished trace.

    Attributes:
        header: what holds for the whole run.
        rows: one a decision and site.
    """

    header: Header
    rows: Sequence[Row]


def write_report(trace: Recorded, path: str | Path, overhead: str = "") -> None:
    """Write one run as one self-contained HTML page.

    Args:
        trace: the run.
        path: where to; replaced as a whole or not at all.
        overhead: a sentence on what the pilot cost, known of a live run only.

    Raises:
        TraceError: the page cannot be written.
        ImportError: matplotlib or jinja2 is not installed: ``pip install 'trimtab[report]'``.
    """
    from markupsafe import Markup

    header, rows = trace.header, list(trace.rows)
    by_step = list({row["step"]: row for row in reversed(rows)}.values())[::-1]
    events = [row for row in by_step if row["event"]]
    drawn = [("Training loss", _loss_chart(by_step, events))] if by_step else []
    for name in header.knobs if rows else ():
        if len(header.sites) > 1:
            drawn.append(_knob_map(header, rows, by_step, name, events))
        if len(header.sites) <= MOST_LINES:
            drawn.append((f"{name} by site", _knob_chart(header, rows, name, events)))
    drawn += [("Position", _position_chart(header, rows))] if rows and len(header.sites) <= MOST_LINES else []
    fields: dict[str, Any] = {
        "title": f"Run under the controller {header.controller}",
        "lead": _lead(header, by_step, events),
        "overhead": overhead,
        "charts": [(title, Markup(svg)) for title, svg in drawn],  # our own drawings, already escaped
        "events": events,
        "note": [(name, value) for name, value in header.note.items() if value is not None],
    }
    save_page(Path(path), render("run.html", fields))


def _lead(header: Header, by_step: Sequence[Row], events: Sequence[Row]) -> str:
    if not by_step:
        return "The run ended before its first decision."
    losses = [row["loss"] for row in by_step if row["loss"] is not None]
    course = f"; the loss went from {losses[0]:.4g} to {losses[-1]:.4g}" if losses else ""
    sites = f"{len(header.sites)} site{'s' * (len(header.sites) > 1)}"
    count = f"{len(events) or 'no'} event{'s' * (len(events) != 1)}"
    return (
        f"{len(by_step)} decisions up to step {by_step[-1]['step']}, knobs {', '.join(header.knobs)} at {sites}"
        f"{course}; {count} of the guard."
    )


def _marks(events: Sequence[Row], field: str) -> list[Mark]:
    return [
        Mark(
            row["step"],
            row[field],
            f"guard: {row['event']}",
            hint=f"step {row['step']}, {row['event']}: {row['reason']}",
        )
        for row in events
    ]


def _loss_chart(by_step: Sequence[Row], events: Sequence[Row]) -> str:
    steps = [row["step"] for row in by_step]
    losses = [_number(row["loss"]) for row in by_step]
    lines = [Line(steps, losses, "training, mean since the last decision")]
    measured = [row for row in by_step if row["val_loss"] is not None]
    if measured:
        values = [row["val_loss"] for row in measured]
        lines.append(Line([row["step"] for row in measured], values, "validation", color=PALETTE[1], marker="o"))
    is_log = all(value > 0 for line in lines for value in line.y if math.isfinite(value))
    marks = _marks(events, "loss")
    return chart(Panel("", "step", "loss", lines, marks, is_log_y=is_log))


def _knob_chart(header: Header, rows: Sequence[Row], knob: str, events: Sequence[Row]) -> str:
    lines = [*_ghost(header, rows, knob), *_by_site(header, rows, knob)]
    is_log = all(value > 0 for line in lines for value in line.y if math.isfinite(value))
    marks = _marks(events, knob)
    return chart(Panel("", "step", knob, lines, marks, is_log_y=is_log))


def _ghost(header: Header, rows: Sequence[Row], knob: str) -> list[Line]:
    """Draw what the wrapped schedule alone would have set, where there is one: once where it is one for all sites."""
    field = f"schedule_{knob}"
    if field not in rows[0]:
        return []
    found = _by_site(header, rows, field)
    lines = [found[0]] if all(line.y == found[0].y for line in found) else found
    return [Line(line.x, line.y, _alone(line.label, lines), color=GHOST, dash=":", width=2.2) for line in lines]


def _alone(site: str, lines: Sequence[Line]) -> str:
    return "the schedule alone" if len(lines) == 1 else f"{site}: the schedule alone"


def _knob_map(
    header: Header, rows: Sequence[Row], by_step: Sequence[Row], knob: str, events: Sequence[Row]
) -> tuple[str, str]:
    """Give the map of a knob, and its title: of its values or, around a schedule, of what they are times its own."""
    steps, scheduled = [row["step"] for row in by_step], f"schedule_{knob}"
    found = {(row["site"], row["step"]): row for row in rows}
    is_factor = all(row.get(scheduled) for row in rows)

    def value(site: str, step: int) -> float:
        row = found.get((site, step), {})
        return _number(row.get(knob)) / (row[scheduled] if is_factor and row else 1.0)

    values = [[value(site, step) for step in steps] for site in header.sites]
    title = f"{knob} as a multiple of the schedule's, site by site" if is_factor else f"{knob}, site by site"
    marks = [(row["step"], f"{row['event']}: {row['reason']}") for row in events]
    return title, heat_map(Heat(title, header.sites, steps, values, marks))


def _position_chart(header: Header, rows: Sequence[Row]) -> str:
    lines: list[Line] = []
    for at, knob in enumerate(header.knobs):
        dash = ("-", "--", ":", "-.")[at % 4]
        prefix = f"{knob} " if len(header.knobs) > 1 else ""
        lines += _by_site(header, rows, f"position_{knob}", dash, prefix)
    return chart(Panel("", "step", "place in the knob's range", lines, y_range=(-0.03, 1.03)))


def _by_site(header: Header, rows: Sequence[Row], field: str, dash: str = "-", prefix: str = "") -> list[Line]:
    lines = []
    for at, site in enumerate(header.sites):
        mine = [row for row in rows if row["site"] == site]
        color, style = PALETTE[at % len(PALETTE)], dash if at < len(PALETTE) else "--"
        values = [_number(row[field]) for row in mine]
        lines.append(Line([row["step"] for row in mine], values, prefix + site, color=color, dash=style))
    return lines


def _number(value: float | None) -> float:
    return math.nan if value is None else value
