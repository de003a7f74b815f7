"""Helm: the middle of the house, one piece of code for both ends.

``Signals → Features → Guard → Controller → Panel.turn → values``, pure: the state comes in and goes out. The live end
(:class:`trimtab.pilot.Pilot`) and the simulated end (:func:`trimtab.rollout.rollout`) call :meth:`Helm.steer` at every
reading and :meth:`Helm.values_at` at every step, and differ only in what is before and behind.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``F`` features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.controller import Controller
from trimtab.copies import select
from trimtab.errors import OrderError
from trimtab.features import Features, Memory
from trimtab.guard import Guard, Verdict
from trimtab.judgement import FINE, HARMED, UNSOUND
from trimtab.knobs import Panel
from trimtab.signals import Observation, Signals

HelmState = dict[str, Any]
"""A tree of tensors, each with leading ``B``: position, values, move, memory, mind, guard, saved."""


@dataclass(frozen=True)
class Decision:
    """What came of one reading.

    Attributes:
        seen: what the controller saw.
        move: ``[B, S, K]`` what it asked for.
        position: ``[B, S, K]`` knobs after the panel's limits and the guard's cut, unit cube.
        verdict: what the guard said; None without a guard.
    """

    seen: Observation
    move: Tensor
    position: Tensor
    verdict: Verdict | None


class Helm:
    """Turns readings into knob values.

    Args:
        panel: the knobs.
        controller: decides.
        features: shows the controller the run.
        guard: brings members back that went off the rails; None: nobody does.
        horizon: planned optimizer steps, or None where undeclared.

    Raises:
        OrderError: the controller needs a horizon and none was declared.
    """

    def __init__(
        self, panel: Panel, controller: Controller, features: Features, guard: Guard | None, *, horizon: int | None
    ) -> None:
        if "horizon" in controller.needs and horizon is None:
            raise OrderError(f"Controller {controller.name!r} follows a schedule and needs `horizon=` (planned steps).")
        self.panel, self.controller, self.features, self.guard = panel, controller, features, guard
        self.horizon = horizon
        self.prior = controller.prior(panel, horizon)  # [T, K] | None
        self._lr = panel.names.index("lr") if "lr" in panel.names else None

    def start(self, values: Tensor) -> HelmState:
        """Give the state before the first step.

        Args:
            values: ``[B, S, K]`` knob values to begin with; they stay as they are until a move turns them.

        Returns:
            The state.
        """
        members, sites, _ = values.shape
        values = values.to(torch.float64)
        state: HelmState = {
            "position": self.panel.to_unit(values).clamp(0, 1),
            "values": values,
            "move": torch.zeros_like(values),
            "memory": self.features.start(members),
            "mind": self.controller.start(self.panel, members, sites),
        }
        if self.guard is not None:
            state["saved"] = dict(state)
            state["guard"] = self.guard.start(members)
        moved: HelmState = _moved(state, values.device)
        return moved

    def values_at(self, state: HelmState, step: int | Tensor) -> Tensor:
        """Give ``[B, S, K]``: the values for optimizer step `step` (from 1; ``[B]`` of each), the prior included."""
        values: Tensor = state["values"]
        if self.prior is None:
            return values
        factors = self.prior[(torch.as_tensor(step) - 1).clamp(max=len(self.prior) - 1)].to(values.device)
        return self.panel.scaled(values, factors[..., None, :].expand_as(values))

    def values_over(self, state: HelmState, first: int, last: int) -> Tensor:
        """Give ``[W, B, S, K]``: the values for steps `first` to `last`, if no decision came between."""
        values: Tensor = state["values"]
        if self.prior is None:
            return values.expand(last - first + 1, *values.shape)
        rows = torch.arange(first - 1, last).clamp(max=len(self.prior) - 1)
        factors = self.prior[rows][:, None, None].to(values.device)
        return self.panel.scaled(values.expand(len(rows), *values.shape), factors.expand(-1, *values.shape))

    def steer(self, signals: Signals, state: HelmState) -> tuple[Decision, HelmState]:
        """Judge a reading and decide.

        Args:
            signals: the reading of this step.
            state: what `start` or the last call handed back; not changed in place.

        Returns:
            The decision and the new state; the new values hold from the next step on.
        """
        seen, memory = self.see(signals, state)
        move, mind = self.controller.act(seen, state["mind"])
        return self.turn(seen, move, {"memory": memory, "mind": mind}, state)

    def see(self, signals: Signals, state: HelmState) -> tuple[Observation, Memory]:
        """Give what a controller may know of a reading, and the features' new memory: the first half of `steer`."""
        position, move = state["position"], state["move"]
        features, memory = self.features.see(signals, position, move, self.horizon, state["memory"])
        return Observation(signals, features, position, self._progress(signals)), memory

    def turn(self, seen: Observation, move: Tensor, known: HelmState, state: HelmState) -> tuple[Decision, HelmState]:
        """Carry a move out, under the guard: the second half of `steer`, whoever has decided.

        Args:
            seen: what `see` gave.
            move: ``[B, S, K]``.
            known: ``memory``, as `see` gave it, and ``mind``, the controller's own.
            state: as `steer` got it; not changed in place.

        Returns:
            The decision and the new state.
        """
        position, values = state["position"], state["values"]
        turned = self.panel.turn(position, move, seen.signals.step)
        fresh = self.panel.from_unit(turned)
        if fresh.requires_grad:  # a move of zero leaves the value as it is, bit for bit, but not without a slope
            values = values + (fresh - fresh.detach())
        values = torch.where(turned != position, fresh, values)
        new: HelmState = {"position": turned, "values": values, "move": move, **known}
        verdict = None
        if self.guard is not None:
            verdict, new = self._under_guard(self.guard, seen.signals, state, new)
        return Decision(seen, move, new["position"], verdict), new

    def _under_guard(self, guard: Guard, signals: Signals, old: HelmState, new: HelmState) -> tuple[Verdict, HelmState]:
        verdict, judged = guard.check(signals, old["guard"])
        if bool(verdict.gave_up.any()):
            held = {name: old[name] for name in ("position", "values")} | {"move": torch.zeros_like(new["move"])}
            new = new | select(verdict.gave_up, held, {name: new[name] for name in held})
        # what is kept beside the weights before this step: the knobs it uses, and all that was known after seeing it
        here = new | {"position": old["position"], "values": old["values"]}
        saved = old["saved"]
        if bool(verdict.restore.any()):
            new = select(verdict.restore, self._cut(saved, verdict, new["position"]), new)
        if bool(verdict.keep.any()):
            saved = select(verdict.keep, here, saved)
        return verdict, new | {"guard": judged, "saved": saved}

    def _cut(self, saved: HelmState, verdict: Verdict, now: Tensor) -> HelmState:
        """Give the snapshot's knobs with the rate cut, at most the controller's own; at the lowest where it gave up."""
        if self._lr is None:
            return saved
        lr = self.panel[self._lr]
        here, cut = saved["position"][..., self._lr], verdict.cut[:, None]  # [B, S], [B, 1]
        less = -torch.log(cut) / lr.span if lr.scale == "log" else here - lr.to_unit(lr.from_unit(here) * cut)
        own = here - now[..., self._lr]
        reason = verdict.reason[:, None]
        # what an unsound snapshot was cut to is no rate of the controller's
        least = torch.where(reason == UNSOUND, less, torch.maximum(less, own))
        less = torch.where(cut < 1, least, torch.where(reason == HARMED, own, 0.0))
        less = less.masked_fill(verdict.gave_up[:, None], math.inf)
        column = torch.arange(len(self.panel), device=less.device) == self._lr
        position = saved["position"] - torch.where(column, less[..., None], 0.0)
        position = position.clamp(0, 1)
        values = torch.where(position != saved["position"], self.panel.from_unit(position), saved["values"])
        return saved | {"position": position, "values": values}

    def _progress(self, signals: Signals) -> Tensor:
        step = signals.step.to(torch.float64)
        return torch.full_like(step, math.nan) if self.horizon is None else (step / self.horizon).clamp(0, 1)


def is_restored(decision: Decision) -> bool:
    """Whether the guard sent any member back at this decision."""
    return decision.verdict is not None and bool(decision.verdict.restore.any())


def reason_of(decision: Decision, member: int = 0) -> int:
    """Give the guard's reason for one member, an index into :data:`trimtab.judgement.REASONS`."""
    return FINE if decision.verdict is None else int(decision.verdict.reason[member])


def _moved(tree: Any, device: torch.device) -> Any:
    if isinstance(tree, dict):
        return {name: _moved(entry, device) for name, entry in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_moved(entry, device) for entry in tree)
    return tree if tree is None else tree.to(device)
