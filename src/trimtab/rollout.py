"""Rollout: a controller drives the plant for a whole run.

The loop is the live one: step, read, steer. Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``T`` steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.controller import Controller
from trimtab.errors import KnobError
from trimtab.guard import Guard
from trimtab.helm import Decision, Helm, HelmState, is_restored
from trimtab.plant import Copies, Plant
from trimtab.signals import Signals
from trimtab.stream import Stream


@dataclass(frozen=True)
class Rollout:
    """What a simulated run gave.

    Attributes:
        losses: ``[T, B]`` training loss at the weights before each step.
        values: ``[T, B, S, K]`` knob values that each step used.
        decisions: one a reading, in order.
        copies: the members at the end.
        state: the helm's state at the end.
    """

    losses: Tensor
    values: Tensor
    decisions: list[Decision]
    copies: Copies
    state: HelmState


def rollout(
    plant: Plant,
    controller: Controller,
    values: Tensor,
    *,
    seeds: Sequence[int],
    steps: int,
    horizon: int | None = None,
    guard: Guard | None = None,
    validate_every: int | None = None,
) -> Rollout:
    """Train ``B`` members for a number of steps while a controller turns their knobs.

    Args:
        plant: task, rule and panel; made with the controller's `needs`.
        controller: decides, for all members at once.
        values: ``[B, S, K]`` knob values to begin with.
        seeds: one a member, for its first weights, its order of examples and its noise.
        steps: optimizer steps to take.
        horizon: planned steps, as declared to the controller; None: undeclared.
        guard: brings members back that go off the rails; None: nobody does.
        validate_every: measure the loss on the validation split at readings that are multiples of it; None: never.

    Returns:
        The run; divergence is in it as numbers, not raised.

    Raises:
        KnobError: `values` is not ``[B, S, K]``.
    """
    wanted = (len(seeds), len(plant.sites), len(plant.panel))
    if tuple(values.shape) != wanted:
        raise KnobError(f"`values` must be [B, S, K] = {list(wanted)}, got {list(values.shape)}.")
    helm = Helm(plant.panel, controller, plant.features(), guard, horizon=horizon)
    stream = Stream(plant.task, seeds, device=plant.device, dtype=plant.dtype)
    val = plant.split("val") if validate_every is not None else None
    copies, state = plant.start(seeds), helm.start(values.to(plant.device))
    kept, look, window = copies, None, []
    losses, used, decisions = [], [], []
    for number in range(1, steps + 1):
        now = helm.values_at(state, number)
        before = copies
        copies, loss, look, reading = plant.step(before, now, stream.next(), number, look)
        losses.append(loss)
        used.append(now)
        window.append(loss)
        if reading is None:
            continue
        before = replace(before, buffers=copies.buffers)  # as a live snapshot, taken when the forward pass is over
        measured = None
        if val is not None and validate_every is not None:
            is_time = number % validate_every == 0
            measured = plant.evaluate(copies, val)[0] if is_time else torch.full_like(loss, torch.nan)
        decision, state = helm.steer(_signals(reading, window, now, number, measured), state)
        decisions.append(decision)
        window = []
        if is_restored(decision) and decision.verdict is not None:
            copies = plant.select(decision.verdict.restore, kept, copies)
        if decision.verdict is not None and bool(decision.verdict.keep.any()):
            kept = plant.select(decision.verdict.keep, before, kept)
    return Rollout(torch.stack(losses), torch.stack(used), decisions, copies, state)


def _signals(
    reading: dict[str, Tensor], losses: Sequence[Tensor], values: Tensor, step: int, val_loss: Tensor | None
) -> Signals:
    """Assemble a reading's record from its statistics, the losses since the last and this step's knob values."""
    window = torch.stack(list(losses), 1).to(torch.float64)
    steps = torch.full((window.shape[0],), step, dtype=torch.int64, device=window.device)
    statistics = {name: value.to(torch.float64) for name, value in reading.items()}
    return Signals(step=steps, losses=window, values=values, val_loss=val_loss, **statistics)
