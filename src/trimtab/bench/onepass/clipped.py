"""Clipped: SGD on gradients that are cut to a norm first, as the paper trains its word model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from trimtab.rules import SGD, Slots, Values

TINY = 1e-6  # as torch.nn.utils.clip_grad_norm_ adds to the norm


@final
@dataclass(frozen=True)
class ClippedSGD:
    """``torch.nn.utils.clip_grad_norm_``, then SGD; weight decay comes after the cut.

    All parameters must be one site, whose rows it sees joined: the norm is of the whole gradient. Hypergradients go
    through the cut. Source: Sec. 4 of arXiv:2110.10461 (norm 0.25). Differs from the source: nothing.

    Args:
        norm: the longest gradient.
    """

    norm: float
    name = "sgd"
    elementwise = True
    defaults = SGD().defaults

    def start(self, param: Tensor) -> Slots:
        """Give SGD's."""
        return SGD().start(param)

    def update(self, grad: Tensor, slots: Slots, param: Tensor, values: Values) -> tuple[Tensor, Slots]:
        """Cut, then step; ``[..., n]`` as :meth:`trimtab.rules.SGD.update` has them."""
        size = torch.linalg.vector_norm(grad, dim=-1, keepdim=True)
        return SGD().update(grad * (self.norm / (size + TINY)).clamp(max=1), slots, param, values)

    def optimizer(self, groups: Iterable[Any]) -> torch.optim.Optimizer:
        """Build SGD's twin; cutting is the training loop's."""
        return SGD().optimizer(groups)

    def slots_of(self, optimizer: torch.optim.Optimizer, param: Tensor) -> Slots:
        """Read SGD's."""
        return SGD().slots_of(optimizer, param)
