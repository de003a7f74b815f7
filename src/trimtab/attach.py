"""Attach: pair a live optimizer with a controller in one call."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trimtab.average import Average
from trimtab.controller import Controller
from trimtab.controllers import Constant, Policy, controller_named
from trimtab.controllers.cards import card, fitting
from trimtab.errors import SignalError
from trimtab.features import Features
from trimtab.gauge import Gauge
from trimtab.guard import Guard
from trimtab.helm import Helm
from trimtab.hypergrad import estimator_of
from trimtab.knobs import Knob, Panel
from trimtab.linkage import Linkage
from trimtab.pilot import Mode, Pilot
from trimtab.preconditions import check_company, check_needs, check_pace, check_validation
from trimtab.snapshot import Snapshot
from trimtab.trace import FullTrace, Header, Trace
from trimtab.wheel import Wheel

if TYPE_CHECKING:
    from trimtab.hypergrad.recorder import Recorder

SiteChoice = Literal["run", "groups"]
DEFAULT_KNOBS = {"SGD": ("lr", "momentum", "weight_decay"), "RMSprop": ("lr", "momentum", "weight_decay")}
ADAM_KNOBS = ("lr", "beta1", "weight_decay")
MUON_KNOBS = ("lr", "momentum", "weight_decay")


def attach(
    optimizer: Optimizer,
    controller: str | Controller | None = None,
    *,
    knobs: Panel | Sequence[Knob | str] | Literal["default"] | None = None,
    sites: SiteChoice = "run",
    horizon: int | None = None,
    schedule: LRScheduler | None = None,
    validate: Callable[[], float | Tensor | None] | None = None,
    validate_every: int | None = None,
    validation_loss: Callable[[], Tensor] | None = None,
    loss_fn: Callable[..., Tensor] | None = None,
    model: nn.Module | None = None,
    average: bool | None = None,
    every: int = 10,
    mode: Mode = "act",
    guard: Guard | bool = True,
    trace: str | Path | FullTrace | None = None,
) -> Pilot:
    """Pair an optimizer with a controller that turns its hyperparameters while it trains.

    Args:
        optimizer: the raw ``torch.optim`` optimizer, not a wrapper around it.
        controller: one, or the name of one (:func:`trimtab.controllers.controller_named`) or of a shipped card; None:
            the shipped card for these knobs, sites and `average`; where there is none, an untaught policy, which
            follows its prior schedule (constant for half the horizon, then linear to 2 %) and leaves the rest to the
            guard.
        knobs: what may be turned: names, :class:`trimtab.Knob` records, or "default" for what is usual for the
            optimizer's class, as far as it is above 0 (:func:`default_knobs`); None: what a taught controller was
            taught on, the learning rate for any other.
        sites: "run" turns all parameter groups together, "groups" each on its own (build them with
            :func:`trimtab.groups`).
        horizon: planned optimizer steps; None where unknown.
        schedule: the user's own scheduler on this optimizer. The pilot steps it and multiplies its values; do not
            step it yourself. ReduceLROnPlateau is stepped with each loss that `validate` gives.
        validate: called without arguments to measure the validation loss, lower is better; where it rises, the guard
            goes back (another measure: ``guard=Guard(rise=None)``). Switching the model to evaluation mode and
            back is its business. In a run over several ranks all of them give one; a rank that does not measure
            gives None there, and the loss is the mean of the others'.
        validate_every: optimizer steps between validations, a multiple of `every`; default ``5 * every``.
        validation_loss: called without arguments to give the loss on held-out examples as a tensor to differentiate,
            for a controller that follows its slope; after each optimizer step that a decision follows. None:
            `validate`, where it gives such a tensor.
        loss_fn: computes the last batch's training loss again, with `model` as it stands then, for a controller whose
            estimator differentiates it twice; called without arguments, or with `batch` where ``pilot.step(loss,
            batch=batch)`` told it.
        model: the network, so that the guard also protects its buffers (batch norm's statistics); `loss_fn` and
            `average` need it.
        average: keep an average of the weights, to be used in place of the last ones (:meth:`Pilot.best`,
            :mod:`trimtab.averaging`); None: where the controller was taught for it.
        every: optimizer steps between decisions (the first come at 1, 2, 4 and 7).
        mode: "act" turns, "suggest" decides and tells without turning, "observe" only measures: no controller is
            asked.
        guard: True, False, or a :class:`trimtab.Guard` with other settings.
        trace: a JSON Lines file to append decisions to; a :class:`trimtab.FullTrace` also keeps what was seen.

    Returns:
        The pilot, an ``LRScheduler``: call ``pilot.step(loss)`` after each ``optimizer.step()``.

    Raises:
        KnobError: a knob does not fit the optimizer.
        OrderError: a needed horizon is missing, or the optimizer has a pilot already.
        SignalError: the optimizer is a wrapper, or an argument is out of range.
        TaskError: no controller has that name, or it needs a hypergradient and the optimizer has no rule.
        TraceError: the trace cannot be opened.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(4, 1)
        >>> pilot = attach(torch.optim.SGD(net.parameters(), lr=0.1), "cosine", horizon=100)
        >>> round(pilot.get_last_lr()[0], 3)  # the warm-up's first step, 1/6 of the peak
        0.017
    """
    check_pace(optimizer, every, horizon, mode, sites)
    check_company(optimizer, schedule, validate, model, guard)
    check_validation(validate, validate_every, every)
    chosen = _controller(controller)
    panel = _panel(optimizer, chosen, knobs)
    members = _sites(optimizer, sites)
    if mode == "observe":
        chosen = Constant()
    elif chosen is None:
        chosen = _usual(panel, len(members), bool(average))
    mean = _average(model, chosen, "average" in chosen.needs if average is None else average)
    needs = {"val_loss": validate, "val_hypergrad": validation_loss, "loss_fn": loss_fn}
    held_out = validation_loss or cast("Callable[[], Tensor] | None", validate)
    watch = Guard() if guard is True else guard or None
    features = _features(optimizer, panel, members)
    helm = Helm(panel, chosen, features, watch, horizon=horizon)
    header = Header(panel.names, site_names(optimizer, members), chosen.name, {"horizon": horizon, "every": every})
    chosen.start(panel, 1, len(members))  # refuses knobs that are not its own, before a trace is begun
    with ExitStack() as undo:
        recorder = _recorder(
            optimizer, panel, chosen, model=model, loss_fn=loss_fn, validation_loss=held_out, acts=mode == "act"
        )
        if recorder is not None:
            undo.callback(recorder.release)
        check_needs(chosen, panel, len(members), needs)
        gauge = Gauge(optimizer, panel, members, every=every, recorder=recorder)
        linkage = Linkage(panel, optimizer, members, scheduled=schedule is not None)
        undo.callback(linkage.release)
        pilot = Pilot(
            optimizer,
            helm=helm,
            gauge=gauge,
            wheel=Wheel(helm, linkage, schedule, every),
            snapshot=None if watch is None or mode != "act" else Snapshot(optimizer, model, mean),
            average=mean,
            every=every,
            mode=mode,
            validate=validate,
            validate_every=5 * every if validate_every is None else validate_every,
            trace=_trace(trace, header, features),
        )
        undo.pop_all()
    optimizer._trimtab_pilot = pilot  # type: ignore[attr-defined]  # one optimizer, one pilot
    return pilot


def _average(model: nn.Module | None, controller: Controller, is_kept: bool) -> Average:
    if is_kept and model is None:
        cause = f"{controller.name!r} was taught for it" if "average" in controller.needs else "`average=True`"
        raise SignalError(f"An average of the weights is to be kept ({cause}): give `model=`, or `average=False`.")
    return Average(model if is_kept else None)


def _usual(panel: Panel, sites: int, is_averaged: bool) -> Controller:
    """Give the shipped card for these knobs and sites; where there is none, an untaught policy."""
    name = fitting(panel.names, sites, is_averaged=is_averaged)
    if name is not None:
        return card(name)
    _tell_once(", ".join(panel.names))
    return Policy.for_panel(panel)


def _recorder(
    optimizer: Optimizer,
    panel: Panel,
    controller: Controller,
    *,
    model: nn.Module | None,
    loss_fn: Callable[..., Tensor] | None,
    validation_loss: Callable[[], Tensor] | None,
    acts: bool,
) -> Recorder | None:
    estimator = estimator_of(controller)
    if estimator is None:
        return None
    from trimtab.hypergrad.recorder import Recorder  # most runs follow no hypergradient

    return Recorder(
        optimizer, panel, estimator, model=model, loss_fn=loss_fn, validation_loss=validation_loss, acts=acts
    )


def _trace(given: str | Path | FullTrace | None, header: Header, features: Features) -> Trace:
    if not isinstance(given, FullTrace):
        return Trace(header, given)
    return Trace(replace(header.full(features.names, features.panel), note={**given.note, **header.note}), given.path)


def default_knobs(optimizer: Optimizer) -> Panel:
    """Give the knobs usual for an optimizer's class, without those that are 0 and cannot leave it.

    Args:
        optimizer: SGD and RMSprop: lr, momentum, weight_decay; the Adam family: lr, beta1, weight_decay; Muon: lr,
            momentum, weight_decay; others: lr.

    Returns:
        The panel.
    """
    kind = type(optimizer).__name__
    if any("betas" in group for group in optimizer.param_groups):
        names: tuple[str, ...] = ADAM_KNOBS
    else:
        names = MUON_KNOBS if kind == "Muon" else DEFAULT_KNOBS.get(kind, ("lr",))
    return Panel.of([n for n in names if n != "weight_decay" or any(g[n] for g in optimizer.param_groups)])


def _panel(
    optimizer: Optimizer, controller: Controller | None, knobs: Panel | Sequence[Knob | str] | str | None
) -> Panel:
    if knobs == "default":
        return default_knobs(optimizer)
    if knobs is None and isinstance(controller, Policy):
        usual = "beta1" if any("betas" in group for group in optimizer.param_groups) else "momentum"
        return Panel.of([usual if name in {"beta1", "momentum"} else name for name in controller.spec["knobs"]])
    return Panel.of(("lr",) if knobs is None else knobs)


def site_names(optimizer: Optimizer, sites: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Give a name a site: "run", or the groups' own names, or ``group0`` and so on."""
    if len(sites) == 1:
        return ("run",)
    return tuple(str(optimizer.param_groups[site[0]].get("name", f"group{site[0]}")) for site in sites)


def _controller(controller: str | Controller | None) -> Controller | None:
    if isinstance(controller, str):
        return controller_named(controller)
    if controller is not None and (isinstance(controller, type) or not isinstance(controller, Controller)):
        raise SignalError(
            f"`controller` must be a name or have `name`, `needs`, `prior`, `start` and `act`, got {controller!r}."
        )
    return controller


def _sites(optimizer: Optimizer, sites: SiteChoice) -> list[list[int]]:
    count = len(optimizer.param_groups)
    return [[g] for g in range(count)] if sites == "groups" else [list(range(count))]


def _features(optimizer: Optimizer, panel: Panel, sites: list[list[int]]) -> Features:
    sizes = [sum(p.numel() for g in site for p in optimizer.param_groups[g]["params"]) for site in sites]
    last = max(1, len(sizes) - 1)
    depth = tuple(i / last if len(sizes) > 1 else 0.5 for i in range(len(sizes)))
    return Features(panel, depth, tuple(size / max(1, sum(sizes)) for size in sizes))


@functools.cache
def _tell_once(knobs: str) -> None:
    warnings.warn(
        f"trimtab.attach: no shipped card was taught on these knobs ({knobs}) and sites, so the default follows its "
        "prior schedule (constant, then linear to 2 % over the second half of the horizon) under the guard. Name a "
        "controller to choose, or teach one: `trimtab teach`.",
        UserWarning,
        stacklevel=4,
    )
