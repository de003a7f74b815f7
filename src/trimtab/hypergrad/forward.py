"""Forward mode: carry the weights' derivative by the knobs along with the weights.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``J = S K`` directions, ``n`` parameters of a member.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.hypergrad.estimator import Form, Memory
from trimtab.hypergrad.step import Step
from trimtab.layout import Layout
from trimtab.rules import Slots


@dataclass(frozen=True)
class ForwardMode:
    """Real-time recurrent learning of the knobs: ``Z <- dF/dw Z + dF/ds Z_s + dF/dv``, ``h = grad L(w)^T Z``.

    Exact for knobs that stay as they are, with a discount of 1: the whole past counts. The optimizer's slots carry
    derivatives of their own. It costs one training gradient with its graph and ``S K`` products with the Hessian a
    *step*, and ``S K`` copies of weights and slots. Where training is unstable ``Z`` grows without bound: a member's
    that is no number begins anew at 0, and `discount` below 1 forgets.

    OHO: Im, Savin & Cho 2021, arXiv:2106.10575, Eqs. (3)-(6); real-time recurrent learning: Williams & Zipser 1989.
    Differs from the source: exact products with the Hessian, not central differences; momentum's and Adam's slots are
    differentiated too; any number of sites.

    Args:
        objective: "val": the held-out loss; "train": the next batch's.
        discount: what ``Z`` keeps at each step, in (0, 1].

    Raises:
        KnobError: an argument is outside its range.

    Example:
        >>> sorted(ForwardMode("train").needs)
        ['hypergrad', 'loss_fn']
    """

    objective: str = "val"
    discount: float = 1.0
    name = "forward"
    is_running = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.objective not in ("val", "train") or not 0 < self.discount <= 1:
            raise KnobError(
                "Forward mode needs `objective` 'val' or 'train' and `discount` in (0, 1], got "
                f"objective={self.objective!r}, discount={self.discount}."
            )

    @property
    def needs(self) -> frozenset[str]:
        """What it cannot do without."""
        own = frozenset({"hypergrad", "loss_fn"})
        return own | {"val_hypergrad"} if self.objective == "val" else own

    def start(self, form: Form) -> Memory:
        """Give ``weights`` ``[B, J, n]``, ``slots`` with ``J`` behind ``B``, and ``held_out`` ``[B, n]``: zeros."""
        count = form.sites * form.knobs

        def many(tensor: Tensor) -> Tensor:
            return torch.zeros_like(tensor)[:, None].expand(-1, count, *tensor.shape[1:]).clone()

        slots = tuple({name: many(slot) for name, slot in part.items()} for part in form.slots)
        memory: dict[str, Any] = {"weights": many(form.weights.detach()), "slots": slots}
        return memory | ({"held_out": torch.zeros_like(form.weights)} if self.objective == "val" else {})

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Push the derivatives through the step; take the held-out gradient where a reading comes next."""
        old, old_slots = self._faded(memory)
        members, sites, knobs = step.values.shape
        seeds = torch.eye(sites * knobs, dtype=step.values.dtype, device=step.values.device)
        seeds = seeds.reshape(1, sites * knobs, sites, knobs).expand(members, -1, -1, -1)
        made = step.push(old, old_slots, seeds)
        new: Memory = {"weights": made.weights, "slots": made.slots}
        if self.objective == "val":
            new["held_out"] = step.held_out_grad(step.after) if is_due else memory["held_out"]
        return new

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Multiply by the gradient of the loss asked for."""
        of = memory["held_out"] if self.objective == "val" else grad
        slopes: Tensor = (memory["weights"] * of[:, None]).to(torch.float64).sum(2)
        return slopes.reshape(len(slopes), len(layout.bounds), -1)

    def _faded(self, memory: Memory) -> tuple[Tensor, tuple[Slots, ...]]:
        """Give the derivatives to go on with; zeros for a member that has one which is no number."""
        old: Tensor = memory["weights"]
        is_sane = old.flatten(1).isfinite().all(1)

        def kept(tensor: Tensor) -> Tensor:
            mask = is_sane.reshape(-1, *[1] * (tensor.ndim - 1))
            return torch.where(mask, tensor * self.discount, 0.0)

        return kept(old), tuple({name: kept(slot) for name, slot in part.items()} for part in memory["slots"])
