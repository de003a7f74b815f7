"""Step: one optimizer step as a map that can be differentiated, from weights, slots and knob values to new ones.

``F(w, s, v) = rule.update(grad L(w), s, w, v)``, the gradient being of the batch that the step saw. Everything that a
hypergradient needs is a product with the Jacobian of ``F``: :meth:`Step.pull` from the left (reverse mode),
:meth:`Step.push` from the right (forward mode). Both go through the Hessian by differentiating the gradient once more;
the rule itself is differentiated at fixed gradient, coordinate by coordinate.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member, ``J`` directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import SignalError
from trimtab.hypergrad.batches import first, mixed
from trimtab.hypergrad.products import Curve, Made, Pulled, Pushed, answered
from trimtab.knobs import Panel
from trimtab.layout import Layout
from trimtab.rules import Rule, Slots, Values, load_forward_mode, tangents

NO_HELD_OUT = "This hypergradient is of the validation loss: give `validation_loss=`."

Gradient = Callable[[Tensor, Any, Tensor, Any], Curve]
"""Differentiates the training loss at weights ``[B, n]``, on a batch (None: the last), with values ``[B, S, K]`` and
the step's noise."""


@dataclass(frozen=True)
class Step:
    """One step that has just been taken.

    Attributes:
        rule: the optimizer's twin.
        layout: where parts and sites lie in a row of weights.
        weights: ``[B, n]`` before it.
        slots: before it, one set a part.
        values: ``[B, S, K]`` that it used, in the optimizer's units.
        panel: the knobs.
        spread: brings values to the parts, as :meth:`trimtab.layout.Layout.values` does.
        grad: ``[B, n]`` the gradient that it used.
        after: ``[B, n]`` the weights after it.
        gradient: differentiates the training loss; None where there is no way to compute it again.
        held_out: gives ``[B, n]``, the gradient of the held-out loss at given weights; None where there is none.
        held_out_loss: gives that loss, ``[B]``; None where there is none.
        batch: what it was computed on; None where unknown.
        curve: the gradient with its graph, where it is there already.
        examples_axis: of the batch's tensors: 1 behind members, 0 live.
        factors: ``[B, n]`` that the update of each parameter is multiplied by; None: 1.
        of_loss: the knobs that the loss has and the update has not; in the first site.
        noise: what `gradient` draws random numbers from; None: it draws none, or they are in the batch.
        check: is shown the step before the curvature is used, and raises SignalError where it is not to be trusted.
    """

    rule: Rule
    layout: Layout
    weights: Tensor
    slots: tuple[Slots, ...]
    values: Tensor
    panel: Panel
    spread: Callable[[Tensor], Sequence[Values]]
    grad: Tensor
    after: Tensor
    gradient: Gradient | None = None
    held_out: Callable[[Tensor], Tensor] | None = None
    held_out_loss: Callable[[Tensor], Tensor] | None = None
    batch: Any = None
    curve: Curve | None = None
    examples_axis: int = 1
    factors: Tensor | None = None
    of_loss: tuple[str, ...] = ()
    noise: Any = None
    check: Callable[[Step], None] | None = None

    def at(self, weights: Tensor, batch: Any = None) -> Step:
        """Give the same step from other weights ``[B, n]``, on another batch if one is given; slots and values stay."""
        batch = self.batch if batch is None else batch
        curve = self._differentiated(weights, batch, self.values)
        return replace(self, weights=weights.detach(), grad=curve.row(len(weights)), batch=batch, curve=curve)

    def fewer(self, examples: int) -> Step:
        """Give the same step with the curvature of the batch's first examples only; its gradient stays.

        Args:
            examples: how many.

        Returns:
            The step.

        Raises:
            SignalError: the step does not know its batch.
        """
        return replace(self, batch=first(self._known_batch(), examples, self.examples_axis), curve=None)

    def mixed(self, old: Any, kept: Tensor, draw: int) -> Any:
        """Give the step's batch with a share of its examples replaced by those of an older mixture.

        Args:
            old: the mixture so far, like the step's batch; None: there is none.
            kept: ``[B]`` share of `old` that stays; a live run has one member.
            draw: which examples, all members alike: the seed of a permutation.

        Returns:
            A batch like the step's; the step's own where `old` has another number of examples.

        Raises:
            SignalError: the step does not know its batch.
        """
        batch = self._known_batch()
        return batch if old is None else mixed(batch, old, kept, draw, axis=self.examples_axis)

    def held_out_grad(self, weights: Tensor) -> Tensor:
        """Give the held-out loss's gradient ``[B, n]`` at `weights` ``[B, n]``; SignalError: no held-out examples."""
        if self.held_out is None:
            raise SignalError(NO_HELD_OUT)
        return self.held_out(weights.detach())

    def held_out_loss_at(self, weights: Tensor) -> Tensor:
        """Give the held-out loss ``[B]`` at `weights` ``[B, n]``; raises as :meth:`held_out_grad` does."""
        if self.held_out_loss is None:
            raise SignalError(NO_HELD_OUT)
        return self.held_out_loss(weights.detach())

    def curve_grad(self) -> Tensor:
        """Give the gradient of the training loss, computed again, ``[B, n]``; raises as :meth:`curvature` does."""
        return self._curve.row(len(self.weights))

    def curvature(self, vectors: Tensor) -> Tensor:
        """Give the Hessian of the training loss times vectors.

        Args:
            vectors: ``[B, n]``.

        Returns:
            ``[B, n]``.

        Raises:
            SignalError: the loss cannot be computed again, or not be differentiated twice.
        """
        if self.check is not None:
            self.check(self)
        curve = self._curve
        found = curve.times(self.layout.pieces(vectors), curve.leaves)
        return torch.cat([part.reshape(len(vectors), -1) for part in found], 1).to(vectors)

    def pull(self, row: Tensor, row_slots: Sequence[Slots] = ()) -> Pulled:
        """Give ``row^T dF``.

        Args:
            row: ``[B, n]``, what stands before the new weights.
            row_slots: what stands before the new slots; empty: nothing does.

        Returns:
            The products, the curvature included.
        """
        made = self._rule_made
        outputs, rows = answered(made, row, row_slots)
        slots = [s for part in made.slots for s in part.values()]
        inputs = [made.grad, made.weights, made.values, *slots]
        found = torch.autograd.grad(outputs, inputs, rows, retain_graph=True, allow_unused=True, materialize_grads=True)
        by_grad, by_weights, by_values = found[:3]
        weights, by_values = by_weights + self.curvature(by_grad), by_values + self._by_loss_knobs(by_grad)
        at = iter(found[3:])
        return Pulled(weights, tuple({name: next(at) for name in part} for part in made.slots), by_values)

    def pull_weights(self, row: Tensor) -> Tensor:
        """Give ``row^T dF/dw``, ``[B, n]``, slots taken as constants: :meth:`pull` without the values."""
        made = self._rule_made
        by_grad, by_weights = torch.autograd.grad(
            made.after, [made.grad, made.weights], row, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return by_weights + self.curvature(by_grad)

    def pull_values(self, row: Tensor, row_slots: Sequence[Slots] = ()) -> Tensor:
        """Give ``row^T dF/dv``, ``[B, S, K]``: :meth:`pull` without the curvature, which it does not need."""
        made = self._rule_made
        outputs, rows = answered(made, row, row_slots)
        by_grad, by_values = torch.autograd.grad(
            outputs, [made.grad, made.values], rows, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return by_values + self._by_loss_knobs(by_grad)

    def by_values(self) -> Tensor:
        """Give ``[B, K, n]``: each new weight's derivative by the values of its own site, in forward mode."""
        cut = zip(
            self.layout.cut(self.grad), self.slots, self.layout.cut(self.weights), self.spread(self.values), strict=True
        )
        names = [name for name in self.panel.names if name not in self.of_loss]
        rows = [tangents(self.rule, g, s, w, v, names).flatten(2) for g, s, w, v in cut]
        found = torch.cat(rows, 2).transpose(0, 1)
        found = found if self.factors is None else found * self.factors[:, None]
        own = dict(zip((*names, *self.of_loss), [*found.unbind(1), *self._after_loss_knobs()], strict=True))
        return torch.stack([own[name] for name in self.panel.names], 1)

    def by_rates(self, row: Tensor) -> Tensor:
        """Give ``row^T dF/da``, ``[B, n]``, where ``10^a`` is what each parameter's update is multiplied by."""
        return row * (self._rule_made.after.detach() - self.weights) * math.log(10)

    def push(self, columns: Tensor, column_slots: Sequence[Slots], seeds: Tensor) -> Pushed:
        """Give ``dF`` times columns.

        Args:
            columns: ``[B, J, n]`` directions of the weights.
            column_slots: of the slots, ``J`` behind ``B``.
            seeds: ``[B, J, S, K]`` of the values.

        Returns:
            Directions of the new weights and slots.
        """
        load_forward_mode()
        bent = torch.stack([self.curvature(column) for column in columns.unbind(1)], 1)
        for name, column in zip(self.of_loss, self._loss_columns, strict=True):
            share = seeds[..., self.panel.names.index(name)].transpose(0, 1)  # [J, B, S]
            wide = torch.stack([self.layout.spread(one) for one in share], 1)
            bent = bent + column[:, None] * wide.to(column)
        primals = (self.grad, self.weights, self.slots, self.values)

        def along(bent: Tensor, column: Tensor, slots: tuple[Slots, ...], seed: Tensor) -> Any:
            weights, slots = torch.func.jvp(self._applied, primals, (bent, column, slots, seed))[1]
            zero = 0 * seed.flatten()[0]  # vmap wants every output to depend on what it maps over
            return weights + zero, tuple({name: slot + zero for name, slot in part.items()} for part in slots)

        weights, slots = torch.func.vmap(along, in_dims=1, out_dims=1)(bent, columns, tuple(column_slots), seeds)
        return Pushed(weights, slots)

    def applied(self, values: Tensor, slots: tuple[Slots, ...] | None = None) -> tuple[Tensor, tuple[Slots, ...]]:
        """Take the step with other values ``[B, S, K]``, and other slots if given: new weights ``[B, n]`` and slots."""
        grad = self.grad
        if self.of_loss:
            grad = self._differentiated(self.weights, self.batch, values).row(len(grad))
        with torch.no_grad():
            return self._applied(grad, self.weights, self.slots if slots is None else slots, values)

    def _applied(
        self, grad: Tensor, weights: Tensor, slots: tuple[Slots, ...], values: Tensor
    ) -> tuple[Tensor, tuple[Slots, ...]]:
        """Apply the rule: new weights ``[B, n]`` and slots."""
        cut = zip(self.layout.cut(grad), slots, self.layout.cut(weights), self.spread(values), strict=True)
        done = [self.rule.update(g, s, w, v) for g, s, w, v in cut]
        new = torch.cat([w.flatten(1) for w, _ in done], 1)
        new = new if self.factors is None else torch.lerp(weights, new, self.factors)
        return new, tuple(s for _, s in done)

    def _known_batch(self) -> Any:
        if self.batch is None:
            raise SignalError("This hypergradient needs the batch itself: call `pilot.step(loss, batch=batch)`.")
        return self.batch

    @cached_property
    def _curve(self) -> Curve:
        return self._differentiated(self.weights, self.batch, self.values) if self.curve is None else self.curve

    def _differentiated(self, weights: Tensor, batch: Any, values: Tensor) -> Curve:
        if self.gradient is None:
            raise SignalError("This hypergradient needs the curvature of the training loss: give `loss_fn=`.")
        with torch.enable_grad():
            return self.gradient(weights.detach(), batch, values, self.noise)

    def _by_loss_knobs(self, by_grad: Tensor) -> Tensor:
        """``[B, S, K]``: a row before the gradient, times the gradient's derivative by the loss's knobs."""
        found = torch.zeros_like(self.values)
        if not self.of_loss:
            return found
        parts = self._curve.times(self.layout.pieces(by_grad), self._curve.knobs)
        for name, part in zip(self.of_loss, parts, strict=True):
            found[:, 0, self.panel.names.index(name)] = part.reshape(-1).to(found)
        return found

    @cached_property
    def _loss_columns(self) -> list[Tensor]:
        """``[B, n]`` a knob of the loss: the gradient's derivative by it."""
        return self._curve.columns(len(self.weights)) if self.of_loss else []

    def _after_loss_knobs(self) -> list[Tensor]:
        """``[B, n]`` a knob of the loss: the new weights' derivative by it."""
        if self.of_loss:
            load_forward_mode()

        def after(grad: Tensor) -> Tensor:
            return self._applied(grad, self.weights, self.slots, self.values)[0]

        return [torch.func.jvp(after, (self.grad,), (column,))[1] for column in self._loss_columns]

    @cached_property
    def _rule_made(self) -> Made:
        leaves = [t.detach().requires_grad_() for t in (self.grad, self.weights, self.values)]
        slots = tuple(
            {k: s.detach().clone().requires_grad_(s.is_floating_point()) for k, s in part.items()}
            for part in self.slots
        )
        with torch.enable_grad():
            after, new_slots = self._applied(leaves[0], leaves[1], slots, leaves[2])
        return Made(leaves[0], leaves[1], slots, leaves[2], after, new_slots)
