"""Copies: the plant's members between two steps, and what is kept of them for the next reading.

Letters: ``B`` members, ``n`` parameters of a member, ``m`` sampled coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trimtab import best
from trimtab.averaging import share, stride

if TYPE_CHECKING:
    from trimtab.rules import Slots


@dataclass(frozen=True)
class Copies:
    """The members' state between two steps; nothing in it is changed in place.

    Attributes:
        weights: ``[B, n]`` parameters, site by site.
        slots: the rule's memory, one set a part: a site for an elementwise rule, else a parameter.
        buffers: ``[B, ...]`` the network's buffers (batch norm's statistics), by name.
        average: weights and buffers averaged over the run, as :mod:`trimtab.averaging` has it; None where none is kept.
    """

    weights: Tensor
    slots: tuple[Slots, ...]
    buffers: dict[str, Tensor]
    average: tuple[Tensor, dict[str, Tensor]] | None = None

    def averaging(self) -> Copies:
        """Give the members before their first step, at which an average begins."""
        return replace(self, average=(self.weights, self.buffers))

    def following(self, average: tuple[Tensor, dict[str, Tensor]], clock: Tensor) -> Copies:
        """Give the members after a step, their average moved on where it is time.

        Args:
            average: as it was before the step.
            clock: ``[B]`` optimizer steps that each has taken, this one included.

        Returns:
            Them; of a buffer that counts, the last one.
        """
        apart = stride(clock)
        is_due = clock % apart == 0
        if not bool(is_due.any()):
            return replace(self, average=average)
        shares = torch.where(is_due, share(clock.double(), clock - apart), 0.0).to(self.weights.device)
        buffers = {name: _moved(average[1][name], buffer, shares) for name, buffer in self.buffers.items()}
        return replace(self, average=(_moved(average[0], self.weights, shares), buffers))

    def averaged(self) -> Copies:
        """Give the members as they are to be read, or to go on from: at their averages, where they are kept."""
        return self if self.average is None else replace(self, weights=self.average[0], buffers=self.average[1])


def _moved(old: Tensor, new: Tensor, shares: Tensor) -> Tensor:
    """Move ``[B, ...]`` towards another by ``[B]`` shares, 0 not at all; what is whole numbers takes the other's."""
    shares = shares.reshape(-1, *([1] * (new.dim() - 1)))
    if not new.is_floating_point():
        return torch.where(shares > 0, new, old)
    return torch.where(shares > 0, torch.lerp(old, new, shares.to(new.dtype)), old)


@dataclass(frozen=True)
class Best:
    """The members' averages that validated lowest; nothing in it is changed in place.

    Attributes:
        weights: ``[B, n]``.
        buffers: ``[B, ...]`` by name.
        memory: ``[B]`` each, as :mod:`trimtab.best` has it.
    """

    weights: Tensor
    buffers: dict[str, Tensor]
    memory: best.Memory

    @classmethod
    def of(cls, copies: Copies) -> Best:
        """Give the members before their first validation."""
        memory = {name: value.to(copies.weights.device) for name, value in best.start(len(copies.weights)).items()}
        return cls(copies.weights, copies.buffers, memory)

    def heard(self, val: Tensor, copies: Copies, left: Tensor) -> Best:
        """Take the validation losses ``[B]`` of members, and who ``[B]`` has left them since (:func:`best.heard`)."""
        is_lowest, memory = best.heard(val, self.memory, left)
        now = copies.averaged()
        weights, buffers = select(is_lowest, (now.weights, now.buffers), (self.weights, self.buffers))
        return Best(weights, buffers, memory)

    def used(self, copies: Copies) -> Copies:
        """Give members as they are to be used: at the average that validated lowest where the last is clearly worse."""
        now = copies.averaged()
        is_past = best.is_past(self.memory, now.weights.isfinite().all(1))
        return replace(copies, average=select(is_past, (self.weights, self.buffers), (now.weights, now.buffers)))


@dataclass(frozen=True)
class Look:
    """What a reading needs of the step before it.

    Attributes:
        weight: ``[B, m]`` sampled weights of the last step looked at.
        grad: ``[B, m]`` its sampled gradient.
        first: ``[B, m]`` the weights before the first step.
        memory: the estimator's; None where there is none, or it has seen no step.
    """

    weight: Tensor
    grad: Tensor
    first: Tensor
    memory: dict[str, Any] | None = None


def select(mask: Tensor, yes: Any, no: Any) -> Any:
    """Choose member by member between two trees of the same form.

    Args:
        mask: ``[B]`` bool.
        yes: a tensor with leading ``B``, None, or a dict or tuple of such.
        no: likewise.

    Returns:
        A tree with `yes`'s entries where the mask holds, `no`'s elsewhere.
    """
    if isinstance(yes, dict):
        return {name: select(mask, yes[name], no[name]) for name in yes}
    if isinstance(yes, tuple):
        return tuple(select(mask, a, b) for a, b in zip(yes, no, strict=True))
    if yes is None:
        return None
    return torch.where(mask.reshape(-1, *([1] * (yes.dim() - 1))), yes, no)


def pick(tree: Any, members: Sequence[int]) -> Any:
    """Give some members of a tree, in any order, and any of them several times.

    Args:
        tree: a tensor with leading ``B``, a list with an entry a member, None, or a dict or tuple of such.
        members: which.

    Returns:
        A tree of the same form, of as many members.

    Example:
        >>> pick({"a": torch.tensor([1, 2, 3]), "b": [4, 5, 6]}, [2, 0])
        {'a': tensor([3, 1]), 'b': [6, 4]}
    """
    if isinstance(tree, dict):
        return {name: pick(entry, members) for name, entry in tree.items()}
    if isinstance(tree, tuple):
        return tuple(pick(entry, members) for entry in tree)
    if isinstance(tree, list):
        return [tree[member] for member in members]
    return tree if tree is None else tree[torch.as_tensor(members, device=tree.device)]


def join(trees: Sequence[Any]) -> Any:
    """Put trees of the same form, as in :func:`pick`, side by side: the first one's members first."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: join([tree[name] for tree in trees]) for name in first}
    if isinstance(first, tuple):
        return tuple(join(entries) for entries in zip(*trees, strict=True))
    if isinstance(first, list):
        return [entry for tree in trees for entry in tree]
    return first if first is None else torch.cat(list(trees))
