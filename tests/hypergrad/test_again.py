"""A live step's loss computed again: the same random numbers, frozen parameters, and what is not the step's loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trimtab
from trimtab.controllers import Hypergradient
from trimtab.errors import SignalError
from trimtab.hypergrad import ESTIMATORS, Implicit, Unroll, ZerothOrder

X, Y = (torch.randn(16, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64) for size in (3, 1))
CURVED = ["implicit", "forward", "distilled", "unroll"]


def network(*, drops: bool = False) -> nn.Module:
    """Make a small network, the same each time."""
    torch.manual_seed(0)
    middle = [nn.Dropout(0.5)] if drops else []
    return nn.Sequential(nn.Linear(3, 20), nn.Tanh(), *middle, nn.Linear(20, 1))


def held_out(model: nn.Module) -> Callable[[], Tensor]:
    """Give a validation loss."""

    def loss() -> Tensor:
        model.eval()
        found = (model(X) - Y).square().mean()
        model.train()
        return found

    return loss


def spying(base: Any, told: Callable[[Any], None]) -> Any:
    """Make an estimator that shows the steps it follows."""

    class Spy(base):  # type: ignore[misc]
        def follow(self, step: Any, memory: Any, *, is_due: bool) -> Any:
            told(step)
            return super().follow(step, memory, is_due=is_due)

    return Spy()


def train(model: nn.Module, pilot: Any, losses: Callable[[int], list[Tensor]], steps: int = 12) -> None:
    """Train with the gradients of several losses added up."""
    for number in range(steps):
        pilot.optimizer.zero_grad()
        total = torch.zeros(())
        for loss in losses(number):
            loss.backward()
            total = total + loss.detach()
        pilot.optimizer.step()
        pilot.step(total, batch=number)


def followed(model: nn.Module, optimizer: Any, controller: Hypergradient, knobs: tuple[str, ...]) -> Any:
    """Train with a controller that gets what it needs, and give its pilot."""

    def loss_fn(number: int) -> Tensor:
        return (model(X) - Y).square().mean()

    pilot = trimtab.attach(
        optimizer,
        controller,
        knobs=knobs,
        model=model,
        every=3,
        loss_fn=loss_fn if "loss_fn" in controller.needs else None,
        validation_loss=held_out(model) if "val_hypergrad" in controller.needs else None,
    )
    train(model, pilot, lambda number: [loss_fn(number)])
    return pilot


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_dropout_draws_the_same_masks_in_every_call(parts: int) -> None:
    """With accumulated gradients, whose number changes, each micro-batch gets its own mask again."""
    model = network(drops=True)
    found: list[tuple[Tensor, Tensor]] = []

    def cut(number: int) -> tuple[Tensor, ...]:
        return torch.arange(16).chunk(parts + number % 2)

    def loss_of(rows: Tensor) -> Tensor:
        return (model(X[rows]) - Y[rows]).square().mean()

    def loss_fn(number: int) -> Tensor:
        return torch.stack([loss_of(rows) for rows in cut(number)]).sum()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    spy = spying(Implicit, lambda step: found.append((step.grad, step.curve_grad())))
    pilot = trimtab.attach(
        optimizer, Hypergradient(spy), model=model, every=3, loss_fn=loss_fn, validation_loss=held_out(model)
    )
    train(model, pilot, lambda number: [loss_of(rows) for rows in cut(number)])
    assert len(found) >= 4
    for used, again in found:
        torch.testing.assert_close(again, used)


def test_noise_before_the_model_is_drawn_again() -> None:
    """Dropout of the inputs, as `relaxed_dropout` with its own noise, where nothing else has drawn since the step."""
    model = network()
    drop = trimtab.LossKnob("drop", 0.3, 0.01, 0.9)
    found: list[tuple[Tensor, Tensor]] = []

    def loss_fn(number: int) -> Tensor:
        return (model(trimtab.relaxed_dropout(X, drop.value)) - Y).square().mean()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    spy = spying(Implicit, lambda step: found.append((step.grad, step.curve_grad())))
    pilot = trimtab.attach(
        optimizer,
        Hypergradient(spy),
        knobs=("lr", drop),
        model=model,
        every=3,
        loss_fn=loss_fn,
        validation_loss=held_out(model),
    )
    train(model, pilot, lambda number: [loss_fn(number)])
    assert len(found) >= 4
    for used, again in found:
        torch.testing.assert_close(again, used)


def test_an_unroll_draws_each_step_s_own_mask() -> None:
    """Every step of the window is computed again as it was, not with the last one's mask."""
    model = network(drops=True)
    used: list[Tensor] = []

    class Spy(Unroll):
        def follow(self, step: Any, memory: Any, *, is_due: bool) -> Any:
            used.append(step.grad)
            new = super().follow(step, memory, is_due=is_due)
            for kept in new["kept"]:
                old = step.gradient(kept["weights"], kept["batch"], kept["values"], kept["noise"]).row(1)
                torch.testing.assert_close(old, kept["grad"])
            return new

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def loss_fn(number: int) -> Tensor:
        return (model(X) - Y).square().mean()

    pilot = trimtab.attach(
        optimizer, Hypergradient(Spy(3)), model=model, every=3, loss_fn=loss_fn, validation_loss=held_out(model)
    )
    train(model, pilot, lambda number: [loss_fn(number)])
    assert len(used) == 12


@pytest.mark.parametrize("name", ESTIMATORS)
def test_frozen_parameters_stay_out_of_it(name: str) -> None:
    """A parameter without gradient in the optimizer changes nothing: the slopes are those of a run without it."""
    slopes = []
    for has_frozen in (False, True):
        model = network()
        model[0].requires_grad_(requires_grad=False)
        mine = [p for p in model.parameters() if has_frozen or p.requires_grad]
        optimizer = torch.optim.SGD(mine, lr=0.05, momentum=0.9, weight_decay=0.1)
        pilot = followed(model, optimizer, Hypergradient(name), ("lr", "weight_decay"))
        seen = [decision.seen.signals.hypergrad for _, decision in pilot.trace.decisions]
        slopes.append(torch.stack([slope for slope in seen if slope is not None]))
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-7)
    assert slopes[0].abs().max() > 1e-4


@pytest.mark.parametrize(("case", "words"), [("another", "cosine"), ("clipped", r"used 0\.\d+ times")])
def test_a_loss_that_is_not_the_step_s_is_told_of(case: str, words: str) -> None:
    """At the first step; a gradient that was cut too."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    target = -Y if case == "another" else Y
    pilot = trimtab.attach(
        optimizer,
        Hypergradient("implicit"),
        model=model,
        loss_fn=lambda: (model(X) - target).square().mean(),
        validation_loss=held_out(model),
    )
    loss = (model(X) - Y).square().mean()
    loss.backward()
    if case == "clipped":
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    optimizer.step()
    with pytest.warns(UserWarning, match=words):
        pilot.step(loss)


class Quartic(torch.autograd.Function):
    """The mean fourth power, with a backward that torch cannot differentiate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Compute it."""
        ctx.save_for_backward(x)
        return x.pow(4).mean()

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Give the slope."""
        (x,) = ctx.saved_tensors
        return grad * 4 * x.pow(3) / x.numel()


class OpenQuartic(Quartic):
    """The same with a backward that torch can differentiate."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Give the slope."""
        (x,) = ctx.saved_tensors
        return grad * 4 * x.pow(3) / x.numel()


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("own", [Quartic, OpenQuartic])
def test_a_second_derivative_that_is_lost_is_noticed(name: str, own: Any) -> None:
    """A function of the user's own whose backward has no graph is named at the first reading, not taken for linear."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def loss_fn(number: int) -> Tensor:
        found: Tensor = own.apply(model(X) - Y)
        return found

    pilot = trimtab.attach(
        optimizer, Hypergradient(name), model=model, every=3, loss_fn=loss_fn, validation_loss=held_out(model)
    )
    if own is OpenQuartic:
        train(model, pilot, lambda number: [loss_fn(number)])
        return
    with pytest.raises(SignalError, match=r"functions of your own \(Quartic\)"):
        train(model, pilot, lambda number: [loss_fn(number)])
    assert int(pilot.last_epoch) <= 3


def test_a_validation_loss_with_the_training_loss_s_knob_is_refused() -> None:
    """Turning it would lower that loss with the model as it is."""
    model = network()
    ridge = trimtab.LossKnob("ridge", 0.1, 0.01, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def loss_fn(number: int = 0) -> Tensor:
        return (model(X) - Y).square().mean() + ridge.value * model[0].weight.square().sum()

    pilot = trimtab.attach(
        optimizer,
        Hypergradient("implicit"),
        knobs=("lr", ridge),
        model=model,
        loss_fn=loss_fn,
        validation_loss=loss_fn,
    )
    with pytest.raises(SignalError, match="has the knob 'ridge' in it"):
        train(model, pilot, lambda number: [loss_fn(number)])


def test_zeroth_order_notices_a_loss_without_the_weights() -> None:
    """It needs no gradient, so losses themselves tell."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    pilot = trimtab.attach(
        optimizer,
        Hypergradient("zeroth-order"),
        model=model,
        loss_fn=lambda number: (model(X) - Y).square().mean(),
        validation_loss=lambda: torch.ones(()),
    )
    with pytest.raises(SignalError, match="does not depend on the optimizer's parameters"):
        train(model, pilot, lambda number: [(model(X) - Y).square().mean()])


def test_zeroth_order_compares_losses_of_the_same_draw() -> None:
    """A validation loss with dropout: both ends of a pair get one mask, the next reading another."""
    model = network(drops=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    measured: list[list[float]] = []

    def told(step: Any) -> None:
        measured.append([float(step.held_out_loss_at(step.after)) for _ in range(3)])

    pilot = trimtab.attach(
        optimizer,
        Hypergradient(spying(ZerothOrder, told)),
        model=model,
        every=3,
        loss_fn=lambda number: (model(X) - Y).square().mean(),
        validation_loss=lambda: (model(X) - Y).square().mean(),
    )
    train(model, pilot, lambda number: [(model(X) - Y).square().mean()])
    assert all(len(set(three)) == 1 for three in measured)
    assert len({three[0] for three in measured}) == len(measured) >= 4


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_memory_holds_a_graph(name: str) -> None:
    """Whatever an estimator carries from step to step."""
    kept: list[Any] = []
    base: Any = ESTIMATORS[name]

    class Spy(base):  # type: ignore[misc]
        def follow(self, step: Any, memory: Any, *, is_due: bool) -> Any:
            kept.append(super().follow(step, memory, is_due=is_due))
            return kept[-1]

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    followed(model, optimizer, Hypergradient(Spy()), ("lr", "momentum"))
    tensors: list[Any] = [kept]
    while tensors:
        one = tensors.pop()
        if isinstance(one, dict):
            tensors += one.values()
        elif isinstance(one, list | tuple):
            tensors += one
        elif isinstance(one, Tensor):
            assert one.grad_fn is None
            assert not one.requires_grad
