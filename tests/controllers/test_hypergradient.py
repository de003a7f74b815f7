"""The followers take the published step, free of the loss's scale."""

from dataclasses import replace

import pytest
import torch

from trimtab.controllers import HypergradientDescent, KnobDescent
from trimtab.errors import KnobError, SignalError
from trimtab.knobs import Panel

F64 = torch.float64
PANEL = Panel.of(["momentum", "lr", "dampening"])


def _position(members=4, sites=2, panel=PANEL):
    return torch.full((members, sites, len(panel)), 0.4, dtype=F64)


def test_the_learning_rate_is_multiplied_by_one_plus_beta_cosine(reading):
    """After one reading lr is lr * (1 + beta * cos) at every site, and no other knob has moved."""
    rng = torch.Generator().manual_seed(0)
    grad, update = torch.randn(2, 4, 2, 9, generator=rng, dtype=F64)
    given = {
        "grad_sq": (grad**2).sum(-1),
        "update_sq": (update**2).sum(-1),
        "grad_dot_update": (grad * update).sum(-1),
    }
    rule, position = HypergradientDescent(beta=0.3), _position()
    seen = reading(PANEL, position, 40, **given)
    move, _ = rule.act(seen, rule.start(PANEL, 4, 2))
    after = PANEL.from_unit(PANEL.turn(position, move, seen.signals.step))
    before = PANEL.from_unit(position)
    cosine = torch.nn.functional.cosine_similarity(grad, update, dim=-1)
    torch.testing.assert_close(after[..., 1], before[..., 1] * (1 + 0.3 * cosine), rtol=1e-12, atol=0)
    assert torch.equal(move[..., [0, 2]], torch.zeros(4, 2, 2, dtype=F64))


@pytest.mark.parametrize("start", [1e-3, 1.9])
def test_on_a_quadratic_it_finds_the_rate_of_one(reading, start):
    """Gradient descent on half w squared ends near lr = 1 from a tiny lr and from one that oscillates."""
    panel, rule = Panel.of(["lr"]), HypergradientDescent(beta=0.2)
    position = panel.to_unit(torch.tensor([[[start]]], dtype=F64))
    state = rule.start(panel, 1, 1)
    weight, update, lr = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64), start
    for step in range(1, 60):
        given = {"grad_sq": weight**2, "update_sq": update**2, "grad_dot_update": weight * update}
        seen = reading(panel, position, step, **given)
        move, state = rule.act(seen, state)
        position = panel.turn(position, move, seen.signals.step)
        lr = panel.from_unit(position).item()
        update = lr * weight
        weight = weight - update
    assert 0.7 < lr < 1.4


def test_before_the_first_update_it_waits(reading):
    """Without an update, or with numbers that are none, the move is exactly zero."""
    rule = HypergradientDescent()
    seen = reading(PANEL, _position(), 1)
    bad = torch.full((4, 2), torch.nan, dtype=F64)
    for signals in (seen.signals, replace(seen.signals, grad_sq=bad, update_sq=bad, grad_dot_update=bad)):
        move, _ = rule.act(replace(seen, signals=signals), rule.start(PANEL, 4, 2))
        assert torch.equal(move, torch.zeros_like(move))


def test_every_knob_descends_in_its_own_direction(reading):
    """A first hypergradient moves each knob by `reach` against it, whatever the loss's unit."""
    rule, position = KnobDescent(reach=0.25), _position()
    slope = torch.tensor([2.0, -3.0, 1e-9], dtype=F64).expand(4, 2, 3)
    for unit in (1.0, 1e-12, 1e12):
        seen = reading(PANEL, position, 40, hypergrad=unit * slope)
        move, _ = rule.act(seen, rule.start(PANEL, 4, 2))
        torch.testing.assert_close(move, 0.25 * torch.tensor([-1.0, 1.0, -1.0], dtype=F64).expand(4, 2, 3))


def test_the_mean_square_is_in_the_scales_unit(reading):
    """The step is that of RMSprop on the loss as a function of the warped value, to rounding."""
    rule, rng = KnobDescent(reach=0.1, rho=0.8), torch.Generator().manual_seed(1)
    state, square = rule.start(PANEL, 1, 1), torch.zeros(3, dtype=F64)
    for n in range(1, 20):
        position = torch.rand(1, 1, 3, generator=rng, dtype=F64)
        seen = reading(PANEL, position, 10 * n, rng=rng)
        unit = position.clone().requires_grad_()
        (PANEL.from_unit(unit) * seen.signals.hypergrad).sum().backward()
        spans = torch.tensor([knob.span for knob in PANEL], dtype=F64)
        slope = unit.grad[0, 0] / spans
        square = 0.8 * square + 0.2 * slope**2
        move, state = rule.act(seen, state)
        expected = -0.1 * slope / (square / (1 - 0.8**n)).sqrt()
        torch.testing.assert_close(move[0, 0], expected, rtol=1e-10, atol=0)


def test_a_hypergradient_that_is_no_number_is_skipped(reading):
    """NaN and inf leave the knob and its memory alone."""
    rule = KnobDescent()
    state = rule.start(PANEL, 1, 1)
    bad = torch.tensor([[[torch.nan, torch.inf, 1e200]]], dtype=F64)
    move, after = rule.act(reading(PANEL, _position(1, 1), 5, hypergrad=bad), state)
    assert torch.equal(move, torch.zeros_like(move))
    assert torch.equal(after["square"], state["square"])
    assert after["count"].tolist() == [[[0, 0, 0]]]


def test_a_missing_hypergradient_is_told(reading):
    """Without the signal that it needs it says so."""
    rule = KnobDescent()
    with pytest.raises(SignalError, match="needs `hypergrad`"):
        rule.act(reading(PANEL, _position(1, 1), 5, hypergrad=None), rule.start(PANEL, 1, 1))


@pytest.mark.parametrize("make", [lambda: HypergradientDescent(beta=1.0), lambda: KnobDescent(reach=0.0)])
def test_arguments_are_checked(make):
    """An argument outside its range is refused."""
    with pytest.raises(KnobError, match="needs"):
        make()
