"""Best: which of a validated run's averages to use, the last one or the one that validated lowest.

A rate that is high to the end may end in a rise, and nobody is left to mend it. So the average that validated lowest is
kept aside. It is used where the last validation loss lies clearly above its own, beyond ``lowest + 2 rises + 2 % of
max(|lowest|, first - lowest)``, with `rises` a moving mean of what the loss rises by from one validation to the next
and `first` the first one: less may be chance, and what is chosen by chance is not better. A state that the guard left
is not heard of, and the one it went back to is not known before the next validation: the lowest is used until then.
One law for the live run (:class:`trimtab.average.Average`) and for the plant (:class:`trimtab.copies.Best`).

Letters: ``B`` members.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Memory = dict[str, Tensor]
GAIN = 0.2  # of the mean rise between two validations
BEYOND, RISE = 2, 0.02  # mean rises that are no more than chance, and share of the loss or of the way made
SPIKE, SHARE = 4, 0.25  # of the mean rise, or of the loss or of the way made: what one rise counts as at most


def start(members: int) -> Memory:
    """Give the memory before the first validation, each ``[B]`` float64: first, last, lowest loss and mean rise."""
    values = {"first": math.nan, "last": math.nan, "lowest": math.inf, "rises": 0.0}
    return {name: torch.full((members,), value, dtype=torch.float64) for name, value in values.items()}


def risen(val: Tensor, last: Tensor, rises: Tensor, height: Tensor) -> Tensor:
    """Give the mean rise of a validation loss.

    Args:
        val: ``[B]``, the last one.
        last: ``[B]``, the one before; not finite: not known.
        rises: ``[B]``, the mean rise so far.
        height: ``[B]``, what a rise is small or large beside; NaN: not known.

    Returns:
        ``[B]``: what is no rise, or follows on none, counted as 0, and a spike in part: it must not hide those to come.
    """
    up = (val - last).clamp_min(0).nan_to_num(0.0)
    return rises + GAIN * (torch.fmin(up, torch.maximum(SPIKE * rises, SHARE * height)) - rises)


def heard(val: Tensor, memory: Memory, left: Tensor) -> tuple[Tensor, Memory]:
    """Take validation losses.

    Args:
        val: ``[B]``; what is not finite counts as not measured.
        memory: what `start` or the last call handed back; not changed in place.
        left: ``[B]`` bool, who has just gone back to an earlier state: its loss is of a state that is gone.

    Returns:
        ``[B]`` bool, whose is the lowest so far; and the new memory.
    """
    val, seen = val.detach().to(torch.float64), val.isfinite() & ~left
    rises = risen(val, memory["last"], memory["rises"], _height(memory))
    is_lowest = seen & (val < memory["lowest"])
    return is_lowest, {
        "first": torch.where(memory["first"].isnan() & seen, val, memory["first"]),
        "last": torch.where(seen, val, memory["last"]).masked_fill(left, math.inf),
        "lowest": torch.where(is_lowest, val, memory["lowest"]),
        "rises": torch.where(seen, rises, memory["rises"]),
    }


def is_past(memory: Memory, is_sane: Tensor) -> Tensor:
    """Say for which members ``[B]`` the average that validated lowest is the one to use, not the last.

    Args:
        memory: what `heard` gave.
        is_sane: ``[B]`` bool, whose last average is finite; one that is not was not heard of either.

    Returns:
        ``[B]`` bool.
    """
    lowest = memory["lowest"]
    is_worse = memory["last"] > lowest + BEYOND * memory["rises"] + RISE * _height(memory)
    return lowest.isfinite() & (is_worse | ~is_sane)


def _height(memory: Memory) -> Tensor:
    return torch.maximum(memory["lowest"].abs(), memory["first"] - memory["lowest"])
