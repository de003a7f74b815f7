"""Rollout: a controller drives the plant for a whole run, or a piece of one at a time.

The loop is the live one: step, read, steer. :meth:`Voyage.advance` goes on by itself; :meth:`Voyage.sail` stops at each
reading, for those whose decisions come from outside.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``T`` steps, ``W`` steps since the last reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.controller import Controller, State
from trimtab.copies import Best, Copies
from trimtab.errors import KnobError, OrderError
from trimtab.guard import Guard
from trimtab.helm import Decision, Helm, HelmState, is_restored
from trimtab.judgement import RISEN
from trimtab.passage import Leg, Passage, Pause
from trimtab.signals import EARLY, Signals
from trimtab.stream import Stream

if TYPE_CHECKING:
    from trimtab.plant import Plant  # `import trimtab` does without the simulator


@dataclass(frozen=True)
class Rollout:
    """What a simulated run, or a piece of one, gave.

    Attributes:
        losses: ``[T, B]`` training loss at the weights before each step.
        values: ``[T, B, S, K]`` knob values that each step used.
        decisions: one a reading, in order.
        copies: the members at the end, as they are to be used (:attr:`trimtab.passage.Passage.result`).
        state: the helm's state at the end.
    """

    losses: Tensor
    values: Tensor
    decisions: list[Decision]
    copies: Copies
    state: HelmState


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
        averages: keep an average of the weights (:mod:`trimtab.averaging`) and validate there; None: where the
            controller needs it.
    """

    def __init__(
        self,
        plant: Plant,
        controller: Controller,
        *,
        horizon: int | None = None,
        guard: Guard | None = None,
        validate_every: int | None = None,
        averages: bool | None = None,
    ) -> None:
        self.plant, self.validate_every = plant, validate_every
        self.averages = "average" in controller.needs if averages is None else averages
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
        copies = copies.averaging() if self.averages else copies
        clock = torch.zeros(len(seeds), dtype=torch.int64)
        best = Best.of(copies) if self.averages and self.validate_every is not None else None
        return Passage(clock, copies, self.helm.start(values.to(self.plant.device)), copies, None, (), order, best)

    def advance(self, passage: Passage, steps: int) -> tuple[Passage, Rollout]:
        """Take optimizer steps.

        Args:
            passage: what `begin` or the last call handed back; not changed in place.
            steps: how many, at least 1.

        Returns:
            Where the voyage stands now, and what these steps gave; divergence is in it as numbers, not raised.
        """
        stream, last = self.stream(passage), passage.step + steps
        losses, used, decisions = [], [], []
        while passage.step < last:
            passage, leg = self.sail(passage, last - passage.step, stream)
            losses += leg.losses
            used += leg.values
            if leg.pause is not None:
                move, mind = self.helm.controller.act(leg.pause.seen, passage.state["mind"])
                decision, passage = self.decide(passage, leg.pause, move, mind)
                decisions.append(decision)
        done = Rollout(torch.stack(losses), torch.stack(used), decisions, passage.result, passage.state)
        return replace(passage, order=stream.state_dict()), done

    def stream(self, passage: Passage) -> Stream:
        """Give the stream of examples as it was at a passage."""
        stream = self._stream([0] * len(passage.clock))
        stream.load_state_dict(passage.order)
        return stream

    def sail(self, passage: Passage, most: int, stream: Stream) -> tuple[Passage, Leg]:
        """Take optimizer steps up to the next reading, and read it; the decision is left to :meth:`decide`.

        Args:
            passage: where the members stand, no reading open; not changed in place. Their clocks are alike, or apart
                by multiples of `every` and all past the early readings.
            most: stop after so many steps, also without a reading.
            stream: gives their examples; moved on, and the passage's `order` left as it is.

        Returns:
            Where they stand, and what the steps gave.

        Raises:
            OrderError: the members' readings do not come together.
        """
        plant, clock = self.plant, passage.clock
        copies, look, window = passage.copies, passage.look, list(passage.window)
        apart = clock - clock[0]
        if bool(apart.any()) and (int(clock.min()) < EARLY[-1] or bool((apart % plant.every).any())):
            raise OrderError(f"Members sail together whose readings come together, got {clock.tolist()} steps taken.")
        losses: list[Tensor] = []
        used: list[Tensor] = []
        pause = None
        while pause is None and len(losses) < most:
            clock = clock + 1
            now, before = self.helm.values_at(passage.state, clock), copies
            copies, loss, look, reading = plant.step(before, now, stream.next(), int(clock[0]), look)
            if before.average is not None:
                copies = copies.following(before.average, clock)
            losses.append(loss)
            used.append(now)
            window.append(loss.detach())
            if reading is not None:
                before = replace(before, buffers=copies.buffers)  # as a live snapshot, taken after the forward pass
                val = self._measured(copies, loss, clock)
                signals = _signals(reading, window, now.detach(), clock, val)
                pause = Pause(*self.helm.see(signals, passage.state), before)
                window = []
        done = replace(passage, clock=clock, copies=copies, look=look, window=tuple(window))
        return done, Leg(losses, used, pause)

    def decide(self, passage: Passage, pause: Pause, move: Tensor, mind: State) -> tuple[Decision, Passage]:
        """Carry out what was decided at a reading, under the guard.

        Args:
            passage: where the members stand; not changed in place.
            pause: the reading.
            move: ``[B, S, K]``.
            mind: the controller's new memory.

        Returns:
            What came of it, and where the members stand then.
        """
        plant, copies, kept, look = self.plant, passage.copies, passage.kept, passage.look
        decision, state = self.helm.turn(pause.seen, move, {"memory": pause.memory, "mind": mind}, passage.state)
        val, best = pause.seen.signals.val_loss, passage.best
        if best is not None and val is not None:
            never = torch.zeros_like(val, dtype=torch.bool)
            best = best.heard(val, copies, never if decision.verdict is None else decision.verdict.restore)
        if is_restored(decision) and decision.verdict is not None:
            copies = plant.select(decision.verdict.restore, kept, copies)
            copies = plant.select(decision.verdict.reason == RISEN, copies.averaged(), copies)
            look = plant.forget(decision.verdict.restore, copies, look)
        if decision.verdict is not None and bool(decision.verdict.keep.any()):
            kept = plant.select(decision.verdict.keep, pause.before, kept)
        return decision, replace(passage, copies=copies, state=state, kept=kept, look=look, best=best)

    def _stream(self, seeds: Sequence[int]) -> Stream:
        return Stream(self.plant.task, seeds, device=self.plant.device, dtype=self.plant.dtype)

    def _measured(self, copies: Copies, loss: Tensor, clock: Tensor) -> Tensor | None:
        """Give ``[B]`` validation losses, NaN where it is not time for them, or None."""
        if self._val is None or self.validate_every is None:
            return None
        is_time = (clock % self.validate_every == 0).to(loss.device)
        if not bool(is_time.any()):
            return torch.full_like(loss, torch.nan)
        return torch.where(is_time, self.plant.loss_on(copies, self._val), torch.nan)


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
    reading: dict[str, Tensor], losses: Sequence[Tensor], values: Tensor, clock: Tensor, val_loss: Tensor | None
) -> Signals:
    """Assemble a reading's record from its statistics, the losses since the last and this step's knob values."""
    window = torch.stack(list(losses), 1).to(torch.float64)
    statistics = {name: value.to(torch.float64) for name, value in reading.items()}
    return Signals(step=clock.to(window.device), losses=window, values=values, val_loss=val_loss, **statistics)
