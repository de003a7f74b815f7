"""The average of a run's weights: its closed form, the live end, resuming, and what is refused."""

from __future__ import annotations

import copy
import math
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import trimtab
from trimtab.average import Average
from trimtab.averaging import ETA, SAMPLES, share, stride
from trimtab.controllers import WarmupCosine
from trimtab.copies import Best, Copies
from trimtab.errors import OrderError, SignalError, StateError
from trimtab.guard import Verdict
from trimtab.judgement import EXPLODED, RISEN
from trimtab.knobs import Panel
from trimtab.passage import Passage
from trimtab.plant import Plant
from trimtab.rollout import Voyage
from trimtab.rules import SGD
from trimtab.snapshot import Snapshot
from trimtab.tasks import task_named

F64 = torch.float64


def test_weights_that_walk_straight_on_have_a_known_average() -> None:
    """With ``w_t = t`` the average after ``t`` steps is ``(eta + 1) (t + eta + 1) / (eta + 2) - eta``."""
    copies = Copies(torch.zeros(2, 1, dtype=F64), (), {}).averaging()
    for step in range(1, 60):
        old, clock = copies.average, torch.tensor([step, step])
        assert old is not None
        copies = Copies(torch.full((2, 1), step, dtype=F64), (), {}).following(old, clock)
        expected = (ETA + 1) * (step + ETA + 1) / (ETA + 2) - ETA
        torch.testing.assert_close(copies.averaged().weights, torch.full((2, 1), expected, dtype=F64))
        assert (step,) * 2 == tuple(copies.weights[:, 0].tolist())


def test_members_move_by_their_own_clocks() -> None:
    """Each member's share is that of the steps that it has taken itself."""
    old = (torch.zeros(2, 1, dtype=F64), {"count": torch.zeros(2, 1, dtype=torch.int64)})
    count = torch.tensor([[7], [8]])
    after = Copies(torch.ones(2, 1, dtype=F64), (), {"count": count}).following(old, torch.tensor([1, 10])).averaged()
    assert [share(1, 0), share(10, 9)] == after.weights[:, 0].tolist()
    assert torch.equal(count, after.buffers["count"])


def test_long_runs_are_looked_at_with_growing_strides() -> None:
    """Each look counts as all steps since the last would, had they its weights; live and in the plant, also resumed."""
    net, means, looks = nn.Linear(1, 1, bias=False).double(), [0.0, 0.0], ([0], [SAMPLES])
    live, copies = Average(net), Copies(torch.zeros(2, 1, dtype=F64), (), {}).averaging()
    for step in range(1, 4 * SAMPLES + 50):
        weight, clocks = math.sin(0.01 * step), (step, step + SAMPLES)  # the second member is that much further on
        nn.init.constant_(net.weight, weight)
        live.follow(step)
        old = copies.average
        assert old is not None
        copies = Copies(torch.full((2, 1), weight, dtype=F64), (), {}).following(old, torch.tensor(clocks))
        for member, (clock, seen) in enumerate(zip(clocks, looks, strict=True)):
            if clock - seen[-1] == stride(clock):
                for i in range(seen[-1] + 1, clock + 1):
                    means[member] += (ETA + 1) / (i + ETA) * (weight - means[member])
                seen.append(clock)
        found = [float(live.tensors()[0].detach()), *copies.averaged().weights[:, 0].tolist()]
        assert found == pytest.approx([means[0], *means], abs=1e-12)
        if step % 700 == 0:  # one that goes on from here looks at the same steps
            state, live = live.state_dict(), Average(net)
            live.load_state_dict(live.matched(state), step)
    late = [*range(2 * SAMPLES, 4 * SAMPLES + 1, 2), *range(4 * SAMPLES + 4, looks[0][-1] + 1, 4)]
    assert looks[0][2 * SAMPLES :] == late
    assert stride(torch.arange(1, 9000)).tolist() == [stride(step) for step in range(1, 9000)]


def test_a_run_that_is_seldom_stepped_has_an_average_all_the_same() -> None:
    """Steps that nobody told of count with those that somebody did."""
    net = nn.Linear(1, 1)
    live = Average(net)
    for step in range(3, 3000, 7):
        nn.init.constant_(net.weight, step)
        live.follow(step)
    assert float(live.tensors()[0].detach()) == pytest.approx(0.9 * 3000, rel=0.01)


def network() -> nn.Module:
    """Make a small network with batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)).double()


def verdict(reason: int) -> Verdict:
    """Make one of a run of one member that goes back."""
    no, yes = torch.tensor([False]), torch.tensor([True])
    return Verdict(no, yes, torch.tensor([0.5]), torch.tensor([reason]), no)


class Run:
    """A live run whose weights are averaged."""

    def __init__(self, lr: float = 1e-3, *, turns: int | None = None, **settings: Any) -> None:
        self.net = network()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=lr)
        if turns is not None:  # the validation loss falls up to this step, and rises from there
            settings |= {"validate": lambda: abs(self.pilot.last_epoch - turns), "validate_every": 10}
        self.pilot = trimtab.attach(self.optimizer, horizon=120, model=self.net, **settings)
        self.x = torch.randn(64, 5, generator=torch.Generator().manual_seed(1)).double()
        self.loss: float | None = None  # told in place of the true one

    def go(self, first: int, last: int) -> None:
        """Take the steps after `first` up to `last`."""
        for step in range(first, last):
            x = self.x[step % 4 :: 4]
            self.optimizer.zero_grad()
            loss = (self.net(x) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            self.optimizer.step()
            self.pilot.step(loss if self.loss is None else self.loss)
            self.pilot.step(loss)  # calls without an optimizer step in between do nothing

    def now(self) -> list[torch.Tensor]:
        """Copy the network's parameters and buffers."""
        return [tensor.detach().clone() for tensor in (*self.net.parameters(), *self.net.buffers())]

    def averages(self, which: str = "last") -> list[torch.Tensor]:
        """Copy their averages, the last ones or the best."""
        found = self.pilot.average if which == "last" else self.pilot.best()
        assert found is not None
        module = found.module
        return [tensor.detach().clone() for tensor in (*module.parameters(), *module.buffers())]


def test_a_live_run_keeps_the_average_of_all_weights_so_far() -> None:
    """It is the recursion's, buffers included; the network itself trains as it would without."""
    run, plain, mean = Run(controller="constant", average=True), Run(controller="constant"), None
    for step in range(1, 61):
        run.go(step - 1, step)
        plain.go(step - 1, step)
        now, part = run.now(), share(step, step - 1)
        assert all(map(torch.equal, now, plain.now()))
        mean = (
            now
            if mean is None
            else [a + part * (w - a) if w.is_floating_point() else w for a, w in zip(mean, now, strict=True)]
        )
    for one, other in zip(run.averages(), mean or [], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)
    average = run.pilot.average
    assert average is not None
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())
    assert average(run.x).shape == (64, 1)
    assert plain.pilot.average is None


def test_a_spike_is_taken_back_from_the_average_too() -> None:
    """Weights that the guard went back from leave no trace in it."""
    run = Run(lr=1e3, controller="trimtab-v6", average=True)
    run.go(0, 120)
    assert run.pilot.trace.restores > 0
    assert all(bool(tensor.isfinite().all()) for tensor in run.averages())
    average = run.pilot.average
    assert average is not None
    loss = float((average(run.x) - run.x.sum(1, keepdim=True)).square().mean())
    assert loss < float(run.x.sum(1).square().mean())


def test_over_fitting_goes_back_to_the_snapshots_average() -> None:
    """What was validated is the average: weights and buffers begin anew there; after another failure they do not."""
    run = Run(controller="constant", average=True, guard=False)
    snapshot = Snapshot(run.optimizer, run.net, run.pilot._average)
    run.go(0, 10)
    assert snapshot.begins()
    before, average = run.now(), run.averages()
    for reason, expected in ((EXPLODED, before), (RISEN, average)):
        run.go(10, 20)
        snapshot.obey(verdict(reason))
        assert all(map(torch.equal, expected, run.now()))
        assert all(map(torch.equal, average, run.averages()))
    assert not all(map(torch.equal, before, average))


def test_a_run_goes_on_bit_for_bit_with_its_average() -> None:
    """State of pilot, model and optimizer are all that is needed; older states are read as well."""
    whole = Run(lr=0.5, controller="trimtab-v6", average=True, turns=40)
    whole.go(0, 55)
    states = copy.deepcopy((whole.net.state_dict(), whole.optimizer.state_dict(), whole.pilot.state_dict()))
    whole.go(55, 100)
    half = Run(controller="trimtab-v6", average=True, turns=40)
    half.net.load_state_dict(states[0])
    half.optimizer.load_state_dict(states[1])
    half.pilot.load_state_dict(states[2])
    half.go(55, 100)
    assert all(map(torch.equal, whole.averages(), half.averages()))
    assert whole.pilot.best() is not whole.pilot.average
    assert all(map(torch.equal, whole.averages("best"), half.averages("best")))


def test_older_states_are_read() -> None:
    """One that does not name an average, and one that knew the last one only; one of another run is refused."""
    plain = Run(controller="trimtab-v6")
    old = plain.pilot.state_dict()
    del old["average"]
    plain.pilot.load_state_dict(old)
    run = Run(controller="trimtab-v6", average=True)
    with pytest.raises(StateError, match="average must have"):
        run.pilot.load_state_dict(old)
    run.go(0, 20)
    mean, state = run.averages(), run.pilot.state_dict()
    run.go(20, 40)
    run.pilot.load_state_dict({**state, "average": state["average"]["model"]})
    assert all(map(torch.equal, mean, run.averages()))
    with pytest.raises(StateError, match=r"average's lowest must have 9 entries, got 1"):
        run.pilot.load_state_dict({**state, "average": {**state["average"], "lowest": [torch.zeros(2)]}})


@pytest.mark.parametrize(
    ("vals", "lowest"),
    [
        ([3.0, 2.0, 1.0, 1.5, 2.0, 2.5], 30),  # it rises to the end
        ([3.0, 2.0, 1.0, 1.5, 0.9, 1.1], None),  # no more than it always does
        ([3.0, 2.0, 1.0, 5.0, 1.0, 4.9], 30),  # the first of two
        ([3.0, 2.0, 1.0, 2.0, 0.9, 0.8], None),
        ([3.0, 1.0, math.nan, 2.0, math.inf, math.nan], 20),  # what is no number was not measured
        ([1.5, 1.2, 1.0, 1.0, 1.0, 1.03], None),  # by 2 % of the loss, and 0.4 of this rise itself
        ([1.5, 1.2, 1.0, 1.0, 1.0, 1.04], 30),
        ([3.0, 2.0, 0.01, 0.01, 0.01, 0.1], None),  # by 2 % of the way made
        ([3.0, 2.0, 0.01, 0.01, 0.01, 0.12], 30),
        ([-1.0, -2.0, -3.0, -3.1, -2.5, -2.0], 40),  # a loss may be negative
        ([math.nan] * 6, None),
    ],
)
def test_the_average_to_use_is_the_last_but_where_it_is_clearly_worse(vals: list[float], lowest: int | None) -> None:
    """Beyond 2 % and two mean rises above the lowest; the last one goes on, and nothing is given away that moves."""
    told = iter(vals)
    run = Run(controller="constant", average=True, guard=False, validate=lambda: next(told), validate_every=10)
    means = {}
    for step in range(10, 61, 10):
        run.go(step - 10, step)
        means[step] = run.averages()
    assert all(map(torch.equal, means[60], run.averages()))
    assert all(map(torch.equal, means[lowest or 60], run.averages("best")))
    found = run.pilot.best()
    assert found is not None
    assert (found is run.pilot.average) is (lowest is None)
    assert found(run.x).shape == (64, 1)
    assert not found.training
    run.go(60, 65)
    assert all(map(torch.equal, means[60], run.averages())) is False
    kept = run.averages("best")
    run.pilot.disable()
    run.go(65, 70)
    assert all(map(torch.equal, kept, run.averages("best")))


def test_a_run_that_diverges_has_its_best_average() -> None:
    """One that is no number was not heard of, and is not used, live and in the plant; before any validation it is."""
    run = Run(controller="constant", average=True, guard=False, turns=20)
    run.go(0, 9)
    assert run.pilot.best() is run.pilot.average
    run.go(9, 20)
    mean = run.averages()
    with torch.no_grad():
        next(run.net.parameters()).fill_(math.nan)
    run.go(20, 25)
    assert not all(bool(tensor.isfinite().all()) for tensor in run.averages())
    assert all(map(torch.equal, mean, run.averages("best")))
    copies = Copies(torch.ones(2, 1, dtype=F64), (), {}).averaging()
    heard = Best.of(copies).heard(torch.tensor([1.0, math.nan]), copies, torch.zeros(2, dtype=torch.bool))
    lost = torch.full((2, 1), math.nan, dtype=F64)
    used = heard.used(replace(copies, average=(lost, {}))).averaged()
    assert used.weights.isfinite().flatten().tolist() == [True, False]


def test_the_best_average_is_a_copy_of_the_average_alone() -> None:
    """The network in training may hold what cannot be copied, and is no part of it."""
    run = Run(controller="constant", average=True, guard=False, turns=10)
    run.go(0, 30)
    run.net.seen = run.net(run.x)  # type: ignore[assignment]  # with its graph
    found = run.pilot.best()
    assert found is not None
    assert found is not run.pilot.average
    assert not {id(p) for p in found.parameters()} & {id(p) for p in run.net.parameters()}


def test_members_are_used_at_their_own_best_average() -> None:
    """In the plant each member's is chosen for itself, by the same law, and the members themselves stay as they are."""
    rows = {"one": [3.0, 1.0, 2.0, 3.0], "other": [3.0, 2.0, 1.0, 0.5]}
    copies = Copies(torch.zeros(2, 1, dtype=F64), (), {"count": torch.zeros(2, 1)}).averaging()
    found, none = Best.of(copies), torch.zeros(2, dtype=torch.bool)
    for step, val in enumerate(zip(*rows.values(), strict=True), 1):
        copies = replace(copies, weights=torch.full((2, 1), -1.0, dtype=F64))
        mean = (torch.full((2, 1), step, dtype=F64), {"count": torch.full((2, 1), 10.0 * step)})
        copies = replace(copies, average=mean)
        found = found.heard(torch.tensor(val, dtype=F64), copies, none)
        unmeasured = found.heard(torch.full((2,), math.nan), copies, none)
        assert all(torch.equal(unmeasured.memory[name], known) for name, known in found.memory.items())
    used = found.used(copies)
    assert used.averaged().weights.flatten().tolist() == [2.0, 4.0]
    assert used.averaged().buffers["count"].flatten().tolist() == [20.0, 40.0]
    assert torch.equal(used.weights, copies.weights)
    assert float(found.memory["rises"][0]) == pytest.approx(0.2 * 0.5 + 0.8 * 0.2 * 0.5)  # a quarter of the way each


def test_the_lowest_is_used_after_a_return_until_the_next_validation() -> None:
    """What validates in an explosion is of a state that is gone, and the snapshot's own loss is not known yet."""
    told = iter([3.0, 2.0, 1.0, 1.1, 1e9, 1.0, 0.9])
    run = Run(controller="constant", average=True, validate=lambda: next(told), validate_every=10)
    run.go(0, 30)
    lowest = run.averages()
    run.go(30, 49)
    run.loss = 1e9
    run.go(49, 50)
    assert run.pilot.trace.restores == 1
    memory = run.pilot.state_dict()["average"]["memory"]
    known = {name: pytest.approx(value) for name, value in {"first": 3.0, "lowest": 1.0, "rises": 0.02}.items()}
    assert {name: float(memory[name]) for name in known} == known
    assert all(map(torch.equal, lowest, run.averages("best")))
    run.loss = None
    run.go(50, 60)
    assert run.pilot.best() is run.pilot.average
    run.go(60, 70)
    assert run.pilot.best() is run.pilot.average


@pytest.mark.parametrize(("members", "at"), [([0, 1], [2.0, 4.0]), ([1], [4.0]), ([1, 0, 1], [4.0, 2.0, 4.0])])
def test_the_best_goes_with_its_member(members: list[int], at: list[float]) -> None:
    """Where members are picked, joined or written down, each has its own best average still."""
    plant = Plant(task_named("digits-mlp-v1"), SGD(), Panel.of(["lr"]))
    voyage = Voyage(plant, WarmupCosine(), horizon=40, validate_every=10, averages=True)
    passage = voyage.begin(torch.full((2, 1, 1), 0.1, dtype=F64), (0, 1))
    none, vals = torch.zeros(2, dtype=torch.bool), ([3.0, 3.0], [1.0, 2.0], [2.0, 2.0], [3.0, 0.5])
    for step, val in enumerate(vals, 1):
        mean = (torch.full_like(passage.copies.weights, step), passage.copies.buffers)
        copies = replace(passage.copies, average=mean)
        assert passage.best is not None
        passage = replace(passage, copies=copies, best=passage.best.heard(torch.tensor(val), copies, none))
    found = Passage.joined([passage.picked([member]) for member in members]).tree()
    used = Passage.of_tree(found).result.averaged().weights
    assert used.mean(1).tolist() == at
    assert passage.picked(members).result.averaged().weights.mean(1).tolist() == at
    plain = replace(passage, best=None)
    with pytest.raises(OrderError, match="1 of these 2 passages do"):
        Passage.joined([plain, passage])


def test_what_cannot_be_averaged_is_refused() -> None:
    """Without a model, or with one that cannot be copied, there is a way out in the error."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(SignalError, match=r"`average=True`\): give `model=`, or `average=False`"):
        trimtab.attach(optimizer, "constant", average=True)
    taught = trimtab.controllers.Policy.for_panel(trimtab.Panel.of(["lr"]), 4, average=True)
    with pytest.raises(SignalError, match="'policy' was taught for it"):
        trimtab.attach(optimizer, taught)
    net.own = threading.Lock()  # type: ignore[assignment]
    for model in (net, nn.LazyLinear(3)):
        with pytest.raises(SignalError, match=r"(?s)cannot be copied yet .*`average=False`"):
            Average(model)
    pilot = trimtab.attach(optimizer, taught, average=False)
    assert pilot.average is None
