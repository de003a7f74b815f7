"""Preconditions: what ``trimtab.attach`` refuses."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from trimtab.controller import Controller
from trimtab.errors import KnobError, OrderError, SignalError
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.loss_knob import loss_knobs
from trimtab.pilot import Pilot


def check_pace(optimizer: Optimizer, every: int, horizon: int | None, mode: str, sites: str) -> None:
    """Check the optimizer and how it is to be steered: SignalError, OrderError or KnobError where not so."""
    if not isinstance(optimizer, Optimizer):
        raise SignalError(
            f"`optimizer` must be a torch.optim.Optimizer, got {type(optimizer).__name__}: attach to the raw one, "
            f"before it is wrapped."
        )
    if getattr(getattr(optimizer, "_trimtab_pilot", None), "is_enabled", False):
        raise OrderError("This optimizer has a pilot already: call its `disable()` first.")
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise SignalError(f"`every` must be a whole number of steps of at least 1, got {every!r}.")
    if horizon is not None and (not isinstance(horizon, int) or isinstance(horizon, bool) or horizon < 1):
        raise SignalError(f"`horizon` must be a whole number of steps of at least 1, or None, got {horizon!r}.")
    if mode not in ("observe", "suggest", "act"):
        raise SignalError(f"`mode` must be 'observe', 'suggest' or 'act', got {mode!r}.")
    if sites not in ("run", "groups"):
        raise KnobError(f"`sites` must be 'run' or 'groups', got {sites!r}.")


def check_company(optimizer: Optimizer, schedule: object, validate: object, model: object, guard: object) -> None:
    """Check what comes along: SignalError where it is of another kind, or of another optimizer."""
    if isinstance(schedule, ReduceLROnPlateau) and validate is None:
        raise SignalError(
            "ReduceLROnPlateau needs a metric: give `validate=`, at each of whose losses it is stepped, or use the "
            "controller 'plateau' instead."
        )
    if schedule is not None and (not isinstance(schedule, LRScheduler) or isinstance(schedule, Pilot)):
        raise SignalError(
            f"`schedule` must be a torch.optim.lr_scheduler.LRScheduler or None, got {type(schedule).__name__}."
        )
    if schedule is not None and schedule.optimizer is not optimizer:
        raise SignalError("`schedule` must be one on this optimizer, got one on another: build it on the same.")
    if model is not None and not isinstance(model, nn.Module):
        raise SignalError(f"`model` must be a torch.nn.Module or None, got {type(model).__name__}.")
    if not isinstance(guard, Guard | bool):
        raise SignalError(f"`guard` must be True, False or a Guard, got {guard!r}.")


def check_validation(validate: object, period: object, every: int) -> None:
    """Check the validation function and the steps between its calls: SignalError where they do not fit."""
    if validate is not None and not callable(validate):
        raise SignalError(f"`validate` must be a function without arguments, got {type(validate).__name__}.")
    if validate is None and period is not None:
        raise SignalError(f"`validate_every` needs `validate=`, got validate_every={period!r} without.")
    if period is not None and (isinstance(period, bool) or not isinstance(period, int) or period < 1 or period % every):
        raise SignalError(f"`validate_every` must be a positive multiple of every={every}, got {period!r}.")


def check_needs(controller: Controller, panel: Panel, sites: int, given: Mapping[str, object]) -> None:
    """Check that what the controller needs is there, and that what is there is of use.

    Args:
        controller: whose needs count.
        panel: the knobs.
        sites: their number.
        given: the user's function, or None, by the need that it meets.

    Raises:
        KnobError: a knob of the loss has more than one site.
        SignalError: a function is missing, or of no use.
    """
    of_loss = loss_knobs(panel)
    if of_loss and sites > 1:
        raise KnobError(f"Knob {of_loss[0].name!r} is the loss's, so one for the whole run: sites='run'.")
    if "val_loss" in controller.needs and given["val_loss"] is None:
        raise SignalError(f"Controller {controller.name!r} needs a validation loss: give `validate=`.")
    useful = controller.needs | ({"loss_fn"} if of_loss else set())
    for need, name in (("val_hypergrad", "validation_loss"), ("loss_fn", "loss_fn")):
        if given[need] is not None and need not in useful:
            raise SignalError(
                f"Controller {controller.name!r} has no use for `{name}=`: leave it out, or choose another."
            )
