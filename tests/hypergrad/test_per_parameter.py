"""A learning rate for every parameter: its slopes against finite differences, and the laws of the factors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.controllers import Hypergradient
from trimtab.errors import KnobError
from trimtab.guard import Guard
from trimtab.hypergrad import (
    ESTIMATORS,
    Estimator,
    Form,
    ForwardMode,
    HyperDistill,
    Implicit,
    Memory,
    OneStep,
    OneStepValidation,
    PerParameter,
    Step,
    Unroll,
    ZerothOrder,
)
from trimtab.hypergrad.followers import Adam, Multiplicative, Sign
from trimtab.hypergrad.zeroth import slope_by_factors
from trimtab.knobs import Knob, Panel
from trimtab.layout import Layout
from trimtab.plant import Plant
from trimtab.rollout import Rollout, rollout
from trimtab.rules import SGD, AdamW, RMSprop, Rule
from trimtab.task import Task
from trimtab.tasks import task_named

F64 = torch.float64
Ride = Callable[..., Any]
RULES: dict[str, tuple[Rule, dict[str, float]]] = {
    "sgd": (SGD(), {"lr": 0.05, "momentum": 0.8, "weight_decay": 1e-2}),
    "nesterov": (SGD(nesterov=True), {"lr": 0.05, "momentum": 0.8}),
    "adamw": (AdamW(eps=1e-4), {"lr": 0.01, "beta1": 0.8, "weight_decay": 1e-2}),
    "rmsprop": (RMSprop(eps=1e-4), {"lr": 0.01}),
}
STEPS = 5


class Fixed:
    """An estimator that only multiplies updates, from the second step on, and keeps the steps."""

    name, needs, is_running = "fixed", frozenset({"hypergrad", "val_hypergrad", "loss_fn"}), True

    def __init__(self, factors: Tensor) -> None:
        self.factors, self.steps = factors, list[Step]()

    def start(self, form: Form) -> Memory:
        """Remember nothing."""
        return {}

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Give the factors."""
        self.steps.append(step)
        return {"factors": self.factors}

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Give zeros."""
        return grad.new_zeros(len(grad), 1, 1)


def told(estimator: Any, steps: list[Step], grad: Tensor | None = None) -> Tensor:
    """Follow steps, and give the slope by each parameter's factor after the last."""
    first = steps[0]
    form = Form(first.weights, first.slots, first.layout, *first.values.shape[1:])
    memory = estimator.start(form)
    for number, step in enumerate(steps, 1):
        memory = estimator.follow(step, memory, is_due=number == len(steps))
    memory = {**memory, "update": steps[-1].after - steps[-1].weights}
    return estimator.rates(memory, torch.zeros_like(first.weights) if grad is None else grad)


@pytest.mark.parametrize("kind", RULES)
def test_the_window_s_slopes_are_finite_differences(kind: str, ride: Ride) -> None:
    """Of the held-out loss at the end, by every parameter's own rate, for updates that are multiplied already."""
    rule, knobs = RULES[kind]
    places = 0.3 * torch.randn(2, 26, generator=torch.Generator().manual_seed(2), dtype=F64)
    fixed = Fixed(10**places)
    ride(rule, knobs, STEPS, estimator=fixed)
    found = told(Unroll(window=STEPS - 1), fixed.steps[1:])
    assert found.shape == places.shape
    small = 1e-5
    for i in range(places.shape[1]):
        turn = small * torch.eye(places.shape[1], dtype=F64)[i]
        up, down = (ride(rule, knobs, STEPS, estimator=Fixed(10 ** (places + s * turn))).held for s in (1, -1))
        torch.testing.assert_close(found[:, i], (up - down) / (2 * small), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize(
    "estimator",
    [OneStep(), OneStepValidation(), Implicit(3), Implicit(3, carry=0.5), Unroll(3), HyperDistill(0.9, refit=0)],
    ids=repr,
)
def test_parameters_slopes_add_up_to_the_site_s(kind: str, estimator: Any, ride: Ride) -> None:
    """Where all factors are 1, turning all is turning the learning rate."""
    rule, knobs = RULES[kind]
    fixed = Fixed(torch.ones(2, 26, dtype=F64))
    ride(rule, knobs, STEPS, estimator=fixed)
    steps, grad = fixed.steps[1:], fixed.steps[-1].grad
    rates = told(estimator, steps, grad)
    form = Form(steps[0].weights, steps[0].slots, steps[0].layout, *steps[0].values.shape[1:])
    memory = estimator.start(form)
    for number, step in enumerate(steps, 1):
        memory = estimator.follow(step, memory, is_due=number == len(steps))
    slope = estimator.read(memory, grad, steps[0].layout)[:, 0, 0] * steps[-1].values[:, 0, 0] * math.log(10)
    torch.testing.assert_close(rates.sum(1), slope)


@pytest.mark.slow
def test_zeroth_order_tends_to_the_slopes(ride: Ride) -> None:
    """Its error falls as one over the square root of the draws."""
    fixed = Fixed(torch.full((2, 26), 1.5, dtype=F64))
    ride(SGD(), {"lr": 0.05, "momentum": 0.8}, STEPS, estimator=fixed)
    exact = told(OneStepValidation(), fixed.steps[-1:])
    assert told(ZerothOrder(), fixed.steps[-1:]).shape == exact.shape

    def error(pairs: int) -> float:
        step, seeds = fixed.steps[-1], range(8)

        def loss(factors: Tensor) -> Tensor:
            turned = replace(step, factors=factors)
            return turned.held_out_loss_at(turned.applied(turned.values)[0])

        assert step.factors is not None
        drawn = [
            slope_by_factors(loss, step.factors, pairs, 1e-4, torch.Generator().manual_seed(seed)) for seed in seeds
        ]
        return float(torch.stack([(one - exact).square().sum() for one in drawn]).mean().sqrt() / exact.norm())

    few, many = error(25), error(400)
    assert 2.5 < few / many < 6.5  # 4, were there no chance in it
    assert many < 0.5


def run(controller: Any, *, values: tuple[float, ...] = (0.01, 0.1), steps: int = 60, **given: Any) -> Rollout:
    """Steer digits-mlp-v1 from given rates."""
    task, panel = task_named("digits-mlp-v1"), given.pop("panel", Panel.of(["lr"]))
    plant = Plant(task, SGD(), panel, estimator=controller.estimator, every=5, dtype=F64)
    start = torch.tensor(values, dtype=F64)[:, None, None]
    return rollout(plant, controller, start, seeds=range(len(values)), steps=steps, **given)


class Watched:
    """Looks on an estimator, and keeps what it is given to remember."""

    def __init__(self, estimator: Estimator) -> None:
        self.own, self.memories = estimator, list[Memory]()
        self.name, self.needs, self.is_running = estimator.name, estimator.needs, estimator.is_running
        self.start, self.read = estimator.start, estimator.read

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Follow, and keep."""
        self.memories.append(self.own.follow(step, memory, is_due=is_due))
        return self.memories[-1]


def watched(estimator: Estimator, follower: Any) -> tuple[Hypergradient, list[Memory]]:
    """Give a controller whose estimator's memories can be seen."""
    controller = Hypergradient(estimator, follower, per_parameter=True)
    assert isinstance(controller.estimator, PerParameter)
    controller.estimator = Watched(controller.estimator)
    return controller, controller.estimator.memories


@pytest.mark.parametrize("follower", [Sign(0.1), Multiplicative(0.3), Adam(0.1)], ids=repr)
def test_rates_part_and_stay_in_their_range(follower: Any) -> None:
    """Every parameter's rate is in the knob's range, and they are not all the same; the site's stays."""
    panel = Panel([Knob("lr", 0.005, 0.02)])
    controller, memories = watched(OneStepValidation(), follower)
    done = run(controller, panel=panel, values=(0.01, 0.02))
    rates = memories[-1]["factors"] * torch.tensor([[0.01], [0.02]], dtype=F64)
    assert rates.min() >= 0.005 * (1 - 1e-9)
    assert rates.max() <= 0.02 * (1 + 1e-9)
    assert rates[0].max() > 1.5 * rates[0].min()
    assert torch.equal(done.values, done.values[:1].expand_as(done.values))


def test_a_change_is_a_move_at_most() -> None:
    """However long the follower's step is."""
    controller, memories = watched(OneStepValidation(), Sign(50.0))
    run(controller, steps=20)
    places = torch.stack([memory["places"] for memory in memories])
    most = Panel.of(["lr"])[0].rate / math.log(10)
    assert places.diff(dim=0).abs().max() == pytest.approx(most)


def test_what_is_no_number_moves_nothing_and_is_counted() -> None:
    """A member's slope of NaN leaves its factors at 1; the other member's move."""

    class Broken(OneStepValidation):
        def rates(self, memory: Memory, grad: Tensor) -> Tensor:
            return super().rates(memory, grad) * torch.tensor([[math.nan], [1.0]])

    controller, memories = watched(Broken(), Sign(0.1))
    run(controller)
    assert torch.equal(memories[-1]["factors"][0], torch.ones_like(memories[-1]["factors"][0]))
    assert not torch.allclose(memories[-1]["factors"][1], torch.ones_like(memories[-1]["factors"][1]))
    assert memories[-1]["refused"][0] > 0
    assert memories[-1]["refused"][1] == 0


def test_factors_outlast_a_restore() -> None:
    """The guard puts weights back and cuts the rate; what single parameters learned stays, their slopes begin anew."""
    controller, memories = watched(OneStepValidation(), Sign(0.05))
    done = run(controller, values=(0.01, 30.0), panel=Panel([Knob("lr", 1e-4, 100.0)]), guard=Guard())
    restored = [int(d.verdict.restore.nonzero()[0, 0]) for d in done.decisions if d.verdict and d.verdict.restore.any()]
    assert 1 in restored
    places = torch.stack([memory["places"][1] for memory in memories])
    assert (places[-1] != 0).any()
    assert not bool(((places[1:] == 0).all(1) & (places[:-1] != 0).any(1)).any())


def test_members_do_not_see_each_other() -> None:
    """Two members are two runs of one."""
    both = run(Hypergradient("implicit", per_parameter=True))
    alone = run(Hypergradient("implicit", per_parameter=True), values=(0.01,))
    torch.testing.assert_close(both.copies.weights[:1], alone.copies.weights, rtol=1e-10, atol=1e-12)


def test_what_cannot_tell_parameters_apart_is_refused() -> None:
    """Forward mode, by name; and a run without the knob whose range would hold."""
    assert {name for name, make in ESTIMATORS.items() if not hasattr(make(), "rates")} == {"forward"}
    with pytest.raises(KnobError, match="'forward' cannot tell parameters apart"):
        Hypergradient(ForwardMode(), per_parameter=True)
    task: Task = task_named("digits-mlp-v1")
    controller = Hypergradient("implicit", per_parameter=True)
    plant = Plant(task, SGD(momentum=0.9), Panel.of(["momentum"]), estimator=controller.estimator)
    with pytest.raises(KnobError, match="'lr'"):
        rollout(plant, controller, torch.full((1, 1, 1), 0.9), seeds=(0,), steps=2)
