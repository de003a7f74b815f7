"""Scalars: a hyperparameter's value on its way into tensor arithmetic.

A scalar is a plain number (a rule's default, which no knob turns) or a tensor that broadcasts against the parameter.
Scalars are combined among themselves in their own dtype, usually float64, and rounded to the parameter's dtype last: so
``1 - beta2 ** step`` keeps its digits in a float32 run, as it does in ``torch.optim``, where it is a Python float.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.errors import TaskError

Scalar = Tensor | float


def fit(scalar: Scalar, tensor: Tensor) -> Scalar:
    """Round a scalar to a tensor's dtype; a plain number stays as it is."""
    return scalar.to(tensor.dtype) if isinstance(scalar, Tensor) else scalar


def add_scaled(base: Tensor, direction: Tensor, scale: Scalar) -> Tensor:
    """Give ``base + scale * direction``, shaped like `base`; `base` itself where the scale is the number 0."""
    if isinstance(scale, Tensor):
        return torch.addcmul(base, direction, scale.to(base.dtype))
    return base if scale == 0 else torch.add(base, direction, alpha=scale)


def shrink(param: Tensor, lr: Scalar, weight_decay: Scalar) -> Tensor:
    """Give ``param * (1 - lr * weight_decay)``: decoupled weight decay, Algorithm 2 of Loshchilov & Hutter 2019.

    Source: arXiv:1711.05101. Differs from the source: the decay is scaled by the learning rate, as in torch.

    Args:
        param: ``[...]``.
        lr: learning rate.
        weight_decay: factor per step and unit of `lr`.

    Returns:
        ``[...]``; `param` itself where the decay is the number 0.
    """
    if not isinstance(weight_decay, Tensor) and weight_decay == 0:
        return param
    return param * fit(1 - lr * weight_decay, param)


def per_member(param: Tensor, axes: int = 1) -> Tensor:
    """Cut a tensor's last `axes` axes to length 1, which leaves a place per leading (member) axis.

    Args:
        param: ``[..., n]`` or ``[]``.
        axes: how many axes belong to the parameter itself.

    Returns:
        A view, ``[..., 1]`` (``[]`` for a 0-d tensor).
    """
    for axis in range(-min(axes, param.ndim), 0):
        param = param.narrow(axis, 0, 1)
    return param


def counter(param: Tensor) -> Tensor:
    """Give a step count of zero for a tensor: ``[..., 1]`` float64, whatever the tensor's dtype.

    Args:
        param: ``[..., n]`` or ``[]``.

    Returns:
        ``[..., 1]`` or ``[]``.

    Raises:
        TaskError: the tensor is not of real floating point numbers.
    """
    if not param.is_floating_point():
        raise TaskError(
            f"A rule's parameters must be real floating point numbers, got {param.dtype}: view a complex parameter as "
            f"real (torch.view_as_real), and keep integers out of the optimizer."
        )
    return torch.zeros_like(per_member(param), dtype=torch.float64)
