"""Loop: what the calls of a user's training loop, or of the framework that runs it, mean."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from trimtab.errors import SignalError
from trimtab.ranks import local

StepKind = Literal["step", "closure", "skipped", "rehearsal"]
Validate = Callable[[], float | Tensor | None]


class Stopwatch:
    """Measures what a pilot's own code takes of a run's time, on the host."""

    def __init__(self) -> None:
        self._begun: float | None = None
        self._entered = self.own = 0.0

    def __enter__(self) -> None:
        """Begin."""
        self._entered = time.perf_counter()
        self._begun = self._entered if self._begun is None else self._begun

    def __exit__(self, *_: object) -> None:
        """End."""
        self.own += time.perf_counter() - self._entered

    @property
    def share(self) -> float:
        """What the pilot took of the time since its first step, in [0, 1]."""
        return 0.0 if self._begun is None else self.own / max(1e-9, time.perf_counter() - self._begun)


def step_kind(optimizer: torch.optim.Optimizer, args: Sequence[Any], kwargs: dict[str, Any]) -> StepKind:
    """Say what a step about to be taken is.

    Args:
        optimizer: whose.
        args: of ``optimizer.step``, itself included, as its pre-hook gets them.
        kwargs: likewise.

    Returns:
        "rehearsal" where torch's distributed checkpoints make an optimizer's slots (rate 0, gradients of zeros);
        "skipped" where GradScaler found an overflow and a fused optimizer will leave the weights; "closure" where the
        gradient is not known yet, since a closure will compute it; else "step".
    """
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is not None:
        return "closure"
    groups = optimizer.param_groups
    if "closure" in kwargs and not optimizer.state and all(float(group.get("lr", 1)) == 0 for group in groups):
        grads = [local(p.grad) for group in groups for p in group["params"] if p.grad is not None]
        return "step" if any(bool(g.any()) for g in grads) else "rehearsal"
    found = getattr(optimizer, "found_inf", None)  # GradScaler's, around fused optimizers only
    return "skipped" if found is not None and float(found) > 0 else "step"


def after_closure(args: Sequence[Any], kwargs: dict[str, Any], then: Callable[[], None]) -> tuple[Any, Any]:
    """Have something done as soon as a step's closure has first returned: gradients are there, weights as they were.

    Args:
        args: of ``optimizer.step``, itself included, as its pre-hook gets them, with a closure.
        kwargs: likewise.
        then: what is to be done; once, however often an optimizer (LBFGS) calls its closure.

    Returns:
        The arguments that the step is to be called with instead.
    """
    closure = kwargs["closure"] if "closure" in kwargs else args[1]
    waiting = [then]

    def call() -> Any:
        loss = closure()
        if waiting:
            waiting.pop()()
        return loss

    if "closure" in kwargs:
        return tuple(args), kwargs | {"closure": call}
    return (args[0], call, *args[2:]), kwargs


def single(loss: Any, what: str = "`loss`") -> Tensor | float:
    """Check that a loss is one number.

    Args:
        loss: a number, a tensor of one element, or None.
        what: its name, for the error.

    Returns:
        It, NaN for None; a tensor stays one, where it is, without its graph.

    Raises:
        SignalError: it is something else.
    """
    if loss is None:
        return math.nan
    if isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_complex():
        return loss.detach()
    if isinstance(loss, Tensor):
        kind = f"{str(loss.dtype).removeprefix('torch.')} tensor of shape {list(loss.shape)}"
        raise SignalError(f"{what} must be a single number, got a {kind}: give its mean.")
    if not isinstance(loss, Real):
        raise SignalError(f"{what} must be a number or a tensor of one element, got {type(loss).__name__}.")
    return float(loss)


def validated(validate: Validate | None, every: int, number: int) -> float | None:
    """Measure a validation loss where it is time.

    Args:
        validate: the user's function; None: none is measured in this run.
        every: steps between validations.
        number: the optimizer step.

    Returns:
        The loss; NaN where it is not measured now, or not on this rank (the function gave None or NaN); None if never.

    Raises:
        SignalError: the function gave something else than a number.
    """
    if validate is None:
        return None
    return math.nan if number % every else float(single(validate(), "What `validate` gives"))
