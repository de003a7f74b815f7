"""Muon: the functional twin of ``torch.optim.Muon``.

Letters: ``...`` leading member axes; a parameter is a matrix ``[rows, columns]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import TaskError
from trimtab.rules.defaults import Defaults
from trimtab.rules.live import read_slots
from trimtab.rules.moments import mean
from trimtab.rules.rule import Slots, Values
from trimtab.rules.scalars import Scalar, add_scaled, fit, shrink


@dataclass(frozen=True)
class Muon:
    """Momentum whose steps are orthogonalized.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks",
    https://kellerjordan.github.io/posts/muon/; ``adjust_lr_fn="match_rms_adamw"``: Eq. (4) of Liu et al. 2025,
    arXiv:2502.16982. Differs from the source: as torch does, the velocity is a running mean.

    Its steps are rounded to `ns_dtype`, as torch's are to bfloat16, and then change in jumps with `momentum` and `eps`:
    derivatives by these two knobs are those of the unrounded step, to bfloat16's two or three digits. Joined members'
    products are rounded in another order than a single matrix's, which about one step in 200 shows in bfloat16's last
    digit (`one_by_one` keeps torch's order); under ``torch.func.vmap`` the same holds of every step.

    Args:
        lr: learning rate.
        weight_decay: decay of the parameter itself, per step and unit of `lr`.
        momentum: decay of the velocity.
        eps: least norm that a step is divided by.
        nesterov: look one step of momentum ahead.
        ns_coefficients: coefficients of the Newton-Schulz polynomial, of its terms of degree 1, 3 and 5.
        ns_steps: Newton-Schulz iterations.
        adjust_lr_fn: how the matrix's shape scales `lr`: "original" (also None) or "match_rms_adamw".
        ns_dtype: dtype of the iterations; torch's is bfloat16.
        one_by_one: multiply joined members' matrices one after the other: equal to torch's to the last digit, and ten
            times slower.

    Example:
        >>> rule, param = Muon(weight_decay=0.0, ns_dtype=torch.float64), torch.zeros(2, 2)
        >>> new, slots = rule.update(torch.eye(2), rule.start(param), param, {"lr": torch.tensor(1.0)})
        >>> new.round(decimals=2)
        tensor([[-1.1100,  0.0000],
                [ 0.0000, -1.1100]])
    """

    lr: float = 1e-3
    weight_decay: float = 0.1
    momentum: float = 0.95
    eps: float = 1e-7
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)  # torch.optim._muon
    ns_steps: int = 5
    adjust_lr_fn: str | None = None
    ns_dtype: torch.dtype = torch.bfloat16
    one_by_one: bool = False

    name = "muon"
    elementwise = False
    defaults = Defaults("lr", "weight_decay", "momentum", "eps")
    twin = torch.optim.Muon

    def start(self, param: Tensor) -> Slots:
        """Give an empty velocity ``[..., rows, columns]``.

        Args:
            param: ``[..., rows, columns]``.

        Returns:
            The slots.

        Raises:
            TaskError: the tensor is not a matrix of real floating point numbers.
        """
        if param.ndim < 2 or not param.is_floating_point():
            raise TaskError(
                f"Muon's parameters must be real matrices [..., rows, columns], got shape {list(param.shape)} of "
                f"{param.dtype}: give biases, embeddings and the like to AdamW."
            )
        return {"momentum_buffer": torch.zeros_like(param, requires_grad=False)}

    def update(self, grad: Tensor, slots: Slots, param: Tensor, values: Values) -> tuple[Tensor, Slots]:
        """Take one step.

        Args:
            grad: ``[..., rows, columns]``.
            slots: as `start` or the last call gave them.
            param: ``[..., rows, columns]``.
            values: any of `defaults`' names, each ``[..., 1, 1]`` or ``[]``; one left out takes its default.

        Returns:
            The new tensor ``[..., rows, columns]`` and the new slots.
        """
        lr: Scalar = values.get("lr", self.lr)
        momentum: Scalar = values.get("momentum", self.momentum)
        velocity = mean(slots["momentum_buffer"], grad, 1 - momentum)
        ahead = torch.lerp(grad, velocity, fit(momentum, grad)) if self.nesterov else velocity
        step = self._orthogonalize(ahead, values.get("eps", self.eps))
        new = shrink(param, lr, values.get("weight_decay", self.weight_decay))
        return add_scaled(new, step.to(new.dtype), -lr * self._stretch(param)), {"momentum_buffer": velocity}

    def optimizer(self, groups: Iterable[Any]) -> torch.optim.Optimizer:
        """Build the real twin over matrices or groups of them.

        Args:
            groups: parameters or parameter groups.

        Returns:
            The optimizer.

        Raises:
            TaskError: `ns_dtype` is not torch's.
        """
        if self.ns_dtype != torch.bfloat16:
            raise TaskError(f"torch.optim.Muon iterates in bfloat16, got ns_dtype={self.ns_dtype}: leave it out.")
        return torch.optim.Muon(
            groups,
            **self.defaults,
            nesterov=self.nesterov,
            ns_coefficients=self.ns_coefficients,
            ns_steps=self.ns_steps,
            adjust_lr_fn=self.adjust_lr_fn,
        )

    def slots_of(self, optimizer: torch.optim.Optimizer, param: Tensor) -> Slots:
        """Read a live parameter's slots, sharing the optimizer's memory."""
        return read_slots(optimizer, param, self.start(param))

    def _stretch(self, param: Tensor) -> float:
        rows, columns = param.shape[-2:]
        if self.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
        return math.sqrt(max(1, rows / columns))

    def _orthogonalize(self, step: Tensor, eps: Scalar) -> Tensor:
        a, b, c = self.ns_coefficients
        is_tall = step.shape[-2] > step.shape[-1]
        x = step.to(self.ns_dtype)
        x = x.mT if is_tall else x
        norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
        least = fit(eps, x)
        x = x / (torch.maximum(norm, least) if isinstance(least, Tensor) else norm.clamp(min=least))
        for _ in range(self.ns_steps):
            gram = x @ x.mT
            x = self._multiply_add(x, self._multiply_add(gram, gram, gram, b, c), x, a, 1.0)
        return x.mT if is_tall else x

    def _multiply_add(self, base: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float) -> Tensor:
        """Give ``beta * base + alpha * left @ right``, rounded once, as torch's Muon has it."""
        if base.ndim == 2:
            return torch.addmm(base, left, right, beta=beta, alpha=alpha)
        joined = [matrices.flatten(0, -3) for matrices in (base, left, right)]
        if self.one_by_one:
            singles = [torch.addmm(*three, beta=beta, alpha=alpha) for three in zip(*joined, strict=True)]
            return torch.stack(singles).reshape(base.shape)
        return torch.baddbmm(*joined, beta=beta, alpha=alpha).reshape(base.shape)
