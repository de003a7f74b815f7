"""Laws of the helm: from a reading to values, what a restore brings back, where a cut lands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.controllers import Constant, Random, WarmupCosine
from trimtab.copies import select
from trimtab.errors import OrderError
from trimtab.features import Features
from trimtab.guard import Guard
from trimtab.helm import Decision, Helm, HelmState, is_restored, reason_of
from trimtab.knobs import Knob, Panel
from trimtab.signals import Observation, Signals

F64 = torch.float64
PANEL = Panel.of(["momentum", "lr"])
START = [0.9, 0.1]


@dataclass(frozen=True)
class Counting:
    """Moves by a fixed amount, counts its readings and plays a prior."""

    move: float = 0.0
    table: Tensor | None = None
    name: str = "counting"
    needs: frozenset[str] = frozenset()

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give the table."""
        return self.table

    def start(self, panel: Panel, members: int, sites: int) -> dict[str, Tensor]:
        """Start at 0."""
        return {"count": torch.zeros(members, dtype=torch.int64)}

    def act(self, seen: Observation, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Move and count."""
        return torch.full_like(seen.position, self.move), {"count": state["count"] + 1}


def helm(controller: Any, panel: Panel = PANEL, guard: Guard | None = None, sites: int = 1) -> Helm:
    """Make a helm of a horizon of 100."""
    share = (1 / sites,) * sites
    return Helm(panel, controller, Features(panel, share, share), guard, horizon=100)


def values(members: int = 1, sites: int = 1, row: Sequence[float] = START) -> Tensor:
    """Give the same values everywhere, ``[B, S, K]``."""
    return torch.tensor(row, dtype=F64).expand(members, sites, -1).clone()


def reading(step: int, losses: Sequence[float], used: Tensor) -> Signals:
    """Make a reading of one loss a member."""
    members, sites, _ = used.shape
    ones = torch.ones(members, sites, dtype=F64)
    window = torch.tensor(losses, dtype=F64).expand(members)[:, None]
    return Signals(torch.full((members,), step), window, used, *[ones] * 9)


def steer(
    of: Helm, losses: Sequence[Sequence[float]], start: Tensor | None = None, every: int = 1
) -> tuple[list[Decision], list[HelmState]]:
    """Steer through readings; the decisions, and the states before, between and after."""
    state = of.start(values(len(losses[0])) if start is None else start)
    decisions, states = [], [state]
    for n, row in enumerate(losses, 1):
        decision, state = of.steer(reading(n * every, row, of.values_at(state, n * every)), state)
        decisions.append(decision)
        states.append(state)
    return decisions, states


def test_select_takes_member_by_member() -> None:
    """In dicts, tuples and None, of any shape, the mask says whose entries are taken."""
    mask = torch.tensor([True, False])

    def tree(value: float) -> Any:
        return {"a": torch.full((2,), value), "b": (torch.full((2, 3, 4), value), None), "c": {"d": torch.ones(2, 1)}}

    taken = select(mask, tree(1.0), tree(0.0))
    assert [1.0, 0.0] == taken["a"].tolist()
    assert torch.equal(taken["b"][0], torch.stack([torch.ones(3, 4), torch.zeros(3, 4)]))
    assert taken["b"][1] is None
    assert [[1.0], [1.0]] == taken["c"]["d"].tolist()


@pytest.mark.parametrize("start", [0.1, 1 / 3, 1e3, 1e-12])
def test_a_zero_move_keeps_values_bit_for_bit(start: float) -> None:
    """Also values outside the knob's range stay until a move turns them."""
    of = helm(Constant(), guard=Guard())
    _, states = steer(of, [[1.0]] * 9, values(row=[0.9, start]))
    for step, state in enumerate(states, 1):
        assert [0.9, start] == of.values_at(state, step)[0, 0].tolist()


def test_a_move_turns_the_knob_from_the_next_step_on() -> None:
    """A move of 1 is the knob's rate, twice that early; it joins the range where it began outside."""
    _, states = steer(helm(Counting(1.0)), [[1.0]] * 2, values(row=[0.9, 0.1]), every=10)
    assert pytest.approx(0.1 * math.exp(1.0)) == float(states[1]["values"][0, 0, 1])
    assert pytest.approx(0.1 * math.exp(1.5)) == float(states[2]["values"][0, 0, 1])
    assert pytest.approx(1 - 0.1 * math.exp(-0.7)) == float(states[1]["values"][0, 0, 0])
    _, states = steer(helm(Counting(-1.0)), [[1.0]], values(row=[0.9, 1e3]), every=20)
    assert pytest.approx(10 * math.exp(-0.5)) == float(states[1]["values"][0, 0, 1])


def test_early_moves_may_leap() -> None:
    """A move of 9 is cut to 3 up to step 10, where moves count twice, and to 1 after it."""
    _, states = steer(helm(Counting(9.0)), [[1.0]], values(row=[0.9, 1e-6]), every=10)
    assert pytest.approx(1e-6 * math.exp(3.0)) == float(states[1]["values"][0, 0, 1])
    _, states = steer(helm(Counting(9.0)), [[1.0]], values(row=[0.9, 1e-6]), every=20)
    assert pytest.approx(1e-6 * math.exp(0.5)) == float(states[1]["values"][0, 0, 1])


def test_the_prior_is_a_factor_at_each_step() -> None:
    """Row t - 1 is step t's, the last row holds after the horizon; a move multiplies it."""
    table = torch.tensor([[1.0, 0.5], [0.5, 1.0], [1.0, 2.0]], dtype=F64)
    of = helm(Counting(0.0, table))
    state = of.start(values())
    found = [of.values_at(state, step)[0, 0].tolist() for step in (1, 2, 3, 4, 50)]
    expected = [[0.9, 0.05], [0.95, 0.1], [0.9, 0.2], [0.9, 0.2], [0.9, 0.2]]
    for row, wanted in zip(found, expected, strict=True):
        assert pytest.approx(wanted, rel=1e-14) == row
    over = of.values_over(state, 1, 5)[:, 0, 0]
    assert torch.equal(over, torch.stack([of.values_at(state, step)[0, 0] for step in range(1, 6)]))
    moved = helm(Counting(1.0, table))
    _, states = steer(moved, [[1.0]], every=20)
    assert pytest.approx(0.2 * math.exp(0.5)) == float(moved.values_at(states[1], 21)[0, 0, 1])


def test_a_missing_horizon_is_refused() -> None:
    """A controller that follows a schedule cannot do without; others can."""
    with pytest.raises(OrderError, match=r"Controller 'cosine' follows a schedule and needs `horizon="):
        Helm(PANEL, WarmupCosine(), Features(PANEL), None, horizon=None)
    of = Helm(PANEL, Constant(), Features(PANEL), None, horizon=None)
    decision, _ = of.steer(reading(5, [1.0], values()), of.start(values()))
    assert decision.seen.progress.isnan().all()


def test_progress_is_the_share_of_the_horizon() -> None:
    """It ends at 1."""
    of = helm(Constant())
    shares = [float(of.steer(reading(t, [1.0], values()), of.start(values()))[0].seen.progress) for t in (1, 50, 300)]
    assert [0.01, 0.5, 1.0] == shares


@pytest.mark.parametrize("cut", [0.25, 0.1])
def test_a_cut_is_of_the_snapshot_s_rate(cut: float) -> None:
    """Each failure in a row cuts the snapshot's learning rate further (early: twice), and turns no other knob."""
    of = helm(Counting(0.0), guard=Guard(cut=cut))
    decisions, states = steer(of, [[1.0], [1e9], [1e9]])
    assert [False, True, True] == [is_restored(decision) for decision in decisions]
    assert [0, 2, 2] == [reason_of(decision) for decision in decisions]
    for n, state in enumerate(states[1:]):
        assert pytest.approx([0.9, 0.1 * cut ** (2 * n)], rel=1e-12) == state["values"][0, 0].tolist()
        assert 0.9 == float(state["values"][0, 0, 0])
    torch.testing.assert_close(PANEL.to_unit(states[2]["values"]), states[2]["position"])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.01, 0.5)])
def test_a_cut_on_a_linear_scale_is_a_factor_too(low: float, high: float) -> None:
    """Whatever the scale, half of 0.1 twice is 0.025; not below the range."""
    panel = Panel([Knob("lr", low, high, "linear", rate=0.1)])
    _, states = steer(helm(Counting(0.0), panel, Guard(cut=0.5)), [[1.0], [1e9], [1e9]], values(row=[0.1]))
    found = [float(state["values"]) for state in states]
    assert pytest.approx([0.1, 0.1, 0.025, max(low, 0.1 / 16)], rel=1e-12) == found


def test_a_rate_far_outside_is_cut_from_the_bound() -> None:
    """A rate of a thousand is cut as the knob's bound, so that one failure leads into the range."""
    _, states = steer(helm(Counting(0.0), guard=Guard()), [[1.0], [1e9]], values(row=[0.9, 1e3]))
    assert pytest.approx(10 / 16) == float(states[-1]["values"][0, 0, 1])


def test_a_bad_batch_restores_without_touching_the_rate() -> None:
    """Where the guard does not cut, the snapshot's values come back bit for bit."""
    of = helm(Counting(0.0), guard=Guard())
    decisions, states = steer(of, [[1.0]] * 4 + [[math.inf]], values(row=[0.9, 1e3]))
    assert is_restored(decisions[-1])
    assert [0.9, 1e3] == states[-1]["values"][0, 0].tolist()


def test_without_a_learning_rate_there_is_nothing_to_cut() -> None:
    """A panel without lr restores the snapshot as it was."""
    panel = Panel.of(["momentum"])
    decisions, states = steer(helm(Counting(0.0), panel, Guard()), [[1.0], [1e9]], values(row=[0.9]))
    assert is_restored(decisions[-1])
    assert 0.9 == float(states[-1]["values"])


def test_a_restore_brings_back_what_was_known_at_the_snapshot() -> None:
    """Memory and mind are the snapshot's, from after its good reading; knobs are those it was reached with."""
    guard = Guard(spacing=0.0, longest=1)
    of = helm(Counting(0.5), guard=guard)
    _, states = steer(of, [[1.0], [0.9], [0.8], [1e9]], every=8)
    before, kept, after = states[2], states[3], states[4]
    assert torch.equal(kept["mind"]["count"], after["mind"]["count"])
    assert 3 == int(after["mind"]["count"])
    for name, value in kept["memory"].items():
        assert torch.equal(value.nan_to_num(7.0), after["memory"][name].nan_to_num(7.0)), name
    assert torch.equal(before["position"][..., 0], after["position"][..., 0])
    assert pytest.approx(float(before["values"][0, 0, 1]) / 4) == float(after["values"][0, 0, 1])
    assert torch.equal(kept["move"], after["move"])


def test_an_unsound_snapshot_is_gone_on_from_at_the_first_cut() -> None:
    """The rates of the tries in between were no decisions: the knobs go on at a quarter of the snapshot's."""
    of = helm(Counting(0.0), guard=Guard())
    _, states = steer(of, [[1.0]] * 3 + [[1e3]] * 4 + [[1e3]] * 2, values(row=[0.9, 1.0]), every=11)
    rates = [float(state["values"][0, 0, 1]) for state in states[3:]]
    assert pytest.approx([1.0, 1 / 4, 1 / 16, 1 / 64, 1 / 4, 1 / 4, 1 / 4]) == rates


def test_a_guard_that_gave_up_freezes_the_knobs() -> None:
    """The rate goes to its lowest and stays there, whatever the controller asks."""
    of = helm(Counting(1.0), guard=Guard(tries=2))
    decisions, states = steer(of, [[1.0]] + [[math.inf]] * 4 + [[1.0]] * 4)
    assert decisions[-1].verdict is not None
    assert bool(decisions[-1].verdict.gave_up)
    frozen = [state["values"][0, 0].tolist() for state in states[4:]]
    assert [frozen[0]] * len(frozen) == frozen
    assert pytest.approx(1e-8) == frozen[0][1]
    assert 0.0 == float(states[-1]["move"].abs().max())


COURSE = [
    [1.0, 1.0, 1.0],
    [0.9, 1e9, 0.9],
    [0.8, 1.0, math.inf],
    [0.7, 1.0, math.inf],
    [1e9, 0.9, 0.8],
    [0.6, 0.8, 0.7],
]


@pytest.mark.parametrize("make", [lambda b: Counting(0.3), lambda b: Random(seed=b)], ids=["counting", "random"])
def test_members_are_steered_apart(make: Callable[[int], Any]) -> None:
    """B members, each failing at its own time, are steered as B runs of one."""
    _, together = steer(helm(make(0), guard=Guard(tries=1)), COURSE)
    for b in range(3):
        _, alone = steer(helm(make(b), guard=Guard(tries=1)), [[row[b]] for row in COURSE])
        for all_, one in zip(together, alone, strict=True):
            for name in ("position", "values", "move"):
                torch.testing.assert_close(all_[name][b : b + 1], one[name], rtol=0, atol=0)


def test_steer_changes_nothing_in_place() -> None:
    """The state handed in stays as it was: a decision can be taken twice."""
    of = helm(Counting(0.3), guard=Guard())
    _, states = steer(of, COURSE[:2])
    seen = reading(3, COURSE[2], of.values_at(states[-1], 3))
    first, second = (of.steer(seen, states[-1])[1] for _ in range(2))
    for name in ("position", "values", "move"):
        assert torch.equal(first[name], second[name])


def test_the_state_keeps_its_form() -> None:
    """Every tensor leads with the members, and shapes and dtypes never change: states can be saved and selected."""

    def form(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {name: form(entry) for name, entry in tree.items()}
        return (tuple(tree.shape), tree.dtype)

    _, states = steer(helm(Counting(0.3), guard=Guard()), COURSE)
    assert all(form(state) == form(states[0]) for state in states)
    assert all(shape[0] == 3 for shape, _ in form(states[0])["memory"].values())
