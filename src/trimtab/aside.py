"""Aside: a copy of a tensor that takes no room on an accelerator."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from trimtab.ranks import is_sharded


def aside(value: Any, *, waits: bool = False) -> Any:
    """Copy a value of a run's state: a tensor of a GPU into pinned memory of the host, anything else where it is.

    Args:
        value: a tensor, or a number, string, list or dictionary.
        waits: until a GPU has done it; else the host may not read the copy before the GPU's next result.

    Returns:
        The copy.
    """
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    if value.device.type != "cuda" or is_sharded(value):  # a shard stays where it is: pinned memory knows no shards
        return value.detach().clone()
    pinned = torch.empty_like(value, device="cpu", pin_memory=True)
    return pinned.copy_(value, non_blocking=not waits)
