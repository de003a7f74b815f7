"""Laws of the pilot: one call a step, in any loop, and nothing in it that a user could not undo."""

from __future__ import annotations

import copy
import functools
import gc
import math
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as torch_schedules

import trimtab
from trimtab.controllers import Plateau
from trimtab.errors import SignalError, StateError


def made(controller: Any = "random", *, rate: Any = 0.05, **options: Any) -> tuple[nn.Module, Any, Any]:
    """Build a run of one layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    schedule = options.pop("schedule", None)
    if schedule is not None:
        options["schedule"] = schedule(optimizer)
    return model, optimizer, trimtab.attach(optimizer, controller, **options)


def go(run: Any, steps: range, *, spoilt: tuple[int, ...] = ()) -> list[float]:
    """Train; give the rate after each step."""
    model, optimizer, pilot = run
    rates = []
    for number in steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if number in spoilt:
            model.weight.grad.fill_(math.nan)
        optimizer.step()
        pilot.step(loss)
        rates.append(pilot.get_last_lr()[0])
    return rates


def test_decisions_come_at_readings() -> None:
    """At steps 1, 2, 4, 7 and each tenth, and rates change after those only."""
    run = made()
    rates = [0.05, *go(run, range(31))]
    assert [1, 2, 4, 7, 10, 20, 30] == [row["step"] for row in run[2].trace.rows]
    assert [1, 2, 4, 7, 10, 20, 30] == [t for t in range(1, 32) if rates[t] != rates[t - 1]]


@pytest.mark.parametrize("every", [1, 3, 100])
def test_any_pace_works(every: int) -> None:
    """Readings follow `every`, down to each step and up beyond the run."""
    run = made(every=every)
    go(run, range(25))
    assert [t for t in range(1, 26) if t in (1, 2, 4, 7) or t % every == 0] == [r["step"] for r in run[2].trace.rows]


def test_an_open_loop_schedule_is_played_step_by_step() -> None:
    """The rate that step t uses is the table's row t, whatever the pace of decisions."""
    run = made("cosine", horizon=40)
    prior = trimtab.controller_named("cosine").prior(trimtab.Panel.of(["lr"]), 40)
    assert prior is not None
    expected = [0.05 * float(prior[min(t, 39), 0]) for t in range(45)]
    assert expected == pytest.approx([run[2].get_last_lr()[0], *go(run, range(44))], rel=1e-14)


def test_a_call_left_out_loses_its_loss_only() -> None:
    """Where the pilot is called at every third step, the schedule's rate is still the step's own."""
    run, sparse = made("cosine", horizon=40), made("cosine", horizon=40)
    rates = go(run, range(30))
    model, optimizer, pilot = sparse
    for number in range(30):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().mean().backward()
        optimizer.step()
        if number % 3 == 2:
            pilot.step(1.0)
            assert rates[number] == pilot.get_last_lr()[0]


def test_validation_is_measured_at_its_steps_after_the_update() -> None:
    """`validate` is called once at each of its steps, and NaN, None, an infinity or a loss with a graph are results."""
    calls = []
    found = iter([0.5, math.nan, None, math.inf, torch.tensor(0.25, requires_grad=True)])
    run: Any = []

    def validate() -> Any:
        calls.append(run[2].last_epoch)
        return next(found)

    run += made("constant", validate=validate, validate_every=20)
    go(run, range(105))
    assert [20, 40, 60, 80, 100] == calls
    told = {row["step"]: row["val_loss"] for row in run[2].trace.rows if row["step"] % 20 == 0}
    assert {20: 0.5, 40: None, 60: None, 80: None, 100: 0.25} == told


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0.3", "What `validate` gives must be a number or a tensor of one element, got str"),
        (torch.ones(4), r"What `validate` gives must be a single number, got a float32 tensor of shape \[4\]"),
        ((0.3, 0.9), "What `validate` gives must be a number or a tensor of one element, got tuple"),
    ],
)
def test_a_validation_that_is_no_number_is_refused_and_may_be_repeated(value: Any, words: str) -> None:
    """The error says what came; once it is mended, the same call goes through and the run is as if nothing had been."""
    answers: list[Any] = [value, 0.5]
    run = made("random", validate=lambda: answers.pop(0), validate_every=10)
    other = made("random", validate=lambda: 0.5, validate_every=10)
    go(run, range(9))
    with pytest.raises(SignalError, match=words):
        go(run, range(9, 10))
    run[2].step(other[2].trace.rows[-1]["loss"] if go(other, range(10)) else None)
    assert [row["step"] for row in other[2].trace.rows] == [row["step"] for row in run[2].trace.rows]
    assert other[2].get_last_lr() == run[2].get_last_lr()


def test_plateau_decides_by_the_validation_loss() -> None:
    """With `validate=`, a loss that stands still cuts the rate."""
    run = made(Plateau(patience=2), validate=lambda: 1.0, validate_every=10)
    assert go(run, range(100))[-1] < 0.04


def test_a_turn_multiplies_what_a_schedule_and_the_guard_left() -> None:
    """Under a schedule a rollback's cut multiplies its rates, and the schedule goes on in time."""
    run = made("constant", rate=8.0, schedule=lambda o: torch_schedules.ExponentialLR(o, 0.99))
    rates = go(run, range(40))
    assert run[2].trace.restores >= 1
    factors = [rate / (8.0 * 0.99 ** (t + 1)) for t, rate in enumerate(rates)]
    assert factors == pytest.approx([0.25 ** round(math.log(f, 0.25)) for f in factors], rel=1e-9)
    assert factors[-1] < 1


def test_an_optimizer_with_a_pilot_can_be_copied_and_pickled() -> None:
    """A deep copy and a pickle of the optimizer carry no pilot along."""
    _, optimizer, _ = run = made()
    go(run, range(5))
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert optimizer.state_dict()["param_groups"] == twin.state_dict()["param_groups"]
        assert not hasattr(twin, "_trimtab_pilot")


def test_no_graph_and_no_run_is_kept_alive() -> None:
    """A step keeps no loss's graph, and a run that is dropped is freed with its pilot."""
    run = made()
    go(run, range(8))
    assert all(not torch.is_tensor(loss) or loss.grad_fn is None for loss in run[2]._gauge._losses)
    pilot = weakref.ref(run[2])
    del run
    gc.collect()
    assert pilot() is None


def test_saving_in_memory_is_a_copy() -> None:
    """A state kept aside does not change as the run goes on, and going back to it does not change it either."""
    run = made()
    go(run, range(15))
    state = run[2].state_dict()
    before = str(state)
    go(run, range(15, 30))
    assert before == str(state)
    run[2].load_state_dict(state)
    go(run, range(15, 30))
    assert before == str(state)


def test_a_saved_file_holds_what_lies_beside(tmp_path: Path) -> None:
    """`load` gives back what `save` was given beside; the file reads with plain torch too."""
    run = made()
    go(run, range(5))
    run[2].save(tmp_path / "run.pt", {"model": run[0].state_dict(), "epoch": 3})
    beside = made()[2].load(tmp_path / "run.pt")
    assert (3, {"weight", "bias"}) == (beside["epoch"], set(beside["model"]))
    assert {"format", "pilot", "beside"} == set(torch.load(tmp_path / "run.pt", weights_only=True))
    with pytest.raises(StateError, match=r"run.pt cannot be written .*; what was there before is untouched"):
        run[2].save(tmp_path / "none" / "run.pt")


@pytest.mark.parametrize("pilot_first", [True, False])
def test_a_checkpoint_without_a_snapshot_restores_the_loaded_weights(pilot_first: bool) -> None:
    """With `in_checkpoint=False` the first snapshot after a load is of the loaded weights, in whatever order."""
    guard = trimtab.Guard(in_checkpoint=False)
    run = made("constant", guard=guard)
    go(run, range(40))
    state, weights, slots = run[2].state_dict(), run[0].state_dict(), run[1].state_dict()
    assert {} == state["snapshot"]
    trained = run[0].weight.detach().clone()
    fresh = made("constant", guard=guard)
    for is_pilot in (pilot_first, not pilot_first):
        if is_pilot:
            fresh[2].load_state_dict(state)
        else:
            fresh[0].load_state_dict(weights)
            fresh[1].load_state_dict(slots)
    go(fresh, range(40, 50), spoilt=(45,))
    assert 1 == fresh[2].trace.restores
    assert torch.equal(trained, fresh[0].weight)


def test_a_disabled_pilot_s_state_disables() -> None:
    """What was switched off stays off after a resume, and twice is as good as once."""
    run = made()
    go(run, range(12))
    run[2].disable()
    run[2].disable()
    fresh = made()
    fresh[2].load_state_dict(run[2].state_dict())
    assert not fresh[2].is_enabled
    assert [0.05] * 10 == go(fresh, range(12, 22))


def test_what_a_user_sets_between_is_written_over_at_the_next_turn_only() -> None:
    """A rate set by hand holds until the controller next turns the knob."""
    run = made()
    go(run, range(10))
    run[1].param_groups[0]["lr"] = 0.123
    assert [0.123] * 9 == go(run, range(10, 19))
    assert 0.123 != go(run, range(19, 20))[0]


def test_metrics_and_words_tell_what_was_done(tmp_path: Path) -> None:
    """A logger gets plain floats, a reader lines, a browser one page."""
    run = made()
    go(run, range(25))
    assert all(type(value) is float for value in run[2].metrics().values())
    assert run[2].explain(3)
    run[2].report(str(tmp_path / "run.html"))
    assert "<html" in (tmp_path / "run.html").read_text()


def test_a_run_stepped_by_closures_is_the_run_stepped_plainly() -> None:
    """Weights, batch statistics, decisions and a restore are the same, bit for bit."""

    def train(by_closure: bool) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        pilot = trimtab.attach(optimizer, "random", model=model)

        def closure(number: int) -> torch.Tensor:
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if number == 25:
                model[0].weight.grad.fill_(math.nan)
            return loss

        for number in range(40):
            if by_closure:
                pilot.step(optimizer.step(functools.partial(closure, number)))
            else:
                loss = closure(number)
                optimizer.step()
                pilot.step(loss)
        return pilot.trace.restores, str(model.state_dict()), str(pilot.trace.rows)

    ends = [train(by_closure) for by_closure in (False, True)]
    assert ends[0] == ends[1]
    assert 1 == ends[0][0]


def test_a_noted_loss_is_taken_by_the_step_that_brings_none() -> None:
    """The last one noted counts, once, without its graph; one that is given counts before it; no number: refused."""
    model, optimizer, pilot = made("constant", every=1)
    seen = []
    for noted, given in (((9.0, 1.0), None), ((), None), ((5.0,), 2.0), ((), None)):
        for loss in noted:
            pilot.note(torch.tensor(loss, requires_grad=True))
            assert not pilot._noted.requires_grad
        model(torch.ones(2, 3)).square().mean().backward()
        assert not pilot.is_due
        optimizer.step()
        assert pilot.is_due
        pilot.step(given)
        assert not pilot.is_due
        seen.append(float(pilot.trace.decisions[-1][1].seen.signals.losses[0, -1]))
    assert "[1.0, nan, 2.0, nan]" == str(seen)
    with pytest.raises(SignalError, match=r"`loss` must be a single number, got a float32 tensor of shape \[2\]"):
        pilot.note(torch.ones(2))
