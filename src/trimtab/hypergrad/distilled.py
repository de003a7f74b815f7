"""HyperDistill: the whole past as one distilled step, at a mean of the weights and a mixture of the batches.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.hypergrad.batches import loosened
from trimtab.hypergrad.estimator import Form, Memory, blank, told, told_rates
from trimtab.hypergrad.step import Step
from trimtab.layout import Layout

TINY = 1e-300


@dataclass(frozen=True)
class HyperDistill:
    """One product stands for all steps so far, weighted by ``gamma`` to their age.

    With ``p_t = (gamma - gamma^t) / (1 - gamma^t)`` the distilled weights are ``w*_t = p_t w*_{t-1} + (1 - p_t)
    w_{t-1}``, and the distilled batch ``D*_t`` keeps a share ``p_t`` of its examples. With ``v_t`` the product of the
    held-out gradient at ``w_t`` and ``dF/dv`` at ``(w*_t, D*_t)``, the slope is ``theta (1 - gamma^t) / (1 - gamma)
    v_t``. Each step costs a mean of weights; each reading one training and one held-out gradient.

    ``theta`` is fitted every `refit` readings by looking back over the straight line from the weights of the last fit
    to the present ones, cut into `window` pieces (DrMAD, Fu et al. 2016, arXiv:1601.00917): with ``g_s`` the slope
    through its last ``s`` pieces and ``v_s`` the distilled one, ``x_s = |v_s| (1 - gamma^s) / (1 - gamma)``, ``y_s =
    <v_s / |v_s|, g_s>``, ``theta = x^T y / x^T x``. Until the first fit it is 1. Slots are constants in all of it.

    Lee et al. 2022, "Online Hyperparameter Meta-Learning with Hypergradient Distillation", arXiv:2110.02508, Eqs.
    (9)-(12) and Algorithms 1-2. Differs from the source: ``t`` counts from the run's start or the last restore, since
    there is one run and no episode; the line's batch is the last one; one ``theta`` for all knobs, as there.

    Args:
        gamma: how much a step counts against the one after it, in [0, 1); 0 is one-step validation.
        refit: readings between two fits of ``theta``; 0: never, it stays 1.
        window: pieces of the line that it is fitted on.

    Raises:
        KnobError: an argument is out of range.

    Example:
        >>> sorted(HyperDistill(gamma=0.9).needs)
        ['batches', 'hypergrad', 'loss_fn', 'val_hypergrad']
    """

    gamma: float = 0.99
    refit: int = 10
    window: int = 5
    name = "distilled"
    needs = frozenset({"hypergrad", "val_hypergrad", "loss_fn", "batches"})
    is_running = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not (0 <= self.gamma < 1 and self.refit >= 0 and self.window >= 2):
            raise KnobError(
                "HyperDistill needs `gamma` in [0, 1), `refit >= 0` and `window >= 2`, got "
                f"gamma={self.gamma}, refit={self.refit}, window={self.window}."
            )

    def start(self, form: Form) -> Memory:
        """Give ``weights``, ``origin`` ``[B, n]``; ``count``, ``readings``, ``theta`` ``[B]``; and ``slope``."""
        members = len(form.weights)
        count = torch.zeros(members, dtype=torch.float64, device=form.weights.device)
        return {
            "weights": form.weights.detach().clone(),
            "origin": form.weights.detach().clone(),
            "count": count,
            "readings": count.clone(),
            "theta": torch.ones_like(count),
            "slope": blank(form),
        }

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Mix the step in; where a reading comes next, take the product, and fit ``theta`` if it is time."""
        count = memory["count"] + 1
        kept = (self.gamma - self.gamma**count) / (1 - self.gamma**count)
        share = kept[:, None].to(step.weights)
        weights = torch.lerp(step.weights, memory["weights"], share)
        batch = step.mixed(memory.get("batch"), kept, draw=int(count.max()))
        new = {**memory, "weights": weights, "count": count, "batch": loosened(batch)}
        if not is_due:
            return new
        row = step.held_out_grad(step.after)
        if self.refit and not memory["readings"].any():
            step.curvature(row)  # a loss without a second derivative is told of now, not at the first fit
        new["readings"] = memory["readings"] + 1
        if self.refit and int(new["readings"].max()) % self.refit == 0:
            new["theta"], new["origin"] = self._fitted(step, memory["origin"], row, memory["theta"]), step.after.clone()
        far = memory["theta"] * (1 - self.gamma**count) / (1 - self.gamma)
        distilled = step.at(weights, batch)
        new["slope"] = far[:, None, None] * distilled.pull_values(row)
        if step.factors is not None:
            new["rates"] = far[:, None].to(row) * distilled.by_rates(row)
        return new

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Give the slope."""
        return told(memory, grad, layout)

    def rates(self, memory: Memory, grad: Tensor) -> Tensor:
        """Give each parameter's slope; see :class:`trimtab.hypergrad.estimator.Fine`."""
        return told_rates(memory, grad)

    def _fitted(self, step: Step, origin: Tensor, row: Tensor, old: Tensor) -> Tensor:
        """Fit ``theta`` ``[B]`` on the line from `origin` to the present weights."""
        points = [torch.lerp(origin, step.after, s / self.window) for s in range(self.window)]
        exact, back = torch.zeros_like(step.values), row
        over, under = torch.zeros_like(old), torch.zeros_like(old)
        for s, point in enumerate(reversed(points), 1):
            here = step.at(point)
            exact = exact + here.pull_values(back)
            back = here.pull_weights(back)
            product = step.at(_distilled(points[-s:], self.gamma)).pull_values(row)
            size = product.flatten(1).norm(dim=1)
            x = size * (1 - self.gamma**s) / (1 - self.gamma)
            y = (product * exact).flatten(1).sum(1) / size.clamp_min(TINY)
            over, under = over + x * y, under + x * x
        fitted = over / under.clamp_min(TINY)
        return torch.where(fitted.isfinite() & (under > 0), fitted, old)


def _distilled(points: list[Tensor], gamma: float) -> Tensor:
    """Mean of points, oldest first, the newest weighted 1, the one before `gamma`, ...."""
    weights = torch.tensor(
        [gamma**age for age in reversed(range(len(points)))], dtype=points[0].dtype, device=points[0].device
    )
    return torch.einsum("s,s...->...", weights / weights.sum(), torch.stack(points))
