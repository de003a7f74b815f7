"""Report: what a pilot did, as numbers for a logger, as sentences, and as one page.

Letters: ``B`` members (1 here), ``S`` sites, ``K`` knobs, ``F`` features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from trimtab.charts import PALETTE, Line, Mark, Panel, chart
from trimtab.helm import Decision, Helm, HelmState
from trimtab.reasons import reason_for
from trimtab.templates import render, save_page
from trimtab.trace import Header, Row, Trace

SHOWN = ("trend_mid", "noise", "best_gap", "bad_share", "cos_update", "snr", "update_ratio")
"""The features that a logger gets; means over sites where a feature has sites."""


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


def metrics_of(helm: Helm, state: HelmState, now: Tensor, trace: Trace, *, skipped: int) -> dict[str, float]:
    """Give what a logger wants.

    Args:
        helm: the run's.
        state: the helm's.
        now: ``[S, K]`` the values of the step to come.
        trace: the decisions so far.
        skipped: steps that were none, since gradients were not finite.

    Returns:
        ``trimtab/<site>/<knob>``, ``trimtab/<site>/<knob>_position``, ``trimtab/decisions``, ``trimtab/restores``,
        ``trimtab/skipped``; of a controller that follows hypergradients, how many it ``clipped`` and ``refused``; and,
        once there was a decision, ``trimtab/feature/<name>``.
    """
    metrics: dict[str, float] = {}
    places = zip(trace.header.sites, now.tolist(), state["position"][0].tolist(), strict=True)
    for site, values, positions in places:
        for name, value, position in zip(helm.panel.names, values, positions, strict=True):
            metrics |= {f"trimtab/{site}/{name}": value, f"trimtab/{site}/{name}_position": position}
    metrics |= {
        "trimtab/decisions": float(trace.decided),
        "trimtab/restores": float(trace.restores),
        "trimtab/skipped": float(skipped),
    }
    mind = state["mind"] if isinstance(state["mind"], dict) else {}
    metrics |= {f"trimtab/{name}": float(mind[name].sum()) for name in ("clipped", "refused") if name in mind}
    if trace.decisions:
        means = trace.decisions[-1][1].seen.features[0].detach().mean(0)
        metrics |= {f"trimtab/feature/{name}": float(means[helm.features.names.index(name)]) for name in SHOWN}
    return metrics


def explanation(trace: Trace, helm: Helm, last: int) -> str:
    """Say in words what the last decisions did and why.

    Args:
        trace: the decisions so far; the last 64 are remembered.
        helm: the run's.
        last: how many decisions.

    Returns:
        One line a decision and turned knob, one a guard's event, the latest last.
    """
    decisions = list(trace.decisions)
    if not decisions:
        return "No decision has been made yet."
    lines: list[str] = []
    for at in range(max(0, len(decisions) - max(1, last)), len(decisions)):
        step, decision = decisions[at]
        before = decisions[at - 1][1] if at else None
        events = [row for row in trace.rows if row["step"] == step and row["event"]]
        if events:
            lines.append(f"step {step}  {_event_in_words(events[0], decision, helm)}")
        else:
            lines += [f"step {step}  {text}" for text in _turns(decision, before, helm, step, trace.header.sites)]
    return "\n".join(lines) or f"No knob was turned in the last {min(last, len(decisions))} decisions."


def write_report(trace: Recorded, path: str | Path) -> None:
    """Write one run as one self-contained HTML page.

    Args:
        trace: the run.
        path: where to; replaced as a whole or not at all.

    Raises:
        TraceError: the page cannot be written.
        ImportError: matplotlib or jinja2 is not installed: ``pip install 'trimtab[report]'``.
    """
    from markupsafe import Markup

    header, rows = trace.header, list(trace.rows)
    by_step = list({row["step"]: row for row in reversed(rows)}.values())[::-1]
    events = [row for row in by_step if row["event"]]
    drawn = [("Training loss", _loss_chart(by_step, events))] if by_step else []
    drawn += [(f"{name} by site", _knob_chart(header, rows, name, events)) for name in header.knobs if rows]
    drawn += [("Position", _position_chart(header, rows))] if rows else []
    fields: dict[str, Any] = {
        "title": f"Run under the controller {header.controller}",
        "lead": _lead(header, by_step, events),
        "charts": [(title, Markup(svg)) for title, svg in drawn],  # our own drawings, already escaped
        "events": events,
        "note": [(name, value) for name, value in header.note.items() if value is not None],
    }
    save_page(Path(path), render("run.html", fields))


def _turns(decision: Decision, before: Decision | None, helm: Helm, step: int, sites: Sequence[str]) -> list[str]:
    """Give one text a site and knob that was turned, or that its schedule carried on since the last decision."""
    used, old, new = (
        part[0].detach() for part in (decision.seen.signals.values, decision.seen.position, decision.position)
    )
    then = helm.values_at({"values": helm.panel.from_unit(new)[None]}, step + 1)[0]
    texts = []
    for s, site in enumerate(sites):
        for k, name in enumerate(helm.panel.names):
            place = name if len(sites) == 1 else f"{site}.{name}"
            if float(old[s, k]) != float(new[s, k]):
                why = f"because {reason_for(helm.controller, helm.panel, helm.features, decision, before, s, k)}"
                texts.append(f"{place} {_value(float(used[s, k]))} → {_value(float(then[s, k]))}  {why}")
            elif (was := _carried_from(helm, before, s, k)) not in (None, float(used[s, k])):
                texts.append(f"{place} {_value(was or 0.0)} → {_value(float(used[s, k]))}  follows its schedule")
    return texts


def _carried_from(helm: Helm, before: Decision | None, site: int, knob: int) -> float | None:
    """Give the value at the last decision, if nothing but the schedule has changed it since."""
    if helm.prior is None or before is None:
        return None
    if not torch.equal(before.position[0, site, knob], before.seen.position[0, site, knob]):
        return None
    return float(before.seen.signals.values[0, site, knob].detach())


def _event_in_words(row: Row, decision: Decision, helm: Helm) -> str:
    if row["event"] == "alarm":
        return f"alarm: {row['reason']}"
    if row["event"] == "gave up":
        return f"gave up: {row['reason']} again and again; back to the last good weights, the lr at its lowest"
    text = f"restore: {row['reason']}; back to the last good weights"
    if "lr" not in helm.panel.names or decision.verdict is None:
        return text
    cut = float(decision.verdict.cut[0])
    return f"{text}, lr there × {cut:.2g}" if cut < 1 else f"{text}, lr as it was"


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


def _loss_chart(by_step: Sequence[Row], events: Sequence[Row]) -> str:
    steps = [row["step"] for row in by_step]
    losses = [_number(row["loss"]) for row in by_step]
    lines = [Line(steps, losses, "training, mean since the last decision")]
    measured = [row for row in by_step if row["val_loss"] is not None]
    if measured:
        values = [row["val_loss"] for row in measured]
        lines.append(Line([row["step"] for row in measured], values, "validation", color=PALETTE[1], marker="o"))
    is_log = all(value > 0 for line in lines for value in line.y if math.isfinite(value))
    marks = [Mark(row["step"], row["loss"], f"guard: {row['event']}") for row in events]
    return chart(Panel("", "step", "loss", lines, marks, is_log_y=is_log))


def _knob_chart(header: Header, rows: Sequence[Row], knob: str, events: Sequence[Row]) -> str:
    lines = _by_site(header, rows, knob)
    is_log = all(value > 0 for line in lines for value in line.y if math.isfinite(value))
    marks = [Mark(row["step"], row[knob], f"guard: {row['event']}") for row in events]
    return chart(Panel("", "step", knob, lines, marks, is_log_y=is_log))


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


def _value(value: float) -> str:
    """Give two significant digits, always with an exponent where a rate usually has one: 6.1e-4."""
    if value == 0 or 0.1 <= abs(value) < 1000:
        return f"{value:.3g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"
