"""Recorder: the live end of a step that can be differentiated.

What :class:`trimtab.hypergrad.Step` needs of a live optimizer: its weights and slots before a step, the values of each
parameter group, and ways to compute the training loss at other weights and the held-out loss at the new ones. Every
parameter group is a site here; the gauge adds up those of a site.

Letters: ``G`` parameter groups, ``K`` knobs, ``n`` parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from trimtab.errors import KnobError, SignalError
from trimtab.hypergrad.closure import MISSING, Closure, LossFn, check_loss, closed
from trimtab.hypergrad.dice import Dice, Thrown
from trimtab.hypergrad.estimator import Estimator, Form, Memory, begun_again, factors_in
from trimtab.hypergrad.examine import check_twice, compare, foreign
from trimtab.hypergrad.held_out import HeldOut
from trimtab.hypergrad.per_parameter import PerParameter, shown
from trimtab.hypergrad.products import Curve
from trimtab.hypergrad.step import Step
from trimtab.knobs import Panel
from trimtab.layout import Layout
from trimtab.linkage import read_field
from trimtab.loss_knob import LossKnob, loss_knobs
from trimtab.rules import Slots, Values, rule_of


@dataclass(frozen=True)
class Before:
    """A step that is about to be taken.

    Attributes:
        weights: ``[1, n]``.
        slots: one set a part.
        values: ``[1, G, K]``.
        fixed: each group's other hyperparameters.
        grad: ``[1, n]``.
        noise: what the model's calls since the step before drew from.
        factors: ``[1, n]`` that the step's update is to be multiplied by; None: nothing.
    """

    weights: Tensor
    slots: tuple[Slots, ...]
    values: Tensor
    fixed: tuple[dict[str, float], ...]
    grad: Tensor
    noise: Thrown
    factors: Tensor | None = None


class Recorder:
    """Holds a live optimizer's step as it is about to be taken, and gives it afterwards as a map.

    Args:
        optimizer: the raw optimizer; of a class that has a rule.
        panel: the knobs.
        estimator: whose needs count.
        model: the network; needed with `loss_fn`.
        loss_fn: computes the training loss of the last batch again, with the model as it stands: called without
            arguments, or with the batch that the pilot was told.
        validation_loss: gives the loss on held-out examples, ``[]``, differentiable.
        acts: whether factors of single parameters are put on their updates, or only computed.

    Raises:
        SignalError: something that the estimator needs is not given.
        TaskError: the optimizer has no rule.
        KnobError: the optimizer's update does not use a knob.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        panel: Panel,
        estimator: Estimator,
        *,
        model: nn.Module | None = None,
        loss_fn: LossFn | None = None,
        validation_loss: Callable[[], Tensor] | None = None,
        acts: bool = True,
    ) -> None:
        self._optimizer, self._panel, self.estimator = optimizer, panel, estimator
        self.rule, self._loss_knobs = rule_of(optimizer), loss_knobs(panel)
        _check(self.rule.name, self.rule.defaults, panel)
        for need, given in (("loss_fn", loss_fn), ("val_hypergrad", validation_loss)):
            if need in estimator.needs and given is None:
                raise SignalError(MISSING[need].format(name=estimator.name))
        self._closure: Closure | None = None
        self._names: list[str] = []
        if "loss_fn" in estimator.needs or self._loss_knobs:
            self._closure, self._names = closed(optimizer, model, loss_fn, with_batch="batches" in estimator.needs)
        self.layout = self._laid_out()
        self._held_out = None if validation_loss is None else self._held_out_of(model, validation_loss)
        self._held: Before | None = None
        self._dice = Dice()
        self._is_compared, self._is_checked = False, False
        self._foreign: tuple[str, ...] = ()
        self._hooks: list[RemovableHandle] = []
        if self._closure is not None and model is not None:
            self._hooks.append(model.register_forward_pre_hook(_uncompiled(self._dice.called)))
            self._hooks.append(optimizer.register_step_post_hook(_uncompiled(self._dice.begin)))
        if acts and isinstance(estimator, PerParameter):
            self._hooks.append(optimizer.register_step_post_hook(_uncompiled(self._multiply)))

    def hold(self, grads: Sequence[Tensor], memory: Memory | None = None) -> Before:
        """Copy what a step about to be taken finds.

        Args:
            grads: each parameter's gradient, group by group.
            memory: the estimator's; the factors in it multiply the update, once it is taken.

        Returns:
            It.
        """
        groups = self._optimizer.param_groups
        values = [
            [float(read_field(group, k.name) if k.get is None else k.get()) for k in self._panel] for group in groups
        ]
        fixed = tuple(
            {name: float(read_field(group, name)) for name in self.rule.defaults if name not in self._panel.names}
            for group in groups
        )
        device = self._params()[0].device
        before = Before(
            self.row(self._params()),
            self._slots(),
            torch.tensor([values], dtype=torch.float64, device=device),
            fixed,
            self.row(grads),
            self._dice.thrown,
            factors_in(memory),
        )
        self._held = None if before.factors is None else before
        return before

    def step(self, before: Before, batch: Any = None) -> Step:
        """Give a step that has been taken.

        Args:
            before: what `hold` gave.
            batch: what it was computed on, as `loss_fn` takes it; None: `loss_fn` takes nothing.

        Returns:
            It.
        """

        def spread(values: Tensor) -> list[Values]:
            varied = self.layout.values(values, self._panel.names)
            fixed = [before.fixed[part.site] for part in self.layout.parts]
            others = [{name: values.new_tensor(v) for name, v in rest.items()} for rest in fixed]
            return [{**turned, **rest} for turned, rest in zip(varied, others, strict=True)]

        held = self._held_out
        step = Step(
            self.rule,
            self.layout,
            before.weights,
            before.slots,
            before.values,
            self._panel,
            spread,
            before.grad,
            self.row(self._params()),
            gradient=None if self._closure is None else self._curve,
            held_out=None if held is None else held.grad,
            held_out_loss=None if held is None else held.meter(),
            batch=batch,
            examples_axis=0,
            factors=before.factors,
            of_loss=tuple(knob.name for knob in self._loss_knobs),
            noise=before.noise,
            check=self._check_twice,
        )
        is_told = batch is not None or "batches" not in self.estimator.needs
        if self._closure is not None and is_told and not self._is_compared:
            compare(step)
            self._is_compared = True
        return step

    def release(self) -> None:
        """Take the hooks off the model and the optimizer, and let go of the last step."""
        for hook in self._hooks:
            hook.remove()
        self._held = None

    def form(self) -> Form:
        """Say what there is before the first step."""
        groups = len(self._optimizer.param_groups)
        return Form(self.row(self._params()), self._slots(), self.layout, groups, len(self._panel))

    def begun_again(self, memory: Memory) -> Memory:
        """Let the estimator begin anew, the weights having been put elsewhere."""
        everyone = torch.ones(1, dtype=torch.bool, device=self._params()[0].device)
        return begun_again(self.estimator, memory, everyone, self.form())

    def shown(self, memory: Memory | None) -> dict[str, float]:
        """Give what a logger wants of the estimator's memory."""
        return shown(memory)

    def row(self, tensors: Sequence[Tensor]) -> Tensor:
        """Join tensors like the parameters to one copy, ``[1, n]``."""
        return torch.cat([t.detach().reshape(1, -1) for t in tensors], 1)

    @torch.no_grad()
    def _multiply(self, *_: Any) -> None:
        """Multiply each parameter's update, which was just taken, by its factor; nothing where no step was held."""
        held, self._held = self._held, None
        if held is None or held.factors is None:
            return
        cut = (self.layout.pieces(row) for row in (held.weights, held.factors))
        for p, old, factor in zip(self._params(), *cut, strict=True):
            p.copy_(torch.lerp(old.reshape(p.shape), p, factor.reshape(p.shape).to(p)))

    def _params(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _laid_out(self) -> Layout:
        groups = self._optimizer.param_groups
        names = [[f"{g}.{j}" for j in range(len(group["params"]))] for g, group in enumerate(groups)]
        shapes = {name: p.shape for name, p in zip(itertools.chain.from_iterable(names), self._params(), strict=True)}
        return Layout(shapes, names, joined=self.rule.elementwise)

    def _slots(self) -> tuple[Slots, ...]:
        """Copy the slots of each part, members first; what is one number a parameter is spread over its coordinates."""
        own = [self.rule.slots_of(self._optimizer, p) for p in self._params()]
        if not self.rule.elementwise:
            return tuple({k: s.detach().clone()[None] for k, s in slots.items()} for slots in own)
        parts, at = [], iter(zip(own, self._params(), strict=True))
        for group in self._optimizer.param_groups:
            mine = [next(at) for _ in group["params"]]
            parts.append(
                {
                    name: torch.cat([s[name].detach().expand(p.shape).reshape(1, -1) for s, p in mine], 1)
                    for name in mine[0][0]
                }
            )
        return tuple(parts)

    def _held_out_of(self, model: nn.Module | None, loss: Callable[[], Tensor]) -> HeldOut:
        closure = Closure(model, loss) if self._closure is not None and model is not None else None
        return HeldOut(loss, self._params, self.layout, self._loss_knobs, closure, self._names)

    def _check_twice(self, step: Step) -> None:
        """Check the first curvature that is asked for, where the loss has functions that torch did not write."""
        if not self._is_checked:
            self._is_checked = True
            step.curve_grad()  # finds them
            check_twice(step, self._foreign)

    def _curve(self, weights: Tensor, batch: Any, values: Tensor, noise: Thrown) -> Curve:
        """Differentiate the training loss at `weights`; the model's own weights, buffers and mode stay."""
        own = {
            knob.name: values[0, 0, self._panel.index(knob)].to(knob.value.dtype).requires_grad_()
            for knob in self._loss_knobs
        }
        leaves = [
            piece.reshape(p.shape).clone().requires_grad_() if p.requires_grad else p.detach()
            for piece, p in zip(self.layout.pieces(weights), self._params(), strict=True)
        ]
        closure = self._closure
        assert closure is not None
        given: Mapping[str, Tensor] = dict(zip(self._names, leaves, strict=True))

        def loss() -> Tensor:
            buffers = {name: b.clone() for name, b in closure.named_buffers()}
            found: Tensor = functional_call(closure, {**given, **buffers}, () if batch is None else (batch,))
            return found

        with torch.enable_grad(), ExitStack() as stack:
            for knob in self._loss_knobs:
                stack.enter_context(knob.set_to(own[knob.name]))
            found = self._dice.replay(loss, noise)
        check_loss(found, "`loss_fn`")
        if not self._is_checked:
            self._foreign = foreign(found)
        return Curve.of(found, leaves, own)


def _uncompiled(hook: Callable[..., None]) -> Callable[..., None]:
    """Keep `torch.compile` out of a hook."""
    return torch.compiler.disable(hook)  # type: ignore[no-untyped-call, no-any-return]  # torch's is untyped


def _check(name: str, defaults: Mapping[str, float], panel: Panel) -> None:
    unknown = [knob.name for knob in panel if knob.name not in defaults and not isinstance(knob, LossKnob)]
    if unknown:
        raise KnobError(
            f"The update of {name!r} does not use {unknown}, so there is no derivative by them; it uses "
            f"{', '.join(defaults)}. What the loss uses can be a trimtab.LossKnob."
        )
