"""Examine: whether a loss computed again is the one that a step used, and whether it can be differentiated twice.

Both are asked of one step of a live run, the first that an estimator follows.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from trimtab.errors import SignalError
from trimtab.hypergrad.step import Step

ALIKE = 0.9  # cosine of two gradients of the same loss, whatever the precision
SIZES = (0.9, 1.1)  # of the one over the other
NEAR = 1e-3  # how far a difference of gradients reaches, in units of the weights' norm
SEEN = 1e-3  # of the gradient, that a difference must be to say anything beside rounding
WRONG = 0.5  # of the larger, that a product with the Hessian may be off: differences of kinked losses are rough


def compare(step: Step) -> None:
    """Warn where the training loss computed again has another gradient than the step used.

    Args:
        step: one that can differentiate its loss.
    """
    again, used = step.curve_grad().double(), step.grad.double()
    sizes = again.norm(), used.norm()
    if not (min(sizes) > 0 and sizes[0].isfinite() and sizes[1].isfinite()):
        return
    cosine, ratio = float((again * used).sum() / (sizes[0] * sizes[1])), float(sizes[1] / sizes[0])
    if cosine < ALIKE:
        warnings.warn(
            f"The training loss computed again has another gradient than the step used (cosine {cosine:.2f}): "
            "hypergradients are of the loss that `loss_fn` gives. It must be the step's loss, on the same examples; "
            "noise that it draws outside of the model's calls is drawn anew.",
            UserWarning,
            stacklevel=2,
        )
    elif not SIZES[0] < ratio < SIZES[1]:
        warnings.warn(
            f"The step used {ratio:.3g} times the gradient of the training loss computed again (clipped, or scaled?): "
            "hypergradients use that gradient as it was, and the curvature of the loss as if nothing had been cut.",
            UserWarning,
            stacklevel=2,
        )


def foreign(loss: Tensor) -> tuple[str, ...]:
    """Name the user's own autograd functions in a loss's graph: torch trusts what they say of second derivatives."""
    found, seen, waiting = set(), set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        own = getattr(node, "_forward_cls", None)
        if own is not None:
            found.add(own.__name__)
        waiting += [after for after, _ in node.next_functions]
    return tuple(sorted(found))


def check_twice(step: Step, names: tuple[str, ...]) -> None:
    """Refuse a loss whose own functions hide from the second derivative.

    Args:
        step: one that can differentiate its loss.
        names: of those functions; none: there is nothing to ask.

    Raises:
        SignalError: the Hessian times the gradient is far from a central difference of gradients.
    """
    if not names or step.weights.dtype not in (torch.float32, torch.float64):
        return
    here = step.at(step.weights)
    size = here.grad.norm()
    if not (size > 0 and size.isfinite()):
        return
    along = here.grad / size
    far = NEAR * step.weights.norm().clamp_min(1.0)
    difference = (step.at(step.weights + far * along).grad - step.at(step.weights - far * along).grad) / (2 * far)
    product = here.curvature(along)
    larger = torch.maximum(difference.norm(), product.norm())
    if larger * far < SEEN * size or not larger.isfinite():
        return
    off = float((difference - product).norm() / larger)
    if off > WRONG:
        raise SignalError(
            f"The training loss cannot be differentiated twice: its Hessian is off by {off:.0%} beside a difference of "
            f"gradients. It has functions of your own ({', '.join(names)}): write their backward with operations that "
            "torch differentiates, without `once_differentiable`, NumPy or `detach`, or choose an estimator of one "
            "step, which needs no curvature."
        )
