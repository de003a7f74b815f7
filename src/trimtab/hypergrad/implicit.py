"""One-pass implicit differentiation: the inverse Hessian of the best response by a short series at the last step.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member, ``w' = w - u(w, v)`` the step.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.hypergrad.estimator import Form, Memory, blank, told, told_rates
from trimtab.hypergrad.step import Step
from trimtab.layout import Layout


@dataclass(frozen=True)
class Implicit:
    """The held-out loss's slope through `lookback` steps, all taken to be like the last one.

    ``p_0 = grad L_val(w')``, ``p_{j+1} = p_j - (du/dw)^T p_j``, ``dL/dv = -(du/dv)^T (p_0 + ... + p_{i-1})`` with ``i``
    the look-back. The sum tends to ``(du/dw)^{-T} p_0``, the implicit function theorem at ``u = 0``. It costs one
    held-out gradient, one training gradient with its graph, and ``i - 1`` products with the Hessian. The optimizer's
    slots are taken as constants, so momentum's own curvature is not seen.

    The series is ``(1 - (1 - x)^i) / x`` on an eigenvalue ``x`` of ``du/dw``: beyond 2, where the step is unstable,
    it is positive for odd ``i`` and negative for even, which pushes too high a rate further up. Hence an odd look-back.

    With `carry` the products of earlier readings are used again: the sum ``s`` of the last one stands behind the new
    series, ``s <- p_0 + ... + p_{i-1} + carry (1 - du/dw)^{T m} s`` with ``m`` the first even number from ``i`` on, so
    that it keeps its sign where the step is unstable: two products more for an odd ``i``. Where readings are alike it
    tends to the series over ``1 - carry (1 - x)^m``. A sum that has outgrown ``i |p_0| / (1 - carry)``, the most that a
    stable step allows, is dropped.

    Eqs. (5)-(8) and Algorithm 1 of Clarke, Oldewage & Hernández-Lobato 2022, arXiv:2110.10461. Differs from the
    source: any optimizer that has a rule, per site too; the held-out loss is computed in the mode that its function
    sets, not always as in training; `carry`, a faded form of the warm start of
    Arbel & Mairal 2022, arXiv:2111.14580.

    Args:
        lookback: ``i``, terms of the series.
        examples: of the batch, that the Hessian is taken of: the first so many, which a shuffled batch makes a random
            sample; None: all. A few dozen give nearly the same slope at a fraction of the cost.
        carry: share of the last reading's sum that stands behind the new series, in [0, 1); 0: none.

    Raises:
        KnobError: `lookback` or `examples` is below 1, or `carry` out of its range.

    Example:
        >>> sorted(Implicit(lookback=3).needs)
        ['hypergrad', 'loss_fn', 'val_hypergrad']
    """

    lookback: int = 5
    examples: int | None = None
    carry: float = 0.0
    name = "implicit"
    is_running = False

    def __post_init__(self) -> None:
        """Check the look-back."""
        if isinstance(self.lookback, bool) or not isinstance(self.lookback, int) or self.lookback < 1:
            raise KnobError(f"`lookback` must be a whole number of steps of at least 1, got {self.lookback!r}.")
        if self.examples is not None and self.examples < 1:
            raise KnobError(f"`examples` must be at least 1, or None for all of the batch, got {self.examples!r}.")
        if not 0 <= self.carry < 1:
            raise KnobError(f"`carry` must be in [0, 1), got {self.carry!r}.")
        if self.lookback % 2 == 0:
            warnings.warn(
                f"An even look-back ({self.lookback}) drives an unstable learning rate further up: use an odd one.",
                UserWarning,
                stacklevel=3,
            )

    @property
    def needs(self) -> frozenset[str]:
        """What it cannot do without."""
        own = frozenset({"hypergrad", "val_hypergrad", "loss_fn"})
        return own if self.examples is None else own | {"batches"}

    def start(self, form: Form) -> Memory:
        """Give ``slope`` ``[B, S, K]``, and with `carry` ``sum`` ``[B, n]``: zeros."""
        kept = {"sum": torch.zeros_like(form.weights)} if self.carry else {}
        return {"slope": blank(form), **kept}

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Sum the series and take it back through the update."""
        first = step.held_out_grad(step.after)
        total, bent = first, step if self.examples is None else step.fewer(self.examples)
        if self.carry:
            tail = self.carry * self._carried(memory["sum"], first)
            tail = bent.pull_weights(tail) if self.lookback % 2 else tail
            total = first + bent.pull_weights(tail)
        for _ in range(self.lookback - 1):
            total = first + bent.pull_weights(total)
        kept = {"sum": total} if self.carry else {}
        fine = {} if step.factors is None else {"rates": step.by_rates(total)}
        return {"slope": step.pull_values(total), **fine, **kept}

    def _carried(self, old: Tensor, first: Tensor) -> Tensor:
        """Give the last reading's sum ``[B, n]``, zeros where it has outgrown what a stable step allows."""
        most = self.lookback / (1 - self.carry) * first.norm(dim=1, keepdim=True)
        return torch.where(old.norm(dim=1, keepdim=True) <= most, old, 0.0)

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Give the slope."""
        return told(memory, grad, layout)

    def rates(self, memory: Memory, grad: Tensor) -> Tensor:
        """Give each parameter's slope; see :class:`trimtab.hypergrad.estimator.Fine`."""
        return told_rates(memory, grad)
