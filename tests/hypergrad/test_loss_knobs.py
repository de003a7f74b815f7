"""Knobs inside the loss: every estimator's slope by them, live and simulated, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import trimtab
from trimtab.controllers import Hypergradient
from trimtab.errors import KnobError, SignalError, TaskError
from trimtab.hypergrad import (
    Estimator,
    Form,
    ForwardMode,
    HyperDistill,
    Implicit,
    OneStep,
    OneStepValidation,
    Step,
    Unroll,
    ZerothOrder,
)
from trimtab.knobs import Knob, Panel
from trimtab.plant import Plant
from trimtab.rollout import rollout
from trimtab.rules import SGD, AdamW, Rule
from trimtab.stream import Stream
from trimtab.task import Batch, Reference, Split
from trimtab.tasks.seeded import build_seeded

F64 = torch.float64
RULES: dict[str, tuple[Rule, dict[str, float]]] = {
    "sgd": (SGD(), {"lr": 0.1, "momentum": 0.8}),
    "adamw": (AdamW(eps=1e-4), {"lr": 0.02, "beta1": 0.8}),
}
OWN = {"ridge": 0.05, "smoothing": 0.1}
KNOBS = [Knob("ridge", 1e-4, 1.0), Knob("smoothing", 1e-3, 0.5)]


class Rings:
    """Three rings to be told apart by 2-6-3 with tanh; a penalty's weight and label smoothing are the loss's own."""

    name = "rings"
    horizon, batch_size, optimizer, metric = 50, 8, "sgd", "accuracy"
    noise_shape: tuple[int, ...] | None = None
    card = "Test."
    reference = Reference(0.1, 0.1, 0.1, "none")
    loss_knobs = ("ridge", "smoothing")

    def build(self, seed: int) -> nn.Module:
        """Make the network."""
        return build_seeded(lambda: nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3)), seed)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give a split."""
        x = torch.randn(80, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
        start = {"train": 0, "val": 40, "test": 60}[split]
        rows = slice(start, start + (40 if split == "train" else 20))
        return x[rows], (x.norm(dim=1) / 0.9).long().clamp(max=2)[rows]

    def loss(
        self,
        model: Callable[..., Tensor],
        batch: Batch,
        ridge: Tensor | float = 0.0,
        smoothing: Tensor | float = 0.0,
    ) -> Tensor:
        """Give the cross-entropy, and what makes it harder."""
        return penalised(model(batch.x), batch.y, ridge, smoothing)

    def score(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """Give the accuracy."""
        return (model(batch.x).argmax(-1) == batch.y).double().mean()


def penalised(logits: Tensor, y: Tensor, ridge: Tensor | float, smoothing: Tensor | float) -> Tensor:
    """Cross-entropy with smoothed labels, and the logits' mean square."""
    logs = F.log_softmax(logits, -1)
    sharp = -(logs * F.one_hot(y, 3)).sum(-1).mean()
    return (1 - smoothing) * sharp - smoothing * logs.mean() + ridge * logits.square().mean()


@pytest.fixture(autouse=True)
def _in_double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(before)


class Kept:
    """An estimator that keeps the steps."""

    name, needs, is_running = "kept", frozenset({"hypergrad", "val_hypergrad", "loss_fn"}), True

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def start(self, form: Form) -> dict[str, Any]:
        """Remember nothing."""
        return {}

    def follow(self, step: Step, memory: dict[str, Any], *, is_due: bool) -> dict[str, Any]:
        """Keep the step."""
        self.steps.append(step)
        return memory

    def read(self, memory: dict[str, Any], grad: Tensor, layout: Any) -> Tensor:
        """Give zeros."""
        return grad.new_zeros(len(grad), 1, 1)


def ridden(rule: Rule, knobs: dict[str, float], count: int, by: Tensor | None = None) -> tuple[list[Step], Tensor]:
    """Take steps with knobs held, each turned by a little: the steps, and the held-out loss at the end."""
    kept, task = Kept(), Rings()
    panel = Panel([*Panel.of(list(knobs)), *KNOBS])
    plant = Plant(task, rule, panel, every=1, estimator=kept, dtype=F64)
    row = torch.tensor([*knobs.values(), *OWN.values()], dtype=F64)
    values = (row + (0 if by is None else by)).expand(2, 1, -1).clone()
    values[1] *= 0.9
    stream, copies, look = Stream(task, (0, 1), dtype=F64), plant.start((0, 1)), None
    for number in range(1, count + 1):
        copies, _, look, _ = plant.step(copies, values, stream.next(), number, look)
    return kept.steps, plant.evaluate(copies, tuple(part[:10] for part in task.data("val")))[0]


def read(estimator: Estimator, steps: list[Step], grad: Tensor) -> Tensor:
    """Follow steps, and read after the last one."""
    first = steps[0]
    memory = estimator.start(Form(first.weights, first.slots, first.layout, *first.values.shape[1:]))
    for number, step in enumerate(steps, 1):
        if estimator.is_running or number == len(steps):
            memory = estimator.follow(step, memory, is_due=number == len(steps))
    return estimator.read(memory, grad, first.layout)


@pytest.mark.parametrize("kind", RULES)
def test_the_window_s_slopes_are_finite_differences(kind: str) -> None:
    """By a penalty's weight and by label smoothing, beside the optimizer's own knobs; forward mode says the same."""
    rule, knobs = RULES[kind]
    steps, _ = ridden(rule, knobs, 5)
    found = read(Unroll(window=5), steps, steps[-1].grad)
    small = 1e-5
    for k in range(4):
        turn = small * torch.eye(4, dtype=F64)[k]
        (_, up), (_, down) = (ridden(rule, knobs, 5, sign * turn) for sign in (1, -1))
        size = torch.tensor([2 * small, 1.8 * small], dtype=F64)
        torch.testing.assert_close(found[:, 0, k], (up - down) / size, rtol=1e-6, atol=1e-9)
    forward = read(ForwardMode(), steps, steps[-1].grad)
    torch.testing.assert_close(forward, found, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RULES)
def test_one_step_s_slopes_agree(kind: str) -> None:
    """Through one step, every estimator that is exact there says the same; forward and reverse do."""
    rule, knobs = RULES[kind]
    steps, _ = ridden(rule, knobs, 3)
    last = steps[-1:]
    exact = read(Unroll(window=1), last, last[0].grad)
    assert (exact[..., 2:] != 0).all()
    for estimator in (OneStepValidation(), Implicit(1), HyperDistill(0.0), ForwardMode()):
        torch.testing.assert_close(read(estimator, last, last[0].grad), exact)
    row = last[0].held_out_grad(last[0].after)
    torch.testing.assert_close(read(OneStep(), last, row), exact)
    rough = read(ZerothOrder(pairs=1000, mu=1e-4), last, row)
    torch.testing.assert_close(rough, exact, rtol=0.2, atol=0.1 * float(exact.abs().max()))


@pytest.mark.parametrize("name", ["one-step", "implicit", "forward", "distilled", "unroll"])
@pytest.mark.parametrize("by", ["run", "layer"])
def test_live_is_simulated(name: str, by: str) -> None:
    """A live run's loss knobs go where the plant's go, and its weights; however many groups the optimizer has."""
    controller, task = Hypergradient(name), Rings()
    own = [trimtab.LossKnob(k.name, OWN[k.name], k.low, k.high) for k in KNOBS]
    model = task.build(0).double()
    groups = trimtab.groups(model, by="layer") if by == "layer" else model.parameters()
    optimizer = torch.optim.SGD(groups, lr=0.1)
    x, y = (part[:10] for part in task.data("val"))

    def loss_fn(batch: Any) -> Tensor:
        return penalised(model(batch[0]), batch[1], own[0].value, own[1].value)

    pilot = trimtab.attach(
        optimizer,
        controller,
        knobs=("lr", *own),
        model=model,
        every=5,
        loss_fn=loss_fn,
        validation_loss=(lambda: penalised(model(x), y, 0.0, 0.0)) if "val_hypergrad" in controller.needs else None,
    )
    stream = Stream(task, (0,), dtype=F64)
    for _ in range(24):
        batch = stream.next()
        loss = loss_fn((batch.x[0], batch.y[0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss, batch=(batch.x[0], batch.y[0]))
    panel = Panel([*Panel.of(["lr"]), *KNOBS])
    plant = Plant(task, SGD(), panel, every=5, estimator=controller.estimator, dtype=F64)
    values = torch.tensor([[[0.1, *OWN.values()]]], dtype=F64)
    done = rollout(plant, controller, values, seeds=(0,), steps=24, guard=trimtab.Guard())
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(flat, done.copies.weights[0], rtol=1e-9, atol=1e-11)
    used = torch.tensor([float(knob.value) for knob in own], dtype=F64)
    torch.testing.assert_close(used, panel.from_unit(done.state["position"])[0, 0, 1:], rtol=1e-9, atol=0)
    assert not torch.allclose(used, values[0, 0, 1:], rtol=1e-3)


@pytest.mark.parametrize("temperature", [0.3, 0.05])
def test_relaxed_dropout_s_slope_is_dropout_s(temperature: float) -> None:
    """Of ``E (a . drop(x) - 1)^2``, known in closed form; nearer the colder."""
    p, x = torch.tensor(0.3, requires_grad=True), torch.tensor([1.0, -2.0, 0.5])
    exact = (x.square().sum() / (1 - p)).sub(x.square().sum()) + (x.sum() - 1) ** 2
    (expected,) = torch.autograd.grad(exact, p)
    noise = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0))
    many = trimtab.relaxed_dropout(x.expand(200_000, 3), p, temperature, noise)
    loss = (many.sum(1) - 1).square().mean()
    (found,) = torch.autograd.grad(loss, p)
    assert float(found) == pytest.approx(float(expected), rel=1.5 * temperature)


def test_what_has_no_derivative_is_refused() -> None:
    """A dropout's probability, by the words to write instead; and what does not fit."""
    model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1))
    chance = trimtab.LossKnob("dropout", 0.2, 0.01, 0.8)
    x = torch.ones(4, 2)

    def made(knob: Knob, loss: Callable[[], Tensor] | None, **given: Any) -> Any:
        optimizer = torch.optim.SGD(trimtab.groups(model, by="layer"), lr=0.1)
        held_out = given.pop("validation_loss", lambda: model(x).square().mean())
        pilot = trimtab.attach(
            optimizer,
            Hypergradient("one-step-validation"),
            knobs=("lr", knob),
            model=model,
            loss_fn=loss,
            validation_loss=held_out,
            **given,
        )
        model(F.dropout(x, float(chance.value))).mean().backward()
        optimizer.step()
        return pilot

    with pytest.raises(SignalError, match=r"no derivative by its knob 'dropout'.*relaxed_dropout"):
        made(chance, lambda: model(F.dropout(x, float(chance.value.detach()))).mean()).step(1.0)
    with pytest.raises(SignalError, match="loss_fn"):
        made(chance, None)
    with pytest.raises(KnobError, match="one for the whole run"):
        made(chance, lambda: chance.value * model(x).mean(), sites="groups")
    with pytest.raises(KnobError, match="LossKnob"):
        made(Knob("ridge", 0.1, 1.0, get=lambda: 0.5, set=lambda v: None), lambda: model(x).mean())
    with pytest.raises(KnobError, match="begin in its range"):
        trimtab.LossKnob("ridge", 2.0, 0.1, 1.0)
    with pytest.raises(KnobError, match="above 0"):
        trimtab.relaxed_dropout(x, torch.tensor(0.5), 0.0)
    with pytest.raises(TaskError, match="whole run"):
        Plant(Rings(), SGD(), Panel(KNOBS), sites=[["0.weight", "0.bias"], ["2.weight", "2.bias"]])
    assert math.isclose(float(chance.value), 0.2)
