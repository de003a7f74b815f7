"""Compiled: a step of the plant as one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trimtab.task import Batch


def compiled(step: Callable[..., Any], example: tuple[Any, ...]) -> Callable[..., Any]:
    """Trace one step to its tensor operations and compile them (vmap's and autograd's Python work falls away).

    Args:
        step: of weights, slots, buffers, values and a batch.
        example: copies, values by part and a batch to trace it with.

    Returns:
        The program, which takes the batch as a tuple.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    copies, values, batch = example

    def free(weights: Tensor, slots: Any, buffers: Any, values: Any, batch: Any) -> Any:
        return step(weights, slots, buffers, values, Batch(*batch))

    traced = make_fx(free)(copies.weights, copies.slots, copies.buffers, values, tuple(batch))
    program: Callable[..., Any] = torch.compile(traced)
    return program
