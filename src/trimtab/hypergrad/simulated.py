"""Simulated: the plant's end of a step that can be differentiated.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trimtab.copies import Copies
from trimtab.hypergrad.estimator import Estimator, Form, Memory, begun_again, factors_in
from trimtab.hypergrad.products import Curve
from trimtab.hypergrad.step import Step
from trimtab.knobs import Panel
from trimtab.layout import Layout
from trimtab.rules import Rule
from trimtab.signals import is_reading
from trimtab.task import Batch

Losses = Callable[[dict[str, Tensor], dict[str, Tensor], Batch, dict[str, Tensor]], Tensor]
"""``[B]`` training losses of members with given parameters, buffers, examples, ``[B]`` values of the loss's knobs."""
HeldOut = Callable[[Tensor, dict[str, Tensor], int], Tensor]
"""Of given weights and buffers, at a step's number."""


class Simulated:
    """Shows an estimator the plant's steps, and asks it at readings.

    Args:
        estimator: it.
        rule: the optimizer's twin.
        layout: where parts and sites lie.
        panel: the knobs.
        every: steps between readings.
        of_loss: those that the loss has and the rule has not.
        losses: computes the training loss.
        held_out: gives the held-out loss's ``[B, n]`` gradient.
        held_out_loss: gives that loss, ``[B]``.
    """

    def __init__(
        self,
        estimator: Estimator,
        rule: Rule,
        layout: Layout,
        *,
        panel: Panel,
        every: int,
        of_loss: tuple[str, ...],
        losses: Losses,
        held_out: HeldOut,
        held_out_loss: HeldOut,
    ) -> None:
        self._estimator, self._rule, self._layout, self._panel = estimator, rule, layout, panel
        self._every, self._losses, self._of_loss = every, losses, of_loss
        self._held_out, self._held_out_loss = held_out, held_out_loss

    def forget(self, mask: Tensor, copies: Copies, memory: Memory) -> Memory:
        """Let members ``[B]`` bool that were put elsewhere begin anew."""
        return begun_again(self._estimator, memory, mask, self._form(copies))

    def follow(
        self,
        memory: Memory | None,
        number: int,
        before: Copies,
        after: Copies,
        values: Tensor,
        grad: Tensor,
        batch: Batch,
    ) -> Memory | None:
        """Show a step that was just taken, where the estimator wants to see it.

        Args:
            memory: its own; None before the first step.
            number: the step's.
            before: the members before it.
            after: the members after it.
            values: ``[B, S, K]`` that it used.
            grad: ``[B, n]`` that it used.
            batch: that it saw.

        Returns:
            The new memory.
        """
        is_due = is_reading(number + 1, self._every)
        if not (is_due or self._estimator.is_running):
            return memory
        step = Step(
            self._rule,
            self._layout,
            before.weights.detach(),
            before.slots,
            values.detach(),
            self._panel,
            lambda v: self._layout.values(v, self._panel.names),
            grad.detach(),
            after.weights.detach(),
            gradient=lambda weights, seen, used, _: self._curve(
                weights, before.buffers, batch if seen is None else seen, used
            ),
            held_out=lambda weights: self._held_out(weights, after.buffers, number),
            held_out_loss=lambda weights: self._held_out_loss(weights, after.buffers, number),
            batch=batch,
            factors=factors_in(memory),
            of_loss=self._of_loss,
        )
        return self._estimator.follow(
            step, self._estimator.start(self._form(before)) if memory is None else memory, is_due=is_due
        )

    def read(self, memory: Memory | None, grad: Tensor) -> Tensor:
        """Give the hypergradient at a reading, ``[B, S, K]`` float64; zeros before the first step.

        Args:
            memory: the estimator's.
            grad: ``[B, n]`` gradient of the batch that is read.

        Returns:
            It.
        """
        if memory is None:
            return grad.new_zeros(len(grad), len(self._layout.bounds), len(self._panel), dtype=torch.float64)
        return self._estimator.read(memory, grad, self._layout).to(torch.float64)

    def _form(self, copies: Copies) -> Form:
        return Form(copies.weights, copies.slots, self._layout, len(self._layout.bounds), len(self._panel))

    def _curve(self, weights: Tensor, buffers: dict[str, Tensor], batch: Any, values: Tensor) -> Curve:
        leaves = {name: leaf.detach().requires_grad_() for name, leaf in self._layout.leaves(weights).items()}
        own = [values[:, 0, self._panel.names.index(name)].detach().to(weights) for name in self._of_loss]
        knobs = {name: knob.clone().requires_grad_() for name, knob in zip(self._of_loss, own, strict=True)}
        losses = self._losses(leaves, {name: b.clone() for name, b in buffers.items()}, batch, knobs)
        return Curve.of(losses.sum(), list(leaves.values()), knobs)
