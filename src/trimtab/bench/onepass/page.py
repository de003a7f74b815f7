"""Page: what a one-pass bench found, as a table, as JSON, and as one HTML file with the quality-cost frontier."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from trimtab.bench.onepass.suite import METHODS
from trimtab.bench.rows import plain
from trimtab.bench.sheet import Part, write_sheet
from trimtab.charts import INK, PALETTE, Line, Mark, Panel, grid

DRAWS, SHAPES = 1000, "osD^vX*h"
KEPT, BEST = "random, validation kept", "random, best of three"
HEADS = (
    ("method", "what is turned, every T steps, with i terms of the series"),
    ("NaN", "runs that ended at no number; the other columns are without them"),
    ("runs", "how many; of the best of three, groups"),
    ("mean", "of the final scores on the test split; ± is its deviation over 1,000 bootstraps"),
    ("median", "likewise"),
    ("best", "the lowest"),
    ("cost", "processor seconds over plain training's, timed in turn in one process; – where it was not timed"),
)
AUTHORS: tuple[
    tuple[str, float, float, float], ...
] = (  # (cost, mean, median) of the authors' corrected code on Energy, 100 starts of their own and their split
    ("T=10 i=5", 2.3, 1.05, 0.38),
    ("T=10 i=1", 2.0, 1.21, 0.54),
    ("T=5 i=5", 3.2, 0.40, 0.226),
    ("T=5 i=1", 2.5, 0.65, 0.286),
    ("WD+LR", 2.13, 2.05, 1.80),
    ("WD+HDLR+M", 2.40, 0.57, 0.306),
    ("through 5 steps", 2.40, 1.07, 0.41),
)
"""github.com/rmclarke/OptimisingWeightUpdateHyperparameters, the version after the conference, run anew in 2026; the
last three of 200 starts."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a method did.

    Attributes:
        method: its name.
        runs: how many.
        lost: that ended at no number.
        mean: of the others' errors.
        mean_deviation: of that mean over bootstraps.
        median: of the errors.
        median_deviation: of that median.
        best: the lowest error.
        cost: over plain training's; None where it was not timed.
    """

    method: str
    runs: int
    lost: int
    mean: float
    mean_deviation: float
    median: float
    median_deviation: float
    best: float
    cost: float | None


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Score rows, in the suite's order.

    Args:
        rows: of one table.

    Returns:
        One outcome a method that has runs.
    """
    costs = {row["method"]: row["ratio"] for row in rows if "ratio" in row}
    found = []
    order = {method.name: place for place, method in enumerate(METHODS)}
    for row in sorted(rows, key=lambda row: order.get(row["method"], len(order))):
        if "finals" in row:
            found.append(_outcome(row["method"], row["finals"], costs.get(row["method"])))
        if "held_out" in row and row["method"] == KEPT:
            cost = costs.get(row["method"])
            found.append(_outcome(BEST, best_of_three(row), None if cost is None else 3 * cost))
    return found


def best_of_three(row: Row) -> list[float | None]:
    """Give the finals of the run with the lowest held-out score in each group of three: "Random (3-batched)".

    Args:
        row: with `finals` and `held_out`; starts are drawn at random, so that neighbours make random groups.

    Returns:
        One final a whole group; None where all three were lost.
    """
    finals, scores = row["finals"], row["held_out"]
    groups = [range(first, first + 3) for first in range(0, len(finals) - 2, 3)]
    return [finals[min(group, key=lambda n: math.inf if scores[n] is None else scores[n])] for group in groups]


def _outcome(method: str, finals: Sequence[float | None], cost: float | None) -> Outcome:
    errors = torch.tensor([x for x in finals if x is not None], dtype=torch.float64)
    if not len(errors):
        nan = float("nan")
        return Outcome(method, len(finals), len(finals), nan, nan, nan, nan, nan, None)
    rng = torch.Generator().manual_seed(0)
    draws = errors[torch.randint(len(errors), (DRAWS, len(errors)), generator=rng)]
    means, medians = draws.mean(1), draws.median(1).values
    return Outcome(
        method,
        len(finals),
        len(finals) - len(errors),
        float(errors.mean()),
        float(means.std()),
        statistics.median(errors.tolist()),
        float(medians.std()),
        float(errors.min()),
        cost,
    )


def cells(outcome: Outcome) -> list[str]:
    """Give an outcome as a table's cells, in the order of :data:`HEADS`."""
    return [
        outcome.method,
        str(outcome.lost),
        str(outcome.runs),
        f"{_short(outcome.mean)} ± {_short(outcome.mean_deviation)}",
        f"{_short(outcome.median)} ± {_short(outcome.median_deviation)}",
        _short(outcome.best),
        "–" if outcome.cost is None else f"{outcome.cost:.2f}",
    ]


def as_markdown(rows: Sequence[Row]) -> str:
    """Give the table as Markdown."""
    lines = ["| " + " | ".join(name for name, _ in HEADS) + " |", "|" + "---|" * len(HEADS)]
    return "\n".join(lines + ["| " + " | ".join(cells(outcome)) + " |" for outcome in outcomes(rows)])


def as_json(rows: Sequence[Row]) -> str:
    """Give the outcomes as JSON; what is not finite is null."""
    return json.dumps(plain({"outcomes": [asdict(outcome) for outcome in outcomes(rows)]}), indent=2)


def frontier(rows: Sequence[Row]) -> str:
    """Draw mean and median error against cost, the authors' own points beside; "" where nothing was timed."""
    timed = [outcome for outcome in outcomes(rows) if outcome.cost is not None and outcome.cost > 0]
    if not timed:
        return ""
    panels = []
    for place, what in enumerate(("mean", "median")):
        marks = [
            Mark(o.cost or 0.0, getattr(o, what), o.method, PALETTE[n % len(PALETTE)], SHAPES[n // len(PALETTE)])
            for n, o in enumerate(timed)
        ]
        if any("energy" in row["table"] for row in rows):
            marks += [
                Mark(point[1], point[2:][place], f"authors: {point[0]}", INK, shape)
                for point, shape in zip(AUTHORS, "P*Xphd8", strict=True)
            ]
        panels.append(
            Panel(what, "cost over plain training", f"{what} test error", [Line([], [])], marks, is_log_y=True)
        )
    return grid(panels, columns=2, title="Quality against cost", height=4.2)


def write_page(rows: Sequence[Row], path: Path) -> Path:
    """Write the page.

    Args:
        rows: of one table.
        path: where to; replaced as a whole or not at all.

    Returns:
        The path.

    Raises:
        TraceError: it cannot be written.
        ImportError: matplotlib or jinja2 is not installed.
    """
    lead = (
        f"Runs that begin with hyperparameters drawn at random, up to {max(row['runs'] for row in rows)} a method, the "
        "same for all: who ends well, and at what cost?"
    )
    parts = [Part("Result", table=[cells(outcome) for outcome in outcomes(rows)])]
    if chart := frontier(rows):
        parts.append(Part("Quality against cost", chart=chart))
    return write_sheet(path, f"One-pass: {rows[0]['table']}", lead, HEADS, parts, rows)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.1e}"
