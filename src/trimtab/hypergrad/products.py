"""Products: what a step's Jacobian times a vector is, and how the training loss is differentiated twice for it.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member, ``J`` directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.errors import SignalError
from trimtab.rules import Slots


class Curve(NamedTuple):
    """A training loss's gradient with its graph.

    Attributes:
        leaves: the weights, one tensor a parameter, in the layout's order; frozen ones need no gradient.
        grads: the gradient, likewise.
        knobs: the loss's own knobs, leaves ``[B]`` or ``[]``.
        by_knobs: the loss's derivatives by them, likewise.
    """

    leaves: Sequence[Tensor]
    grads: Sequence[Tensor]
    knobs: Sequence[Tensor] = ()
    by_knobs: Sequence[Tensor] = ()

    @classmethod
    def of(cls, loss: Tensor, leaves: Sequence[Tensor], knobs: Mapping[str, Tensor]) -> Curve:
        """Differentiate a loss.

        Args:
            loss: ``[]``, or the sum over members.
            leaves: the weights.
            knobs: the loss's own knobs, by name.

        Returns:
            The gradient with its graph.

        Raises:
            SignalError: the loss does not depend on one of its knobs.
        """
        trained = [leaf for leaf in leaves if leaf.requires_grad]
        found = torch.autograd.grad(loss, [*trained, *knobs.values()], create_graph=True, allow_unused=True)
        by_knobs = found[len(trained) :]
        for name, part in zip(knobs, by_knobs, strict=True):
            if part is None:
                raise SignalError(
                    f"The training loss has no derivative by its knob {name!r}: write `loss_fn` with the knob's "
                    "`value`, a tensor. What only decides masks, as a dropout's probability does, has none: use "
                    "`trimtab.relaxed_dropout`, or leave the knob out."
                )
        of = {id(leaf): g for leaf, g in zip(trained, found, strict=False) if g is not None}
        grads = [of.get(id(leaf), torch.zeros_like(leaf)) for leaf in leaves]
        return cls(leaves, grads, list(knobs.values()), by_knobs)

    def times(self, rows: Sequence[Tensor], by: Sequence[Tensor]) -> Sequence[Tensor]:
        """Give rows before the gradient times its derivative.

        Args:
            rows: one tensor a parameter.
            by: what the gradient is differentiated by: `leaves` (the Hessian), or `knobs`.

        Returns:
            Like `by`.

        Raises:
            SignalError: the loss cannot be differentiated twice.
        """
        pairs = [(g, row.reshape(g.shape).to(g)) for g, row in zip(self.grads, rows, strict=True) if g.requires_grad]
        if not pairs:  # a loss that is linear in the weights
            return [torch.zeros_like(one) for one in by]
        return twice([g for g, _ in pairs], by, [row for _, row in pairs])

    def row(self, members: int) -> Tensor:
        """Give the gradient without its graph, ``[B, n]``."""
        return torch.cat([g.detach().reshape(members, -1) for g in self.grads], 1)

    def columns(self, members: int) -> list[Tensor]:
        """Give the gradient's derivative by each of the loss's knobs.

        Args:
            members: ``B``.

        Returns:
            ``[B, n]`` a knob.
        """
        found = []
        for part in self.by_knobs:
            by = [torch.zeros_like(leaf) for leaf in self.leaves]
            if part.requires_grad:
                by = list(twice([part], self.leaves, [torch.ones_like(part)]))
            found.append(torch.cat([one.reshape(members, -1) for one in by], 1))
        return found


class Pulled(NamedTuple):
    """A row vector times the Jacobian of a step.

    Attributes:
        weights: ``[B, n]``.
        slots: like the step's slots.
        values: ``[B, S, K]``.
    """

    weights: Tensor
    slots: tuple[Slots, ...]
    values: Tensor


class Pushed(NamedTuple):
    """The Jacobian of a step times column vectors: ``[B, J, n]``, and slots with ``J`` behind ``B``."""

    weights: Tensor
    slots: tuple[Slots, ...]


class Made(NamedTuple):
    """The rule's graph: what went in, as leaves, and what came out."""

    grad: Tensor
    weights: Tensor
    slots: tuple[Slots, ...]
    values: Tensor
    after: Tensor
    new_slots: tuple[Slots, ...]


def answered(made: Made, row: Tensor, row_slots: Sequence[Slots]) -> tuple[list[Tensor], list[Tensor]]:
    """Give what came out of a rule and has a graph, and what stands before each."""
    outputs, rows = [made.after], [row]
    for new, given in zip(made.new_slots, row_slots, strict=False):
        wanted = [name for name in given if new[name].requires_grad]
        outputs += [new[name] for name in wanted]
        rows += [given[name].to(new[name]) for name in wanted]
    return outputs, rows


def twice(grads: Sequence[Tensor], leaves: Sequence[Tensor], rows: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Differentiate a gradient once more: the Hessian times a vector.

    Args:
        grads: with their graph.
        leaves: by what; 0 by one that needs no gradient.
        rows: the vector, like `grads`.

    Returns:
        The product, like `leaves`.

    Raises:
        SignalError: an operation of the loss has no second derivative.
        RuntimeError: what else torch refuses.
    """
    trained = [leaf for leaf in leaves if leaf.requires_grad]
    try:
        found = torch.autograd.grad(grads, trained, rows, retain_graph=True, allow_unused=True, materialize_grads=True)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("derivative for", "differentiable twice", "double backward")):
            raise
        raise SignalError(
            f"The training loss cannot be differentiated twice ({error}): replace that operation (fused attention: "
            "compute `loss_fn` under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)), or choose an estimator of one "
            "step, which needs no curvature."
        ) from error
    at = iter(found)
    return tuple(next(at) if leaf.requires_grad else torch.zeros_like(leaf) for leaf in leaves)
