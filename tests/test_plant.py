"""Laws of the plant: many members in one program are as many runs of one, and of the modules themselves.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab.controllers import Constant
from trimtab.errors import KnobError, TaskError
from trimtab.guard import Guard
from trimtab.hypergrad import OneStep, estimator_of
from trimtab.knobs import Knob, Panel
from trimtab.plant import Plant
from trimtab.rollout import Rollout, rollout
from trimtab.rules import SGD, Adam, AdamW, Muon, RMSprop, Rule
from trimtab.sites import sites_of
from trimtab.stream import Stream
from trimtab.task import Batch, Task
from trimtab.tasks import task_named
from trimtab.tasks.classification import accuracy, cross_entropy
from trimtab.tasks.digits import digits
from trimtab.tasks.digits_mlp import DigitsMLP
from trimtab.tasks.seeded import build_seeded

F64 = torch.float64
LR = Panel.of(["lr"])
SEEDS = (5, 2, 8)


class Matrices:
    """The digits, read by a network of two matrices: Muon trains nothing else."""

    name, batch_size, noise_shape = "digits-matrices", 32, None
    data, loss, score = staticmethod(digits), staticmethod(cross_entropy), staticmethod(accuracy)

    def build(self, seed: int) -> nn.Module:
        """Make the network 64-8-10."""
        return build_seeded(
            lambda: nn.Sequential(nn.Linear(64, 8, bias=False), nn.Tanh(), nn.Linear(8, 10, bias=False)), seed
        )


def run(
    task: Any,
    rule: Rule,
    values: Tensor,
    *,
    seeds: tuple[int, ...] = SEEDS,
    panel: Panel = LR,
    by: str = "run",
    steps: int = 30,
    controller: Any = None,
    **options: Any,
) -> Rollout:
    """Run members in float64, guard watching."""
    controller = controller or Constant()
    sites = sites_of(task.build(0), by)
    plant = Plant(task, rule, panel, sites=sites, estimator=estimator_of(controller), dtype=F64, **options)
    return rollout(plant, controller, values, seeds=seeds, steps=steps, horizon=steps, guard=Guard())


def spread(row: list[float], members: int = 3, sites: int = 1) -> Tensor:
    """Give each member values of its own about `row`: ``[B, S, K]``."""
    factors = torch.linspace(0.5, 2, members, dtype=F64)[:, None, None]
    return factors * torch.tensor(row, dtype=F64).expand(members, sites, -1)


def assert_equal(one: Rollout, other: Rollout, rows: slice, near: float) -> None:
    """Compare losses, weights, buffers and readings of one run with some members of another."""
    torch.testing.assert_close(one.losses, other.losses[:, rows], rtol=near, atol=near)
    torch.testing.assert_close(one.copies.weights, other.copies.weights[rows], rtol=near, atol=near)
    for name, buffer in one.copies.buffers.items():
        torch.testing.assert_close(buffer, other.copies.buffers[name][rows], rtol=near, atol=near)
    for a, b in zip(one.decisions, other.decisions, strict=True):
        torch.testing.assert_close(a.seen.features, b.seen.features[rows], rtol=1e-7, atol=1e-7)


CASES: dict[str, tuple[Any, Rule]] = {
    "quadratic": (task_named("quadratic-v1"), SGD(momentum=0.9)),
    "mlp": (DigitsMLP(), AdamW()),
    "dropout": (DigitsMLP(dropout=0.3), RMSprop()),
    "cnn": (task_named("digits-cnn-v1"), SGD()),
    "matrices": (Matrices(), Muon(one_by_one=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_members_are_runs_of_one(name: str) -> None:
    """B members of different rates and seeds equal B plants of one member, buffers and readings too."""
    task, rule = CASES[name]
    steps = 12 if name == "cnn" else 30
    together = run(task, rule, spread([1e-3]), steps=steps)
    for b in range(3):
        alone = run(task, rule, spread([1e-3])[b : b + 1], seeds=SEEDS[b : b + 1], steps=steps)
        assert_equal(alone, together, slice(b, b + 1), 1e-11)


@pytest.mark.parametrize("by", ["layer", "weight|bias"])
@pytest.mark.parametrize("rule", [SGD(), Adam()], ids=["sgd", "adam"])
def test_sites_of_equal_values_are_one_site(rule: Rule, by: str) -> None:
    """Split into sites that all have the same values, a run takes the same course."""
    panel = Panel.of(["lr", "weight_decay"])
    one = run(DigitsMLP(), rule, spread([0.01, 0.1]), panel=panel)
    split = run(DigitsMLP(), rule, spread([0.01, 0.1], sites=2), panel=panel, by=by)
    torch.testing.assert_close(one.losses, split.losses, rtol=1e-12, atol=1e-12)


def test_sites_have_values_of_their_own() -> None:
    """A site at rate 0 stands still while the other moves."""
    values = spread([0.1], sites=2)
    values[:, 1] = 0.0
    panel = Panel([Knob("lr", 0.0, 1.0, "linear")])
    task = DigitsMLP()
    sites = sites_of(task.build(0), "layer")
    plant = Plant(task, SGD(), panel, sites=sites, dtype=F64)
    done = rollout(plant, Constant(), values, seeds=SEEDS, steps=10)
    start, end = (plant.start(SEEDS).weights, done.copies.weights)
    hidden = 64 * 32 + 32
    assert torch.equal(start[:, hidden:], end[:, hidden:])
    assert bool((start[:, :hidden] != end[:, :hidden]).any(1).all())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, when it loads its compiler
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_compiled_steps_equal_eager_ones(name: str) -> None:
    """fast=True takes the same course to 1e-10, knob values turning and being turned."""
    task, rule = CASES[name]
    eager, fast = (run(task, rule, spread([1e-3]), steps=12, fast=fast) for fast in (False, True))
    assert_equal(eager, fast, slice(None), 1e-10)


@pytest.mark.parametrize("name", ["mlp", "dropout", "cnn"])
def test_evaluate_is_the_module_in_evaluation_mode(name: str) -> None:
    """Losses and metrics over a split equal those of each member's own module, running statistics used, not moved."""
    task, rule = CASES[name]
    plant = Plant(task, rule, LR, dtype=F64)
    done = rollout(plant, Constant(), spread([1e-2]), seeds=SEEDS, steps=6)
    val = plant.split("val")
    losses, scores = plant.evaluate(done.copies, val)
    again, _ = plant.evaluate(done.copies, val)
    assert torch.equal(losses, plant.loss_on(done.copies, val))
    assert torch.equal(losses, again)
    for b in range(3):
        module = task.build(0).double().eval()
        ends = [p.numel() for p in module.parameters()]
        with torch.no_grad():
            for p, row in zip(module.parameters(), done.copies.weights[b].split(ends), strict=True):
                p.copy_(row.view_as(p))
            for key, buffer in module.named_buffers():
                buffer.copy_(done.copies.buffers[key][b])
            torch.testing.assert_close(losses[b], task.loss(module, Batch(*val)), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(scores[b], task.score(module, Batch(*val)), rtol=1e-12, atol=1e-12)
    assert plant.module.training


def test_members_begin_as_their_seeds_say() -> None:
    """Member b has the weights and buffers of build(seeds[b])."""
    task = task_named("digits-cnn-v1")
    copies = Plant(task, SGD(), LR, dtype=F64).start(SEEDS)
    for b, seed in enumerate(SEEDS):
        module = task.build(seed).double()
        row = torch.cat([p.detach().flatten() for p in module.parameters()])
        assert torch.equal(row, copies.weights[b])
        assert all(torch.equal(buffer, copies.buffers[name][b]) for name, buffer in module.named_buffers())


def test_losses_are_those_before_the_step() -> None:
    """The first loss is the fresh network's on its first batch."""
    task = DigitsMLP()
    batch = Stream(task, SEEDS, dtype=F64).next()
    done = run(task, SGD(), spread([0.1]), steps=1)
    for b, seed in enumerate(SEEDS):
        expected = task.loss(task.build(seed).double(), Batch(batch.x[b], batch.y[b]))
        torch.testing.assert_close(done.losses[0, b], expected.detach(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("rule", [SGD(momentum=0.9), Adam(eps=1e-3)], ids=["sgd", "adam"])
def test_hypergradients_are_finite_differences(rule: Rule) -> None:
    """At step 2 a reading's hypergradient is how the loss answers to the first step's values, knob by knob and site."""
    panel = Panel.of(["lr", "weight_decay"])
    task, values = DigitsMLP(), spread([0.01, 0.1], sites=2)
    plant = Plant(task, rule, panel, sites=sites_of(task.build(0), "layer"), estimator=OneStep(), dtype=F64)

    stream = Stream(task, SEEDS, dtype=F64)
    first, second = stream.next(), stream.next()

    def second_loss(used: Tensor) -> tuple[Tensor, Any]:
        copies, _, look, _ = plant.step(plant.start(SEEDS), used, first, 1, None)
        _, losses, _, reading = plant.step(copies, values, second, 2, look)
        return losses, reading

    _, reading = second_loss(values)
    for s in range(2):
        for k in range(2):
            nudge = torch.zeros_like(values)
            nudge[:, s, k] = 1e-5 * values[:, s, k]
            apart = (second_loss(values + nudge)[0] - second_loss(values - nudge)[0]) / (2 * nudge[:, s, k])
            torch.testing.assert_close(reading["hypergrad"][:, s, k], apart, rtol=1e-4, atol=1e-8)


def test_a_step_changes_nothing_in_place() -> None:
    """The state handed in stays as it was, buffers included: a rollout can go back to it."""
    task = task_named("digits-cnn-v1")

    plant, stream = Plant(task, SGD(momentum=0.9), LR, dtype=F64), Stream(task, SEEDS, dtype=F64)
    start = plant.start(SEEDS)
    kept = {name: buffer.clone() for name, buffer in start.buffers.items()} | {"": start.weights.clone()}
    batch = stream.next()
    one = plant.step(start, spread([0.1]), batch, 3, None)
    two = plant.step(start, spread([0.1]), batch, 3, None)
    assert all(torch.equal(kept[name], buffer) for name, buffer in start.buffers.items())
    assert torch.equal(kept[""], start.weights)
    assert torch.equal(one[0].weights, two[0].weights)


def test_select_takes_member_by_member() -> None:
    """Weights, slots and buffers of the members chosen."""
    task = task_named("digits-cnn-v1")
    plant = Plant(task, Adam(), LR, dtype=F64)
    one, two = plant.start((1, 2)), plant.start((3, 4))
    mixed = plant.select(torch.tensor([True, False]), one, two)
    assert torch.equal(mixed.weights, torch.stack([one.weights[0], two.weights[1]]))
    assert torch.equal(mixed.buffers["1.running_var"][0], one.buffers["1.running_var"][0])


def test_features_know_depth_and_share() -> None:
    """Sites' relative depth is by order, their share by size."""
    task = DigitsMLP()
    features = Plant(task, SGD(), LR, sites=sites_of(task.build(0), "layer")).features()
    assert (0.0, 1.0) == features.depth
    assert pytest.approx((2080 / 2410, 330 / 2410)) == features.share
    assert ((0.5,), (1.0,)) == (lambda f: (f.depth, f.share))(Plant(task, SGD(), LR).features())


@pytest.mark.parametrize(
    ("task", "rule", "options", "law"),
    [
        (DigitsMLP(), Adam(), {"panel": Panel.of(["momentum"])}, r"Rule 'adam' has no hyperparameters \['momentum'\]"),
        (DigitsMLP(), SGD(), {"sites": [["hidden.weight"]]}, r"Sites must hold each parameter once; got \['hidden"),
        (DigitsMLP(), SGD(), {"sites": [["w"]]}, "Sites must hold each parameter once"),
        (DigitsMLP(), Muon(), {}, r"trains matrices only; digits-mlp-v1 has \['hidden.bias', 'output.bias'\]"),
    ],
)
def test_what_cannot_be_simulated_is_refused(task: Task, rule: Rule, options: dict[str, Any], law: str) -> None:
    """The error names what does not fit."""
    with pytest.raises(TaskError, match=law):
        Plant(task, rule, options.pop("panel", LR), **options)


def test_values_of_another_shape_are_refused() -> None:
    """A rollout's first values are [B, S, K]."""
    with pytest.raises(KnobError, match=r"`values` must be \[B, S, K\] = \[3, 1, 1\], got \[3, 2, 1\]"):
        run(DigitsMLP(), SGD(), spread([0.1], sites=2))
