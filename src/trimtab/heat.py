"""Heat: a map of values by row and step as an SVG text; each cell tells its number where the pointer rests on it."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.charts import INK, PALETTE, shades

LEFT, WIDE, TALL, HEAD, FOOT = 170, 940, 20, 26, 58  # user units; text is 13 of them
MOST_CELLS, MOST_COLUMNS = 6_000, 120
SHADES = 32


@dataclass(frozen=True)
class Heat:
    """What a map shows.

    Attributes:
        title: what the values are, for those who cannot see them.
        rows: their names, from above.
        steps: the columns' places, ascending.
        values: one a row and step; what is not finite stays blank.
        marks: steps at which something happened, with what it was.
    """

    title: str
    rows: Sequence[str]
    steps: Sequence[int]
    values: Sequence[Sequence[float]]
    marks: Sequence[tuple[int, str]] = ()


def heat_map(heat: Heat) -> str:
    """Draw a map, darkest where values are least; on a log scale where all of them are above 0.

    Where there are many columns each stands for several steps, and shows the last of them.

    Args:
        heat: what is drawn; at least one row and one step.

    Returns:
        An ``<svg>`` element without scripts, that loads nothing.

    Example:
        >>> "1.0e-3" in heat_map(Heat("lr", ["0", "1"], [1, 2], [[1e-3, 2e-3], [1e-3, 4e-3]]))
        True
    """
    count = min(len(heat.steps), MOST_COLUMNS, max(20, MOST_CELLS // len(heat.rows)))
    ends = [(i + 1) * len(heat.steps) // count - 1 for i in range(count)]
    finite = [v for row in heat.values for v in row if math.isfinite(v)]
    is_log = bool(finite) and min(finite) > 0
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    wide = (WIDE - LEFT) / count
    colors = shades(SHADES)
    body = []
    for number, name in enumerate(heat.rows):
        y = HEAD + number * TALL
        body.append(f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{_short(name)}</text>')
        for i, end in enumerate(ends):
            value = heat.values[number][end]
            if not math.isfinite(value):
                continue
            color = colors[round((SHADES - 1) * _share(value, low, high, is_log))]
            hint = html.escape(f"{name}, step {heat.steps[end]}: {told(value)}")
            body.append(
                f'<rect x="{LEFT + i * wide:.2f}" y="{y}" width="{wide + 0.3:.2f}" height="{TALL - 2}" fill="{color}">'
                f"<title>{hint}</title></rect>"
            )
    bottom = HEAD + len(heat.rows) * TALL
    body += _marks(heat, ends, wide)
    body += _scale(heat, ends, wide, bottom, colors, (low, high))
    return (
        f'<svg role="img" aria-label="{html.escape(heat.title, quote=True)}" viewBox="0 0 {WIDE} {bottom + FOOT}" '
        f'font-family="DejaVu Sans, Verdana, Arial, sans-serif" font-size="13" fill="{INK}">{"".join(body)}</svg>'
    )


def _marks(heat: Heat, ends: Sequence[int], wide: float) -> list[str]:
    """Draw a triangle above the column that a mark's step fell into."""
    found = []
    for step, text in heat.marks:
        column = next((i for i, end in enumerate(ends) if heat.steps[end] >= step), len(ends) - 1)
        x = LEFT + (column + 0.5) * wide
        found.append(
            f'<path d="M{x - 7:.1f} 6h14l-7 13z" fill="{PALETTE[1]}"><title>{html.escape(f"step {step}: {text}")}'
            f"</title></path>"
        )
    return found


def _scale(
    heat: Heat, ends: Sequence[int], wide: float, bottom: int, colors: Sequence[str], span: tuple[float, float]
) -> list[str]:
    """Draw the steps below the map, and what the colours mean."""
    places = sorted({0, len(ends) // 2, len(ends) - 1})
    anchors = ["start", "middle", "end"] if len(places) == 3 else ["start", "end"][: len(places)]
    found = [
        f'<text x="{LEFT + (p + (0, 0.5, 1)[("start", "middle", "end").index(a)]) * wide:.1f}" y="{bottom + 17}" '
        f'text-anchor="{a}">{"step " if a == "start" else ""}{heat.steps[ends[p]]}</text>'
        for p, a in zip(places, anchors, strict=True)
    ]
    y = bottom + 34
    found += [
        f'<rect x="{LEFT + i * 6}" y="{y}" width="6.3" height="14" fill="{color}"/>' for i, color in enumerate(colors)
    ]
    found.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{told(span[0])}</text>')
    found.append(f'<text x="{LEFT + SHADES * 6 + 8}" y="{y + 12}">{told(span[1])}</text>')
    return found


def _share(value: float, low: float, high: float, is_log: bool) -> float:
    """Give a value's place between the ends, in [0, 1]; the middle where the ends are one."""
    if high <= low:
        return 0.5
    return math.log(value / low) / math.log(high / low) if is_log else (value - low) / (high - low)


def _short(name: str) -> str:
    """Give a row's name, its end where it is long, with the whole of it under the pointer."""
    text = name if len(name) <= 22 else "…" + name[-21:]
    return f"{html.escape(text)}<title>{html.escape(name)}</title>"


def told(value: float) -> str:
    """Give two significant digits, always with an exponent where a rate usually has one: 6.1e-4."""
    if value == 0 or 0.1 <= abs(value) < 1000:
        return f"{value:.3g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"
