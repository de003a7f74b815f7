"""Moments: the running means that adaptive rules keep of gradients and of their squares."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.rules.scalars import Scalar, fit

FLOORS = {torch.float64: 1e-280, torch.float32: 1e-34, torch.bfloat16: 1e-34}
"""Least squared gradient by dtype: far below what `eps` lets through, far enough above the smallest normal number that
a running mean of it is not rounded to zero."""


def mean(last: Tensor, grad: Tensor, weight: Scalar) -> Tensor:
    """Give ``last + weight * (grad - last)``.

    Args:
        last: ``[...]`` the mean before.
        grad: ``[...]`` the gradient.
        weight: one minus the decay.

    Returns:
        ``[...]``.
    """
    return torch.lerp(last, grad, fit(weight, last))


def mean_square(last: Tensor, grad: Tensor, weight: Scalar) -> Tensor:
    """Give ``last + weight * (grad ** 2 + floor - last)``, which is never zero.

    The floor keeps the derivative of the square root finite at a coordinate that never had a gradient: there
    ``d sqrt(v) = dv / (2 sqrt(v))`` would be 0 / 0.

    Args:
        last: ``[...]`` the mean before.
        grad: ``[...]`` the gradient.
        weight: one minus the decay.

    Returns:
        ``[...]``; larger than torch's by at most :data:`FLOORS`, below float64's and float32's rounding wherever
        ``|grad|`` is above 1e-131 and 1e-13.
    """
    floor = grad.new_full((), FLOORS.get(grad.dtype, 0.0))
    return torch.lerp(last, torch.addcmul(floor, grad, grad), fit(weight, last))
