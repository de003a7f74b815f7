"""Online teaching: the slope is the truth's, both ends learn alike, and what is no number teaches nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab.attach import attach
from trimtab.contracts import ControllerContract
from trimtab.controllers import Policy
from trimtab.errors import KnobError, SignalError
from trimtab.guard import Guard
from trimtab.hypergrad import ForwardMode, HyperDistill, Implicit, OneStep, OneStepValidation, Unroll, estimator_of
from trimtab.knobs import Panel
from trimtab.pilot import Pilot
from trimtab.plant import Plant
from trimtab.rollout import Rollout, Voyage, rollout
from trimtab.rules import SGD
from trimtab.stream import Stream
from trimtab.task import Batch
from trimtab.tasks import task_named
from trimtab.tasks.seeded import build_seeded
from trimtab.teach.online import OnlineTeaching

F64 = torch.float64
LR = Panel.of(["lr"])
BOTH = Panel.of(["lr", "momentum"])


class Waves:
    """Sums of sines, fitted by a small network of tanh."""

    name, batch_size, noise_shape, optimizer, horizon = "waves", 16, None, "sgd", 40

    def build(self, seed: int) -> nn.Module:
        """Make the network 3-6-1."""
        return build_seeded(lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)), seed)

    def data(self, split: str) -> tuple[Tensor, Tensor]:
        """Give 64 examples."""
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(len(split)))
        return x, torch.sin(x).sum(1, keepdim=True)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Give the mean squared error."""
        return (model(batch.x) - batch.y).square().mean()

    score = loss


WAVES: Any = Waves()


def taught(panel: Panel = LR, kind: Any = "mlp") -> Policy:
    """Make a policy whose moves are not zero."""
    policy = Policy.for_panel(panel, hidden=3, kind=kind, reach=0.5)
    with torch.no_grad():
        policy.out_weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    return policy


def simulate(controller: Any, rates: list[float], seeds: list[int], *, steps: int = 40, task: Any = WAVES) -> Rollout:
    """Run members in the plant, float64, under a guard."""
    plant = Plant(task, SGD(momentum=0.9), LR, every=5, estimator=estimator_of(controller), dtype=F64)
    values = torch.tensor(rates, dtype=F64)[:, None, None]
    return rollout(plant, controller, values, seeds=seeds, steps=steps, horizon=40, guard=Guard())


def fly(
    controller: Any,
    rate: float,
    seed: int,
    *,
    steps: int = 40,
    at: int | None = None,
    path: Path | None = None,
    task: Any = WAVES,
) -> Pilot:
    """Run one member live; with `at`, save there, and go on with a new model, optimizer and pilot."""
    stream = Stream(task, [seed], dtype=F64)

    def boarded() -> tuple[nn.Module, torch.optim.Optimizer, Pilot]:
        model = task.build(seed).to(F64)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        measure = held_out(task, model) if "val_hypergrad" in controller.needs else None
        again = (lambda batch: task.loss(model, batch)) if "loss_fn" in controller.needs else None
        pilot = attach(optimizer, controller, horizon=40, model=model, every=5, validation_loss=measure, loss_fn=again)
        return model, optimizer, pilot

    model, optimizer, pilot = boarded()
    for step in range(1, steps + 1):
        batch = Batch(*(None if part is None else part[0] for part in stream.next()))
        loss = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss, batch=batch)
        if step == at and path is not None:
            pilot.save(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
            model, optimizer, pilot = boarded()
            beside = pilot.load(path)
            model.load_state_dict(beside["model"])
            optimizer.load_state_dict(beside["optimizer"])
    return pilot


def held_out(task: Any, model: nn.Module) -> Callable[[], Tensor]:
    """Give what measures the loss on the first half of the validation split, the model in evaluation mode."""
    x, y = task.data("val")
    batch = Batch(x[: len(x) // 2].to(F64), y[: len(y) // 2].to(F64) if y.is_floating_point() else y[: len(y) // 2])

    def measure() -> Tensor:
        model.eval()
        loss: Tensor = task.loss(model, batch)
        model.train()
        return loss

    return measure


def learned(pilot: Pilot) -> dict[str, Tensor]:
    """Give the weights in a live run's state."""
    weights: dict[str, Tensor] = pilot.state_dict()["helm"]["mind"]["weights"]
    return weights


class TestContract(ControllerContract):
    """What every controller keeps."""

    @pytest.fixture(params=["mlp", "gru"])
    def controller(self, request: pytest.FixtureRequest, panel: Panel) -> OnlineTeaching:
        """Teach a policy of each kind."""
        return OnlineTeaching(taught(panel, request.param), lr=0.05)


@pytest.mark.parametrize("every", [5, 1])
def test_the_slope_is_that_of_the_next_losses(every: int) -> None:
    """The summed slope by every weight is the central difference of the losses one update on, to 1e-6."""
    # No horizon: the prior is 1. The weights stay, so that all decisions are credited at the same ones.
    teaching = OnlineTeaching(taught(BOTH), update_every=1000)
    sites = [["0.weight", "0.bias"], ["2.weight", "2.bias"]]
    plant = Plant(WAVES, SGD(), BOTH, sites=sites, every=every, estimator=teaching.estimator, dtype=F64)
    voyage = Voyage(plant, teaching)
    start = torch.tensor([0.03, 0.5], dtype=F64).expand(1, 2, 2).clone()
    passage, expected, credited = voyage.begin(start, [0]), 0.0, 0
    decisions: list[Any] = []
    for _ in range(12):
        passage, done = voyage.advance(passage, 1)
        number = passage.step + 2  # a reading there sees the update of the step to come
        decisions += done.decisions
        known = [d for d in decisions if int(d.seen.signals.step) <= number - 2]
        if known and (number in (4, 7) or number % every == 0) and number <= 12:
            expected = expected + differences(teaching.policy, plant, passage, known[-1])
            credited += 1
    assert credited >= 4
    slope = torch.cat([part.flatten() for part in passage.state["mind"]["slope"].values()])
    assert credited == int(passage.state["mind"]["count"])
    assert float((slope - expected).abs().max() / slope.abs().max()) < 1e-6
    is_large = slope.abs() > 1e-3 * slope.abs().max()
    assert float(((slope - expected) / slope)[is_large].abs().max()) < 1e-6


def differences(policy: Policy, plant: Plant, passage: Any, decision: Any) -> Tensor:
    """Give the loss's central differences by each weight: an earlier decision made anew, one update, the next loss."""
    own = {name: w.detach().double() for name, w in policy.named_parameters()}
    size, width = sum(w.numel() for w in own.values()), 1e-5
    shifts = width * torch.cat([torch.eye(size, dtype=F64), -torch.eye(size, dtype=F64)])
    cuts = shifts.split([w.numel() for w in own.values()], 1)
    moved = {name: w + cut.reshape(-1, *w.shape) for (name, w), cut in zip(own.items(), cuts, strict=True)}
    seen, copies = decision.seen, passage.copies
    with torch.no_grad():
        move, _ = policy.act_with(moved, seen, {})
        values = plant.panel.from_unit(plant.panel.turn(seen.position, move, seen.signals.step))
    stream = Stream(plant.task, [0], dtype=F64)
    stream.load_state_dict(passage.order)
    many = replace(
        copies,
        weights=copies.weights.expand(2 * size, -1),
        slots=tuple({n: s.expand(2 * size, *s.shape[1:]) for n, s in part.items()} for part in copies.slots),
    )
    for number in (passage.step + 1, passage.step + 2):
        batch = Batch(*(None if part is None else part.expand(2 * size, *part.shape[1:]) for part in stream.next()))
        many, losses, _, _ = plant.step(many, values, batch, number, None)
    return (losses[:size] - losses[size:]) / (2 * width)


def test_without_a_rate_it_is_the_frozen_card() -> None:
    """At learning rate 0 every value is bit for bit that of the policy alone."""
    rates, seeds = [1e-4, 1e-2, 1.0], [0, 1, 2]
    frozen, online = (simulate(c, rates, seeds) for c in (taught(), OnlineTeaching(taught(), lr=0.0)))
    assert torch.equal(frozen.values, online.values)
    assert torch.equal(frozen.losses, online.losses)
    learning = simulate(OnlineTeaching(taught(), lr=0.05), rates, seeds)
    assert not torch.equal(frozen.values, learning.values)


@pytest.mark.parametrize("kind", ["mlp", "gru"])
def test_members_learn_as_single_runs(kind: str) -> None:
    """Three members end with the weights of three single runs, and no two alike."""
    teaching, rates = OnlineTeaching(taught(kind=kind), lr=0.05), [1e-4, 1e-2, 1.0]
    together = simulate(teaching, rates, [0, 1, 2]).state["mind"]["weights"]["hidden_weight" if kind == "mlp" else
                                                                             "input_weight"]  # fmt: skip
    for member, rate in enumerate(rates):
        alone = simulate(teaching, [rate], [member]).state["mind"]["weights"]
        own = alone["hidden_weight" if kind == "mlp" else "input_weight"][0]
        torch.testing.assert_close(together[member], own, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(together[0], together[1], rtol=1e-3)


@pytest.mark.parametrize(
    "estimator",
    [OneStep(), OneStepValidation(), Implicit(3), ForwardMode(), HyperDistill(0.9), Unroll(3)],
    ids=lambda estimator: estimator.name,
)
@pytest.mark.parametrize("task", [WAVES, task_named("digits-cnn-v1")], ids=lambda task: task.name)
def test_a_live_run_learns_what_the_simulated_one_learns(task: Any, estimator: Any) -> None:
    """Weights after 20 steps agree on both ends, to 1e-9, and have moved; with batch norm and held-out examples too."""
    teaching = OnlineTeaching(taught(), estimator, lr=0.02, anchor=1.0)
    simulated = simulate(teaching, [1e-4, 0.01], [3, 4], steps=20, task=task).state["mind"]
    live = learned(fly(teaching, 0.01, 4, steps=20, task=task))
    for name, weight in live.items():
        torch.testing.assert_close(weight[0], simulated["weights"][name][1], rtol=1e-9, atol=1e-9)
        assert not torch.allclose(weight[0], dict(teaching.policy.named_parameters())[name].double(), atol=1e-3)


def test_a_held_out_slope_is_that_of_held_out_examples() -> None:
    """The plant's slope is the central difference of the validation half's loss by the last update's rate, to 1e-7."""
    width, losses = 1e-6, []
    plant = Plant(WAVES, SGD(), LR, every=5, estimator=OneStepValidation(), dtype=F64)
    x, y = (part[:32] for part in plant.split("val"))
    for rate in (0.05 - width, 0.05 + width, 0.05):
        stream, copies, look = Stream(WAVES, [0], dtype=F64), plant.start([0]), None
        for number in range(1, 5):
            reading = None
            if number == 4:
                losses.append(float(plant.evaluate(copies, (x, y))[0]))
            value = torch.full((1, 1, 1), rate if number == 3 else 0.05, dtype=F64)
            copies, _, look, reading = plant.step(copies, value, stream.next(), number, look)
    assert reading is not None
    assert float(reading["hypergrad"]) == pytest.approx((losses[1] - losses[0]) / (2 * width), rel=1e-7)


def test_held_out_examples_and_who_needs_them_belong_together() -> None:
    """A validation loss without a controller that learns from it is refused, as is such a controller without one."""
    model = WAVES.build(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SignalError, match="follows the validation loss: give `validation_loss=`"):
        attach(optimizer, OnlineTeaching(taught(), OneStepValidation()))
    with pytest.raises(SignalError, match="has no use for `validation_loss=`"):
        attach(optimizer, "constant", validation_loss=held_out(WAVES, model))


def test_a_resumed_run_learns_on_to_the_bit(tmp_path: Path) -> None:
    """A run that was saved at step 17 and loaded ends with the very weights of one that never stopped."""
    teaching = OnlineTeaching(taught(), lr=0.05, update_every=2)
    whole, parts = fly(teaching, 0.01, 0), fly(teaching, 0.01, 0, at=17, path=tmp_path / "run.pt")
    assert all(torch.equal(w, learned(parts)[name]) for name, w in learned(whole).items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_teaches_nothing(bad: float) -> None:
    """A slope that is not finite leaves weights, mean and sums as they are; a number does not."""
    teaching = OnlineTeaching(taught(), lr=0.05)
    done = simulate(teaching, [0.01, 0.1], [0, 1], steps=20)
    state = simulate(teaching, [0.01, 0.1], [0, 1], steps=19).state["mind"]
    seen = done.decisions[-1].seen
    _, after = teaching.act(
        replace(seen, signals=replace(seen.signals, hypergrad=torch.full((2, 1, 1), bad, dtype=F64))), state
    )
    _, other = teaching.act(seen, state)
    for part in ("weights", "mean", "slope"):
        assert all(torch.equal(state[part][name], after[part][name]) for name in state[part])
    assert torch.equal(state["updates"], after["updates"])
    assert not torch.equal(state["weights"]["out_weight"], other["weights"]["out_weight"])


def test_a_knob_put_elsewhere_teaches_nothing() -> None:
    """A value that the guard or the user set between two readings is not taken for the policy's decision."""
    teaching = OnlineTeaching(taught(), lr=0.05)
    seen = simulate(teaching, [0.01], [0], steps=20).decisions[-1].seen
    state = simulate(teaching, [0.01], [0], steps=19).state["mind"]
    _, after = teaching.act(replace(seen, position=seen.position + 0.01), state)
    assert torch.equal(state["weights"]["out_bias"], after["weights"]["out_bias"])


def test_weights_step_by_their_rate() -> None:
    """The first step of the weights has a root mean square of `lr`, and comes after so many decisions."""
    teaching = OnlineTeaching(taught(), lr=0.05, update_every=3)
    mind = simulate(teaching, [0.01], [3], steps=14).state["mind"]  # readings 1 2 4 5 7 10; four are credited
    assert (1, 0) < (int(mind["updates"]), int(mind["count"]))
    change = torch.cat(
        [(mind["weights"][n][0] - w.detach().double()).flatten() for n, w in teaching.policy.named_parameters()]
    )
    assert 0.05 == pytest.approx(float(change.square().mean().sqrt()), rel=1e-12)


def test_the_anchor_pulls_back() -> None:
    """With a strong anchor the policy ends nearer to its card."""
    away = []
    for anchor in (0.0, 10.0):
        mind = simulate(OnlineTeaching(taught(), lr=0.02, anchor=anchor), [0.01], [0]).state["mind"]
        away.append(float((mind["weights"]["hidden_weight"][0] - taught().hidden_weight.detach()).norm()))
    assert away[1] < 0.8 * away[0]


def test_what_was_learned_is_a_card(tmp_path: Path) -> None:
    """A member's policy is saved, loaded, and decides as the member does; the card it began with is as it was."""
    card = taught()
    teaching = OnlineTeaching(card, lr=0.05)
    done = simulate(teaching, [1e-3, 1e-2], [0, 1])
    mine = teaching.policy_of(done.state["mind"], 1)
    mine.save(tmp_path / "mine.safetensors")
    loaded, seen = Policy.load(tmp_path / "mine.safetensors"), done.decisions[-1].seen
    move, _ = loaded.act(seen, {})
    torch.testing.assert_close(move[1].detach(), done.decisions[-1].move[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(taught().out_weight, card.out_weight)


def test_it_learns_from_nothing() -> None:
    """An untaught policy raises a rate that is a thousand times too low, and ends lower than its schedule alone."""
    nothing = Policy.for_panel(LR, hidden=8)
    ends = [float(simulate(c, [1e-5], [0], steps=200).losses[-20:].mean()) for c in (nothing, OnlineTeaching(nothing))]
    assert ends[1] < 0.7 * ends[0]


def test_what_cannot_be_is_refused() -> None:
    """Settings outside their range, and readings without a slope, are told apart from a policy that learns nothing."""
    for wrong in ({"lr": -1.0}, {"anchor": math.nan}, {"momentum": 1.0}, {"update_every": 0}):
        with pytest.raises(KnobError, match=next(iter(wrong))):
            OnlineTeaching(taught(), **wrong)  # type: ignore[arg-type]
    teaching = OnlineTeaching(taught())
    plant = Plant(WAVES, SGD(), LR, dtype=F64)
    with pytest.raises(SignalError, match="needs `hypergrad`"):
        rollout(plant, teaching, torch.full((1, 1, 1), 0.01, dtype=F64), seeds=[0], steps=2)
