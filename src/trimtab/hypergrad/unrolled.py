"""Truncated unroll: the exact slope through the last few steps, each at its own weights and batch.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.hypergrad.batches import formed, loosened
from trimtab.hypergrad.estimator import Form, Memory, blank, told, told_rates
from trimtab.hypergrad.step import Step
from trimtab.layout import Layout
from trimtab.rules import Slots

KEPT = ("weights", "slots", "values", "grad", "after", "batch", "factors", "noise")


@dataclass(frozen=True)
class Unroll:
    """The held-out loss's exact slope through the last `window` steps.

    ``p <- grad L_val(w_T)``, and for each step from the last: the slope grows by ``p^T dF/dv``, then ``p <- p^T dF/d(w,
    s)``, slots included. Knobs count as held over the window; what lies before it is not seen, a bias that a longer
    window lessens. It costs one held-out gradient and, for each step of the window, one training gradient with its
    graph and one product with the Hessian. Steps keep weights, slots and batches, no graph.

    Truncated backpropagation through the optimizer: Domke 2012; Shaban et al. 2019, arXiv:1810.10667, Algorithm 1.
    Differs from the source: any optimizer that has a rule; steps are computed again one by one, so that memory holds
    one graph at a time.

    Args:
        window: steps to look back over, the last one included.

    Raises:
        KnobError: `window` is below 1.

    Example:
        >>> sorted(Unroll(window=3).needs)
        ['batches', 'hypergrad', 'loss_fn', 'val_hypergrad']
    """

    window: int = 5
    name = "unroll"
    needs = frozenset({"hypergrad", "val_hypergrad", "loss_fn", "batches"})
    is_running = True

    def __post_init__(self) -> None:
        """Check the window."""
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise KnobError(f"`window` must be a whole number of steps of at least 1, got {self.window!r}.")

    def start(self, form: Form) -> Memory:
        """Give ``count`` ``[B]``, steps since the start or a restore, and ``slope`` ``[B, S, K]``: zeros."""
        slope = blank(form)
        return {"count": slope.new_zeros(len(slope)), "slope": slope}

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Keep the step; where a reading comes next, go back through those kept."""
        own = {name: getattr(step, name) for name in KEPT}
        kept = (*memory.get("kept", ()), {**own, "batch": loosened(step.batch)})[-self.window :]
        count = memory["count"] + 1
        new = {"count": count, "slope": memory["slope"], "kept": kept}
        if not is_due:
            return new
        steps = [replace(step, **{**one, "batch": formed(one["batch"], step.batch)}, curve=None) for one in kept]
        found = list(backwards(steps, step.held_out_grad(step.after), count))
        new["slope"] = sum((values for values, _ in found), torch.zeros_like(memory["slope"]))
        if step.factors is not None:
            new["rates"] = sum((one.by_rates(row) for one, (_, row) in zip(reversed(steps), found, strict=True)), 0)
        return new

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Give the slope."""
        return told(memory, grad, layout)

    def rates(self, memory: Memory, grad: Tensor) -> Tensor:
        """Give each parameter's slope; see :class:`trimtab.hypergrad.estimator.Fine`."""
        return told_rates(memory, grad)


def slopes(steps: Sequence[Step], row: Tensor, count: Tensor | None = None) -> list[Tensor]:
    """Differentiate a loss at the end of a few steps by the values of each.

    Args:
        steps: as :func:`backwards` takes them.
        row: likewise.
        count: likewise.

    Returns:
        ``[B, S, K]`` a step, oldest first.
    """
    return [values for values, _ in backwards(steps, row, count)][::-1]


def backwards(steps: Sequence[Step], row: Tensor, count: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Go back through a few steps with the gradient of a loss at their end.

    Args:
        steps: oldest first, each beginning where the one before ended.
        row: ``[B, n]`` gradient of the loss at the last step's new weights.
        count: ``[B]`` how many of the last steps are a member's own; the others count as 0. None: all.

    Yields:
        Of each step, the last one first: ``[B, S, K]`` the loss's derivative by its values, and ``[B, n]`` by the
        weights after it.
    """
    slots: tuple[Slots, ...] = ()
    for age, step in enumerate(reversed(steps)):
        if count is not None:
            mine = count > age
            row = torch.where(mine[:, None], row, 0.0)
            slots = tuple({name: _masked(mine, s) for name, s in part.items()} for part in slots)
        if age == len(steps) - 1:
            yield step.pull_values(row, slots), row
        else:
            made = step.pull(row, slots)
            yield made.values, row
            row, slots = made.weights, made.slots


def _masked(mask: Tensor, tensor: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (tensor.ndim - 1)), tensor, 0.0)
