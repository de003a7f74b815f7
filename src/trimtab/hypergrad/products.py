"""Products: what a step's Jacobian times a vector is, and how the training loss is differentiated twice for it.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member, ``J`` directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.errors import SignalError
from trimtab.rules import Slots


class Curve(NamedTuple):
    """A training loss's gradient with its graph.

    Attributes:
        leaves: the weights, one tensor a parameter, in the layout's order.
        grads: the gradient, likewise.
    """

    leaves: Sequence[Tensor]
    grads: Sequence[Tensor]


class Pulled(NamedTuple):
    """A row vector times the Jacobian of a step.

    Attributes:
        weights: ``[B, n]``.
        slots: like the step's slots; None where they were held fixed.
        values: ``[B, S, K]``.
    """

    weights: Tensor
    slots: tuple[Slots, ...] | None
    values: Tensor


class Pushed(NamedTuple):
    """The Jacobian of a step times column vectors: ``[B, J, n]``, and slots with ``J`` behind ``B``."""

    weights: Tensor
    slots: tuple[Slots, ...]


def twice(grads: Sequence[Tensor], leaves: Sequence[Tensor], rows: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Differentiate a gradient once more: the Hessian times a vector.

    Args:
        grads: with their graph.
        leaves: by what.
        rows: the vector, like `grads`.

    Returns:
        The product, like `leaves`.

    Raises:
        SignalError: an operation of the loss has no second derivative.
        RuntimeError: what else torch refuses.
    """
    try:
        return torch.autograd.grad(grads, leaves, rows, retain_graph=True, allow_unused=True, materialize_grads=True)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("derivative for", "differentiable twice", "double backward")):
            raise
        raise SignalError(
            f"The training loss cannot be differentiated twice ({error}): replace that operation (fused attention: "
            "compute `loss_fn` under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)), or choose an estimator of one "
            "step, which needs no curvature."
        ) from error
