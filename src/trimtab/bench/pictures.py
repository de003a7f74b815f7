"""Pictures: the charts of a race."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from trimtab.bench.race import Result
from trimtab.bench.rows import Row
from trimtab.bench.score import chosen_lr
from trimtab.charts import PALETTE, Line, Mark, Panel, chart, grid, shades
from trimtab.controllers.cards import DEFAULT, shipped
from trimtab.errors import TraceError
from trimtab.tasks import task_named
from trimtab.trace import read_trace

Traces = dict[str, list[dict[str, Any]]]
STYLES: dict[str, dict[str, Any]] = {  # open loop dashed, feedback solid, without a pilot dotted
    "constant": {"color": "#6e7781", "dash": "--", "marker": "s"},
    "cosine": {"color": "#56B4E9", "dash": "--", "marker": "o"},
    "wsd": {"color": "#0072B2", "dash": "--", "marker": "^"},
    "onecycle": {"color": "#CC79A7", "dash": "--", "marker": "D"},
    "linear": {"color": "#7d5a2b", "dash": "--", "marker": "v"},
    "plateau": {"color": "#E69F00", "dash": "-", "marker": "s"},
    "greedy": {"color": "#009E73", "dash": "-", "marker": "D"},
    "hypergradient": {"color": "#D55E00", "dash": "-", "marker": "o", "width": 2.2},
    "policy": {"color": "#332288", "dash": "-", "marker": "^", "width": 2.2},
    "random": {"color": "#999933", "dash": "-.", "marker": "x"},
}

OURS = ("#AA4499", "#882255", "#117733", "#44AA99", "#999933")  # the default card's colour, and the other cards'


class Event(NamedTuple):
    """What a guard did in a race.

    Attributes:
        contender: whose.
        lr: its initial learning rate.
        seed: the run's.
        step: when.
        kind: "restore", "alarm" or "gave up".
        reason: why.
    """

    contender: str
    lr: str
    seed: int
    step: int
    kind: str
    reason: str


def style(contender: str) -> dict[str, Any]:
    """Give a contender's colour, dash and marker, the same on every page."""
    if contender in STYLES:
        return STYLES[contender]
    if contender.startswith("plain-"):
        return {**style(contender.removeprefix("plain-")), "color": "#24292f", "dash": ":", "marker": "x"}
    if contender in shipped():
        color = OURS[0] if contender == DEFAULT else OURS[1 + shipped().index(contender) % (len(OURS) - 1)]
        return {"color": color, "dash": "-", "marker": "*", "width": 2.4}
    if "+" in contender:
        return {**style(contender.partition("+")[0]), "dash": ":"}
    base = STYLES.get(contender.partition("@")[0])
    at = sum(map(ord, contender)) % len(PALETTE)
    return {**base, "dash": "-."} if base else {"color": PALETTE[at], "dash": "-", "marker": "P"}


def sensitivity(result: Result) -> str:
    """Draw the final validation loss against the initial learning rate, one line a contender."""
    lines, marks = [], []
    for name in _names(result):
        found = [[row for row in _rows(result, name) if row.lr == lr] for lr in result.plan.lrs]
        means = [_mean(row.val_loss for row in rows) for rows in found]
        low, high = _band([[row.val_loss for row in rows] for rows in found])
        lines.append(Line(result.plan.lrs, means, name, low, high, **style(name)))
        for lr, mean, rows in zip(result.plan.lrs, means, found, strict=True):
            if any(row.is_diverged for row in rows):
                marks.append(Mark(lr, mean if math.isfinite(mean) else None, "a run diverged"))
    labels = ("initial learning rate", "final validation loss")
    return chart(Panel("", *labels, lines, marks, is_log_x=True, is_log_y=True, guide=_guide(result)), size=(9.2, 4.6))


def curves(result: Result) -> str:
    """Draw the validation loss of each contender at its chosen learning rate."""
    lines = []
    for name in _names(result):
        lr = chosen_lr(result.rows, name)
        look = {**style(name), "marker": ""}
        lines.append(_curve([row for row in _rows(result, name) if row.lr == lr], f"{name}, lr {lr:g}", look))
    panel = Panel("", "step", "validation loss", lines, is_log_y=True, guide=_guide(result))
    return chart(panel, size=(9.2, 4.2))


def panels(result: Result) -> str:
    """Draw the validation loss of each contender from every learning rate, in small panels of one height."""
    colors = shades(len(result.plan.lrs))
    shown = []
    for name in _names(result):
        lines = [
            _curve([row for row in _rows(result, name) if row.lr == lr], f"lr {lr:g}", {"color": color})
            for lr, color in zip(result.plan.lrs, colors, strict=True)
        ]
        shown.append((name, lines))
    ends = _ends([value for _, lines in shown for line in lines for value in line.y])
    guide = (_guide(result)[0], "")
    drawn = [
        Panel(name, "step", "validation loss", lines, is_log_y=True, guide=guide, y_range=ends) for name, lines in shown
    ]
    return grid(drawn, title="Validation loss of each contender from every initial learning rate")


def trajectories(result: Result, traces: Traces) -> str:
    """Draw the learning rate that each contender used, first seed, in small panels; "" without a trace."""
    colors = shades(len(result.plan.lrs))
    drawn = []
    for name in _names(result):
        lines: list[Line] = []
        marks: list[Mark] = []
        for lr, color in zip(result.plan.lrs, colors, strict=True):
            for row in _rows(result, name):
                if row.lr == lr and row.seed == result.plan.seeds[0]:
                    _add_trajectory(traces.get(row.key, []), f"lr {lr:g}", color, lines, marks)
        if lines:
            drawn.append((name, lines, marks))
    if not drawn:
        return ""
    ends = _ends(
        [max(value, min(result.plan.lrs) / 100) for _, lines, _ in drawn for line in lines for value in line.y]
    )
    made = [
        Panel(name, "step", "learning rate", lines, marks, is_log_y=True, y_range=ends) for name, lines, marks in drawn
    ]
    return grid(made, title="Learning rate that each contender used")


def read_traces(result: Result) -> Traces:
    """Read the decisions of every run that has a trace, by the row's key."""
    found = {}
    for row in result.rows:
        try:
            found[row.key] = read_trace(result.folder / "traces" / f"{row.key}.jsonl")[1]
        except TraceError:
            continue  # without a pilot there is none
    return found


def events(result: Result, traces: Traces) -> list[Event]:
    """List what the guards did, by contender, learning rate, seed and step."""
    return [
        Event(row.contender, f"{row.lr:g}", row.seed, entry["step"], entry["event"], entry["reason"])
        for row in sorted(result.rows, key=lambda row: (row.contender, row.lr, row.seed))
        for entry in _once(traces.get(row.key, []))
        if entry["event"]
    ]


def _add_trajectory(
    entries: Sequence[dict[str, Any]], label: str, color: str, lines: list[Line], marks: list[Mark]
) -> None:
    for at, site in enumerate(dict.fromkeys(entry["site"] for entry in entries)):
        mine = [entry for entry in entries if entry["site"] == site]
        values = [math.nan if entry["lr"] is None else entry["lr"] for entry in mine]
        dash = ("-", "--", ":", "-.")[at % 4]
        lines.append(Line([entry["step"] for entry in mine], values, label, color=color, dash=dash, width=1.4))
    for entry in _once(entries):
        if entry["event"] and entry["lr"] is not None:
            marks.append(Mark(entry["step"], entry["lr"], f"guard: {entry['event']}"))


def _once(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give one entry a step: an event belongs to the run, not to a site."""
    return list({entry["step"]: entry for entry in reversed(entries)}.values())[::-1]


def _curve(rows: Sequence[Row], label: str, look: dict[str, Any]) -> Line:
    steps = [step for step, _ in rows[0].curve]
    columns = [[row.curve[at][1] for row in rows] for at in range(len(steps))]
    low, high = _band(columns)
    return Line(steps, [_mean(column) for column in columns], label, low, high, **look)


def _mean(values: Any) -> float:
    every = list(values)
    return statistics.fmean(every) if all(map(math.isfinite, every)) else math.nan


def _band(columns: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    finite = [[value for value in column if math.isfinite(value)] or [math.nan] for column in columns]
    return [min(column) for column in finite], [max(column) for column in finite]


def _ends(values: Sequence[float]) -> tuple[float, float] | None:
    shown = [value for value in values if math.isfinite(value) and value > 0]
    return (0.7 * min(shown), 1.6 * max(shown)) if shown else None


def _guide(result: Result) -> tuple[float, str]:
    target = task_named(result.plan.task).reference.target
    return target, f"target {target:g}"


def _names(result: Result) -> list[str]:
    return [contender.name for contender in result.plan.contenders]


def _rows(result: Result, name: str) -> list[Row]:
    return [row for row in result.rows if row.contender == name]
