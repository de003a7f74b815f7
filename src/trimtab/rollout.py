"""Rollout: a controller drives the plant for a whole run, or a piece of one at a time.

The loop is the live one: step, read, steer. Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``T`` steps, ``W`` steps
since the last reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trimtab.controller import Controller
from trimtab.copies import Copies, Look
from trimtab.errors import KnobError
from trimtab.guard import Guard
from trimtab.helm import Decision, Helm, HelmState, is_restored
from trimtab.plant import Plant
from trimtab.signals import Signals
from trimtab.stream import Stream


@dataclass(frozen=True)
class Rollout:
    """What a simulated run, or a piece of one, gave.

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


@dataclass(frozen=True)
class Passage:
    """Where a voyage stands between two steps: all that is needed to go on exactly.

    Attributes:
        step: optimizer steps taken.
        copies: the members.
        state: the helm's.
        kept: the members that the guard would go back to.
        look: what the last step left for a reading; None where it left nothing.
        window: ``[B]`` losses since the last reading, oldest first.
        order: the stream's state.
    """

    step: int
    copies: Copies
    state: HelmState
    kept: Copies
    look: Look | None
    window: tuple[Tensor, ...]
    order: dict[str, Any]

    def tree(self) -> dict[str, Any]:
        """Give it as dictionaries, tuples, tensors and numbers, which ``torch.load(weights_only=True)`` reads."""
        parts = {name: dict(vars(getattr(self, name))) for name in ("copies", "kept")}
        return {**vars(self), **parts, "look": None if self.look is None else dict(vars(self.look))}

    @classmethod
    def of_tree(cls, tree: dict[str, Any]) -> Passage:
        """Take what `tree` gave."""
        parts = {name: Copies(**tree[name]) for name in ("copies", "kept")}
        return cls(**{**tree, **parts, "look": None if tree["look"] is None else Look(**tree["look"])})


class Voyage:
    """Takes ``B`` members through a run, any number of steps at a time; holds no state of its own.

    Pieces make the same run as the whole, bit for bit. Between two pieces the controller may be another of the same
    form (other weights): make a new voyage, and hand it the passage.

    Args:
        plant: task, rule and panel; made with the controller's estimator.
        controller: decides, for all members at once.
        horizon: planned steps, as declared to the controller; None: undeclared.
        guard: brings members back that go off the rails; None: nobody does.
        validate_every: measure the loss on the validation split at readings that are multiples of it; None: never.
    """

    def __init__(
        self,
        plant: Plant,
        controller: Controller,
        *,
        horizon: int | None = None,
        guard: Guard | None = None,
        validate_every: int | None = None,
    ) -> None:
        self.plant, self.validate_every = plant, validate_every
        self.helm = Helm(plant.panel, controller, plant.features(), guard, horizon=horizon)
        self._val = plant.split("val") if validate_every is not None else None

    def begin(self, values: Tensor, seeds: Sequence[int]) -> Passage:
        """Give the passage before the first step.

        Args:
            values: ``[B, S, K]`` knob values to begin with.
            seeds: one a member, for its first weights, its order of examples and its noise.

        Returns:
            The passage.

        Raises:
            KnobError: `values` is not ``[B, S, K]``.
        """
        wanted = (len(seeds), len(self.plant.sites), len(self.plant.panel))
        if tuple(values.shape) != wanted:
            raise KnobError(f"`values` must be [B, S, K] = {list(wanted)}, got {list(values.shape)}.")
        copies, order = self.plant.start(seeds), self._stream(seeds).state_dict()
        return Passage(0, copies, self.helm.start(values.to(self.plant.device)), copies, None, (), order)

    def advance(self, passage: Passage, steps: int) -> tuple[Passage, Rollout]:
        """Take optimizer steps.

        Args:
            passage: what `begin` or the last call handed back; not changed in place.
            steps: how many, at least 1.

        Returns:
            Where the voyage stands now, and what these steps gave; divergence is in it as numbers, not raised.
        """
        plant, helm = self.plant, self.helm
        stream = self._stream([0] * len(passage.copies.weights))
        stream.load_state_dict(passage.order)
        copies, state, kept, look = passage.copies, passage.state, passage.kept, passage.look
        window, last = list(passage.window), passage.step + steps
        losses, used, decisions = [], [], []
        for number in range(passage.step + 1, last + 1):
            now = helm.values_at(state, number)
            before = copies
            copies, loss, look, reading = plant.step(before, now, stream.next(), number, look)
            losses.append(loss)
            used.append(now)
            window.append(loss.detach())
            if reading is None:
                continue
            before = replace(before, buffers=copies.buffers)  # as a live snapshot, taken when the forward pass is over
            signals = _signals(reading, window, now.detach(), number, self._measured(copies, loss, number))
            decision, state = helm.steer(signals, state)
            decisions.append(decision)
            window = []
            if is_restored(decision) and decision.verdict is not None:
                copies = plant.select(decision.verdict.restore, kept, copies)
                look = plant.forget(decision.verdict.restore, copies, look)
            if decision.verdict is not None and bool(decision.verdict.keep.any()):
                kept = plant.select(decision.verdict.keep, before, kept)
        done = Rollout(torch.stack(losses), torch.stack(used), decisions, copies, state)
        return Passage(last, copies, state, kept, look, tuple(window), stream.state_dict()), done

    def _stream(self, seeds: Sequence[int]) -> Stream:
        return Stream(self.plant.task, seeds, device=self.plant.device, dtype=self.plant.dtype)

    def _measured(self, copies: Copies, loss: Tensor, number: int) -> Tensor | None:
        """Give ``[B]`` validation losses, NaN where it is not time for them, or None."""
        if self._val is None or self.validate_every is None:
            return None
        is_time = number % self.validate_every == 0
        return self.plant.evaluate(copies, self._val)[0] if is_time else torch.full_like(loss, torch.nan)


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
        plant: task, rule and panel; made with the controller's estimator.
        controller: decides, for all members at once.
        values: ``[B, S, K]`` knob values to begin with.
        seeds: one a member, for its first weights, its order of examples and its noise.
        steps: optimizer steps to take.
        horizon: planned steps, as declared to the controller; None: undeclared.
        guard: brings members back that go off the rails; None: nobody does.
        validate_every: measure the loss on the validation split at readings that are multiples of it; None: never.

    Returns:
        The run; divergence is in it as numbers, not raised.
    """
    voyage = Voyage(plant, controller, horizon=horizon, guard=guard, validate_every=validate_every)
    return voyage.advance(voyage.begin(values, seeds), steps)[1]


def _signals(
    reading: dict[str, Tensor], losses: Sequence[Tensor], values: Tensor, step: int, val_loss: Tensor | None
) -> Signals:
    """Assemble a reading's record from its statistics, the losses since the last and this step's knob values."""
    window = torch.stack(list(losses), 1).to(torch.float64)
    steps = torch.full((window.shape[0],), step, dtype=torch.int64, device=window.device)
    statistics = {name: value.to(torch.float64) for name, value in reading.items()}
    return Signals(step=steps, losses=window, values=values, val_loss=val_loss, **statistics)
