"""Laws of knobs and panels: ranges, scales, and the one place where moves are limited."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import KnobError
from trimtab.knobs import EARLY_STEPS, STANDARD, Knob, Panel, Scale

F64 = torch.float64
LINEAR = Knob("dropout", -2.0, 3.0, "linear", rate=0.5, get=lambda: 0.0, set=lambda value: None)
SCALES = [STANDARD["lr"], STANDARD["eps"], STANDARD["beta2"], STANDARD["momentum"], LINEAR]


def ranges(scale: Scale) -> st.SearchStrategy[tuple[float, float]]:
    """Draw `low` and `high` that the scale allows, at least a tenth of a unit of the scale apart."""
    low, high = {"log": (-30.0, 10.0), "linear": (-100.0, 100.0), "one_minus_log": (-5.0, 12.0)}[scale]
    warp = {"log": math.exp, "linear": float, "one_minus_log": lambda x: -math.expm1(-x)}[scale]
    pairs = st.tuples(st.floats(low, high), st.floats(0.1, 20.0)).filter(lambda pair: pair[0] + pair[1] <= high + 5)
    return pairs.map(lambda pair: (warp(pair[0]), warp(pair[0] + pair[1])))


@pytest.mark.parametrize("scale", ["linear", "log", "one_minus_log"])
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_the_unit_cube_and_back_is_exact(scale: Scale, data: st.DataObject) -> None:
    """Any place in a range comes back from its value, and any value from its place, to 1e-12."""
    low, high = data.draw(ranges(scale))
    knob = Knob("lr", low, high, scale)
    unit = torch.tensor(data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=5)), dtype=F64)
    value = knob.from_unit(unit)
    torch.testing.assert_close(knob.to_unit(value), unit, rtol=0, atol=1e-12 if scale != "one_minus_log" else 1e-9)
    memory = 1 - value if scale == "one_minus_log" else value
    again = knob.from_unit(knob.to_unit(value))
    again = 1 - again if scale == "one_minus_log" else again
    torch.testing.assert_close(again, memory, rtol=1e-12, atol=1e-12 if scale == "linear" else 0)


@pytest.mark.parametrize("knob", SCALES, ids=lambda knob: knob.name)
def test_the_bounds_are_the_ends_of_the_unit_interval(knob: Knob) -> None:
    """`low` is at 0 and `high` at 1; a value outside lies outside."""
    ends = torch.tensor([knob.low, knob.high], dtype=F64)
    torch.testing.assert_close(knob.to_unit(ends), torch.tensor([0.0, 1.0], dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(knob.from_unit(torch.tensor([0.0, 1.0])), ends, rtol=1e-12, atol=1e-12)
    assert float(knob.to_unit(torch.tensor(knob.high * 1.001 if knob.scale != "one_minus_log" else 0.999999))) > 1


def test_each_scale_steps_in_its_own_unit() -> None:
    """Equal steps are equal factors on a log scale, of 1 - v on a one_minus_log scale, and equal differences."""
    unit = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    log, memory, plain = (
        knob.from_unit(unit).tolist()
        for knob in (Knob("a", 1e-4, 1.0), Knob("b", 0.0, 0.99, "one_minus_log"), Knob("c", -1.0, 3.0, "linear"))
    )
    assert pytest.approx([1e-4, 1e-2, 1.0], rel=1e-12) == log
    assert pytest.approx([0.0, 0.9, 0.99], abs=1e-12) == memory
    assert [-1.0, 1.0, 3.0] == plain


def test_a_factor_is_on_the_magnitude() -> None:
    """Half of lr 0.1 is 0.05; a momentum of 0.9 with half the distance from 1 is 0.95."""
    panel = Panel.of(["lr", "momentum"])
    scaled = panel.scaled(torch.tensor([[0.1, 0.9]], dtype=F64), torch.tensor([[0.5, 0.5]], dtype=F64))
    torch.testing.assert_close(scaled, torch.tensor([[0.05, 0.95]], dtype=F64), rtol=1e-15, atol=0)


def test_a_factor_does_not_lead_out_of_the_range() -> None:
    """A schedule stops at the bounds that the user gave; what the user put beyond them stays there."""
    panel = Panel([Knob("lr", 0.01, 0.1, "log"), Knob("momentum", 0.0, 0.95, "one_minus_log")])
    for value, factor, expected in (
        ((0.05, 0.9), (0.1, 0.1), (0.01, 0.95)),
        ((0.05, 0.9), (3.0, 20.0), (0.1, 0.0)),
        ((0.5, 0.99), (1.0, 1.0), (0.5, 0.99)),
        ((0.5, 0.99), (0.01, 0.5), (0.01, 0.99)),
    ):
        scaled = panel.scaled(torch.tensor([value], dtype=F64), torch.tensor([factor], dtype=F64))
        torch.testing.assert_close(scaled, torch.tensor([expected], dtype=F64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("fields", "law"),
    [
        ({"name": ""}, "A knob's name must be a non-empty string, got ''"),
        ({"name": 3}, "A knob's name must be a non-empty string, got 3"),
        ({"scale": "cubic"}, "`scale` must be 'linear', 'log' or 'one_minus_log' for knob 'lr', got 'cubic'"),
        ({"low": 1.0, "high": 0.1}, "`low < high`, both finite, must hold for knob 'lr', got low=1.0, high=0.1"),
        ({"low": 0.1, "high": 0.1}, "`low < high`"),
        ({"high": math.inf}, "both finite"),
        ({"low": math.nan}, "both finite"),
        ({"low": 0.0}, "A log scale needs `low > 0` for knob 'lr', got low=0.0, high=1.0: give a small positive low"),
        ({"low": -1.0}, "A log scale needs `low > 0`"),
        ({"scale": "one_minus_log"}, "A one_minus_log scale needs `high < 1` for knob 'lr', got low=0.1, high=1.0"),
        ({"rate": 0.0}, "`rate > 0` must hold for knob 'lr', got rate=0.0"),
        ({"rate": math.inf}, "`rate > 0` must hold"),
        ({"rate": math.nan}, "`rate > 0` must hold"),
        ({"get": float}, "Knob 'lr' needs both `get` and `set`, or neither"),
        ({"set": print}, "Knob 'lr' needs both `get` and `set`, or neither"),
        ({"low": -1e308, "high": 1e308, "scale": "linear"}, "too wide or too narrow for float64"),
        ({"low": 1e300, "high": math.nextafter(1e300, math.inf)}, "too wide or too narrow for float64"),
    ],
)
def test_a_range_that_cannot_hold_is_refused(fields: dict[str, Any], law: str) -> None:
    """The error states the law and the values."""
    with pytest.raises(KnobError) as caught:
        Knob(**({"name": "lr", "low": 0.1, "high": 1.0} | fields))
    assert law in str(caught.value)


@pytest.mark.parametrize(
    ("knobs", "law"),
    [
        ([], "A panel needs at least one knob, got none"),
        (["lr", "lr"], "A panel's knobs must have different names, got ['lr', 'lr']"),
        ("lr", "`knobs` must be a sequence of names or Knobs, such as ('lr',), got 'lr'"),
        (0.1, "`knobs` must be a sequence of names or Knobs"),
        (["learning_rate"], "'learning_rate' is no standard knob (lr, weight_decay"),
        ([0.1], "A knob must be a name or a Knob, got 0.1"),
    ],
)
def test_a_panel_that_cannot_hold_is_refused(knobs: Any, law: str) -> None:
    """The error states the law and the values."""
    with pytest.raises(KnobError) as caught:
        Panel.of(knobs)
    assert law in str(caught.value)


def test_a_panel_keeps_order_and_knobs() -> None:
    """Names stand for the standard knobs, knobs for themselves, and a panel for itself."""
    panel = Panel.of(["momentum", LINEAR, "lr"])
    assert ("momentum", "dropout", "lr") == panel.names
    assert LINEAR is panel[1]
    assert Panel.of(panel) is panel


PANEL = Panel([Knob("lr", 1e-3, 1.0, rate=0.5), Knob("momentum", 0.0, 0.99, "one_minus_log", rate=0.1)])


def turned(move: Any, step: int, position: float = 0.5) -> torch.Tensor:
    """Turn one member, one site from `position`; give how far both knobs went in their scale's unit."""
    at = torch.full((1, 1, 2), position, dtype=F64)
    moves = torch.as_tensor(move, dtype=F64).expand(1, 1, 2)
    return ((PANEL.turn(at, moves, torch.tensor([step])) - at) * torch.tensor([k.span for k in PANEL], dtype=F64))[0, 0]


@pytest.mark.parametrize(("step", "times"), [(1, 2), (EARLY_STEPS, 2), (EARLY_STEPS + 1, 1), (1000, 1)])
def test_a_full_move_is_the_rate_and_twice_it_at_first(step: int, times: int) -> None:
    """A move of 1 changes the knob by `rate` in its scale's unit, by twice that up to step 10."""
    rates = torch.tensor([0.5, 0.1], dtype=F64)
    torch.testing.assert_close(turned(1.0, step), times * rates, rtol=1e-12, atol=0)
    torch.testing.assert_close(turned(-1.0, step), -times * rates, rtol=1e-12, atol=0)
    torch.testing.assert_close(turned(0.25, step), 0.25 * times * rates, rtol=1e-12, atol=0)


def test_a_move_beyond_one_is_one() -> None:
    """Moves are cut to [-1, 1]."""
    assert torch.equal(turned(7.0, 50), turned(1.0, 50))
    assert torch.equal(turned(-1e300, 50), turned(-1.0, 50))


@pytest.mark.parametrize("move", [math.nan, math.inf, -math.inf])
def test_a_move_that_is_no_number_leaves_the_knob(move: float) -> None:
    """NaN and infinities count as zero, knob by knob."""
    assert turned(move, 5).tolist() == [0.0, 0.0]
    assert turned([[[move, 1.0]]], 50).tolist() == turned([[[0.0, 1.0]]], 50).tolist()


def test_no_turn_leaves_the_unit_cube() -> None:
    """Positions end in [0, 1] whatever the move; zero moves leave them bit for bit."""
    at = torch.tensor([[[0.0, 1.0]], [[0.3, 0.7]]], dtype=F64)
    step = torch.tensor([3, 300])
    for move in (-1.0, 1.0):
        after = PANEL.turn(at, torch.full_like(at, move), step)
        assert 0 <= float(after.min()) <= float(after.max()) <= 1
    assert torch.equal(PANEL.turn(at, torch.zeros_like(at), step), at)


def test_members_have_steps_of_their_own() -> None:
    """The early doubling goes by each member's own step."""
    at = torch.full((2, 1, 2), 0.5, dtype=F64)
    both = PANEL.turn(at, torch.ones_like(at), torch.tensor([2, 200])) - at
    torch.testing.assert_close(both[0], 2 * both[1])


def test_places_mean_the_same_values_whatever_the_range() -> None:
    """A place in a narrower range of lr is the standard place of the same value; a knob of one's own keeps its own."""
    narrow = Panel.of([Knob("lr", 1e-5, 1e-1), STANDARD["momentum"], LINEAR])
    values = torch.tensor([[1e-3, 0.9, 1.5], [1e-5, 0.0, 3.0]], dtype=F64)
    standing = narrow.standing(narrow.to_unit(values))
    expected = torch.stack(
        [*Panel.of(["lr", "momentum"]).to_unit(values[:, :2]).unbind(1), LINEAR.to_unit(values[:, 2])], 1
    )
    torch.testing.assert_close(standing, expected, rtol=0, atol=1e-12)
    usual = torch.rand(2, 1, dtype=F64)
    assert usual is Panel.of(["lr"]).standing(usual)
