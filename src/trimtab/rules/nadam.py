"""NAdam: the functional twin of ``torch.optim.NAdam``.

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
from trimtab.rules.scalars import Scalar, add_scaled, counter, fit, shrink

FADE = 0.96  # the base of the momentum's schedule: Dozat 2016, below Algorithm 2


@dataclass(frozen=True)
class NAdam:
    """Adam with Nesterov momentum.

    Source: Algorithm 2 of Dozat 2016, "Incorporating Nesterov momentum into Adam", momentum schedule as below it.
    Differs from the source: as torch does, the running mean decays by `beta1` itself, not by the schedule's momentum;
    squared gradients have a floor (:func:`trimtab.rules.moments.mean_square`).

    Args:
        lr: learning rate.
        beta1: decay of the mean gradient, and the momentum that the schedule reaches.
        beta2: decay of the mean squared gradient.
        eps: added to the denominator.
        weight_decay: factor of the parameter in the gradient, or off the parameter itself if decoupled.
        momentum_decay: how fast the schedule reaches `beta1`.
        decoupled_weight_decay: decay the parameter itself.
        maximize: climb instead of descend.

    Example:
        >>> rule, param = NAdam(), torch.tensor([1.0, 2.0])
        >>> new, slots = rule.update(torch.ones(2), rule.start(param), param, {"lr": torch.tensor(0.5)})
        >>> bool((new < param).all())
        True
    """

    lr: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False
    maximize: bool = False

    name = "nadam"
    elementwise = True
    defaults = Defaults("lr", "beta1", "beta2", "eps", "weight_decay", "momentum_decay")
    twin = torch.optim.NAdam

    def start(self, param: Tensor) -> Slots:
        """Give empty moments ``[..., n]``, a step count of zero and a momentum product of one, both ``[..., 1]``."""
        step = counter(param)
        # torch keeps the product in float32 under that default dtype, whatever the parameter's
        product = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        return {
            "step": step,
            "mu_product": torch.ones_like(step, dtype=product),
            "exp_avg": torch.zeros_like(param, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(param, requires_grad=False),
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
        root = (1 - beta2**step).sqrt()
        now, ahead, product = self._shares(step, slots["mu_product"], beta1, values)
        first = mean(slots["exp_avg"], grad, 1 - beta1)
        second = mean_square(slots["exp_avg_sq"], grad, 1 - beta2)
        # in torch's own order: near the weights' rounding, what controllers see depends on the last digit
        size = second.sqrt() / fit(root, second) + fit(values.get("eps", self.eps), second)
        new = torch.addcdiv(param, grad * fit(-lr * now, grad), size)
        new = torch.addcdiv(new, first * fit(-lr * ahead, grad), size)
        return new, {"step": step, "mu_product": product, "exp_avg": first, "exp_avg_sq": second}

    def optimizer(self, groups: Iterable[Any]) -> torch.optim.Optimizer:
        """Build the real twin over parameters or parameter groups."""
        return torch.optim.NAdam(
            groups,
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            momentum_decay=self.momentum_decay,
            decoupled_weight_decay=self.decoupled_weight_decay,
            maximize=self.maximize,
        )

    def slots_of(self, optimizer: torch.optim.Optimizer, param: Tensor) -> Slots:
        """Read a live parameter's slots, sharing the optimizer's memory."""
        return read_slots(optimizer, param, self.start(param))

    def _shares(self, step: Tensor, product: Tensor, beta1: Scalar, values: Values) -> tuple[Scalar, Scalar, Tensor]:
        """Give the bias-corrected weights of the gradient and of the running mean, and the new product."""
        decay: Scalar = values.get("momentum_decay", self.momentum_decay)
        fade = FADE ** (step * decay)
        now = beta1 * (1 - 0.5 * fade)
        ahead = beta1 * (1 - 0.5 * fade * FADE**decay)
        product = product * now.to(product.dtype)
        wide = product.to(now.dtype)
        return (1 - now) / (1 - wide), ahead / (1 - wide * ahead), product
