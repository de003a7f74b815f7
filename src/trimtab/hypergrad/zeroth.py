"""Zeroth order: the slope from losses alone, by steps with turned knobs.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member, ``q`` directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.errors import KnobError, SignalError
from trimtab.hypergrad.estimator import Form, Memory, blank, told, told_rates
from trimtab.hypergrad.step import Step
from trimtab.layout import Layout


@dataclass(frozen=True)
class ZerothOrder:
    """The held-out loss's slope from short branches of the run, each with knobs turned a little along one direction.

    ``h = p / (2 mu q) sum_i (f(v e^{mu u_i}) - f(v e^{-mu u_i})) u_i`` by ``log v``, with ``u_i`` uniform on the unit
    sphere of the ``p = S K`` knobs and ``f`` the held-out loss after `horizon` steps on the last batch. Unbiased as
    ``mu`` tends to 0, at a variance that falls as ``1 / q``. It needs no second derivative, and costs ``2 q`` held-out
    losses and ``2 q (horizon - 1)`` gradients a reading.

    HOZOG: Gu et al. 2021, arXiv:2102.09026, Eq. (4). Differs from the source: antithetic pairs; knobs are turned by a
    factor; `f` is a branch of the run, not a whole one (:func:`slope_of` takes any).

    Args:
        pairs: ``q``.
        mu: how far knobs are turned, as a factor's logarithm.
        horizon: steps of a branch.
        seed: of the directions.

    Raises:
        KnobError: an argument is out of range.

    Example:
        >>> sorted(ZerothOrder(pairs=2).needs)
        ['hypergrad', 'loss_fn', 'val_hypergrad']
    """

    pairs: int = 4
    mu: float = 1e-2
    horizon: int = 1
    seed: int = 0
    name = "zeroth-order"
    needs = frozenset({"hypergrad", "val_hypergrad", "loss_fn"})
    is_running = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not (self.pairs >= 1 and 0 < self.mu < 1 and self.horizon >= 1):
            raise KnobError(
                "Zeroth order needs `pairs >= 1`, `mu` in (0, 1) and `horizon >= 1`, got "
                f"pairs={self.pairs}, mu={self.mu}, horizon={self.horizon}."
            )

    def start(self, form: Form) -> Memory:
        """Give ``slope`` ``[B, S, K]`` and ``count`` ``[B]``, readings so far: zeros."""
        slope = blank(form)
        return {"slope": slope, "count": slope.new_zeros(len(slope))}

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Branch off, and compare the ends."""
        count = int(memory["count"].max())
        rng = torch.Generator().manual_seed((self.seed * 1_000_003 + count) % 2**63)

        def end(values: Tensor, start: Step = step) -> Tensor:
            weights, slots = start.applied(values)
            for _ in range(self.horizon - 1):
                weights, slots = start.at(weights).applied(values, slots)
            return step.held_out_loss_at(weights)

        slope = slope_of(lambda turned: torch.stack([end(v) for v in turned]), step.values, self.pairs, self.mu, rng)
        if count == 0 and not slope.any():
            _check_depends(step)
        new = {"slope": slope, "count": memory["count"] + 1}
        factors = step.factors
        if factors is not None:
            new["rates"] = slope_by_factors(
                lambda turned: end(step.values, replace(step, factors=turned)), factors, self.pairs, self.mu, rng
            )
        return new

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Give the slope."""
        return told(memory, grad, layout)

    def rates(self, memory: Memory, grad: Tensor) -> Tensor:
        """Give each parameter's slope; see :class:`trimtab.hypergrad.estimator.Fine`."""
        return told_rates(memory, grad)


def _check_depends(step: Step) -> None:
    """Refuse a held-out loss that is the same wherever the weights are."""
    here, zero, across = (step.held_out_loss_at(sign * step.after) for sign in (1, 0, -1))
    if bool((here == zero).all() and (here == across).all()):
        raise SignalError("The validation loss does not depend on the optimizer's parameters: compute it with them.")


def slope_of(loss: Callable[[Tensor], Tensor], values: Tensor, pairs: int, mu: float, rng: torch.Generator) -> Tensor:
    """Estimate how a function of the knobs answers to each, from its values alone.

    Args:
        loss: of values ``[2 q, B, S, K]``, gives ``[2 q, B]``: branches, or whole runs as members of one plant.
        values: ``[B, S, K]`` where; one that is 0 is taken not to matter.
        pairs: ``q`` directions, each taken both ways.
        mu: how far, as a factor's logarithm.
        rng: draws the directions, the same for all members.

    Returns:
        ``[B, S, K]`` d loss / d value, float64.
    """
    sites, knobs = values.shape[1:]
    draws = [torch.randn(sites, knobs, generator=rng, dtype=torch.float64) for _ in range(pairs)]
    turns = torch.stack([draw / draw.norm() for draw in draws]).to(values.device)[:, None]
    up, down = loss(values * torch.exp(mu * torch.cat([turns, -turns]))).to(torch.float64).chunk(2)
    by_log = ((up - down)[..., None, None] * turns).sum(0) * (sites * knobs / (2 * mu * pairs))
    return torch.where(values > 0, by_log / values.clamp_min(1e-300), 0.0)


def slope_by_factors(
    loss: Callable[[Tensor], Tensor], factors: Tensor, pairs: int, mu: float, rng: torch.Generator
) -> Tensor:
    """Estimate how a function of many factors answers to each, by turning all at once, each up or down by chance.

    Simultaneous perturbation: Spall 1992, Eq. (2.2). Its variance grows with the number of factors.

    Args:
        loss: of factors ``[B, n]``, gives ``[B]``.
        factors: ``[B, n]`` where.
        pairs: draws, each taken both ways.
        mu: how far, as a factor's logarithm.
        rng: draws the signs, the same for all members.

    Returns:
        ``[B, n]`` d loss / d log10 factor.
    """
    total = torch.zeros_like(factors)
    for _ in range(pairs):
        sign = (2 * torch.randint(2, factors.shape[1:], generator=rng) - 1).to(factors)
        apart = loss(factors * torch.exp(mu * sign)) - loss(factors * torch.exp(-mu * sign))
        total += apart[:, None].to(factors) * sign
    return total * (math.log(10) / (2 * mu * pairs))
