"""Played: simulated runs under a controller, written as traces that others can be taught from.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimtab.controller import Controller
from trimtab.copies import Copies
from trimtab.env.episodes import JUDGED
from trimtab.errors import TaskError
from trimtab.guard import Guard
from trimtab.helm import Decision
from trimtab.plant import Plant
from trimtab.rollout import Voyage
from trimtab.trace import Header, Trace, event_of


@torch.no_grad()
def play(
    plant: Plant,
    controller: Controller,
    values: Tensor,
    folder: Path,
    *,
    seeds: Sequence[int],
    horizon: int,
    guard: Guard | None = None,
    validate_every: int | None = None,
    note: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Train ``B`` members to the horizon under a controller and write a trace of each.

    What is judged is what an environment's reward is measured on: the loss of the first validation examples, which the
    controller does not see, at each reading before its decision, and after the last one, or where the guard gives up.

    Args:
        plant: task, rule and panel; made with the controller's estimator.
        controller: decides, for all members at once.
        values: ``[B, S, K]`` knob values to begin with.
        folder: where to; files are named after controller and seed, and replace those of the same name.
        seeds: one a member, for its first weights, its order of examples and its noise.
        horizon: optimizer steps, a multiple of the plant's `every`.
        guard: brings members back that go off the rails; None: nobody does.
        validate_every: show the validation loss at readings that are multiples of it; None: never.
        note: facts to keep beside those that every trace has.

    Returns:
        The files in columns, one a member; what a kill leaves are the same rows as JSON Lines.

    Raises:
        TaskError: the horizon is no multiple of `every`, or two members have the same seed.
        TraceError: a file cannot be written.
    """
    if horizon < 1 or horizon % plant.every or len(set(seeds)) < len(seeds):
        raise TaskError(
            f"Traces need a horizon that is a multiple of every={plant.every} and seeds that differ, for files are "
            f"named after them, got horizon={horizon}, seeds={list(seeds)}."
        )
    voyage = Voyage(plant, controller, horizon=horizon, guard=guard, validate_every=validate_every)
    passage = voyage.begin(values, seeds)
    stream, judge = voyage.stream(passage), _judge(plant)
    facts = {**(note or {}), "task": plant.task.name, "horizon": horizon, "every": plant.every}
    log = _Log(plant, controller, folder, seeds, facts, judge(passage.copies))
    while passage.step < horizon:
        passage, leg = voyage.sail(passage, horizon - passage.step, stream)
        assert leg.pause is not None  # the horizon is a reading
        judged = judge(passage.copies)
        move, mind = controller.act(leg.pause.seen, passage.state["mind"])
        decision, passage = voyage.decide(passage, leg.pause, move, mind)
        is_last = torch.full((len(seeds),), passage.step == horizon)
        is_over = is_last if decision.verdict is None else is_last | decision.verdict.gave_up.cpu()
        left = judge(passage.copies) if bool(is_over.any()) else judged
        log.add(passage.step, decision, judged, torch.where(is_over, left, torch.nan))
    return log.close()


def _judge(plant: Plant) -> Callable[[Copies], Tensor]:
    x, y = plant.split("val")
    val = x[:JUDGED], y[:JUDGED]

    def judge(copies: Copies) -> Tensor:
        return plant.loss_on(copies, val).double().cpu()

    return judge


class _Log:
    """One trace a member; a member that is given up is written no further."""

    def __init__(
        self, plant: Plant, controller: Controller, folder: Path, seeds: Sequence[int], facts: Any, first: Tensor
    ) -> None:
        count = len(plant.sites)
        sites = ("run",) if count == 1 else tuple(f"site{number}" for number in range(count))
        header = Header(plant.panel.names, sites, controller.name, {}).full(plant.features().names, plant.panel)
        self._paths = [folder / f"{controller.name}-{seed}.jsonl" for seed in seeds]
        self._traces, self._over = [], [False] * len(seeds)
        for path, seed, loss in zip(self._paths, seeds, first.tolist(), strict=True):
            path.unlink(missing_ok=True)
            self._traces.append(Trace(replace(header, note={**facts, "seed": seed, "first": loss}), path))

    def add(self, step: int, decision: Decision, judged: Tensor, left: Tensor) -> None:
        used = decision.seen.signals.values
        for member, trace in enumerate(self._traces):
            if self._over[member]:
                continue
            event = event_of(decision, member=member)
            losses = float(judged[member]), float(left[member])
            trace.add(step, decision, used[member], event=event, member=member, also=losses)
            self._over[member] = event.kind == "gave up"

    def close(self) -> list[Path]:
        closed = [trace.close() for trace in self._traces]
        for path in self._paths:
            path.unlink()
        return [path for path in closed if path is not None]
