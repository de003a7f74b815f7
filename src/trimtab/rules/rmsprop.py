"""RMSprop: the functional twin of ``torch.optim.RMSprop``.

Letters: ``...`` leading member axes and the parameter's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.rules.defaults import Defaults
from trimtab.rules.live import read_slots
from trimtab.rules.moments import mean, mean_square
from trimtab.rules.rule import Slots, Values
from trimtab.rules.scalars import Scalar, add_scaled, counter, fit


@dataclass(frozen=True)
class RMSprop:
    """Gradient descent in units of the gradient's running root mean square.

    Source: Tieleman & Hinton 2012, "Lecture 6.5: rmsprop"; `centered`: Eqs. (38)-(41) of Graves 2013, arXiv:1308.0850.
    Differs from the source: as torch does, `eps` is added outside the root, and the velocity is of unscaled steps (the
    learning rate multiplies it last); where momentum is 0 the velocity stays as it is; squared gradients have a floor
    (:func:`trimtab.rules.moments.mean_square`).

    The real optimizer makes its velocity at its first step, if momentum is above 0 there: one that starts at exactly 0
    cannot be turned up later (torch raises ``KeyError: 'momentum_buffer'``); the twin can.

    Args:
        lr: learning rate.
        alpha: decay of the mean squared gradient.
        eps: added to the denominator.
        weight_decay: factor of the parameter in the gradient (L2 penalty).
        momentum: decay of the velocity.
        centered: divide by the gradient's standard deviation.
        maximize: climb instead of descend.

    Example:
        >>> rule, param = RMSprop(alpha=0.0), torch.tensor([1.0, 2.0])
        >>> new, slots = rule.update(torch.ones(2), rule.start(param), param, {"lr": torch.tensor(0.5)})
        >>> new
        tensor([0.5000, 1.5000])
    """

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    maximize: bool = False

    name = "rmsprop"
    elementwise = True
    defaults = Defaults("lr", "alpha", "eps", "weight_decay", "momentum")
    twin = torch.optim.RMSprop

    def start(self, param: Tensor) -> Slots:
        """Give an empty mean square and velocity, and if centered an empty mean, all ``[..., n]``."""
        counter(param)  # refuses complex tensors
        names = ("square_avg", "momentum_buffer", "grad_avg")[: 3 if self.centered else 2]
        return {name: torch.zeros_like(param, requires_grad=False) for name in names}

    def update(self, grad: Tensor, slots: Slots, param: Tensor, values: Values) -> tuple[Tensor, Slots]:
        """Take one step.

        Args:
            grad: ``[..., n]``.
            slots: as `start` or the last call gave them.
            param: ``[..., n]``.
            values: any of `defaults`' names; one left out takes its default, as a plain number, which is cheaper.

        Returns:
            The new tensor ``[..., n]`` and the new slots.
        """
        grad = -grad if self.maximize else grad
        grad = add_scaled(grad, param, values.get("weight_decay", self.weight_decay))
        weight: Scalar = 1 - values.get("alpha", self.alpha)
        second = mean_square(slots["square_avg"], grad, weight)
        new = {"square_avg": second}
        if self.centered:
            first = new["grad_avg"] = mean(slots["grad_avg"], grad, weight)
            second = torch.addcmul(second, first, first, value=-1)
        direction = grad / (second.sqrt() + fit(values.get("eps", self.eps), second))
        momentum: Scalar = values.get("momentum", self.momentum)
        last = slots["momentum_buffer"]
        direction = add_scaled(direction, last, momentum)
        new["momentum_buffer"] = _keep_where_off(last, direction, momentum)
        return add_scaled(param, direction, -values.get("lr", self.lr)), new

    def optimizer(self, groups: Iterable[Any]) -> torch.optim.Optimizer:
        """Build the real twin over parameters or parameter groups."""
        flags = {"centered": self.centered, "maximize": self.maximize}
        return torch.optim.RMSprop(groups, **self.defaults, **flags)  # type: ignore[arg-type]

    def slots_of(self, optimizer: torch.optim.Optimizer, param: Tensor) -> Slots:
        """Read a live parameter's slots, sharing the optimizer's memory."""
        return read_slots(optimizer, param, self.start(param))


def _keep_where_off(last: Tensor, velocity: Tensor, momentum: Scalar) -> Tensor:
    if isinstance(momentum, Tensor):
        # exact at weights 0 and 1, and several times cheaper than torch.where
        return torch.lerp(last, velocity, (momentum != 0).to(last.dtype))
    return last if momentum == 0 else velocity
