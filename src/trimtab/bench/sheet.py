"""Sheet: the one HTML page of a bench: tables of the same columns, charts, how to read them, where rows are from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.templates import render, save_page


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
        title: its heading.
        note: a sentence or two below.
        table: rows of cells.
        chart: an ``<svg>`` element.
        level: of the heading.
    """

    title: str
    note: str = ""
    table: Sequence[Sequence[str]] = field(default=())
    chart: str = ""
    level: int = 2


def write_sheet(
    path: Path,
    title: str,
    lead: str,
    heads: Sequence[tuple[str, str]],
    parts: Sequence[Part],
    rows: Sequence[Mapping[str, Any]],
) -> Path:
    """Write the page.

    Args:
        path: where to; replaced as a whole or not at all.
        title: of the page.
        lead: what it asks.
        heads: names and meanings of the tables' columns.
        parts: in their order.
        rows: say by commit, machine and command where they are from.

    Returns:
        The path.

    Raises:
        TraceError: it cannot be written.
        ImportError: jinja2 is not installed.
    """
    from markupsafe import Markup

    shown = [{**vars(part), "chart": Markup(part.chart)} for part in parts]
    origin = {f"{name}s": sorted({row[name] for row in rows}) for name in ("commit", "machine", "command")}
    return save_page(
        path, render("bench.html", {"title": title, "lead": lead, "heads": heads, "parts": shown, **origin})
    )
