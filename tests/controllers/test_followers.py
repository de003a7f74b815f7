"""Laws of the followers: what each makes of a slope, and the guard over all of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import trimtab
from trimtab.controllers import Hypergradient, HypergradientDescent, Policy
from trimtab.errors import KnobError, SignalError
from trimtab.hypergrad import OneStepValidation, estimator_of
from trimtab.hypergrad.followers import FOLLOWERS, Adam, Multiplicative, Sign
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import Rollout, rollout
from trimtab.rules import SGD
from trimtab.teach import OnlineTeaching

F64 = torch.float64
ALL = Panel.of(["lr", "momentum", "weight_decay"])


def driven(controller: Any, slopes: Tensor, reading: Any, panel: Panel = ALL) -> tuple[Tensor, Any]:
    """Show one member slopes ``[N, K]`` by the values, at readings from step 20 on: moves ``[N, K]`` and the state."""
    position = panel.to_unit(torch.tensor([[[0.1, 0.9, 1e-3][: len(panel)]]], dtype=F64))
    state, moves = controller.start(panel, 1, 1), []
    for number, slope in enumerate(slopes):
        given = {"hypergrad": slope[None, None], "grad_sq": torch.ones(1, 1), "update_sq": torch.ones(1, 1)}
        move, state = controller.act(reading(panel, position, 20 + 10 * number, **given), state)
        moves.append(move[0, 0])
    return torch.stack(moves), state


def ran(controller: Any) -> Rollout:
    """Run digits-mlp-v1 from three rates."""
    task, panel = trimtab.task_named("digits-mlp-v1"), Panel.of(["lr"])
    plant = Plant(task, SGD(), panel, estimator=estimator_of(controller), dtype=F64, sample=10**9)
    values = torch.tensor([1e-3, 1e-2, 1e-1], dtype=F64)[:, None, None]
    return rollout(plant, controller, values, seeds=(0, 1, 2), steps=120)


def test_multiplicative_on_one_step_is_hypergradient_descent() -> None:
    """The cosine of gradient and last update by way of the slope, rate for rate."""
    ours, theirs = ran(Hypergradient("one-step", "multiplicative", clip=math.inf)), ran(HypergradientDescent())
    torch.testing.assert_close(ours.values, theirs.values, rtol=1e-10, atol=0)
    assert not torch.allclose(ours.values[-1], ours.values[0], rtol=0.1)


def test_adam_is_torch_s(reading: Any) -> None:
    """On log10 lr, -ln(1 - m) and log10 decay, epsilon apart."""
    slopes = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    moves, _ = driven(Hypergradient("one-step", Adam(0.05), clip=math.inf), slopes, reading)
    value, ln = torch.tensor([0.1, 0.1, 1e-3], dtype=F64), math.log(10)
    place = torch.zeros(3, dtype=F64, requires_grad=True)
    adam, last, expected = torch.optim.Adam([place], lr=0.05, eps=0.0), place.detach().clone(), []
    for slope in slopes:
        place.grad = slope * value * torch.tensor([ln, 1.0, ln], dtype=F64)
        adam.step()
        expected.append(place.detach() - last)
        last = place.detach().clone()
    rates = torch.tensor([knob.rate for knob in ALL], dtype=F64) / torch.tensor([ln, 1.0, ln], dtype=F64)
    torch.testing.assert_close(moves * rates, torch.stack(expected))


def test_sign_steps_against_the_slope(reading: Any) -> None:
    """By as much whatever the slope's size; not at all where it is 0."""
    slopes = torch.tensor([[1e-6, -3.0, 0.0]], dtype=F64)
    moves, _ = driven(Hypergradient("one-step", Sign(0.1)), slopes, reading)
    rates = torch.tensor([ALL[0].rate / math.log(10), ALL[1].rate], dtype=F64)
    torch.testing.assert_close(moves[0, :2] * rates, torch.tensor([-0.1, 0.1], dtype=F64))
    assert 0.0 == float(moves[0, 2])


@pytest.mark.parametrize("follower", FOLLOWERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_and_counted(follower: str, bad: float, reading: Any) -> None:
    """The knob stays, the memory too: the next move is what it would have been."""
    clean = torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]], dtype=F64)
    dirty = torch.cat([clean[:1], torch.full((1, 3), bad, dtype=F64), clean[1:]])
    expected, _ = driven(Hypergradient("one-step", follower), clean, reading)
    moves, state = driven(Hypergradient("one-step", follower), dirty, reading)
    assert 0.0 == float(moves[1].abs().max())
    torch.testing.assert_close(moves[[0, 2]], expected)
    assert 3 == int(state["tame"]["refused"])


def test_what_explodes_is_clipped_and_counted(reading: Any) -> None:
    """A slope of a million times the usual counts as ten times the usual."""
    usual = torch.full((50, 3), 0.1, dtype=F64)
    wild = torch.cat([usual, torch.full((1, 3), 1e5, dtype=F64), usual[:5]])
    tame = torch.cat([usual, torch.full((1, 3), 1.0, dtype=F64), usual[:5]])
    moves, state = driven(Hypergradient("one-step", "adam"), wild, reading)
    expected, _ = driven(Hypergradient("one-step", "adam", clip=math.inf), tame, reading)
    torch.testing.assert_close(moves, expected)
    assert 3 == int(state["tame"]["clipped"])


@pytest.mark.parametrize("kind", ["follower", "policy"])
def test_counts_are_in_the_metrics(kind: str) -> None:
    """`pilot.metrics()` shows what was clipped and refused of a run whose validation loss was no number, and huge."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    x, measured = torch.randn(8, 2), 0

    def held_out() -> torch.Tensor:
        nonlocal measured
        measured += 1
        return {6: math.nan, 8: 1e9}.get(measured, 1.0) * (model(x) - 1).square().mean()

    estimator = OneStepValidation()
    policy = Policy.for_panel(Panel.of(["lr"]))
    controller = Hypergradient(estimator) if kind == "follower" else OnlineTeaching(policy, estimator, lr=1e-6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pilot = trimtab.attach(optimizer, controller, every=2, guard=False, validation_loss=held_out)
    for _ in range(40):
        loss = (model(x) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    assert (1.0, 1.0) == (pilot.metrics()["trimtab/refused"], pilot.metrics()["trimtab/clipped"])


def test_what_does_not_hold_is_refused(reading: Any) -> None:
    """The error states the law and the values."""
    for make, words in (
        (lambda: Hypergradient("one-step", "newton"), "No follower is named 'newton'"),
        (lambda: Hypergradient("one-step", clip=0.5), "`clip` must be at least 1"),
        (lambda: Sign(0.0), "`step > 0`"),
        (lambda: Multiplicative(1.0), r"`beta` in \(0, 1\)"),
        (lambda: Adam(-1.0), "`lr > 0`"),
        (lambda: Adam(beta2=1.0), r"betas in \[0, 1\)"),
    ):
        with pytest.raises(KnobError, match=words):
            make()
    controller = Hypergradient("one-step")
    position = ALL.to_unit(torch.tensor([[[0.1, 0.9, 1e-3]]], dtype=F64))
    with pytest.raises(SignalError, match="needs `hypergrad` in the signals"):
        controller.act(reading(ALL, position, 20, hypergrad=None), controller.start(ALL, 1, 1))
