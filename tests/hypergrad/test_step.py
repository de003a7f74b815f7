"""Oracles of the differentiable step: its products against finite differences, dense algebra and each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.errors import SignalError
from trimtab.hypergrad import Form, ForwardMode, Step
from trimtab.hypergrad.unrolled import slopes
from trimtab.rules import SGD, Adam, AdamW, NAdam, RMSprop, Rule

F64 = torch.float64
MOMENTUM = {"lr": 0.05, "momentum": 0.8, "weight_decay": 1e-2}
BETAS = {"lr": 0.02, "beta1": 0.8, "beta2": 0.9, "weight_decay": 1e-2}
RULES: dict[str, tuple[Rule, dict[str, float]]] = {
    "sgd": (SGD(), {"lr": 0.1}),
    "fixed momentum": (SGD(momentum=0.8), {"lr": 0.05}),
    "momentum": (SGD(momentum=0.8), MOMENTUM),
    "nesterov": (SGD(momentum=0.8, nesterov=True), MOMENTUM),
    "dampened": (SGD(momentum=0.8, dampening=0.3), {"lr": 0.05, "momentum": 0.8, "dampening": 0.3}),
    "adam": (Adam(eps=1e-3), BETAS),
    "amsgrad": (Adam(eps=1e-3, amsgrad=True), {"lr": 0.02, "beta2": 0.9, "eps": 1e-3}),
    "adamw": (AdamW(eps=1e-3), BETAS),
    "nadam": (NAdam(eps=1e-3), {"lr": 0.02, "beta1": 0.8}),
    "rmsprop": (RMSprop(eps=1e-3, alpha=0.9, momentum=0.5), {"lr": 0.01, "momentum": 0.5, "alpha": 0.9}),
    "centered": (RMSprop(eps=1e-3, alpha=0.9, centered=True), {"lr": 0.01, "eps": 1e-3, "weight_decay": 1e-2}),
}
every_rule = pytest.mark.parametrize("kind", RULES)
Ride = Callable[..., Any]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Draw a normal tensor."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def dense(step: Step) -> Tensor:
    """The Jacobian of the new weights by the old ones at fixed slots, ``[B, n, n]``, row by row."""
    wide = step.weights.shape[1]
    rows = [step.pull_weights(torch.eye(wide, dtype=F64)[i].expand(2, -1)) for i in range(wide)]
    return torch.stack(rows, 1)


@every_rule
@pytest.mark.parametrize("by", ["run", "layer"])
def test_the_window_s_slopes_are_finite_differences(kind: str, by: str, ride: Ride) -> None:
    """Summed over six steps, they say how the held-out loss at the end answers to knobs held all the way."""
    rule, knobs = RULES[kind]
    done = ride(rule, knobs, 6, by=by)
    found = sum(slopes(done.steps, done.row))
    for s in range(done.values.shape[1]):
        for k in range(done.values.shape[2]):
            nudge = torch.zeros_like(done.values)
            nudge[:, s, k] = 1e-5 * done.values[:, s, k]
            up, down = (ride(rule, knobs, 6, by=by, values=done.values + sign * nudge).held for sign in (1, -1))
            apart = (up - down) / (2 * nudge[:, s, k])
            torch.testing.assert_close(found[:, s, k], apart, rtol=1e-6, atol=1e-9)


@every_rule
@pytest.mark.parametrize("by", ["run", "layer"])
def test_forward_mode_is_the_window(kind: str, by: str, ride: Ride) -> None:
    """Pushed forward or pulled back through twelve steps, slots included, the slope is the same to ten digits."""
    rule, knobs = RULES[kind]
    done = ride(rule, knobs, 12, by=by)
    exact = sum(slopes(done.steps, done.row))
    estimator = ForwardMode()
    first = done.steps[0]
    memory = estimator.start(Form(first.weights, first.slots, first.layout, *done.values.shape[1:]))
    for number, step in enumerate(done.steps):
        memory = estimator.follow(step, memory, is_due=number == 11)
    found = estimator.read(memory, torch.zeros_like(first.weights), step.layout)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-14)


@every_rule
def test_pushing_is_the_adjoint_of_pulling(kind: str, ride: Ride) -> None:
    """``(r^T dF) c = r^T (dF c)`` over weights, slots and values at once."""
    rule, knobs = RULES[kind]
    step = ride(rule, knobs, 4).steps[-1]
    row, column = normal(*step.weights.shape), normal(*step.weights.shape, seed=1)
    row_slots, column_slots = (
        tuple({name: normal(*slot.shape, seed=seed) for name, slot in part.items()} for part in step.slots)
        for seed in (2, 3)
    )
    seed = normal(*step.values.shape, seed=4)
    pulled = step.pull(row, row_slots)
    made = step.push(
        column[:, None], tuple({n: s[:, None] for n, s in part.items()} for part in column_slots), seed[:, None]
    )
    left = (pulled.weights * column).sum(1) + (pulled.values * seed).flatten(1).sum(1)
    right = (row * made.weights[:, 0]).sum(1)
    for part, other, new, given in zip(pulled.slots, column_slots, made.slots, row_slots, strict=True):
        left = left + sum((part[name] * other[name]).flatten(1).sum(1) for name in part)
        right = right + sum((new[name][:, 0] * given[name]).flatten(1).sum(1) for name in given)
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_a_step_s_jacobian_is_the_hessian_s(ride: Ride) -> None:
    """Of SGD with weight decay: ``I - lr (H + decay)``, H by finite differences of the gradient."""
    step = ride(SGD(momentum=0.8), MOMENTUM, 3).steps[-1]
    wide, values = step.weights.shape[1], step.values[:, 0]
    hessian = []
    for i in range(wide):
        nudge = 1e-6 * torch.eye(wide, dtype=F64)[i]
        hessian.append((step.at(step.weights + nudge).grad - step.at(step.weights - nudge).grad) / 2e-6)
    eye = torch.eye(wide, dtype=F64)
    expected = eye - values[:, 0, None, None] * (torch.stack(hessian, 1) + values[:, 2, None, None] * eye)
    torch.testing.assert_close(dense(step), expected, rtol=1e-6, atol=1e-8)


def test_members_do_not_see_each_other(ride: Ride) -> None:
    """A row that is zero for one member leaves it zero."""
    step = ride(Adam(eps=1e-3), BETAS, 3).steps[-1]
    row = normal(*step.weights.shape)
    row[1] = 0
    pulled = step.pull(row)
    assert 0 == float(pulled.weights[1].abs().max()) == float(pulled.values[1].abs().max())


def test_a_step_without_its_loss_has_no_curvature(ride: Ride) -> None:
    """The error says what to give."""
    step = replace(ride(SGD(), {"lr": 0.1}, 2).steps[-1], gradient=None, held_out=None)
    with pytest.raises(SignalError, match="give `loss_fn=`"):
        step.pull_weights(step.grad)
    with pytest.raises(SignalError, match="give `validation_loss=`"):
        step.held_out_grad(step.after)
