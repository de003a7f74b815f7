"""The Estimator protocol: where the derivative of a loss by the knobs comes from.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from trimtab.copies import select
from trimtab.hypergrad.step import Step
from trimtab.layout import Layout
from trimtab.rules import Slots

Memory = dict[str, Any]
"""What is carried from step to step: a tree of tensors, each with leading ``B``, of fixed keys and shapes."""


@dataclass(frozen=True)
class Form:
    """What an estimator is told of a run before it begins.

    Attributes:
        weights: ``[B, n]`` at the start.
        slots: at the start, one set a part.
        layout: where parts and sites lie.
        sites: ``S``.
        knobs: ``K``.
    """

    weights: Tensor
    slots: tuple[Slots, ...]
    layout: Layout
    sites: int
    knobs: int


class Estimator(Protocol):
    """Says how a loss answers to the knobs; pure, the memory comes in and goes out.

    A reading of step ``t`` carries the derivative by the knobs of the steps before it. `follow` is called right after
    a step, when the batch is still at hand and the weights are new; `read` at the next reading, when the gradient of
    the batch after it is known. The weights are the same at both.

    Attributes:
        name: a short name for tables.
        needs: ``"hypergrad"``, and ``"val_hypergrad"`` (held-out examples), ``"loss_fn"`` (the training loss can be
            computed again), ``"batches"`` (at other batches too), where it cannot do without.
        is_running: whether it follows every step, or only those that lead to a reading.
    """

    name: str
    is_running: bool

    @property
    def needs(self) -> frozenset[str]:
        """What it cannot do without."""
        ...

    def start(self, form: Form) -> Memory:
        """Give the memory before the first step, and after a restore."""
        ...

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Take in a step that was just taken.

        Args:
            step: it.
            memory: what `start` or the last call handed back; not changed in place.
            is_due: whether a reading comes next.

        Returns:
            The new memory.
        """
        ...

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Give the hypergradient at a reading.

        Args:
            memory: what the last `follow` handed back.
            grad: ``[B, n]`` gradient of the next batch's loss.
            layout: where sites lie.

        Returns:
            ``[B, S, K]``, the loss's unit per the value's.
        """
        ...


@runtime_checkable
class Fine(Estimator, Protocol):
    """An estimator that tells parameters apart: how the loss answers to each one's own learning rate."""

    def rates(self, memory: Memory, grad: Tensor) -> Tensor:
        """Give the slope by ``a``, where ``10^a`` is what each parameter's update was multiplied by.

        Args:
            memory: what the last `follow` of a step with `factors` handed back, and ``update`` ``[B, n]``, that step's.
            grad: ``[B, n]`` gradient of the next batch's loss.

        Returns:
            ``[B, n]``, the loss's unit per decade.
        """
        ...


@runtime_checkable
class Following(Protocol):
    """A controller that follows a hypergradient, and says whose."""

    estimator: Estimator


def begun_again(estimator: Estimator, memory: Memory, mask: Tensor, form: Form) -> Memory:
    """Let members that were put elsewhere begin anew; what `start` does not give (batches, kept steps) stays.

    Args:
        estimator: whose memory it is.
        memory: what its last `follow` handed back.
        mask: ``[B]`` bool, who.
        form: what there is now.

    Returns:
        The new memory.
    """
    fresh = estimator.start(form)
    return {**memory, **select(mask, fresh, {name: memory[name] for name in fresh})}


def factors_in(memory: Memory | None) -> Tensor | None:
    """Give ``[B, n]``, what the next step's update is to be multiplied by; None where nothing."""
    return None if memory is None else memory.get("factors")


def told(memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
    """Read what `follow` has left ready under the name ``slope``: the `read` of most estimators."""
    slope: Tensor = memory["slope"]
    return slope


def told_rates(memory: Memory, grad: Tensor) -> Tensor:
    """Read what `follow` has left ready under the name ``rates``: that method of most estimators."""
    rates: Tensor = memory["rates"]
    return rates


def blank(form: Form) -> Tensor:
    """Give zeros ``[B, S, K]``, float64."""
    return torch.zeros(len(form.weights), form.sites, form.knobs, dtype=torch.float64, device=form.weights.device)
