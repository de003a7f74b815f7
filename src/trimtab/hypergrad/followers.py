"""Followers: what is done with a hypergradient.

All see the slope ``q = h dv/dp`` by a knob's place ``p`` (``log10 v``, ``-ln(1 - v)`` or ``v``, as its scale is) and
answer with a change of that place: in decades for a learning rate, in e-folds of its memory for a momentum.

Slopes have any shape: ``[B, S, K]`` of sites' knobs, ``[B, n]`` of each parameter's own learning rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trimtab.errors import KnobError

Memory = dict[str, Tensor]


class Follower(Protocol):
    """Turns slopes into changes; pure, free of the loss's unit.

    Attributes:
        name: a short name for tables.
    """

    name: str

    def start(self, like: Tensor) -> Memory:
        """Give the memory before the first of slopes of this form, each with leading ``B``."""
        ...

    def change(self, slope: Tensor, unit: Tensor, size: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Answer to slopes.

        Args:
            slope: ``[B, ...]``, the loss's unit per the place's.
            unit: e-folds in the place's unit: ln 10 where it is a decade, else 1.
            size: ``|gradient| |update|``, the loss's unit: what a slope by ``ln v`` is measured against.
            memory: what `start` or the last call handed back.

        Returns:
            ``[B, ...]`` change of the place, and the new memory.
        """
        ...


@dataclass(frozen=True)
class Sign:
    """A step of fixed size against the slope's sign.

    Args:
        step: its size, in the place's unit.

    Raises:
        KnobError: `step` is not above 0.
    """

    step: float = 0.05
    name = "sign"

    def __post_init__(self) -> None:
        """Check the step."""
        _above(self.step, "step", "sign")

    def start(self, like: Tensor) -> Memory:
        """Remember nothing."""
        return {}

    def change(self, slope: Tensor, unit: Tensor, size: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Step by `step`; see :class:`Follower`."""
        return -self.step * slope.sign(), memory


@dataclass(frozen=True)
class Multiplicative:
    """``v <- v (1 + beta cos)``, where ``cos = -q / (|g_t| |u_{t-1}|)``.

    With the one-step slope by the learning rate this is the cosine of gradient and last update, the multiplicative rule
    of Baydin et al. 2018, arXiv:1703.04782, Eq. (9). Differs from the source: any knob, any slope; cut to [-1, 1].

    Args:
        beta: the relative step at full agreement, in (0, 1).

    Raises:
        KnobError: `beta` is outside (0, 1).
    """

    beta: float = 0.1
    name = "multiplicative"

    def __post_init__(self) -> None:
        """Check the step."""
        if not 0 < self.beta < 1:
            raise KnobError(f"Follower 'multiplicative' needs `beta` in (0, 1), got {self.beta}.")

    def start(self, like: Tensor) -> Memory:
        """Remember nothing."""
        return {}

    def change(self, slope: Tensor, unit: Tensor, size: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Step by the cosine; see :class:`Follower`."""
        cosine = torch.where(size > 0, -slope / unit / size.clamp_min(_tiny(slope)), 0.0)
        return torch.log1p(self.beta * cosine.clamp(-1, 1)) / unit, memory


@dataclass(frozen=True)
class Adam:
    """Adam on the knobs' places: ``p <- p - lr m / sqrt(s)``, both means' bias taken off.

    Clarke et al. 2022, arXiv:2110.10461, Algorithm 1, use it with 0.05 on ``log10 lr``, ``log10 weight decay`` and
    momentum's logit. Adam: Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1. Differs from the source: no epsilon, so
    that the loss's unit does not matter; -log(1 - v) in place of the logit.

    Args:
        lr: a typical step, in the place's unit.
        beta1: decay of the mean slope.
        beta2: decay of the mean squared slope.

    Raises:
        KnobError: an argument is outside its range.
    """

    lr: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    name = "adam"

    def __post_init__(self) -> None:
        """Check the arguments."""
        _above(self.lr, "lr", "adam")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise KnobError(f"Follower 'adam' needs betas in [0, 1), got beta1={self.beta1}, beta2={self.beta2}.")

    def start(self, like: Tensor) -> Memory:
        """Give ``mean``, ``square`` and ``count``, zeros of the slopes' form."""
        zero = torch.zeros_like(like)
        return {"mean": zero, "square": zero.clone(), "count": zero.clone()}

    def change(self, slope: Tensor, unit: Tensor, size: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Step against the mean slope in units of its root mean square; see :class:`Follower`."""
        count = memory["count"] + (slope != 0)
        mean = torch.where(slope != 0, torch.lerp(slope, memory["mean"], self.beta1), memory["mean"])
        square = torch.where(slope != 0, torch.lerp(slope * slope, memory["square"], self.beta2), memory["square"])
        far = count.clamp_min(1)
        size = (square / (1 - self.beta2**far)).sqrt().clamp_min(math.sqrt(_tiny(slope)))
        step = -self.lr * mean / (1 - self.beta1**far) / size
        return step * (slope != 0), {"mean": mean, "square": square, "count": count}


FOLLOWERS = {"adam": Adam, "multiplicative": Multiplicative, "sign": Sign}
"""The followers by name."""


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny


def _above(value: float, what: str, who: str) -> None:
    if not 0 < value < math.inf:
        raise KnobError(f"Follower {who!r} needs a finite `{what} > 0`, got {value}.")
