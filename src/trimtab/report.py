"""Report: what a pilot did, as numbers for a logger, as sentences, and in a few words for a progress bar.

Letters: ``B`` members (1 here), ``S`` sites, ``K`` knobs, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trimtab.heat import told
from trimtab.helm import Decision, Helm, HelmState
from trimtab.judgement import HARMED, REASONS, UNSOUND
from trimtab.reasons import reason_for
from trimtab.trace import Row, Trace

SHOWN = ("trend_mid", "noise", "best_gap", "bad_share", "cos_update", "snr", "update_ratio")
"""The features that a logger gets; means over sites where a feature has sites."""


def metrics_of(
    helm: Helm, state: HelmState, now: Tensor, trace: Trace, counts: Mapping[str, float]
) -> dict[str, float]:
    """Give what a logger wants.

    Args:
        helm: the run's.
        state: the helm's.
        now: ``[S, K]`` the values of the step to come.
        trace: the decisions so far.
        counts: the pilot's own: steps ``skipped`` for gradients not finite, its share of the time (``overhead``).

    Returns:
        ``trimtab/<site>/<knob>``, ``trimtab/<site>/<knob>_position``, ``trimtab/decisions``, ``trimtab/restores``,
        ``trimtab/<count>``; of a controller that follows hypergradients, how many it ``clipped`` and ``refused``; and,
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
        **{f"trimtab/{name}": count for name, count in counts.items()},
    }
    mind = state["mind"] if isinstance(state["mind"], dict) else {}
    metrics |= {f"trimtab/{name}": float(mind["tame"][name].sum()) for name in ("clipped", "refused") if "tame" in mind}
    if trace.decisions:
        means = trace.decisions[-1][1].seen.features[0].detach().mean(0)
        metrics |= {f"trimtab/feature/{name}": float(means[helm.features.names.index(name)]) for name in SHOWN}
    return metrics


def brief_of(helm: Helm, now: Tensor, trace: Trace) -> str:
    """Say in a few words where the knobs are.

    Args:
        helm: the run's.
        now: ``[S, K]`` the values of the step to come.
        trace: the decisions so far.

    Returns:
        Each knob's value, or its least and greatest over sites, with an arrow where the last decision moved it, and how
        often the guard went back.
    """
    last = trace.decisions[-1][1] if trace.decisions else None
    moved = now.new_zeros(len(helm.panel)) if last is None else (last.position - last.seen.position)[0].detach().mean(0)
    words = []
    for k, name in enumerate(helm.panel.names):
        low, high = told(float(now[:, k].min())), told(float(now[:, k].max()))
        arrow = "↑" if moved[k] > 0 else "↓" if moved[k] < 0 else ""
        words.append(f"{name} {low if low == high else f'{low}…{high}'}{arrow}")
    back = f" · back {trace.restores}×" if trace.restores else ""
    return " ".join(words) + back


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


def _turns(decision: Decision, before: Decision | None, helm: Helm, step: int, sites: Sequence[str]) -> list[str]:
    """Give one text a site and knob that was turned, or that its schedule carried on since the last decision."""
    used, old, new = (
        part[0].detach() for part in (decision.seen.signals.values, decision.seen.position, decision.position)
    )
    states = [{"values": helm.panel.from_unit(place)[None]} for place in (old, new)]
    now, then = (helm.values_at(state, at)[0] for state, at in zip(states, (step, step + 1), strict=True))
    then = _carried(helm, used, now, then)
    texts = []
    for s, site in enumerate(sites):
        for k, name in enumerate(helm.panel.names):
            place = name if len(sites) == 1 else f"{site}.{name}"
            if float(old[s, k]) != float(new[s, k]):
                why = f"because {reason_for(helm.controller, helm.panel, helm.features, decision, before, s, k)}"
                texts.append(f"{place} {told(float(used[s, k]))} → {told(float(then[s, k]))}  {why}")
            elif (was := _carried_from(helm, before, s, k)) not in (None, float(used[s, k])):
                texts.append(f"{place} {told(was or 0.0)} → {told(float(used[s, k]))}  follows its schedule")
    return texts


def _carried(helm: Helm, used: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """``[S, K]``: change what was used as the knob was moved; a schedule, or the user, may have moved it too."""
    columns = []
    for k, knob in enumerate(helm.panel):
        u, a, b = used[:, k], now[:, k], then[:, k]
        one = 1 - (1 - u) * (1 - b) / (1 - a) if knob.scale == "one_minus_log" else u * b / a
        columns.append(torch.where(u == a, b, u + b - a if knob.scale == "linear" else one))
    return torch.stack(columns, -1)


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
    if row["reason"] == REASONS[HARMED]:
        return f"restore: {row['reason']}; back to the first weights, at the lr found since"
    is_unsound = row["reason"] == REASONS[UNSOUND]
    text = f"restore: {row['reason']}; {'on from it' if is_unsound else 'back to the last good weights'}"
    if "lr" not in helm.panel.names or decision.verdict is None:
        return text
    cut = float(decision.verdict.cut[0])
    return f"{text}, lr there × {cut:.2g}" if cut < 1 else f"{text}, lr as it was"
