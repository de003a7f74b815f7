"""Live hypergradients: what the plant measures, of a model that the library has never seen; and clear refusals."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trimtab
from trimtab.controllers import Hypergradient
from trimtab.errors import KnobError, SignalError, TaskError
from trimtab.hypergrad import ESTIMATORS, Implicit, estimator_of
from trimtab.hypergrad.followers import FOLLOWERS
from trimtab.linkage import write_field
from trimtab.plant import Plant
from trimtab.rollout import rollout
from trimtab.rules import SGD, Adam, AdamW, RMSprop, Rule
from trimtab.stream import Stream
from trimtab.task import Batch, Reference, Split
from trimtab.tasks.seeded import build_seeded

F64 = torch.float64
STEPS = 24
CARRIED = "implicit, carried"


def chosen(name: str, follower: str = "adam") -> Hypergradient:
    """Make what a case names: an estimator, with "/parameter" behind it one of each parameter's own rate."""
    estimator, _, fine = name.partition("/")
    return Hypergradient(
        Implicit(3, carry=0.5) if estimator == CARRIED else estimator, follower, per_parameter=bool(fine)
    )


class Bumps:
    """A sine to be learned by 3-6-1 with tanh, and batch norm where asked for."""

    name = "bumps"
    horizon, batch_size, optimizer, metric = 50, 8, "sgd", "rmse"
    noise_shape: tuple[int, ...] | None = None
    card = "Test."
    reference = Reference(0.1, 0.1, 0.1, "none")

    def __init__(self, *, has_norm: bool = False) -> None:
        self.has_norm = has_norm

    def build(self, seed: int) -> nn.Module:
        """Make the network."""

        def made() -> nn.Module:
            norm = [nn.BatchNorm1d(6)] if self.has_norm else []
            return nn.Sequential(nn.Linear(3, 6), *norm, nn.Tanh(), nn.Linear(6, 1), nn.Flatten(-2, -1))

        return build_seeded(made, seed)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give a split."""
        start = {"train": 0, "val": 40, "test": 60}[split]
        x = torch.randn(80, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
        rows = slice(start, start + (40 if split == "train" else 20))
        return x[rows], torch.sin(2 * x.sum(1))[rows]

    def loss(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """Give the squared error."""
        return (model(batch.x) - batch.y).square().mean()

    def score(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """Give its root."""
        return self.loss(model, batch).sqrt()


@pytest.fixture(autouse=True)
def _in_double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(before)


RULES: dict[str, tuple[Rule, dict[str, float]]] = {
    "sgd": (SGD(momentum=0.8, weight_decay=1e-3), {"lr": 0.05, "momentum": 0.8, "weight_decay": 1e-3}),
    "nesterov": (SGD(momentum=0.8, nesterov=True), {"lr": 0.05, "momentum": 0.8}),
    "adam": (Adam(eps=1e-4, weight_decay=1e-2), {"lr": 0.01, "beta2": 0.9, "weight_decay": 1e-2}),
    "adamw": (AdamW(eps=1e-4), {"lr": 0.01, "beta1": 0.8, "weight_decay": 1e-2}),
    "rmsprop": (RMSprop(eps=1e-4), {"lr": 0.01}),
}


def live(
    controller: Any, rule: Rule, knobs: dict[str, float], task: Bumps, *, by: str, guard: bool = True
) -> tuple[nn.Module, Any]:
    """Train the task's network as a user would."""
    model = task.build(0).double()
    groups = trimtab.groups(model, by=by) if by != "run" else model.parameters()
    optimizer = rule.optimizer(groups)
    for group in optimizer.param_groups:
        for name, value in knobs.items():
            write_field(group, name, value)
    x, y = (part[:10] for part in task.data("val"))

    def held_out() -> Tensor:
        model.eval()
        loss = (model(x) - y).square().mean()
        model.train()
        return loss

    needs = estimator_of(controller).needs
    pilot = trimtab.attach(
        optimizer,
        controller,
        knobs=tuple(knobs),
        sites="run" if by == "run" else "groups",
        model=model,
        every=5,
        guard=guard,
        loss_fn=(lambda batch: (model(batch[0]) - batch[1]).square().mean()) if "loss_fn" in needs else None,
        validation_loss=held_out if "val_hypergrad" in needs else None,
    )
    stream = Stream(task, (0,), dtype=F64)
    for _ in range(STEPS):
        batch = stream.next()
        x_, y_ = batch.x[0], batch.y[0]
        loss = (model(x_) - y_).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss, batch=(x_, y_))
    return model, pilot


@pytest.mark.parametrize(
    ("name", "follower", "rule", "by"),
    [
        *product(
            [*ESTIMATORS, CARRIED, *(f"{name}/parameter" for name in (*ESTIMATORS, CARRIED) if name != "forward")],
            ["adam"],
            ["sgd", "adamw", "rmsprop"],
            ["run", "layer"],
        ),
        *product(["implicit"], FOLLOWERS, ["nesterov", "adam"], ["run"]),
    ],
)
def test_live_is_simulated(name: str, follower: str, rule: str, by: str) -> None:
    """Every estimator turns every knob of a live run as it does the plant's, weights and all; each parameter's too."""
    controller, task = chosen(name, follower), Bumps()
    twin, knobs = RULES[rule]
    model, pilot = live(controller, twin, knobs, task, by=by)
    sites = trimtab.sites_of(task.build(0), by)
    panel = trimtab.Panel.of(list(knobs))
    plant = Plant(task, twin, panel, sites=sites, every=5, estimator=controller.estimator, dtype=F64)
    values = torch.tensor(list(knobs.values()), dtype=F64).expand(1, len(sites), -1).clone()
    done = rollout(plant, controller, values, seeds=(0,), steps=STEPS, guard=trimtab.Guard())
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(flat, done.copies.weights[0], rtol=1e-9, atol=1e-11)
    used = pilot._helm.panel.from_unit(pilot._state["position"])[0]
    torch.testing.assert_close(used, panel.from_unit(done.state["position"])[0], rtol=1e-9, atol=0.0)
    metrics = pilot.metrics()
    is_fine = metrics.get("trimtab/factor_high", 1.0) > 1.01 * metrics.get("trimtab/factor_low", 1.0)
    assert is_fine if "/" in name else not torch.allclose(used, values[0], rtol=1e-3)


def test_batch_norm_s_statistics_are_the_run_s_alone() -> None:
    """Computing the loss again leaves buffers as one forward pass a step left them."""
    task = Bumps(has_norm=True)
    rule, knobs = RULES["sgd"]
    model, _ = live(Hypergradient("implicit"), rule, knobs, task, by="run", guard=False)
    assert STEPS == int(model[1].num_batches_tracked)


def test_dropout_draws_the_same_mask_again() -> None:
    """The gradient computed again is the one that the step used, and torch's generator goes on as if nothing was."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 50), nn.Tanh(), nn.Dropout(0.5), nn.Linear(50, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(16, 3), torch.randn(16, 1)
    found: list[tuple[Tensor, Tensor]] = []

    class Spy(Implicit):
        def follow(self, step: Any, memory: Any, *, is_due: bool) -> Any:
            found.append((step.grad, torch.cat([g.reshape(1, -1) for g in step._curve.grads], 1)))
            return super().follow(step, memory, is_due=is_due)

    def train(controller: Any, **given: Any) -> Tensor:
        pilot = trimtab.attach(optimizer, controller, model=model, mode="suggest", guard=False, **given)
        for _ in range(12):
            loss = (model(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pilot.step(loss)
        pilot.disable()
        return torch.rand(3)

    start = [p.detach().clone() for p in model.parameters()]

    def loss_fn() -> Tensor:
        return (model(x) - y).square().mean()

    def held_out() -> Tensor:
        model.eval()
        loss = (model(x) - y).square().mean()
        model.train()
        return loss

    torch.manual_seed(7)
    after = train(Hypergradient(Spy()), loss_fn=loss_fn, validation_loss=held_out)
    for p, old in zip(model.parameters(), start, strict=True):
        p.data.copy_(old)
    torch.manual_seed(7)
    assert torch.equal(after, train("constant"))
    assert len(found) >= 4
    for used, again in found:
        torch.testing.assert_close(again, used)


def test_no_graph_outlives_a_step() -> None:
    """After `pilot.step` nothing holds a graph: the batch that the loss was computed of again can be let go."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    held = {}

    def loss_fn() -> Tensor:
        return model(held["x"]).square().mean()

    pilot = trimtab.attach(
        optimizer,
        Hypergradient("implicit"),
        model=model,
        loss_fn=loss_fn,
        validation_loss=lambda: model(torch.ones(2, 3)).mean(),
    )
    for _ in range(11):
        held["x"] = torch.randn(4, 3)
        loss = loss_fn()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    was = weakref.ref(held.pop("x"))
    del loss
    gc.collect()
    assert was() is None


@pytest.mark.parametrize("name", [*ESTIMATORS, CARRIED, "one-step/parameter", "unroll/parameter"])
def test_a_resumed_run_goes_on_to_the_bit(name: str, tmp_path: Any) -> None:
    """Derivatives, distilled weights, kept steps and batches are in the checkpoint."""
    ends = []
    needs = chosen(name).needs
    for stop in (None, 13):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        rng = torch.Generator().manual_seed(3)

        def made(model: nn.Module = model) -> tuple[Any, Any]:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            pilot = trimtab.attach(
                optimizer,
                chosen(name),
                knobs=("lr", "momentum"),
                model=model,
                loss_fn=(lambda seen: model(seen.x).square().mean()) if "loss_fn" in needs else None,
                validation_loss=(lambda: (model(torch.ones(2, 3)) - 1).square().mean())
                if "val_hypergrad" in needs
                else None,
            )
            return optimizer, pilot

        optimizer, pilot = made()
        for number in range(30):
            if number == stop:
                pilot.save(tmp_path / "run.pt", {"optimizer": optimizer.state_dict()})
                pilot.disable()
                optimizer, pilot = made()
                optimizer.load_state_dict(pilot.load(tmp_path / "run.pt")["optimizer"])
            x = torch.randn(8, 3, generator=rng)
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pilot.step(loss, batch=Batch(x, x))
        ends.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert torch.equal(ends[0], ends[1])


def test_no_hook_stays_behind() -> None:
    """A pilot that is disabled, and one that was refused, leave the model and the optimizer as they were."""
    task = Bumps()
    model, pilot = live(Hypergradient("implicit", per_parameter=True), *RULES["sgd"], task, by="run")
    optimizer = pilot.optimizer
    pilot.disable()
    with pytest.raises(SignalError, match="no use for `validation_loss=`"):
        trimtab.attach(
            optimizer,
            Hypergradient("one-step", per_parameter=True),
            model=model,
            loss_fn=lambda batch: model(batch).sum(),
            validation_loss=lambda: model(task.data("val")[0]).sum(),
        )
    mine = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks", "_optimizer_load_state_dict_post_hooks")
    hooks = [*(getattr(optimizer, name) for name in mine), model._forward_pre_hooks]
    assert [0, 0, 0, 0] == [len(found) for found in hooks]


def test_what_is_missing_is_named_with_the_line_to_add() -> None:
    """At attach, before anything is changed."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    held: dict[str, Any] = {"validation_loss": lambda: model(torch.ones(2, 3)).square().mean()}
    again: dict[str, Any] = {"loss_fn": lambda: model(torch.ones(4, 3)).square().mean()}
    implicit = Hypergradient("implicit")
    with pytest.raises(SignalError, match=r"`model=model, loss_fn=lambda: criterion\(model\(x\), y\)`"):
        trimtab.attach(optimizer, implicit, **held)
    with pytest.raises(SignalError, match="give `validation_loss=`, a function that gives it as a tensor"):
        trimtab.attach(optimizer, implicit, model=model, **again)
    with pytest.raises(SignalError, match="has no use for `loss_fn=`"):
        trimtab.attach(optimizer, "constant", model=model, **again)
    with pytest.raises(SignalError, match="of the optimizer's 2 parameters are not the model's"):
        trimtab.attach(optimizer, implicit, model=nn.Linear(3, 1), **held, **again)
    knob = trimtab.Knob("clip", 0.1, 1.0, get=lambda: 0.5, set=lambda value: None)
    with pytest.raises(KnobError, match=r"'sgd' does not use \['clip'\]"):
        trimtab.attach(optimizer, implicit, knobs=(knob,), model=model, **held, **again)
    with pytest.raises(SignalError, match=r"called without arguments, or with the batch .* called as \(x, y\)"):
        trimtab.attach(optimizer, implicit, model=model, **held, loss_fn=lambda x, y: x + y)
    with pytest.raises(SignalError, match="`loss_fn` must take one"):
        trimtab.attach(optimizer, Hypergradient(Implicit(3, examples=2)), model=model, **held, **again)
    with pytest.raises(TaskError, match="class must be exactly one of"):
        trimtab.attach(torch.optim.Adagrad(model.parameters(), lr=0.05), implicit, model=model, **held, **again)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("once", "cannot be differentiated twice"),
        ("elsewhere", "does not depend on the optimizer's parameters"),
        (
            "number",
            r"`validation_loss` \(or `validate`.*must give one number as a tensor, got float \(leave `.item\(\)`",
        ),
        ("detached", r"What `validation_loss` \(or .*\) gives cannot be differentiated"),
        ("batchless", r"call `pilot.step\(loss, batch=batch\)`"),
        ("untold", r"`loss_fn` takes a batch: tell it with each step, `pilot.step\(loss, batch=batch\)`"),
        ("told", r"told a batch and `loss_fn` takes none: leave `batch=` out"),
    ],
)
def test_losses_that_cannot_serve_are_named(case: str, words: str) -> None:
    """At the first step that needs them, with the way out."""
    model, other = nn.Linear(3, 1), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    held = {
        "elsewhere": (other**2).sum,
        "number": lambda: 1.0,
        "detached": lambda: model(torch.ones(2, 3)).mean().detach(),
    }.get(case, lambda: model(torch.ones(2, 3)).square().mean())

    def loss_fn(*batch: Tensor) -> Tensor:
        out = model(torch.ones(4, 3))
        if case == "once":  # torch's fused attention has no second derivative on a CPU
            out = nn.functional.scaled_dot_product_attention(*[out[None, None]] * 3)
        return out.square().mean()

    controller = Hypergradient(Implicit(3, examples=2 if case == "batchless" else None))

    def of_a_batch(batch: Any) -> Tensor:
        return loss_fn(*batch)

    def of_nothing() -> Tensor:
        return loss_fn()

    again: Any = {"batchless": of_a_batch, "untold": of_a_batch, "told": of_nothing}.get(case, loss_fn)
    pilot = trimtab.attach(optimizer, controller, model=model, loss_fn=again, validation_loss=held)
    loss = loss_fn()
    loss.backward()
    optimizer.step()
    with pytest.raises(SignalError, match=words):
        pilot.step(loss, batch=(torch.ones(4, 3),) if case == "told" else None)


@pytest.mark.parametrize("mode", ["suggest", "observe", "disabled"])
def test_updates_are_the_optimizer_s_own_where_nobody_acts(mode: str) -> None:
    """Rates of single parameters are put on updates in mode "act" alone, and no longer once the pilot is disabled."""
    ends = []
    for is_watched in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        controller = Hypergradient("one-step", per_parameter=True)
        given: Any = {} if mode == "disabled" else {"mode": mode}
        pilot = trimtab.attach(optimizer, controller, **given) if is_watched else None
        if pilot is not None and mode == "disabled":
            pilot.disable()
        for number in range(20):
            loss = (model(torch.full((4, 3), number / 20)) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if pilot is not None:
                pilot.step(loss)
        ends.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", ["one-step-validation", "implicit", "unroll", "forward"])
def test_accumulated_gradients_are_those_of_the_joined_batch(name: str) -> None:
    """Two micro-batches, and a `loss_fn` that averages over both, are one batch of all: the same knobs and weights."""
    ends = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        x, y = torch.randn(16, 3), torch.randn(16, 1)
        controller = Hypergradient(name)

        def loss_of(rows: Tensor, model: nn.Module = model, x: Tensor = x, y: Tensor = y) -> Tensor:
            return (model(x[rows]) - y[rows]).square().mean()

        def held_out(model: nn.Module = model) -> Tensor:
            return (model(torch.ones(4, 3)) - 0.5).square().mean()

        pilot = trimtab.attach(
            optimizer,
            controller,
            knobs=("lr", "momentum"),
            model=model,
            every=5,
            loss_fn=(lambda micro: torch.stack([loss_of(rows) for rows in micro]).mean())
            if "loss_fn" in controller.needs
            else None,
            validation_loss=held_out,
        )
        for number in range(20):
            rows = torch.randperm(16, generator=torch.Generator().manual_seed(number))[:8]
            micro, total = rows.chunk(parts), 0.0
            optimizer.zero_grad()
            for some in micro:
                loss = loss_of(some) / parts
                loss.backward()
                total += float(loss.detach())
            optimizer.step()
            pilot.step(total, batch=micro)
        used = torch.tensor(pilot.get_last_lr())
        ends.append(torch.cat([*(p.detach().reshape(-1) for p in model.parameters()), used]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-8, atol=1e-10)
    assert abs(float(ends[0][-1]) - 0.05) > 1e-3


@pytest.mark.parametrize("name", ["one-step", "one-step-validation", "implicit", "unroll"])
def test_under_bfloat16_autocast_it_goes_the_same_way(name: str) -> None:
    """The slopes of a run in mixed precision are those of float32, but for bfloat16's rounding."""
    slopes = []
    for is_mixed in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 1)).float()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        x = torch.randn(64, 3, dtype=torch.float32)
        y = x.sum(1, keepdim=True).sin()
        controller = Hypergradient(name)

        def loss_fn(
            batch: Any = None,
            model: nn.Module = model,
            x: Tensor = x,
            y: Tensor = y,
            is_mixed: bool = is_mixed,
        ) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
                return (model(x).float() - y).square().mean()

        pilot = trimtab.attach(
            optimizer,
            controller,
            knobs=("lr", "momentum"),
            model=model,
            mode="suggest",
            every=5,
            loss_fn=loss_fn if "loss_fn" in controller.needs else None,
            validation_loss=loss_fn if "val_hypergrad" in controller.needs else None,
        )
        for _ in range(21):
            loss = loss_fn()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pilot.step(loss, batch=(x, y))
        seen = [decision.seen.signals.hypergrad for _, decision in pilot.trace.decisions]
        slopes.append(torch.stack([one[0, 0] for one in seen if one is not None])[2:])
    cosine = torch.nn.functional.cosine_similarity(slopes[0], slopes[1], dim=0)
    assert (cosine > 0.97).all(), cosine
    assert not torch.equal(slopes[0], slopes[1])
