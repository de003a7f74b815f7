"""Adam and AdamW: the functional twins of ``torch.optim.Adam`` and ``torch.optim.AdamW``.

Letters: ``...`` leading member axes and the parameter's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from trimtab.rules.defaults import Defaults
from trimtab.rules.live import read_slots
from trimtab.rules.moments import mean, mean_square
from trimtab.rules.rule import Slots, Values
from trimtab.rules.scalars import Scalar, add_scaled, counter, fit, shrink


@dataclass(frozen=True)
class Adam:
    """Adaptive moment estimation.

    Source: Algorithm 1 of Kingma & Ba 2015, arXiv:1412.6980; `amsgrad`: Algorithm 2 of Reddi et al. 2018,
    arXiv:1904.09237. Differs from the source: both bias corrections are moved into the step's two scalars, as in
    section 2 of the former; squared gradients have a floor (:func:`trimtab.rules.moments.mean_square`); as in torch,
    the maximum of amsgrad is of the uncorrected moments.

    Args:
        lr: learning rate.
        beta1: decay of the mean gradient.
        beta2: decay of the mean squared gradient.
        eps: added to the denominator.
        weight_decay: factor of the parameter in the gradient, or off the parameter itself if decoupled.
        amsgrad: divide by the largest mean square so far.
        maximize: climb instead of descend.
        decoupled_weight_decay: decay the parameter itself.

    Example:
        >>> rule, param = Adam(), torch.tensor([1.0, 2.0])
        >>> new, slots = rule.update(torch.ones(2), rule.start(param), param, {"lr": torch.tensor(0.5)})
        >>> new
        tensor([0.5000, 1.5000])
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    maximize: bool = False
    decoupled_weight_decay: bool = False

    name = "adam"
    elementwise = True
    defaults = Defaults("lr", "beta1", "beta2", "eps", "weight_decay")
    twin = torch.optim.Adam

    def start(self, param: Tensor) -> Slots:
        """Give empty moments ``[..., n]`` and a step count ``[..., 1]`` of zero, float64."""
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if self.amsgrad else 2]
        return {"step": counter(param), **{name: torch.zeros_like(param, requires_grad=False) for name in names}}

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
        lr: Scalar = values.get("lr", self.lr)
        beta1: Scalar = values.get("beta1", self.beta1)
        beta2: Scalar = values.get("beta2", self.beta2)
        weight_decay: Scalar = values.get("weight_decay", self.weight_decay)
        grad = -grad if self.maximize else grad
        if self.decoupled_weight_decay:
            param = shrink(param, lr, weight_decay)
        else:
            grad = add_scaled(grad, param, weight_decay)
        step = slots["step"] + 1
        first = mean(slots["exp_avg"], grad, 1 - beta1)
        second = mean_square(slots["exp_avg_sq"], grad, 1 - beta2)
        new = {"step": step, "exp_avg": first, "exp_avg_sq": second}
        if self.amsgrad:
            second = new["max_exp_avg_sq"] = torch.maximum(slots["max_exp_avg_sq"], second)
        root = (1 - beta2**step).sqrt()
        ratio = first / (second.sqrt() + fit(values.get("eps", self.eps) * root, second))
        return add_scaled(param, ratio, -lr * root / (1 - beta1**step)), new

    def optimizer(self, groups: Iterable[Any]) -> torch.optim.Optimizer:
        """Build the real twin over parameters or parameter groups."""
        return torch.optim.Adam(
            groups,
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            amsgrad=self.amsgrad,
            maximize=self.maximize,
            decoupled_weight_decay=self.decoupled_weight_decay,
        )

    def slots_of(self, optimizer: torch.optim.Optimizer, param: Tensor) -> Slots:
        """Read a live parameter's slots, sharing the optimizer's memory."""
        return read_slots(optimizer, param, self.start(param))


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay.

    Source: Algorithm 2 of Loshchilov & Hutter 2019, arXiv:1711.05101. Differs from the source: its schedule
    multiplier is the learning rate, as in torch, so that ``lr * weight_decay`` is the decay per step; and as
    :class:`Adam` differs from its own.

    Args:
        lr: learning rate.
        beta1: decay of the mean gradient.
        beta2: decay of the mean squared gradient.
        eps: added to the denominator.
        weight_decay: decay of the parameter itself, per step and unit of `lr`.
        amsgrad: divide by the largest mean square so far.
        maximize: climb instead of descend.

    Example:
        >>> AdamW().defaults["weight_decay"]
        0.01
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-2
    amsgrad: bool = False
    maximize: bool = False

    name = "adamw"
    elementwise = True
    defaults = Defaults("lr", "beta1", "beta2", "eps", "weight_decay")
    twin = torch.optim.AdamW

    def start(self, param: Tensor) -> Slots:
        """Give empty moments ``[..., n]`` and a step count ``[..., 1]`` of zero, float64."""
        return self._adam.start(param)

    def update(self, grad: Tensor, slots: Slots, param: Tensor, values: Values) -> tuple[Tensor, Slots]:
        """Take one step, as :meth:`Adam.update` does.

        Args:
            grad: ``[..., n]``.
            slots: as `start` or the last call gave them.
            param: ``[..., n]``.
            values: any of `defaults`' names; one left out takes its default, as a plain number, which is cheaper.

        Returns:
            The new tensor ``[..., n]`` and the new slots.
        """
        return self._adam.update(grad, slots, param, values)

    def optimizer(self, groups: Iterable[Any]) -> torch.optim.Optimizer:
        """Build the real twin over parameters or parameter groups."""
        return torch.optim.AdamW(
            groups,
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            amsgrad=self.amsgrad,
            maximize=self.maximize,
        )

    def slots_of(self, optimizer: torch.optim.Optimizer, param: Tensor) -> Slots:
        """Read a live parameter's slots, sharing the optimizer's memory."""
        return self._adam.slots_of(optimizer, param)

    @cached_property
    def _adam(self) -> Adam:
        return Adam(
            self.lr,
            self.beta1,
            self.beta2,
            self.eps,
            self.weight_decay,
            self.amsgrad,
            self.maximize,
            decoupled_weight_decay=True,
        )
