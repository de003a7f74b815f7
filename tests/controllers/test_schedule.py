"""Schedules are torch's own, step by step."""

import math

import pytest
import torch
from torch.optim import SGD, AdamW, lr_scheduler

from trimtab.controllers import CATALOGUE, WSD, Constant, Linear, OneCycle, WarmupCosine, controller_named
from trimtab.controllers.schedule import SCHEDULES
from trimtab.errors import KnobError, SignalError, TaskError
from trimtab.knobs import Panel

LR = Panel.of(["lr"])
HORIZONS = (1, 2, 7, 10, 100, 333)


def _weight():
    return [torch.nn.Parameter(torch.zeros(1))]


def _play(make, total, optimizer=None):
    """The factors that a torch scheduler gives at each of its steps, with a base of 1."""
    optimizer = optimizer or SGD(_weight(), lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(total):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def _gap(schedule, expected):
    table = schedule.prior(LR, len(expected))
    assert table.shape == (len(expected), 1)
    assert table.dtype == torch.float64
    return (table[:, 0] - torch.tensor(expected, dtype=torch.float64)).abs().max().item()


@pytest.mark.parametrize("total", HORIZONS)
def test_cosine_is_torchs(total):
    """Without warm-up the cosine is CosineAnnealingLR's closed form, floor included."""
    expected = _play(lambda o: lr_scheduler.CosineAnnealingLR(o, total, eta_min=0.1), total)
    assert _gap(WarmupCosine(warmup=0.0, floor=0.1), expected) < 1e-12


@pytest.mark.parametrize("total", HORIZONS)
def test_warmup_cosine_is_torchs_sequence(total):
    """Warm-up and cosine are LinearLR then CosineAnnealingLR."""
    rise = round(0.2 * total)

    def make(o):
        tail = lr_scheduler.CosineAnnealingLR(o, total - rise)
        if rise == 0:
            return tail
        head = lr_scheduler.LinearLR(o, 1 / (rise + 1), 1.0, rise)
        return lr_scheduler.SequentialLR(o, [head, tail], [rise])

    assert _gap(WarmupCosine(warmup=0.2), _play(make, total)) < 1e-12


@pytest.mark.parametrize("total", HORIZONS)
def test_linear_is_torchs(total):
    """Linear is LinearLR from 1 to the floor."""
    expected = _play(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.02, total), total)
    assert _gap(Linear(floor=0.02), expected) < 1e-12


@pytest.mark.parametrize("total", HORIZONS)
def test_wsd_is_torchs_lambda(total):
    """Warm-up, stable, decay is a LambdaLR of its three lines."""
    rise, fall = round(0.1 * total), round(0.3 * total)

    def shape(i):
        return min((i + 1) / (rise + 1), 1.0, 1.0 - (i - (total - fall)) / max(fall, 1))

    expected = _play(lambda o: lr_scheduler.LambdaLR(o, shape), total)
    assert _gap(WSD(warmup=0.1, decay=0.3), expected) < 1e-12


@pytest.mark.parametrize("total", [2, 7, 100, 333])
@pytest.mark.parametrize("rise", [0.0, 0.3, 0.45, 1.0])
def test_onecycle_is_torchs(total, rise):
    """The learning rate and beta1 of a run that starts at 0.9 are OneCycleLR's at every step."""
    panel = Panel.of(["lr", "beta1", "weight_decay"])
    optimizer = AdamW(_weight(), lr=1.0, betas=(0.9, 0.99))
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.7, total_steps=total, pct_start=rise)
    table = OneCycle(rise=rise).prior(panel, total)
    base = torch.tensor([0.7, 0.9, 1e-2], dtype=torch.float64)
    values = panel.scaled(base.expand(total, 3), table)
    for t in range(total):
        group = optimizer.param_groups[0]
        assert values[t, 0].item() == pytest.approx(group["lr"], abs=1e-12)
        assert values[t, 1].item() == pytest.approx(group["betas"][0], abs=1e-12)
        assert values[t, 2].item() == 1e-2
        optimizer.step()
        if t + 1 < total:
            scheduler.step()


def test_onecycle_survives_a_rise_of_one_step():
    """A first phase without length, where torch divides by zero, starts at the peak."""
    table = OneCycle(rise=0.5).prior(LR, 2)
    assert table[0].item() == 1.0
    assert table.isfinite().all()


def test_hold_is_one_for_half_then_linear_to_two_percent():
    """The learned controller's prior holds for half the horizon and would reach 0.02 one step past the end."""
    table = SCHEDULES["hold"]().prior(LR, 100)[:, 0]
    assert torch.equal(table[:51], torch.ones(51, dtype=torch.float64))
    assert table[75].item() == pytest.approx(0.51)
    assert table[-1].item() - 0.02 == pytest.approx(0.98 / 50)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 50])
def test_tables_are_factors(name, total):
    """A schedule's factors are within (0, 1] for lr and exactly 1 for the knobs it does not shape."""
    table = SCHEDULES[name]().prior(Panel.of(["weight_decay", "lr", "eps"]), total)
    if name == "constant":
        assert table is None
        return
    assert ((table[:, 1] > 0) & (table[:, 1] <= 1)).all()
    assert torch.equal(table[:, [0, 2]], torch.ones(total, 2, dtype=torch.float64))


@pytest.mark.parametrize("schedule", [WarmupCosine(), WSD(), Linear(), OneCycle()])
@pytest.mark.parametrize("horizon", [None, 0])
def test_a_missing_horizon_is_told(schedule, horizon):
    """A schedule without a horizon says which one needs it and what to do."""
    assert schedule.needs == {"horizon"}
    with pytest.raises(SignalError, match=f"'{schedule.name}' needs a horizon"):
        schedule.prior(LR, horizon)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: WarmupCosine(warmup=1.0), "warmup"),
        (lambda: WarmupCosine(floor=-0.1), "floor"),
        (lambda: WSD(warmup=0.5, decay=0.6), "decay"),
        (lambda: Linear(floor=math.nan), "floor"),
        (lambda: OneCycle(rise=1.5), "rise"),
        (lambda: OneCycle(div=0.0), "div"),
    ],
)
def test_a_share_outside_its_range_is_refused(make, field):
    """A parameter outside its range is a KnobError that names it."""
    with pytest.raises(KnobError, match=field):
        make()


def test_constant_has_no_prior():
    """The constant is no table at all, with and without a horizon."""
    assert Constant().prior(LR, None) is None
    assert Constant().prior(LR, 10) is None


def test_a_name_finds_its_controller():
    """Each name of the catalogue makes a controller of that name."""
    for name in CATALOGUE:
        assert controller_named(name).name == name


def test_a_misspelt_name_is_told_its_neighbour():
    """An unknown name is refused with the closest ones."""
    with pytest.raises(TaskError, match="did you mean 'cosine'"):
        controller_named("cosin")
    with pytest.raises(TaskError, match="known are constant"):
        controller_named("zzz")


def test_a_stranger_is_found_by_entry_point(tmp_path, monkeypatch):
    """A package's entry point in the group 'trimtab.controllers' is a controller by name."""
    (tmp_path / "stranger.py").write_text(
        "from trimtab.controllers import Linear\ndef make():\n    return Linear(0.5)\n"
    )
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[trimtab.controllers]\nhalf = stranger:make\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert controller_named("half") == Linear(0.5)
