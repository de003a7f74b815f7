"""Held-out loss: a user's validation loss, at the model's weights with its gradient, and at others.

Letters: ``n`` parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from trimtab.errors import SignalError
from trimtab.hypergrad.closure import Closure, check_loss
from trimtab.hypergrad.dice import generators, set_generators
from trimtab.layout import Layout
from trimtab.loss_knob import LossKnob


@dataclass(frozen=True)
class HeldOut:
    """A validation loss that hypergradients are of.

    Args:
        loss: gives it, ``[]``.
        params: gives the optimizer's parameters, in the layout's order.
        layout: where they lie in a row of weights.
        knobs: the training loss's own.
        closure: `loss` with the model; None where the model is unknown.
        names: of the parameters in it.
    """

    loss: Callable[[], Tensor]
    params: Callable[[], Sequence[Tensor]]
    layout: Layout
    knobs: Sequence[LossKnob] = ()
    closure: Closure | None = None
    names: Sequence[str] = ()

    def grad(self, weights: Tensor) -> Tensor:
        """Differentiate it at the model's present weights, which are the step's new ones.

        Args:
            weights: ``[1, n]``, those.

        Returns:
            ``[1, n]``; 0 of parameters that are frozen or not in it.

        Raises:
            SignalError: it gives no number with a graph, does not depend on the parameters, or has a knob of the
                training loss in it.
        """
        own = {knob.name: knob.value.detach().clone().requires_grad_() for knob in self.knobs}
        with torch.enable_grad(), ExitStack() as stack:
            for knob in self.knobs:
                stack.enter_context(knob.set_to(own[knob.name]))
            loss = self.loss()
        check_loss(loss, "`validation_loss` (or `validate`, where it is not given)")
        params = self.params()
        trained = [p for p in params if p.requires_grad]
        found = torch.autograd.grad(loss, [*trained, *own.values()], allow_unused=True)
        for name, part in zip(own, found[len(trained) :], strict=True):
            if part is not None:
                raise SignalError(
                    f"The validation loss has the knob {name!r} in it, so that turning the knob would lower it with "
                    "the model as it is: compute it without that term."
                )
        if all(part is None for part in found[: len(trained)]):
            raise SignalError(
                "The validation loss does not depend on the optimizer's parameters: compute it with them."
            )
        told = {id(p): part for p, part in zip(trained, found, strict=False) if part is not None}
        return torch.cat([told.get(id(p), torch.zeros_like(p)).detach().reshape(1, -1) for p in params], 1)

    def meter(self) -> Callable[[Tensor], Tensor] | None:
        """Give what computes it at other weights, ``[1, n]`` to ``[1]``, drawing the same random numbers each time."""
        if self.closure is None:
            return None
        closure, begun = self.closure, generators()
        is_first = True

        def measure(weights: Tensor) -> Tensor:
            nonlocal is_first
            pieces = zip(self.names, self.params(), self.layout.pieces(weights), strict=True)
            given = {name: piece.reshape(p.shape) for name, p, piece in pieces if p.requires_grad}
            given |= {name: buffer.clone() for name, buffer in closure.named_buffers()}
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                if not is_first:  # the first draws as the user's own call would: the next reading has other examples
                    stack.enter_context(torch.random.fork_rng())
                    set_generators(begun)
                is_first = False
                return torch.as_tensor(functional_call(closure, given, ())).reshape(1)

        return measure
