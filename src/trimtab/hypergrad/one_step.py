"""One step of hindsight: what the last update's knobs did to the loss right after it.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.hypergrad.estimator import Form, Memory, blank, told, told_rates
from trimtab.hypergrad.step import Step
from trimtab.layout import Layout


@dataclass(frozen=True)
class OneStep:
    """The slope of the next batch's loss by the knobs of the update before it: ``g_t^T d w_t / d v``.

    That batch is one the weights have not been fitted to by this update: in the first epoch its loss is an unbiased
    sample of the population's. It is short-sighted: it favours learning rates that lower the loss at once (Wu et al.
    2018, arXiv:1803.02021). It costs one forward-mode pass of the rule a knob, and no gradient.

    Eq. (5) of Baydin et al. 2018, arXiv:1703.04782; Almeida et al. 1999.
    Differs from the source: any knob of any optimizer that has a rule; acts at readings.

    Example:
        >>> OneStep().needs
        frozenset({'hypergrad'})
    """

    name = "one-step"
    needs = frozenset({"hypergrad"})
    is_running = False

    def start(self, form: Form) -> Memory:
        """Give ``rows`` ``[B, K, n]``, zeros: d weights / d value of each coordinate's own site."""
        members, wide = form.weights.shape
        return {"rows": form.weights.new_zeros(members, form.knobs, wide).detach()}

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Differentiate the update by its knobs; see :class:`trimtab.hypergrad.estimator.Estimator`."""
        return {"rows": step.by_values()}

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Multiply by the gradient of the next batch, site by site."""
        slopes = (memory["rows"] * grad[:, None]).to(torch.float64)
        return layout.per_site_sums(slopes).mT

    def rates(self, memory: Memory, grad: Tensor) -> Tensor:
        """Multiply the update by the gradient of the next batch; see :class:`trimtab.hypergrad.estimator.Fine`."""
        update: Tensor = memory["update"]
        return grad * update * math.log(10)


@dataclass(frozen=True)
class OneStepValidation:
    """The slope of the held-out loss by the knobs of the update before it: ``grad L_val(w_t)^T d w_t / d v``.

    ``T1 - T2`` of Luketina et al. 2016, arXiv:1511.06727, Eq. (4); as short-sighted as :class:`OneStep`.
    Differs from the source: any knob of any optimizer that has a rule; acts at readings.

    Example:
        >>> sorted(OneStepValidation().needs)
        ['hypergrad', 'val_hypergrad']
    """

    name = "one-step-validation"
    needs = frozenset({"hypergrad", "val_hypergrad"})
    is_running = False

    def start(self, form: Form) -> Memory:
        """Give ``slope`` ``[B, S, K]``, zeros."""
        return {"slope": blank(form)}

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Take the held-out gradient at the new weights back through the update."""
        row = step.held_out_grad(step.after)
        fine = {} if step.factors is None else {"rates": step.by_rates(row)}
        return {"slope": step.pull_values(row), **fine}

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Give the slope."""
        return told(memory, grad, layout)

    def rates(self, memory: Memory, grad: Tensor) -> Tensor:
        """Give each parameter's slope; see :class:`trimtab.hypergrad.estimator.Fine`."""
        return told_rates(memory, grad)
