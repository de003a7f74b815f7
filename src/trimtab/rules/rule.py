"""The Rule protocol: a functional twin of one ``torch.optim`` optimizer.

A rule works on one tensor at a time. It is written for one member, unbatched; since every operation broadcasts, a rule
with `elementwise` may also be given several members and parameters joined, ``[B, n]``, with values of shape ``[B, 1]``
or ``[B, n]``. Others (Muon) get a parameter's own tensor, ``[..., rows, columns]``, values ``[..., 1, 1]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

Slots = dict[str, Tensor]
"""An optimizer's memory of one tensor, by name; each shaped like the tensor, or broadcastable against it."""
Values = Mapping[str, Tensor]
"""Hyperparameters by knob name ("lr", "momentum", "beta1", ...), each broadcastable against the tensor."""


class Rule(Protocol):
    """One optimizer as a pure function; differentiable in everything by ``torch.func`` and autograd.

    Attributes:
        name: the optimizer's name in lower case: ``"sgd"``, ``"adamw"``, ....
        defaults: every numeric hyperparameter that `update` reads, by knob name, with its value where no knob turns it.
        elementwise: whether coordinates do not see each other, so that parameters may be joined into one vector.
    """

    name: str
    defaults: dict[str, float]
    elementwise: bool

    def start(self, param: Tensor) -> Slots:
        """Give the slots before the first step, for a tensor ``[...]`` (leading member axes allowed)."""
        ...

    def update(self, grad: Tensor, slots: Slots, param: Tensor, values: Values) -> tuple[Tensor, Slots]:
        """Take one step.

        Args:
            grad: gradient, like `param`.
            slots: memory, as `start` or the last call gave it; not changed in place.
            param: the tensor; not changed in place.
            values: each of `defaults`' names.

        Returns:
            The new tensor and the new slots.
        """
        ...

    def optimizer(self, groups: Iterable[Any]) -> torch.optim.Optimizer:
        """Build the real twin over parameters or parameter groups, with `defaults` and the rule's flags."""
        ...

    def slots_of(self, optimizer: torch.optim.Optimizer, param: Tensor) -> Slots:
        """Read a live parameter's slots out of the real twin, in `start`'s form (also before its first step)."""
        ...
