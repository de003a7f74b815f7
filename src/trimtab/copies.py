"""Copies: the plant's members between two steps, and what is kept of them for the next reading.

Letters: ``B`` members, ``n`` parameters of a member, ``m`` sampled coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trimtab.rules import Slots


@dataclass(frozen=True)
class Copies:
    """The members' state between two steps; nothing in it is changed in place.

    Attributes:
        weights: ``[B, n]`` parameters, site by site.
        slots: the rule's memory, one set a part: a site for an elementwise rule, else a parameter.
        buffers: ``[B, ...]`` the network's buffers (batch norm's statistics), by name.
    """

    weights: Tensor
    slots: tuple[Slots, ...]
    buffers: dict[str, Tensor]


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
