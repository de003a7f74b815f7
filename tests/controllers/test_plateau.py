"""Plateau decides as torch's ReduceLROnPlateau, whatever the rate limit lets through at once."""

import math

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trimtab.controllers import Plateau
from trimtab.errors import KnobError
from trimtab.knobs import Knob, Panel

WIDE = Panel([Knob("lr", 1e-6, 10.0, "log", rate=20.0)])
NARROW = Panel([Knob("lr", 1e-6, 10.0, "log", rate=0.3)])


def _torch(losses, value=0.1, **given):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=value)
    scheduler = ReduceLROnPlateau(optimizer, eps=0.0, min_lr=1e-6, **given)
    rates = []
    for loss in losses:
        scheduler.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def _losses(seed, length=120):
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(length, generator=rng, dtype=torch.float64)
    return (2 * torch.exp(-torch.arange(length) / 30.0) + 0.5 + 0.05 * noise).tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "given",
    [
        {"factor": 0.1, "patience": 10},
        {"factor": 0.5, "patience": 0},
        {"factor": 0.3, "patience": 2, "threshold": 0.05, "cooldown": 4},
    ],
)
def test_a_wide_rate_gives_torchs_rates(drive, seed, given):
    """With room for the whole cut in one move, the learning rate is torch's after every reading."""
    losses = _losses(seed)
    rates, _ = drive(Plateau(**given), WIDE, losses)
    assert rates == pytest.approx(_torch(losses, **given), rel=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_a_narrow_rate_gets_there_later(drive, seed):
    """With a narrow rate the same cuts are paid over the next readings, and end at torch's value."""
    losses = _losses(seed) + [0.1 / n for n in range(1, 200)]  # a fall at the end: nothing more to cut
    given = {"factor": 0.3, "patience": 6}
    expected = _torch(losses, **given)
    rates, state = drive(Plateau(**given), NARROW, losses)
    assert expected[-1] < 0.1
    assert rates[-1] == pytest.approx(expected[-1], rel=1e-11)
    assert state["owed"].abs().max().item() == 0
    steps = torch.tensor(rates, dtype=torch.float64).log().diff().abs()
    assert steps[10:].max().item() <= 0.3 + 1e-12


def test_a_cut_stops_at_the_range(drive):
    """What would leave the knob's range is forgiven, not kept for later."""
    rates, state = drive(Plateau(factor=0.01, patience=0), NARROW, [1.0] * 100)
    assert rates[-1] == pytest.approx(1e-6, rel=1e-12)
    assert state["owed"].item() == pytest.approx(0.0, abs=1e-12)


def test_nan_losses_are_bad_readings(drive):
    """A loss that is no number is no improvement, as in torch."""
    losses = [1.0, math.nan, math.nan, math.nan, math.inf, 0.5, 0.4]
    rates, _ = drive(Plateau(factor=0.5, patience=1), WIDE, losses)
    assert rates == pytest.approx(_torch(losses, factor=0.5, patience=1), rel=1e-11)


def test_validation_is_watched_where_there_is_one(drive):
    """In a run with validation, training losses are ignored and readings without a measurement do not count."""
    never = torch.full((1,), math.nan, dtype=torch.float64)
    rates, state = drive(Plateau(patience=0), WIDE, [1.0, 2.0, 3.0], val_loss=never)
    assert rates == pytest.approx([0.1] * 3)
    assert state["bad"].item() == 0
    stuck = torch.ones(1, dtype=torch.float64)
    rates, _ = drive(Plateau(patience=0), WIDE, [3.0, 2.0, 1.0], val_loss=stuck)
    assert rates == pytest.approx([0.1, 0.01, 0.001])


def test_a_panel_without_a_log_learning_rate_is_refused():
    """A rule for the learning rate says which knobs it found instead."""
    with pytest.raises(KnobError, match=r"momentum \(one_minus_log\)"):
        Plateau().start(Panel.of(["momentum"]), 1, 1)
    with pytest.raises(KnobError, match=r"lr \(linear\)"):
        Plateau().start(Panel([Knob("lr", 0.0, 1.0, "linear")]), 1, 1)


@pytest.mark.parametrize("given", [{"factor": 1.0}, {"threshold": -1.0}, {"patience": -1}, {"cooldown": -1}])
def test_arguments_are_checked(given):
    """An argument outside its range is refused by name."""
    with pytest.raises(KnobError, match=next(iter(given))):
        Plateau(**given)
