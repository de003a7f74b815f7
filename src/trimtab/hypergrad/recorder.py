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
from trimtab.hypergrad.estimator import Estimator, Form
from trimtab.hypergrad.per_parameter import PerParameter
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
        rng: the generators' states when the model was last called; None where unknown.
        factors: ``[1, n]`` that the step's update is to be multiplied by; None: nothing.
    """

    weights: Tensor
    slots: tuple[Slots, ...]
    values: Tensor
    fixed: tuple[dict[str, float], ...]
    grad: Tensor
    rng: Any
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
        self._loss_fn, self._validation_loss = loss_fn, validation_loss
        wanted = {"loss_fn": loss_fn, "val_hypergrad": validation_loss}
        for need, given in wanted.items():
            if need in estimator.needs and given is None:
                raise SignalError(MISSING[need].format(name=estimator.name))
        self._closure: Closure | None = None
        self._names: list[str] = []
        self._held_out_closure: Closure | None = None
        if "loss_fn" in estimator.needs or self._loss_knobs:
            self._closure, self._names = closed(optimizer, model, loss_fn)
            if model is not None and validation_loss is not None:
                self._held_out_closure = Closure(model, validation_loss)
        self._rng: Any = None
        self._hooks: list[RemovableHandle] = []
        if self._closure is not None and model is not None:
            self._hooks.append(model.register_forward_pre_hook(_uncompiled(self._remember)))
        self.layout = self._laid_out()
        self._held: Before | None = None
        if acts and isinstance(estimator, PerParameter):
            self._hooks.append(optimizer.register_step_post_hook(_uncompiled(self._multiply)))

    def hold(self, grads: Sequence[Tensor], factors: Tensor | None = None) -> Before:
        """Copy what a step about to be taken finds.

        Args:
            grads: each parameter's gradient, group by group.
            factors: ``[1, n]`` that its update is to be multiplied by, once it is taken.

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
            self._rng,
            factors,
        )
        self._held = None if factors is None else before
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

        return Step(
            self.rule,
            self.layout,
            before.weights,
            before.slots,
            before.values,
            self._panel,
            spread,
            before.grad,
            self.row(self._params()),
            gradient=None if self._closure is None else lambda w, seen, used: self._curve(w, seen, used, before.rng),
            held_out=None if self._validation_loss is None else self._held_out,
            held_out_loss=None if self._held_out_closure is None else self._held_out_loss,
            batch=batch,
            examples_axis=0,
            factors=before.factors,
            of_loss=tuple(knob.name for knob in self._loss_knobs),
        )

    def release(self) -> None:
        """Take the hooks off the model and the optimizer, and let go of the last step."""
        for hook in self._hooks:
            hook.remove()
        self._held = None

    def form(self) -> Form:
        """Say what there is before the first step."""
        groups = len(self._optimizer.param_groups)
        return Form(self.row(self._params()), self._slots(), self.layout, groups, len(self._panel))

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

    def _remember(self, model: nn.Module, args: Any) -> None:
        """Keep the generators' states as the model is called, so that dropout can draw the same mask again."""
        if model.training and torch.is_grad_enabled():
            cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
            self._rng = (torch.get_rng_state(), cuda)

    def _curve(self, weights: Tensor, batch: Any, values: Tensor, rng: Any) -> Curve:
        """Differentiate the training loss at `weights`; the model's own weights, buffers and mode stay."""
        own = {
            knob.name: values[0, 0, self._panel.index(knob)].to(knob.value.dtype).requires_grad_()
            for knob in self._loss_knobs
        }
        leaves = [
            piece.reshape(shape).clone().requires_grad_()
            for piece, shape in zip(self.layout.pieces(weights), self.layout.shapes, strict=True)
        ]
        assert self._closure is not None
        buffers = {name: b.clone() for name, b in self._closure.named_buffers()}
        given: Mapping[str, Tensor] = dict(zip(self._names, leaves, strict=True))
        with torch.random.fork_rng(), torch.enable_grad(), ExitStack() as stack:
            for knob in self._loss_knobs:
                stack.enter_context(knob.set_to(own[knob.name]))
            if rng is not None:
                torch.set_rng_state(rng[0])
                for number, state in enumerate(rng[1]):
                    torch.cuda.set_rng_state(state, number)
            loss = functional_call(self._closure, {**given, **buffers}, () if batch is None else (batch,))
        check_loss(loss, "loss_fn")
        return Curve.of(loss, leaves, own)

    def _held_out(self, weights: Tensor) -> Tensor:
        """Differentiate the held-out loss at the model's present weights, which are the step's new ones."""
        assert self._validation_loss is not None
        with torch.enable_grad():
            loss = self._validation_loss()
        check_loss(loss, "validation_loss")
        params = self._params()
        found = torch.autograd.grad(loss, params, allow_unused=True)
        if all(part is None for part in found):
            raise SignalError(
                "The validation loss does not depend on the optimizer's parameters: compute it with them."
            )
        return self.row([torch.zeros_like(p) if g is None else g for g, p in zip(found, params, strict=True)])

    def _held_out_loss(self, weights: Tensor) -> Tensor:
        """Give the held-out loss at other weights, ``[1]``."""
        assert self._held_out_closure is not None
        pieces = zip(self._names, self.layout.pieces(weights), self.layout.shapes, strict=True)
        with torch.no_grad():
            loss = functional_call(self._held_out_closure, {name: p.reshape(shape) for name, p, shape in pieces}, ())
        return torch.as_tensor(loss).reshape(1)


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
