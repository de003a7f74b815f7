"""Closure: a user's loss as a module that holds the model, so that it can be computed at other weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import SignalError

LossFn = Callable[..., Tensor]


class Closure(nn.Module):
    """A loss as the output of a module that holds the model, so that its parameters can be replaced for one call."""

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        super().__init__()
        self.model, self._loss_fn = model, loss_fn
        self.takes_nothing, self.takes_batch = _takes(loss_fn), _takes(loss_fn, None)

    def forward(self, *batch: Any) -> Tensor:
        """Compute the loss; SignalError where it does not take what `pilot.step` was told."""
        if not batch and not self.takes_nothing:
            raise SignalError("`loss_fn` takes a batch: tell it with each step, `pilot.step(loss, batch=batch)`.")
        if batch and not self.takes_batch:
            raise SignalError(
                "`pilot.step` was told a batch and `loss_fn` takes none: leave `batch=` out, or let it take the batch."
            )
        return self._loss_fn(*batch)


def _takes(function: Callable[..., Any], *given: Any) -> bool:
    """Whether a function can be called so; True where its signature cannot be read."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*given)
    except TypeError:
        return False
    return True


MISSING = {
    "loss_fn": (
        "Estimator {name!r} differentiates the training loss twice: give `model=model, loss_fn=lambda: "
        "criterion(model(x), y)`, the loss of the last batch."
    ),
    "val_hypergrad": (
        "Estimator {name!r} follows the validation loss: give `validation_loss=`, a function that gives it as a tensor."
    ),
}


def closed(
    optimizer: torch.optim.Optimizer, model: nn.Module | None, loss_fn: LossFn | None, *, with_batch: bool
) -> tuple[Closure, list[str]]:
    """Give the loss as a module, and the names there of the optimizer's parameters.

    Args:
        optimizer: whose parameters count.
        model: the network.
        loss_fn: the user's.
        with_batch: whether it must take a batch.

    Returns:
        Both.

    Raises:
        SignalError: something is missing, or does not fit.
    """
    if model is None or loss_fn is None:
        raise SignalError(MISSING["loss_fn"].format(name="of a second derivative"))
    closure = Closure(model, loss_fn)
    if with_batch and not closure.takes_batch:
        raise SignalError(
            "This hypergradient is of other batches too: `loss_fn` must take one, as `pilot.step(loss, batch=batch)` "
            "tells it, and this one takes none."
        )
    if not (closure.takes_nothing or closure.takes_batch):
        raise SignalError(
            "`loss_fn` is called without arguments, or with the batch that `pilot.step(loss, batch=batch)` tells; got "
            f"one that is called as {inspect.signature(loss_fn)}."
        )
    names = {id(p): name for name, p in closure.named_parameters()}
    params = [p for group in optimizer.param_groups for p in group["params"]]
    strange = sum(id(p) not in names for p in params)
    if strange:
        raise SignalError(f"{strange} of the optimizer's {len(params)} parameters are not the model's: give that one.")
    return closure, [names[id(p)] for p in params]


def check_loss(loss: Any, what: str) -> None:
    """Refuse what is not one number with a graph; `what` gave it. Raises SignalError."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        hint = " (leave `.item()` and `float` out)" if isinstance(loss, float | int) else ""
        raise SignalError(f"{what} must give one number as a tensor, got {type(loss).__name__}{hint}.")
    if not loss.requires_grad:
        raise SignalError(f"What {what} gives cannot be differentiated: compute it with gradients enabled.")
