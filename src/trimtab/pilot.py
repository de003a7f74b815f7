"""Pilot: what a user holds. One live run, its optimizer and a controller.

Where a learning-rate scheduler was built, build a pilot; where it was stepped, step the pilot::

    pilot = trimtab.attach(optimizer, horizon=10_000)
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        pilot.step(loss)
        optimizer.zero_grad()
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trimtab.errors import SignalError, StateError
from trimtab.gauge import Gauge
from trimtab.guard import REASONS
from trimtab.helm import Decision, Helm, is_restored, reason_of
from trimtab.linkage import Linkage
from trimtab.signals import is_reading
from trimtab.snapshot import Snapshot
from trimtab.trace import Event, Trace

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
        linkage: carries values to its groups.
        snapshot: what the guard goes back to; None without a guard.
        every: steps between decisions.
        mode: "act" turns knobs, "suggest" decides and only tells, "observe" measures and decides nothing.
        schedule: the user's own scheduler on this optimizer, stepped by the pilot; the pilot's turns multiply it.
        validate: gives a validation loss; None: none is measured.
        validate_every: steps between validations.
        trace: takes a row per decision and site.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        helm: Helm,
        gauge: Gauge,
        linkage: Linkage,
        snapshot: Snapshot | None,
        every: int,
        mode: Mode,
        schedule: LRScheduler | None,
        validate: Callable[[], float | Tensor] | None,
        validate_every: int,
        trace: Trace,
    ) -> None:
        # LRScheduler's own __init__ would take a step and wrap `optimizer.step`; only its fields are wanted.
        self.optimizer, self.every, self.mode, self.trace = optimizer, every, mode, trace
        self._helm, self._gauge, self._linkage, self._snapshot = helm, gauge, linkage, snapshot
        self._schedule, self._validate, self._validate_every = schedule, validate, validate_every
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
        self._state = helm.start(linkage.start[None])
        self.is_enabled = True
        self.last_epoch = 0  # optimizer steps begun, counted in the hook
        self._answered = 0  # the step that `step` was last called for
        self._skipped = 0
        self._now = linkage.start.tolist()  # [S][K] values of the step to come
        self._ahead: list[list[list[float]]] = []  # [W][S][K] values of the steps up to the next reading
        self._plan(1)
        self._write()
        hook = torch.compiler.disable(self._before_step)  # type: ignore[no-untyped-call]  # torch's is untyped
        self._hook = optimizer.register_step_pre_hook(hook)

    def step(self, loss: Tensor | float | None = None, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take the step's loss and, at a reading, decide; called once after each ``optimizer.step()``.

        Calls without an optimizer step in between do nothing.

        Args:
            loss: the training loss of this step, a number or a tensor of one element (not synchronised); None where
                the caller does not know it: the controller then sees gradients only.
            epoch: not used; there for torch's signature.

        Raises:
            SignalError: the loss is not a single number.
        """
        if self.last_epoch == self._answered or not self.is_enabled:
            return
        number = self._answered = self.last_epoch
        self._gauge.add(_single(loss))
        if self._gauge.is_ready:
            self._decide(number)
        if self._schedule is not None:
            self._linkage.restore()
            self._schedule.step()
            self._linkage.base = self._linkage.present()
        if not self._ahead:
            self._plan(number + 1)
        self._write()

    def get_last_lr(self) -> list[float]:  # type: ignore[override]  # torch says float | Tensor; trainers log floats
        """Give each group's learning rate of the step to come, as floats."""
        return [float(group["lr"]) for group in self.optimizer.param_groups if "lr" in group]

    def get_lr(self) -> list[float]:  # type: ignore[override]  # as above
        """Give the same as `get_last_lr`."""
        return self.get_last_lr()

    def metrics(self) -> dict[str, float]:
        """Give what a logger wants now: knobs per site, decisions, restores, skipped steps, features by name."""
        from trimtab.report import metrics_of

        return metrics_of(self._helm, self._state, self._used(), self.trace, skipped=self._skipped)

    def explain(self, last: int = 5) -> str:
        """Say in words what the last decisions did and why.

        Args:
            last: how many.

        Returns:
            One line a decision and turned knob.
        """
        from trimtab.report import explanation

        return explanation(self.trace, self._helm, last)

    def report(self, path: str) -> None:
        """Write the run so far as one self-contained HTML page.

        Args:
            path: where to; replaced as a whole or not at all.
        """
        from trimtab.report import write_report

        write_report(self.trace, path)

    def disable(self) -> None:
        """Stop turning, and put back the values of the user, or of the wrapped schedule, bit for bit.

        A wrapped schedule is the user's to step again from here on.
        """
        self.is_enabled = False
        if self.mode == "act":
            self._linkage.restore()
        self._hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """Give all that an exact resume needs, as plain scalars, strings, lists, dictionaries and tensors."""
        guarded = self._helm.guard is not None and self._helm.guard.in_checkpoint and self._snapshot is not None
        return {
            "version": VERSION,
            "controller": self._helm.controller.name,
            "knobs": list(self._helm.panel.names),
            "step": self.last_epoch,
            "answered": self._answered,
            "skipped": self._skipped,
            "enabled": self.is_enabled,
            "base": [list(row) for row in self._linkage.base],
            "start": self._linkage.start.clone(),
            "helm": self._state,
            "gauge": self._gauge.state_dict(),
            "schedule": {} if self._schedule is None else self._schedule.state_dict(),
            "snapshot": (self._snapshot.kept or {}) if guarded and self._snapshot is not None else {},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the optimizer's own state is loaded by its owner.

        Args:
            state_dict: what `state_dict` gave.

        Raises:
            StateError: it is no pilot's, or of another controller, other knobs or another model. Nothing is changed.
        """
        _check_state(state_dict, self)
        self._gauge.load_state_dict(state_dict["gauge"])
        self.last_epoch, self._answered = state_dict["step"], state_dict["answered"]
        self._skipped, self.is_enabled = state_dict["skipped"], state_dict["enabled"]
        self._linkage.base, self._linkage.start = state_dict["base"], state_dict["start"]
        self._state = state_dict["helm"]
        if self._schedule is not None:
            self._schedule.load_state_dict(state_dict["schedule"])
        if self._snapshot is not None:
            self._snapshot.load(state_dict["snapshot"] or None)
        self._plan(self._answered + 1)
        self._write()

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Measure before each update; the optimizer's own hook, so it fires under every wrapper."""
        if not self.is_enabled or self._is_rehearsal():
            return
        found = getattr(optimizer, "found_inf", None)  # GradScaler's, around fused optimizers: weights will stay
        if found is not None and float(found) > 0:
            self._skipped += 1
            return
        self.last_epoch += 1
        self._gauge.look(self.last_epoch)
        guard = self._helm.guard
        if self._snapshot is None or guard is None or not self._gauge.is_ready:
            return
        if bool(guard.is_due(torch.tensor([self.last_epoch]), self._state["guard"])):
            self._snapshot.hold()

    def _is_rehearsal(self) -> bool:
        """Whether this is the step at rate 0 by which torch's distributed checkpoints make an optimizer's slots."""
        return not self.optimizer.state and all(float(group.get("lr", 1)) == 0 for group in self.optimizer.param_groups)

    def _decide(self, number: int) -> None:
        used = self._used()
        signals = self._gauge.read(number, used, self._validation(number))
        before = self._state
        decision, self._state = self._helm.steer(signals, self._state)
        if self.mode != "act":
            kept = {name: before[name] for name in ("position", "values")}
            self._state = self._state | kept
        elif self._snapshot is not None and decision.verdict is not None:
            self._obey(decision)
        self._ahead = []
        self.trace.add(number, decision, used, event=self._event(decision))

    def _obey(self, decision: Decision) -> None:
        assert self._snapshot is not None
        assert decision.verdict is not None
        if is_restored(decision):
            self._snapshot.restore()
        if bool(decision.verdict.keep):
            self._snapshot.keep()
        self._snapshot.drop()

    def _event(self, decision: Decision) -> Event:
        if decision.verdict is None or not reason_of(decision):
            return Event("", "")
        kind = "gave up" if bool(decision.verdict.gave_up) else "restore" if is_restored(decision) else "alarm"
        return Event(kind, REASONS[reason_of(decision)])

    def _validation(self, number: int) -> float | None:
        if self._validate is None:
            return None
        return float(self._validate()) if number % self._validate_every == 0 else math.nan

    def _used(self) -> Tensor:
        """``[S, K]`` values that are set now."""
        if self.mode != "act" or self._schedule is not None or not self.is_enabled:
            return self._linkage.read()
        return torch.tensor(self._now, dtype=torch.float64)

    def _plan(self, first: int) -> None:
        """Work out the values of all steps up to the next reading at once; they cannot change before it."""
        last = first
        while not is_reading(last, self.every):
            last += 1
        rows = self._helm.values_over(self._state, first, last)[:, 0].tolist()
        self._ahead = rows[::-1]

    def _write(self) -> None:
        """Set the values of the step to come, where they are not what is set already."""
        now = self._ahead.pop()
        if self.mode == "act" and self.is_enabled and (self._schedule is not None or now != self._now):
            self._linkage.write(now)
        self._now = now


def _single(loss: Tensor | float | None) -> Tensor | float:
    if loss is None:
        return math.nan
    if isinstance(loss, Tensor) and loss.numel() != 1:
        raise SignalError(f"`loss` must be a single number, got a tensor of shape {list(loss.shape)}: give its mean.")
    if not isinstance(loss, Tensor | float | int):
        raise SignalError(f"`loss` must be a number or a tensor of one element, got {type(loss).__name__}.")
    return loss


def _check_state(state: Any, pilot: Pilot) -> None:
    if not isinstance(state, dict) or "helm" not in state or "version" not in state:
        raise StateError("This is no pilot's state: it has no 'helm' and 'version'. Was a scheduler's loaded?")
    if state["version"] != VERSION:
        raise StateError(f"This state is of version {state['version']}, this trimtab reads version {VERSION}.")
    mine = pilot.state_dict()
    for name in ("controller", "knobs"):
        if state[name] != mine[name]:
            raise StateError(f"The state's {name} is {state[name]!r}, this pilot's {mine[name]!r}: attach it the same.")
    if state["start"].shape != mine["start"].shape:
        raise StateError(
            f"The state has {state['start'].shape[0]} sites, this pilot {mine['start'].shape[0]}: attach it to the "
            f"same parameter groups."
        )
