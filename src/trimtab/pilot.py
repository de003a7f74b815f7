"""Pilot: what a user holds. One live run, its optimizer and a controller.

Where a scheduler was built, build a pilot (:func:`trimtab.attach`); where it was stepped, step the pilot.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from trimtab.average import Average
from trimtab.checkpoint import copied, matched, read_checkpoint, write_checkpoint
from trimtab.gauge import Gauge
from trimtab.helm import Helm, is_restored
from trimtab.loop import Stopwatch, Validate, after_closure, single, step_kind, validated
from trimtab.ranks import agreed, world
from trimtab.snapshot import Snapshot
from trimtab.trace import Trace, event_of
from trimtab.wheel import Wheel

Mode = Literal["observe", "suggest", "act"]
VERSION = 1


class Pilot(LRScheduler):
    """Pairs a live optimizer with a controller; made by :func:`trimtab.attach`.

    A subclass of torch's ``LRScheduler``, since trainers accept nothing else: `step`, `get_last_lr`, `state_dict` and
    `load_state_dict` mean what they mean there.

    Args:
        optimizer: the raw optimizer.
        helm: panel, features, controller and guard.
        gauge: measures the optimizer.
        wheel: turns its knobs, over a wrapped schedule.
        snapshot: what the guard goes back to; None without a guard.
        average: of the model's weights.
        trace: takes a row per decision and site; the others are :func:`trimtab.attach`'s.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        helm: Helm,
        gauge: Gauge,
        wheel: Wheel,
        snapshot: Snapshot | None,
        average: Average,
        every: int,
        mode: Mode,
        validate: Validate | None,
        validate_every: int,
        trace: Trace,
    ) -> None:
        # LRScheduler's own __init__ would take a step and wrap `optimizer.step`; only its fields are wanted.
        self.optimizer, self.every, self.mode, self.trace = optimizer, every, mode, trace
        self._helm, self._gauge, self._wheel, self._snapshot, self._average = helm, gauge, wheel, snapshot, average
        self._validate, self._validate_every = validate, validate_every
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
        self._state = helm.start(wheel.start[None])
        self.is_enabled = True
        self.last_epoch = 0  # optimizer steps begun, counted in the hook
        self._step_count = 1  # never read here; frameworks add to it, as every LRScheduler has it
        self._answered = self._skipped = 0  # the step that `step` was last called for, and steps that were none
        self._noted: Tensor | float | None = None
        self._watch = Stopwatch()
        wheel.is_held = mode == "act"
        wheel.write(self._state, 1)
        hook = torch.compiler.disable(self._before_step)  # type: ignore[no-untyped-call]  # torch's is untyped
        self._hook = optimizer.register_step_pre_hook(hook)
        self._load_hook = optimizer.register_load_state_dict_post_hook(lambda loaded: wheel.hold())

    def step(  # type: ignore[override]
        self, loss: Tensor | float | None = None, epoch: int | None = None, *, batch: Any = None
    ) -> None:
        """Take the step's loss and, at a reading, decide; once after each ``optimizer.step()``, more calls do nothing.

        Args:
            loss: the training loss of this step, a number or a tensor of one element (not synchronised); None where
                the caller does not know it: the controller then sees gradients only.
            epoch: not used; there for torch's signature.
            batch: what `loss_fn` is to be called with, for a controller whose estimator needs it.

        Raises:
            SignalError: the loss, or what `validate` gave, is not a single number. Nothing is changed.
        """
        if not self.is_due:
            return
        number, loss = self.last_epoch, single(self._noted if loss is None else loss)
        if self.is_enabled:  # what is validated may be the average
            with self._watch:
                self._average.follow(number)
        reads = self.is_enabled and self._gauge.is_ready
        measures = reads or (self._wheel.needs_metric and not self.is_enabled)
        measured = validated(self._validate, self._validate_every, number) if measures else None
        self._answered, self._noted = number, None
        with self._watch:
            if self.is_enabled:
                self._gauge.add(loss)
                self._gauge.follow(number, batch)
            if reads:
                measured = self._decide(number, measured)
            elif measured is not None:  # without decisions there is only the schedule to tell
                measured = agreed(measured)
            self._wheel.follow(measured)
            self._wheel.write(self._state, number + 1)

    def note(self, loss: Tensor | float) -> None:
        """Tell the loss of the step to come, for a framework that then calls ``step()`` without one.

        Args:
            loss: as in `step`; the last one noted counts.

        Raises:
            SignalError: it is not a single number.
        """
        self._noted = single(loss)

    @property
    def average(self) -> AveragedModel | None:
        """The network at the average of its weights, called as itself, in evaluation mode; None where none is kept."""
        return self._average.model

    def best(self) -> AveragedModel | None:
        """Give the average to use: `average`, or a copy of one that validated clearly lower (:mod:`trimtab.best`)."""
        return self._average.best()

    @property
    def is_due(self) -> bool:
        """Whether the optimizer has stepped since `step` was last called."""
        return self.last_epoch != self._answered

    def get_last_lr(self) -> list[float]:  # type: ignore[override]  # torch says float | Tensor; trainers log floats
        """Give each group's learning rate of the step to come, as floats."""
        return [float(group["lr"]) for group in self.optimizer.param_groups if "lr" in group]

    get_lr = get_last_lr  # type: ignore[assignment]  # as above

    def metrics(self) -> dict[str, float]:
        """Give what a logger wants now: knobs per site, decisions, restores, skipped steps, overhead, features."""
        from trimtab.report import metrics_of

        counts = {"skipped": float(self._skipped), "overhead": self._watch.share}
        return metrics_of(self._helm, self._state, self._wheel.used(), self.trace, counts) | self._gauge.metrics()

    def brief(self) -> str:
        """Say in a few words where the knobs are, for a progress bar: ``lr 6.1e-4↓``."""
        from trimtab.report import brief_of

        return brief_of(self._helm, self._wheel.used(), self.trace)

    def explain(self, last: int = 5) -> str:
        """Say in words what the last decisions did and why, a line for each and each turned knob."""
        from trimtab.report import explanation

        return explanation(self.trace, self._helm, last)

    def report(self, path: str) -> None:
        """Write the run so far as one self-contained HTML page; replaced as a whole or not at all."""
        from trimtab.logbook import write_report

        share, each = self._watch.share, 1e3 * self._watch.own / max(1, self.last_epoch)
        write_report(self.trace, path, f"The pilot took {share:.2%} of the run's time, {each:.2f} ms a step.")

    def disable(self) -> None:
        """Stop turning; put back the values of the user, or of the wrapped schedule, which `step` then steps alone."""
        self._wheel.let_go()
        self._gauge.release()
        self.is_enabled = False
        self._load_hook.remove()
        if self._wheel.schedule is None:
            self._hook.remove()
        self._snapshot = None

    def state_dict(self) -> dict[str, Any]:
        """Give all that an exact resume needs, as plain scalars, strings, lists, dictionaries and tensors."""
        guard = self._helm.guard
        kept = None if guard is None or not guard.in_checkpoint or self._snapshot is None else self._snapshot.kept
        return {
            "version": VERSION,
            "controller": self._helm.controller.name,
            "knobs": list(self._helm.panel.names),
            "sites": list(self.trace.header.sites),
            "world": world(),
            "step": self.last_epoch,
            "answered": self._answered,
            "skipped": self._skipped,
            "enabled": self.is_enabled,
            **self._wheel.state_dict(),
            "helm": copied(self._state),
            "gauge": self._gauge.state_dict(),
            "snapshot": kept or {},
            "average": self._average.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the optimizer's own state is loaded by its owner, before or after.

        Where the number of ranks has changed since, features warm up anew.

        Args:
            state_dict: what `state_dict` gave.

        Raises:
            StateError: it is no pilot's, or of another controller, other knobs or another model. Nothing is changed.
        """
        state = matched(state_dict, self.state_dict())
        self._gauge.check(state["gauge"])
        if state["snapshot"] and self._snapshot is not None:
            self._snapshot.check(state["snapshot"])
        average = self._average.matched(state["average"])
        self._gauge.load_state_dict(state["gauge"])
        self.last_epoch, self._answered, self._skipped = state["step"], state["answered"], state["skipped"]
        self._wheel.load_state_dict(state)
        self._state = state["helm"]
        self._average.load_state_dict(average, state["answered"])
        if self._snapshot is not None:
            self._snapshot.load(state["snapshot"] or None)
        if state["world"] != world():
            warnings.warn(f"{state['world']} ranks became {world()}: features warm up anew.", RuntimeWarning, 2)
            self._state = self._state | {"memory": self._helm.features.start(1)}
        if self.is_enabled and not state["enabled"]:
            self.disable()
        self._wheel.write(self._state, self._answered + 1)

    def save(self, path: str | os.PathLike[str], beside: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint file as a whole or not at all, whatever kills the process or fills the disk.

        Args:
            path: where to; a checkpoint there is replaced once the new one is on disk.
            beside: what else belongs to it: ``{"model": model.state_dict(), "optimizer": optimizer.state_dict()}``.
        """
        write_checkpoint(path, self.state_dict(), beside or {})

    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Go on from a checkpoint that `save` wrote; a damaged or foreign file is a StateError and changes nothing.

        Args:
            path: the file.

        Returns:
            What was saved `beside`, for its owners to load.
        """
        state, beside = read_checkpoint(path)
        self.load_state_dict(state)
        return beside

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Measure before each update; the optimizer's own hook, so it fires under every wrapper."""
        kind = step_kind(optimizer, args, kwargs)
        if kind == "skipped":
            self._skipped += 1
        if kind in ("skipped", "rehearsal"):
            return None
        self.last_epoch += 1
        if self.is_enabled and kind == "closure":  # gradients are there only once the optimizer has called it
            return after_closure(args, kwargs, self._look)
        if self.is_enabled:
            self._look()
        return None

    def _look(self) -> None:
        with self._watch:
            self._gauge.look(self.last_epoch)
            guard = self._helm.guard
            if self._snapshot is None or guard is None or self._snapshot.begins():
                return
            if self._gauge.is_ready and guard.is_due_of_one(self.last_epoch, self._state["guard"]):
                self._snapshot.hold()

    @torch.no_grad()  # a policy's weights would tie each decision to all before it
    def _decide(self, number: int, measured: float | None) -> float | None:
        """Decide; give the validation loss that all ranks agree on."""
        used, alone = self._wheel.used(), self._wheel.alone()
        signals = self._gauge.read(number, used, measured)
        if self.mode != "act":
            mine = {"position": self._helm.panel.to_unit(used[None]).clamp(0, 1), "values": used[None]}
            decision, state = self._helm.steer(signals, self._state | mine)
            self._state = state | mine
        else:
            decision, self._state = self._helm.steer(signals, self._state)
            if self._snapshot is not None and decision.verdict is not None:
                self._snapshot.obey(decision.verdict)
                if is_restored(decision):
                    self._gauge.forget()
        self._average.heard(signals.val_loss, is_left=self.mode == "act" and is_restored(decision))
        self._wheel.turned()
        event = event_of(decision, is_acting=self.mode == "act")
        self.trace.keep(number, decision, used, event=event, alone=alone)
        return None if signals.val_loss is None else float(signals.val_loss)
