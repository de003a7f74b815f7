"""One-pass implicit differentiation: the inverse Hessian of the best response by a short series at the last step.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member, ``w' = w - u(w, v)`` the step.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

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

    Eqs. (5)-(8) and Algorithm 1 of Clarke, Oldewage & Hernández-Lobato 2022, arXiv:2110.10461. Differs from the
    source: any optimizer that has a rule, per site too; the held-out loss is computed in the mode that its function
    sets, not always as in training.

    Args:
        lookback: ``i``, terms of the series.
        examples: of the batch, that the Hessian is taken of: the first so many, which a shuffled batch makes a random
            sample; None: all. A few dozen give nearly the same slope at a fraction of the cost.

    Raises:
        KnobError: `lookback` or `examples` is below 1.

    Example:
        >>> sorted(Implicit(lookback=3).needs)
        ['hypergrad', 'loss_fn', 'val_hypergrad']
    """

    lookback: int = 5
    examples: int | None = None
    name = "implicit"
    is_running = False

    def __post_init__(self) -> None:
        """Check the look-back."""
        if isinstance(self.lookback, bool) or not isinstance(self.lookback, int) or self.lookback < 1:
            raise KnobError(f"`lookback` must be a whole number of steps of at least 1, got {self.lookback!r}.")
        if self.examples is not None and self.examples < 1:
            raise KnobError(f"`examples` must be at least 1, or None for all of the batch, got {self.examples!r}.")
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
        """Give ``slope`` ``[B, S, K]``, zeros."""
        return {"slope": blank(form)}

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Sum the series and take it back through the update."""
        row = step.held_out_grad(step.after)
        total, bent = row, step if self.examples is None else step.fewer(self.examples)
        for _ in range(self.lookback - 1):
            row = bent.pull_weights(row)
            total = total + row
        fine = {} if step.factors is None else {"rates": step.by_rates(total)}
        return {"slope": step.pull_values(total), **fine}

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Give the slope."""
        return told(memory, grad, layout)

    def rates(self, memory: Memory, grad: Tensor) -> Tensor:
        """Give each parameter's slope; see :class:`trimtab.hypergrad.estimator.Fine`."""
        return told_rates(memory, grad)
