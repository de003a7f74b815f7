"""Blocks: a small network's squared error over thousands of examples, differentiated a block of them at a time.

Plain operations carry ``[50, N]`` activations through main memory ten times a step; a block's stay in the cache. The
gradient is the same to rounding, in a third of the time. Where a graph of the gradient is wanted, plain operations
give it.

Letters: ``B`` members, ``H`` hidden units, ``D`` features, ``N`` examples, ``...`` ``B`` or nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 512  # examples: with ten members a block's activations are a megabyte


def squared_error(hidden: Tensor, bias: Tensor, answer: Tensor, offset: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Give the mean squared error of ``answer · relu(hidden x + bias) + offset``; runs under vmap.

    Args:
        hidden: ``[H, D]``.
        bias: ``[H]``.
        answer: ``[1, H]``.
        offset: ``[1]``.
        x: ``[N, D]``.
        y: ``[N]``.

    Returns:
        ``[]``.
    """
    loss: Tensor = _Error.apply(hidden, bias, answer, offset, x, y)[0]  # type: ignore[no-untyped-call]
    return loss


def estimate(hidden: Tensor, bias: Tensor, answer: Tensor, offset: Tensor, x: Tensor) -> Tensor:
    """Give the network's answers ``[..., N]`` by plain operations; activations ``[..., H, N]`` are the faster form."""
    activations = (hidden @ x.mT.contiguous() + bias[..., None]).relu()
    return (answer @ activations + offset[..., None]).squeeze(-2)


class _Error(torch.autograd.Function):
    """The mean squared error ``[...]``, and its gradient, kept for the way back; examples have none."""

    @staticmethod
    def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        return _blockwise(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, row: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        weights, (x, y), grads = saved[:4], saved[4:6], saved[6:]
        if torch.is_grad_enabled():  # somebody wants to differentiate what comes out
            loss = (estimate(weights[0], weights[1], weights[2], weights[3], x) - y).square().mean(-1)
            return *torch.autograd.grad(loss, weights, row, create_graph=True), None, None
        return *(row.reshape(*row.shape, *[1] * (g.ndim - row.ndim)) * g for g in grads), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, ...]:
        moved = [
            part.expand(info.batch_size, *part.shape) if dim is None else part.movedim(dim, 0)
            for part, dim in zip(inputs, in_dims, strict=True)
        ]
        return _Error.apply(*moved), (0,) * 5  # type: ignore[no-untyped-call]


def _blockwise(
    hidden: Tensor, bias: Tensor, answer: Tensor, offset: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, ...]:
    """Give the error ``[...]``, then its gradient by each of the four weights."""
    joined = torch.cat([hidden, bias[..., None]], -1)
    ones = torch.cat([x, torch.ones_like(y)[..., None]], -1)
    loss, by_joined = torch.zeros_like(y[..., 0]), torch.zeros_like(joined)
    by_answer, by_offset = torch.zeros_like(answer), torch.zeros_like(offset)
    for seen, wanted in zip(torch.split(ones, BLOCK, -2), torch.split(y, BLOCK, -1), strict=True):
        turned = seen.mT.contiguous()
        active = (joined @ turned).relu_()
        left = answer @ active + offset[..., None] - wanted[..., None, :]  # [..., 1, n]
        loss += left.square().sum((-2, -1))
        by_answer += left @ active.mT
        by_offset += left.sum(-1)
        by_joined += active.sign_().mul_(left) @ turned.mT
    by_joined *= 2 / y.shape[-1] * answer.mT
    by_answer, by_offset = (2 / y.shape[-1] * part for part in (by_answer, by_offset))
    return loss / y.shape[-1], by_joined[..., :-1].clone(), by_joined[..., -1].clone(), by_answer, by_offset
