"""Ranks: what a run that is spread over processes must agree on. In a run of one process each does nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def world() -> int:
    """Give the number of ranks of the default process group; 1 without one."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def averaged(vector: Tensor) -> Tensor:
    """Average one small vector over the ranks, so that all decide alike; what is not finite on one is so on all."""
    if world() == 1:
        return vector
    torch.distributed.all_reduce(vector)
    return vector / world()


def agreed(value: float) -> float:
    """Give the mean of a number over the ranks that have one (NaN: it has none), NaN where none has."""
    if world() == 1:
        return value
    has = not math.isnan(value)
    total, count = averaged(torch.tensor([value if has else 0.0, float(has)], dtype=torch.float64)).tolist()
    return total / count if count else math.nan


def local(tensor: Any) -> Tensor:
    """Give this rank's part of a tensor, detached, dense and real."""
    tensor = tensor.detach()
    tensor = tensor.to_local() if is_sharded(tensor) else tensor
    tensor = tensor.to_dense() if tensor.is_sparse else tensor
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def is_sharded(tensor: Any) -> bool:
    """Whether a rank holds a part of a tensor only (a DTensor, FSDP2's parameters); asked without importing it."""
    return hasattr(tensor, "to_local")


def shards(params: Sequence[Any]) -> int | None:
    """Give the number of parts that sharded parameters are split into; None where every rank holds them whole."""
    split = next((p for p in params if is_sharded(p)), None)
    if split is None:
        return None
    sizes: list[int] = [split.device_mesh.size(i) for i, place in enumerate(split.placements) if place.is_shard()]
    return math.prod(sizes)


def share(parts: int | None) -> str:
    """Name what this rank holds of a state, given the number of parts that `shards` found."""
    return "whole" if parts is None else f"rank{torch.distributed.get_rank()}of{world()}"
