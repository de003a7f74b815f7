"""Batches: trees of tensors with examples along an axis, cut and mixed.

A batch is what a user's loss takes: a tensor, or tuples, lists and dictionaries of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def first(tree: Any, examples: int, axis: int) -> Any:
    """Give the first examples of a batch.

    Args:
        tree: the batch.
        examples: how many.
        axis: along which they lie in each tensor.

    Returns:
        A batch of the same form.
    """
    if isinstance(tree, dict):
        return {name: first(part, examples, axis) for name, part in tree.items()}
    if isinstance(tree, tuple | list):
        parts = [first(part, examples, axis) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree.narrow(axis, 0, min(examples, tree.shape[axis])) if isinstance(tree, Tensor) else tree


def loosened(tree: Any) -> Any:
    """Give a batch in plain tuples, lists and dictionaries, as a checkpoint can hold it."""
    if isinstance(tree, dict):
        return {name: loosened(part) for name, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(loosened(part) for part in tree)
    return [loosened(part) for part in tree] if isinstance(tree, list) else tree


def formed(tree: Any, like: Any) -> Any:
    """Give what `loosened` gave its form back: named tuples, as `like` has them."""
    if isinstance(like, dict):
        return {name: formed(tree[name], part) for name, part in like.items()}
    if isinstance(like, tuple | list):
        parts = [formed(part, form) for part, form in zip(tree, like, strict=True)]
        return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
    return tree


def mixed(new: Any, old: Any, kept: Tensor, draw: int, axis: int) -> Any:
    """Replace a share of a batch's examples by an older batch's; tensors of other sizes stay the new one's.

    Args:
        new: the batch.
        old: the older one, of the same form.
        kept: ``[B]`` share of `old` that stays.
        draw: which examples: the seed of a permutation, the same for all members and tensors.
        axis: along which they lie: 1 behind members, else 0, and `kept` has one entry.

    Returns:
        The mixture.
    """
    if isinstance(new, dict):
        return {name: mixed(new[name], old[name], kept, draw, axis) for name in new}
    if isinstance(new, tuple | list):
        parts = [mixed(a, b, kept, draw, axis) for a, b in zip(new, old, strict=True)]
        return type(new)(*parts) if hasattr(new, "_fields") else type(new)(parts)
    if not isinstance(new, Tensor) or new.shape != old.shape or new.ndim <= axis:
        return new
    count = new.shape[axis]
    places = torch.randperm(count, generator=torch.Generator().manual_seed(draw)).to(kept.device)
    stays = places < (kept * count).round()[:, None]  # [B, n]
    stays = stays if axis == 1 else stays[0]
    return torch.where(stays.reshape(*stays.shape, *[1] * (new.ndim - axis - 1)).to(new.device), old, new)
