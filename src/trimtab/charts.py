"""Charts: lines with bands and marks as SVG texts that stand inside a page.

All share one look: a palette that the colour-blind can tell apart (Okabe & Ito 2008), a light ground, text as text. Ids
carry a digest of the picture, so that charts do not clash on a page. matplotlib is imported when the first is drawn.
"""

from __future__ import annotations

import hashlib
import html
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#595959")
INK, FAINT = "#24292f", "#d8dee4"
WIDE, HIGH = 9.2, 3.9  # inches of a single chart


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        x: places; any length, 0 included.
        y: values; where not finite the line has a gap.
        label: its name in the legend; "" keeps it out.
        low: the band's lower edge; None without a band.
        high: the upper one.
        color: any CSS hexadecimal colour.
        dash: matplotlib's: "-", "--", ":", "-.".
        marker: matplotlib's: "o", "s", ...; "" for none.
        width: points.
    """

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    color: str = PALETTE[0]
    dash: str = "-"
    marker: str = ""
    width: float = 1.6


@dataclass(frozen=True)
class Mark:
    """Something that happened.

    Attributes:
        x: where.
        y: the height; None: at the upper edge.
        label: its name in the legend, once for all marks with the same; "" keeps it out.
        color: any CSS hexadecimal colour.
        shape: matplotlib's marker.
        hint: what is told where the pointer rests on it.
    """

    x: float
    y: float | None = None
    label: str = ""
    color: str = "#B00020"
    shape: str = "X"
    hint: str = ""


@dataclass(frozen=True)
class Panel:
    """One coordinate system.

    Attributes:
        title: above it; "" for none.
        x_label: what the places are, with a unit.
        y_label: what the values are, with a unit.
        lines: drawn in order.
        marks: drawn above the lines.
        is_log_x: a logarithmic axis; places must be above 0.
        is_log_y: likewise; values that are not are left out.
        guide: a height with its name: a thin dashed line; None for none.
        y_range: the axis's ends; None takes what the lines need.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    is_log_x: bool = False
    is_log_y: bool = False
    guide: tuple[float, str] | None = None
    y_range: tuple[float, float] | None = None


def chart(panel: Panel, *, size: tuple[float, float] = (WIDE, HIGH)) -> str:
    """Draw one panel, its legend at the right.

    Args:
        panel: what is drawn.
        size: inches.

    Returns:
        An ``<svg>`` element.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> "<svg" in chart(Panel("Loss", "step", "nats", [Line([1, 2], [3.0, 2.0])]))
        True
    """
    with _matplotlib().rc_context(_look()):
        figure, axes = _figure(size, 1, 1)
        _draw(axes[0], panel)
        handles, labels = _legend_entries(axes)
        if labels:
            axes[0].legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)
        return _svg(figure, panel.title or panel.y_label)


def grid(panels: Sequence[Panel], *, columns: int = 3, title: str = "", height: float = 2.3) -> str:
    """Draw small panels side by side; they share one legend, at the bottom.

    Args:
        panels: at least one; give all the same `y_range` to compare heights.
        columns: panels a row.
        title: what the whole shows, for those who cannot see it.
        height: inches of a row.

    Returns:
        An ``<svg>`` element.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = math.ceil(len(panels) / columns)
    with _matplotlib().rc_context(_look()):
        figure, axes = _figure((WIDE, height * rows + 0.45), rows, columns)
        for at, ax in enumerate(axes):
            if at >= len(panels):
                ax.set_visible(False)
                continue
            _draw(ax, panels[at])
            if at % columns:
                ax.set_ylabel("")
            if at + columns < len(panels):
                ax.set_xlabel("")
        handles, labels = _legend_entries(axes[: len(panels)])
        if labels:
            longest = max(map(len, labels))
            wide = 6 if longest < 18 else 4 if longest < 27 else 3
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), wide))
        return _svg(figure, title or panels[0].title)


def shades(count: int) -> list[str]:
    """Give colours from dark to light for what has an order, all readable on white."""
    cm = _matplotlib().colormaps["viridis"]
    places = [0.0] if count == 1 else [0.82 * i / (count - 1) for i in range(count)]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in cm(place)[:3]) for place in places]


def check() -> None:
    """Say at once what is missing, before anything long is begun.

    Raises:
        ImportError: matplotlib is not installed.
    """
    _matplotlib()


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("Charts need matplotlib, which is not installed: pip install 'trimtab[report]'.") from error
    return matplotlib


def _figure(size: tuple[float, float], rows: int, columns: int) -> tuple[Any, list[Any]]:
    """Make a figure that no global state knows of."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(rows, columns, squeeze=False).ravel().tolist()


def _look() -> dict[str, Any]:
    return {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
        "font.size": 9.5,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": "#8c959f",
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "legend.handlelength": 2.2,
        "svg.fonttype": "none",
        "svg.hashsalt": "trimtab",
        "path.simplify": True,
    }


def _draw(ax: Any, panel: Panel) -> None:
    if panel.is_log_x:
        ax.set_xscale("log")
    if panel.is_log_y:
        ax.set_yscale("log", nonpositive="mask")
    for line in panel.lines:
        _draw_line(ax, line)
    if panel.guide is not None:
        ax.axhline(panel.guide[0], color="#57606a", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        ax.annotate(
            panel.guide[1],
            (1, panel.guide[0]),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8,
            color="#57606a",
        )
    if panel.y_range is not None:
        ax.set_ylim(*panel.y_range)
    named: set[str] = set()
    for mark in panel.marks:
        label = "" if mark.label in named else mark.label
        named.add(mark.label)
        _draw_mark(ax, mark, label)
    ax.set_title(panel.title)
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)


def _draw_line(ax: Any, line: Line) -> None:
    y = [value if math.isfinite(value) else math.nan for value in line.y]
    style = {"color": line.color, "linestyle": line.dash, "linewidth": line.width, "marker": line.marker or None}
    ax.plot(list(line.x), y, label=line.label or "_", markersize=4.5, solid_capstyle="round", **style)
    if line.low is not None and line.high is not None:
        ax.fill_between(list(line.x), list(line.low), list(line.high), color=line.color, alpha=0.13, linewidth=0)


def _draw_mark(ax: Any, mark: Mark, label: str) -> None:
    style = {"marker": mark.shape, "color": mark.color, "markersize": 6.5, "linestyle": "", "clip_on": False}
    style |= {"markeredgecolor": "white", "markeredgewidth": 0.6, "zorder": 5, "label": label or "_"}
    style |= {"gid": f"hint-{mark.hint.encode().hex()}"} if mark.hint else {}
    if mark.y is None:
        ax.plot([mark.x], [1.0], transform=ax.get_xaxis_transform(), **style)
    else:
        ax.plot([mark.x], [mark.y], **style)


def _legend_entries(axes: Iterable[Any]) -> tuple[list[Any], list[str]]:
    """Give each label once, in the order it was first drawn."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _hinted(match: re.Match[str]) -> str:
    return f"<g><title>{html.escape(bytes.fromhex(match[1]).decode())}</title>"


def _svg(figure: Any, title: str) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="hint-([0-9a-f]+)">', _hinted, svg)
    svg = re.sub(r'\s+xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    prefix = "c" + hashlib.sha256((svg + title).encode()).hexdigest()[:8]
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    # The page, not the picture, says how wide it is.
    svg = re.sub(r'^<svg width="[^"]*" height="[^"]*"', "<svg", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title, quote=True)}"', 1)
