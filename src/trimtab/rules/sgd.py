"""SGD: the functional twin of ``torch.optim.SGD``.

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
from trimtab.rules.rule import Slots, Values
from trimtab.rules.scalars import Scalar, add_scaled, counter, fit


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum.

    Source: Eqs. (1)-(4) of Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".
    Differs from the source: as torch does, the learning rate multiplies the velocity, not the gradient inside it; the
    first velocity is the gradient, undampened; where momentum is 0 the velocity stays as it is.

    Args:
        lr: learning rate.
        momentum: decay of the velocity.
        dampening: share of the gradient kept out of the velocity.
        weight_decay: factor of the parameter in the gradient (L2 penalty).
        nesterov: look one step of momentum ahead.
        maximize: climb instead of descend.

    Example:
        >>> rule, param = SGD(), torch.tensor([1.0, 2.0])
        >>> new, slots = rule.update(torch.ones(2), rule.start(param), param, {"lr": torch.tensor(0.5)})
        >>> new
        tensor([0.5000, 1.5000])
    """

    lr: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False

    name = "sgd"
    elementwise = True
    defaults = Defaults("lr", "momentum", "dampening", "weight_decay")
    twin = torch.optim.SGD

    def start(self, param: Tensor) -> Slots:
        """Give an empty velocity ``[..., n]``, and ``[..., 1]`` that says whether it has taken a gradient (0 or 1)."""
        return {
            "momentum_buffer": torch.zeros_like(param, requires_grad=False),
            "started": counter(param).to(param.dtype),
        }

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
        if self.maximize:
            grad = -grad
        grad = add_scaled(grad, param, values.get("weight_decay", self.weight_decay))
        direction, slots = self._accelerate(grad, slots, values)
        return add_scaled(param, direction, -values.get("lr", self.lr)), slots

    def optimizer(self, groups: Iterable[Any]) -> torch.optim.Optimizer:
        """Build the real twin over parameters or parameter groups."""
        flags = {"nesterov": self.nesterov, "maximize": self.maximize}
        return torch.optim.SGD(groups, **self.defaults, **flags)  # type: ignore[arg-type]

    def slots_of(self, optimizer: torch.optim.Optimizer, param: Tensor) -> Slots:
        """Read a live parameter's slots, sharing the optimizer's memory."""
        slots = read_slots(optimizer, param, self.start(param))
        if optimizer.state.get(param, {}).get("momentum_buffer") is not None:
            slots["started"] = torch.ones_like(slots["started"])
        return slots

    def _accelerate(self, grad: Tensor, slots: Slots, values: Values) -> tuple[Tensor, Slots]:
        momentum: Scalar = values.get("momentum", self.momentum)
        if not isinstance(momentum, Tensor) and momentum == 0:
            return grad, slots
        last, started = slots["momentum_buffer"], slots["started"]
        is_on = (momentum != 0).to(started.dtype) if isinstance(momentum, Tensor) else 1.0
        dampening: Scalar = values.get("dampening", self.dampening)
        fresh = grad
        if isinstance(dampening, Tensor) or dampening != 0:
            fresh = grad * fit(1 - dampening * (started * is_on), grad)
        # with momentum 0 this is the gradient, and its derivative by momentum the velocity, as from momentum > 0
        velocity = add_scaled(fresh, last, momentum)
        direction = add_scaled(grad, velocity, momentum) if self.nesterov else velocity
        if not isinstance(is_on, Tensor):
            return direction, {"momentum_buffer": velocity, "started": torch.ones_like(started)}
        # exact at weights 0 and 1, and several times cheaper than torch.where
        kept = torch.lerp(last, velocity, is_on)
        return direction, {"momentum_buffer": kept, "started": torch.maximum(started, is_on)}
