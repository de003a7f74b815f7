"""Taming: what a controller may follow of a hypergradient: no number that is none, and none that is far too large.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

import torch
from torch import Tensor

Tame = dict[str, Tensor]
KEPT = 0.99  # of the mean square that slopes are measured against, at each reading
CLIP = 10.0  # root mean squares that a slope may be


def untamed(members: int, sites: int, knobs: int) -> Tame:
    """Give the memory to begin with.

    Args:
        members: ``B``.
        sites: ``S``.
        knobs: ``K``.

    Returns:
        ``square`` and ``count`` ``[B, S, K]``, of slopes so far; ``clipped`` and ``refused`` ``[B]`` int64, how many.
    """
    zero = torch.zeros(members, sites, knobs, dtype=torch.float64)
    none = torch.zeros(members, dtype=torch.int64)
    return {"square": zero, "count": zero.clone(), "clipped": none, "refused": none.clone()}


def tamed(slope: Tensor, memory: Tame, clip: float) -> tuple[Tensor, Tame]:
    """Cut what is too large to the largest that is allowed, and what is no number to 0; count both.

    Args:
        slope: ``[B, S, K]`` by the knobs' places.
        memory: what `untamed` or the last call handed back.
        clip: how many root mean squares of the slopes so far one may be.

    Returns:
        ``[B, S, K]``, and the new memory.
    """
    is_finite = (slope * slope).isfinite()
    slope = torch.where(is_finite, slope, 0.0)
    most = clip * (memory["square"] / memory["count"].clamp_min(1)).sqrt()
    is_wild = (memory["count"] > 0) & (slope.abs() > most)
    slope = torch.where(is_wild, most * slope.sign(), slope)
    tells = slope != 0
    fade = torch.where(tells, KEPT, 1.0)
    return slope, {
        "square": fade * memory["square"] + tells * slope**2,
        "count": fade * memory["count"] + tells,
        "clipped": memory["clipped"] + is_wild.flatten(1).sum(1),
        "refused": memory["refused"] + (~is_finite).flatten(1).sum(1),
    }
