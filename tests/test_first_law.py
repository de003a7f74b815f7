"""The first law of the house: a live run and the simulated run of the same task, seed and controller agree.

Live is a real ``torch.optim`` optimizer with a pilot on it, simulated the plant under a rollout; both see the same
stream. Two members are simulated, and one of them is run live. They agree as far as rounding lets them: a run that
amplifies a difference of 1e-16 at every step (a learning rate beyond the edge of stability, Adam on gradients of 1e-9)
ends anywhere at all. So rates are gentle here, and where the guard has to fire it cuts far enough to end in peace.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``T`` steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab.attach import attach
from trimtab.controller import Controller
from trimtab.controllers import CATALOGUE as CONTROLLERS
from trimtab.controllers import KnobDescent, Plateau, Policy, Random
from trimtab.guard import Guard
from trimtab.hypergrad import estimator_of
from trimtab.judgement import RISEN
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import Rollout, rollout
from trimtab.rules import CATALOGUE as RULES
from trimtab.rules import Muon, Rule
from trimtab.sites import groups, sites_of
from trimtab.stream import Stream
from trimtab.task import Batch
from trimtab.tasks import CATALOGUE as TASKS
from trimtab.tasks.classification import accuracy, cross_entropy
from trimtab.tasks.digits import digits
from trimtab.tasks.digits_mlp import DigitsMLP
from trimtab.tasks.seeded import build_seeded

F32, F64 = torch.float32, torch.float64
STEPS, EVERY, SEEDS, LIVE = 200, 10, (3, 4), 1  # member 1 is run live
RATES = {"sgd": 0.01, "muon": 0.003}  # others: 1e-4, at which 200 steps of the Adams stay far from chaos
BELOW = {F64: 1e-12, F32: 1e-5}


class Matrices:
    """The digits, read by a network of two matrices and nothing else: Muon's parameters must be matrices."""

    name, batch_size, noise_shape = "digits-matrices", 32, None
    data, loss, score = staticmethod(digits), staticmethod(cross_entropy), staticmethod(accuracy)

    def build(self, seed: int) -> nn.Module:
        """Make the network 64-16-10."""
        return build_seeded(
            lambda: nn.Sequential(nn.Linear(64, 16, bias=False), nn.Tanh(), nn.Linear(16, 10, bias=False)), seed
        )


class Few(Matrices):
    """A hundred of the digits, one in five of them with another's label."""

    name = "few-digits"

    @staticmethod
    def data(split: Any) -> tuple[Tensor, Tensor]:
        """Give the split, for training the first hundred."""
        x, y = digits(split)
        if split != "train":
            return x, y
        return x[:100], torch.where(torch.arange(100) % 5 == 0, y[:100].roll(1), y[:100])


def policy(kind: Any, *, taught: bool, calm: float = 0.0, average: bool = False) -> Callable[[Panel], Controller]:
    """Give a maker of policies: untaught, or with random last weights.

    Their reach is short: where a rate has walked far down, updates are differences of nearly equal weights, and what a
    policy sees of them has lost the digits that the law is about.
    """

    def make(panel: Panel) -> Controller:
        made = Policy.for_panel(panel, hidden=8, kind=kind, reach=0.2, calm=calm, average=average)
        if taught:
            with torch.no_grad():
                made.out_weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        return made

    return make


CASES: dict[str, Callable[[Panel], Controller]] = {
    **{name: (lambda panel, make=make: make()) for name, make in CONTROLLERS.items()},
    "hypergradient-all": lambda panel: KnobDescent(),
    "policy-mlp": policy("mlp", taught=False),
    "policy-mlp-taught": policy("mlp", taught=True),
    "policy-gru": policy("gru", taught=False),
    "policy-gru-taught": policy("gru", taught=True),
    "policy-calm-taught": policy("mlp", taught=True, calm=0.6),
    "policy-average-taught": policy("mlp", taught=True, average=True),
}
ORDINARY = [("quadratic-v1", "run"), ("digits-mlp-v1", "run"), ("digits-mlp-v1", "layer")]
ALIKE = {"linear", "onecycle", "wsd"}  # tables of factors, as cosine is: on one task only
FLAT = {"plateau", "greedy", "policy-mlp", "policy-gru"}  # turn all sites alike: in one site only
ALL = [
    (rule, controller, task, by)
    for rule in RULES
    for controller in CASES
    for task, by in (ORDINARY[1:2] if controller in ALIKE else ORDINARY[:2] if controller in FLAT else ORDINARY)
    if (rule, task) != ("muon", "quadratic-v1")
]
QUICK = {  # one of each rule, each controller, each task; the others are slow only by their number
    ("sgd", "constant", "digits-mlp-v1", "run"),
    ("adam", "cosine", "digits-mlp-v1", "layer"),
    ("adamw", "policy-gru-taught", "digits-mlp-v1", "layer"),
    ("nadam", "hypergradient", "quadratic-v1", "run"),
    ("rmsprop", "random", "digits-mlp-v1", "layer"),
    ("muon", "policy-mlp-taught", "digits-mlp-v1", "run"),
    ("adam", "policy-calm-taught", "digits-mlp-v1", "run"),
    ("adamw", "policy-average-taught", "digits-mlp-v1", "layer"),
}


@dataclass
class Course:
    """What is run on both ends."""

    rule: Rule
    controller: Controller
    task: Any
    by: str = "run"
    knobs: tuple[str, ...] = ("lr",)
    start: dict[str, float] = field(default_factory=dict)
    dtype: torch.dtype = F64
    guard: Guard | None = field(default_factory=Guard)
    steps: int = STEPS
    validate_every: int | None = None

    @property
    def panel(self) -> Panel:
        """The knobs."""
        return Panel.of(self.knobs)

    def first(self, name: str) -> float:
        """Give a knob's first value."""
        return self.start.get(name, self.rule.defaults[name])


def simulate(course: Course) -> Rollout:
    """Run all members in the plant."""
    sites = sites_of(course.task.build(0), course.by)
    plant = Plant(
        course.task,
        course.rule,
        course.panel,
        sites=sites,
        every=EVERY,
        estimator=estimator_of(course.controller),
        dtype=course.dtype,
    )
    row = torch.tensor([course.first(name) for name in course.knobs], dtype=F64)
    return rollout(
        plant,
        course.controller,
        row.expand(len(SEEDS), len(sites), -1).clone(),
        seeds=SEEDS,
        steps=course.steps,
        horizon=course.steps,
        guard=course.guard,
        validate_every=course.validate_every,
    )


@dataclass
class Live:
    """What a live run gave: ``[T]`` losses, ``[T, S, K]`` values, the model and its pilot."""

    losses: Tensor
    values: Tensor
    model: nn.Module
    pilot: Any


def fly(course: Course) -> Live:
    """Run one member with the real optimizer and a pilot."""
    task, dtype = course.task, course.dtype
    model = task.build(SEEDS[LIVE]).to(dtype)
    optimizer = course.rule.optimizer(groups(model, by=course.by))
    for group in optimizer.param_groups:
        for name in course.knobs:
            _set(group, name, course.first(name))
    controller = course.controller
    if isinstance(controller, Random):
        controller = Random(controller.reach, controller.seed + LIVE)
    val = tuple(part.to(dtype) if part.is_floating_point() else part for part in task.data("val"))

    @torch.no_grad()
    def validate() -> float:
        model.eval()
        loss = float(task.loss(pilot.average or model, Batch(*val)))
        model.train()
        return loss

    pilot = attach(
        optimizer,
        controller,
        knobs=course.panel,
        sites="groups",
        horizon=course.steps,
        model=model,
        every=EVERY,
        guard=course.guard or False,
        validate=None if course.validate_every is None else validate,
        validate_every=course.validate_every,
    )
    stream, losses, used = Stream(task, [SEEDS[LIVE]], dtype=dtype), [], []
    for _ in range(course.steps):
        batch = Batch(*(None if part is None else part[0] for part in stream.next()))
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        used.append([[_get(group, name) for name in course.knobs] for group in optimizer.param_groups])
        optimizer.step()
        pilot.step(loss)
        losses.append(loss.detach())
    return Live(torch.stack(losses), torch.tensor(used, dtype=F64), model, pilot)


def _set(group: dict[str, Any], name: str, value: float) -> None:
    if name in ("beta1", "beta2"):
        betas = list(group["betas"])
        betas[name == "beta2"] = value
        group["betas"] = tuple(betas)
    else:
        group[name] = value


def _get(group: dict[str, Any], name: str) -> float:
    return float(group["betas"][name == "beta2"] if name in ("beta1", "beta2") else group[name])


def assert_law(course: Course) -> tuple[Rollout, Live]:
    """Run a course on both ends and compare losses, values, moves, verdicts, weights and buffers."""
    simulated, live = simulate(course), fly(course)
    near = BELOW[course.dtype]

    def close(one: Tensor, other: Tensor, what: str) -> None:
        torch.testing.assert_close(
            one, other.to(one.dtype), rtol=near, atol=near, equal_nan=True, msg=lambda text: f"{what}: {text}"
        )

    # the first step after which they part is the one to look at
    parted = ((live.losses - simulated.losses[:, LIVE]).abs() / (1 + live.losses.abs()) > near).nonzero()
    assert 0 == len(parted), f"losses part at step {int(parted[0]) + 1}"
    close(live.losses, simulated.losses[:, LIVE], "losses")
    close(live.values, simulated.values[:, LIVE], "values")
    assert len(simulated.decisions) == live.pilot.trace.decided
    for (_, mine), other in zip(list(live.pilot.trace.decisions), simulated.decisions, strict=True):
        close(mine.move[0].detach(), other.move[LIVE].detach(), "moves")
        close(mine.position[0].detach(), other.position[LIVE].detach(), "positions")
        assert (mine.verdict is None) == (other.verdict is None) == (course.guard is None)
        for name in ("keep", "restore", "reason", "gave_up"):
            if mine.verdict is not None:
                assert getattr(mine.verdict, name)[0] == getattr(other.verdict, name)[LIVE], name
        if mine.seen.signals.val_loss is not None:
            close(mine.seen.signals.val_loss[0], other.seen.signals.val_loss[LIVE], "validation")
    named = dict(live.model.named_parameters())
    order = [name for site in sites_of(live.model, course.by) for name in site]
    weights = torch.cat([named[name].detach().reshape(-1) for name in order])
    close(weights, simulated.copies.weights[LIVE], "weights")
    for name, buffer in live.model.named_buffers():
        close(buffer, simulated.copies.buffers[name][LIVE], name)
    average = live.pilot.best()
    assert (average is None) == (simulated.copies.average is None)
    if average is not None:
        mean, known = simulated.copies.averaged(), dict(average.module.named_parameters())
        close(torch.cat([known[name].reshape(-1) for name in order]), mean.weights[LIVE], "average")
        for name, buffer in average.module.named_buffers():
            close(buffer, mean.buffers[name][LIVE], f"average of {name}")
    return simulated, live


def made(rule: str, controller: str, task: str, by: str, **options: Any) -> Course:
    """Make a course by names, learning rate included."""
    real = Muon(one_by_one=True) if rule == "muon" else RULES[rule]()
    problem = Matrices() if rule == "muon" else TASKS[task]()
    start = {"lr": RATES.get(rule, 1e-4)}
    knobs = options.pop("knobs", ("lr",))
    return Course(real, CASES[controller](Panel.of(knobs)), problem, by, knobs=knobs, start=start, **options)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if c in QUICK else [pytest.mark.slow], id="-".join(c)) for c in ALL]
)
def test_live_is_simulated(case: tuple[str, str, str, str]) -> None:
    """Every rule under every controller agrees to 1e-12 in float64, the guard watching."""
    is_long = case in QUICK or case[2:] == ORDINARY[1]  # 200 steps on one task, 100 on the others
    assert_law(made(*case, steps=STEPS if is_long else STEPS // 2))


KNOBS = {"sgd": ("lr", "momentum", "weight_decay"), "rmsprop": ("weight_decay", "lr", "alpha")}


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "muon"])
def test_several_knobs_at_once(rule: str) -> None:
    """Rate, momentum and weight decay, turned at random at every layer, agree."""
    knobs = KNOBS.get(rule, ("lr", "beta1", "weight_decay"))
    course = made(rule, "random", "digits-mlp-v1", "layer", knobs=knobs)
    course.start |= {"weight_decay": 0.01} | ({"momentum": 0.9} if rule == "sgd" else {})
    _, live = assert_law(course)
    assert 3 == live.values.shape[-1]
    assert bool((live.values[0] != live.values[-1]).all())


@pytest.mark.parametrize(
    ("rule", "controller", "by"),
    [
        ("sgd", "plateau", "run"),
        ("adamw", "policy-mlp-taught", "layer"),
        ("adamw", "policy-average-taught", "run"),
    ],
)
def test_batch_norm_is_no_exception(rule: str, controller: str, by: str) -> None:
    """Weights and running statistics of a convolutional network agree, and so does the validation loss they give."""
    assert_law(made(rule, controller, "digits-cnn-v1", by, steps=60, validate_every=20))


def test_dropout_is_no_exception() -> None:
    """Each member's noise comes from its own seed, on both ends."""
    course = made("sgd", "random", "digits-mlp-v1", "run")
    course.task = DigitsMLP(dropout=0.2)
    assert_law(course)


@pytest.mark.parametrize(
    ("rule", "controller", "by"),
    [
        ("sgd", "cosine", "run"),
        ("sgd", "hypergradient", "layer"),
        ("adamw", "random", "layer"),
        ("rmsprop", "policy-mlp-taught", "run"),
    ],
)
def test_float32_agrees_to_five_digits(rule: str, controller: str, by: str) -> None:
    """In float32 the two ends agree to 1e-5."""
    assert_law(made(rule, controller, "digits-mlp-v1", by, dtype=F32, steps=100))


# A first rate far beyond any good one; the cut leads back to a gentle one in a single try (of a rate of 10 at most).
WILD = {"sgd": 1e-2, "adam": 1e-5, "adamw": 1e-5, "nadam": 1e-5, "rmsprop": 1e-5, "muon": 1e-4}


@pytest.mark.parametrize("by", ["run", "layer"])
@pytest.mark.parametrize("rule", RULES)
def test_the_guard_restores_alike(rule: str, by: str) -> None:
    """From a rate of a thousand the guard fires, restores and cuts at the same steps on both ends."""
    course = made(rule, "constant", "digits-mlp-v1", by, guard=Guard(cut=WILD[rule]))
    course.start["lr"] = 1e3
    simulated, live = assert_law(course)
    assert 1 <= int(simulated.state["guard"]["restores"][LIVE]) == live.pilot.trace.restores
    assert float(live.losses[-1]) < float(live.losses.max())


@pytest.mark.parametrize("controller", ["random", "policy-gru-taught", "greedy"])
def test_the_guard_restores_what_a_controller_knew(controller: str) -> None:
    """After a restore a controller with a memory goes on from the snapshot's, on both ends."""
    course = made("sgd", controller, "digits-mlp-v1", "run", guard=Guard(cut=1e-2))
    course.start["lr"] = 1e3
    simulated, _ = assert_law(course)
    assert int(simulated.state["guard"]["restores"][LIVE]) >= 1


def test_the_guard_restores_running_statistics() -> None:
    """Batch norm's statistics go back with the weights: the validation losses after a restore agree too."""
    course = made("sgd", "plateau", "digits-cnn-v1", "run", guard=Guard(cut=1e-3), steps=60, validate_every=10)
    course.start["lr"] = 1e3
    simulated, live = assert_law(course)
    assert 1 <= int(simulated.state["guard"]["restores"][LIVE]) == live.pilot.trace.restores
    assert live.pilot.trace.rows[-1]["val_loss"] is not None


def test_a_guard_that_gave_up_stays_so() -> None:
    """Where nothing helps, both ends give up at the same step and hold the lowest rate."""
    course = made("sgd", "constant", "digits-mlp-v1", "run", guard=Guard(cut=0.9, tries=2), steps=60)
    course.start["lr"] = 1e8  # 10 after the first cut, and hardly less after the second
    simulated, live = assert_law(course)
    assert bool(simulated.decisions[-1].verdict.gave_up[LIVE])
    assert 1e-8 == pytest.approx(float(live.values[-1]))


def test_validation_steers_alike() -> None:
    """A plateau that watches the validation loss cuts at the same readings."""
    course = made("sgd", "plateau", "digits-mlp-v1", "run", validate_every=10)
    course.controller = Plateau(patience=1, threshold=0.2)
    _, live = assert_law(course)
    assert float(live.values[-1]) < 0.5 * float(live.values[0])


@pytest.mark.parametrize("is_averaged", [False, True])
def test_over_fitting_is_taken_back_alike(is_averaged: bool) -> None:
    """Where few examples are learned by heart, both ends go back at the same readings, to an average if one is kept."""
    course = made("adam", "constant", "digits-mlp-v1", "run", validate_every=10, guard=Guard(rise=0.0))
    course.task, course.start["lr"] = Few(), 0.01
    if is_averaged:
        course.controller = Policy.for_panel(course.panel, 4, prior="constant", average=True)
    simulated, live = assert_law(course)
    found = [decision.verdict.reason[LIVE] for decision in simulated.decisions]
    assert RISEN in found
    assert 1 <= int(simulated.state["guard"]["restores"][LIVE]) == live.pilot.trace.restores


def test_the_average_to_use_is_the_same_on_both_ends() -> None:
    """Where nobody takes over-fitting back, it is not the last one."""
    course = made("adam", "constant", "digits-mlp-v1", "run", validate_every=10, guard=Guard(rise=None))
    course.task, course.start["lr"] = Few(), 0.01
    course.controller = Policy.for_panel(course.panel, 4, prior="constant", average=True)
    _, live = assert_law(course)
    assert live.pilot.best() is not live.pilot.average


def test_without_a_guard_nothing_is_restored() -> None:
    """Without a guard a diverging run is let go, and both ends show the same ruin."""
    course = made("sgd", "constant", "quadratic-v1", "run", steps=40, guard=None)
    course.start["lr"] = 3.0
    _, live = assert_law(course)
    assert float(live.losses[-1]) > 1e3 * float(live.losses[0])
