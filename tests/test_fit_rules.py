"""Laws of fitting the ecosystem: what a pilot owes to torch, to trainers and to checkpoints, rule by rule.

R1 to R19 number the rules; R15 (ranks) is in `test_ranks.py`, R20 (imports) in `test_import.py`.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as torch_schedules
from torch.utils._python_dispatch import TorchDispatchMode

import trimtab
from trimtab.controllers import Constant, KnobDescent, Policy, Replay
from trimtab.knobs import STANDARD, Panel

SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "LambdaLR": lambda o: torch_schedules.LambdaLR(o, lambda t: min(1.0, t / 10)),  # a warm-up from 0
    "MultiplicativeLR": lambda o: torch_schedules.MultiplicativeLR(o, lambda t: 0.93),
    "StepLR": lambda o: torch_schedules.StepLR(o, 7, 0.3),
    "MultiStepLR": lambda o: torch_schedules.MultiStepLR(o, [5, 12], 0.3),
    "ConstantLR": lambda o: torch_schedules.ConstantLR(o, 0.3, 9),
    "LinearLR": lambda o: torch_schedules.LinearLR(o, 0.1, 1.0, 13),
    "ExponentialLR": lambda o: torch_schedules.ExponentialLR(o, 0.93),
    "PolynomialLR": lambda o: torch_schedules.PolynomialLR(o, 25, 1.5),
    "CosineAnnealingLR": lambda o: torch_schedules.CosineAnnealingLR(o, 17),
    "CosineAnnealingWarmRestarts": lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, 6, 2),
    "CyclicLR": lambda o: torch_schedules.CyclicLR(o, 0.01, 0.3, 5, cycle_momentum=False),
    "OneCycleLR": lambda o: torch_schedules.OneCycleLR(o, 0.3, total_steps=40),
    "ChainedScheduler": lambda o: torch_schedules.ChainedScheduler(
        [torch_schedules.ConstantLR(o, 0.1, 4), torch_schedules.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "SequentialLR": lambda o: torch_schedules.SequentialLR(
        o, [torch_schedules.LinearLR(o, 0.1, 1.0, 5), torch_schedules.CosineAnnealingLR(o, 20)], [5]
    ),
}


def network(seed: int = 0) -> nn.Module:
    """Build 4-8-2 with tanh, always the same for a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Draw the batch of a step: a function of its number, so that a resumed run sees the same."""
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(number))
    return x, torch.stack([x[:, 0] * x[:, 1], x.sum(1)], 1)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, pilot: Any, steps: range) -> None:
    """Train by the loop of the README."""
    for number in steps:
        x, y = batch(number)
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)


def sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    """Make SGD with momentum, one group."""
    return torch.optim.SGD(model.parameters(), **({"lr": 0.05, "momentum": 0.9} | options))


def half() -> Replay:
    """Make a controller that halves the learning rate at the first readings and holds it there."""
    lr = STANDARD["lr"]
    place = lr.to_unit(torch.tensor(0.05, dtype=torch.float64) / 2)
    return Replay.of([(1, [float(place)])])


def lrs(optimizer: torch.optim.Optimizer) -> list[float]:
    """Read the learning rates that hold now."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def test_r1_a_pilot_is_a_torch_scheduler_that_gives_floats() -> None:
    """Trainers ask `isinstance`, call `step()` without arguments and log floats, whatever holds the rate."""
    model = network()
    optimizer = torch.optim.Adam(trimtab.groups(model, lr=torch.tensor(0.01)))
    pilot = trimtab.attach(optimizer, "constant")
    assert isinstance(pilot, torch_schedules.LRScheduler)
    assert [float, float] == [type(lr) for lr in pilot.get_last_lr()]
    loss = model(batch(0)[0]).sum()
    loss.backward()
    optimizer.step()
    pilot.step()
    assert (1, pilot.get_last_lr()) == (pilot.last_epoch, pilot.get_lr())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses its own deprecated functions
def test_r2_r6_a_compiled_step_is_not_compiled_again() -> None:
    """Under `torch.compile`, readings and twelve changes of tensors for rate and beta leave at most two graphs."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    model = network()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=torch.tensor(0.01), betas=(torch.tensor(0.9), torch.tensor(0.99)), foreach=False
    )
    pilot = trimtab.attach(optimizer, "onecycle", knobs=("lr", "beta1"), horizon=12)
    step = torch.compile(optimizer.step, backend=counter)
    seen = set()
    for number in range(12):
        x, y = batch(number)
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        step()
        pilot.step(loss)
        seen |= {(lrs(optimizer)[0], float(optimizer.param_groups[0]["betas"][0]))}
    assert len(seen) >= 11
    assert pilot.last_epoch == 12
    assert counter.frame_count <= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses its own deprecated functions
@pytest.mark.parametrize("whole", [False, True])
def test_r2_a_compiled_model_is_not_compiled_again(whole: bool) -> None:
    """With the model compiled, and with the loss and its backward pass too, twelve changes of a rate add no graph."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    pilot = trimtab.attach(optimizer, "onecycle", knobs=("lr", "beta1", "weight_decay"), horizon=12, model=model)
    compiled = torch.compile(model, backend=counter)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return (compiled(x) - y).square().mean()

    run = torch.compile(loss_of, backend=counter) if whole else loss_of
    seen = set()
    for number in range(12):
        loss = run(*batch(number))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
        seen |= {lrs(optimizer)[0]}
    assert len(seen) >= 11
    assert 1 == counter.frame_count


@pytest.mark.parametrize("place", ["before forward", "before backward", "after step", "after pilot"])
def test_zeroing_gradients_may_stand_anywhere(place: str) -> None:
    """Weights and decisions are the same wherever `zero_grad(set_to_none=True)` stands in the loop."""
    ends = []
    for here in (place, "before backward"):
        model = network()
        optimizer = sgd(model)
        pilot = trimtab.attach(optimizer, "random", model=model)
        for number in range(25):
            x, y = batch(number)
            for moment in ("before forward", "before backward", "after step", "after pilot"):
                if moment == "before backward":
                    loss = ((model(x) - y) ** 2).mean()
                if moment == "after pilot":
                    pilot.step(loss)
                if moment == here:
                    optimizer.zero_grad(set_to_none=True)
                if moment == "before backward":
                    loss.backward()
                    optimizer.step()
        ends.append((str(model.state_dict()), str(pilot.trace.rows)))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"foreach": False}])
def test_r2_the_hook_fires_under_every_implementation(options: dict[str, Any]) -> None:
    """Looped, foreach and fused steps of one optimizer are measured alike."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, **options)
    pilot = trimtab.attach(optimizer, "constant")
    train(model, optimizer, pilot, range(4))
    seen = [decision.seen.signals for _, decision in pilot.trace.decisions]
    assert [1, 2, 4] == [int(signals.step) for signals in seen]
    assert all(float(signals.grad_sq) > 0 for signals in seen)


def test_r3_a_step_counts_once() -> None:
    """Calls without an optimizer step in between do nothing: one process may call several times, or before any."""
    runs = []
    for calls in (1, 4):
        model = network()
        optimizer = sgd(model)
        pilot = trimtab.attach(
            optimizer, "random", schedule=torch_schedules.ExponentialLR(optimizer, 0.9) if calls else None
        )
        for number in range(20):
            x, y = batch(number)
            loss = ((model(x) - y) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            if calls > 1:
                pilot.step(loss)  # a micro-batch
            optimizer.step()
            for _ in range(calls):
                pilot.step(loss)
        runs.append((pilot.last_epoch, lrs(optimizer), model[0].weight.tolist()))
    assert runs[0] == runs[1]


def test_r4_groups_are_looked_up() -> None:
    """After `load_state_dict` has replaced every group, the new groups are turned, and by the pilot's values."""
    model = network()
    optimizer = sgd(model)
    pilot = trimtab.attach(optimizer, "cosine", horizon=40)
    train(model, optimizer, pilot, range(5))
    before = optimizer.param_groups[0]
    held = lrs(optimizer)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr"] = 7.0
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0] is not before
    assert held == lrs(optimizer)  # the pilot owns the last write
    train(model, optimizer, pilot, range(5, 20))
    assert 0 < lrs(optimizer)[0] < held[0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_r5_a_wrapped_schedule_is_exact(name: str) -> None:
    """With a controller that turns nothing, every rate of the schedule is bit-identical to the bare schedule's."""
    models = [network(), network()]
    optimizers = [torch.optim.SGD(trimtab.groups(m, lr=0.05), lr=0.05, momentum=0.9) for m in models]
    optimizers[0].param_groups[1]["lr"] = optimizers[1].param_groups[1]["lr"] = 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR steps its parts as torch would rather not
        bare, wrapped = (SCHEDULES[name](optimizer) for optimizer in optimizers)
    pilot = trimtab.attach(optimizers[1], "constant", schedule=wrapped)
    rates: tuple[list[Any], list[Any]] = ([lrs(optimizers[0])], [lrs(optimizers[1])])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(25):
            train(models[0], optimizers[0], _Bare(bare), range(number, number + 1))
            train(models[1], optimizers[1], pilot, range(number, number + 1))
            rates[0].append(lrs(optimizers[0]))
            rates[1].append(lrs(optimizers[1]))
    assert rates[0] == rates[1]
    assert len({str(rate) for rate in rates[1]}) > 1


@pytest.mark.parametrize("controller", ["constant", "half"])
def test_r5_reduce_on_plateau_is_exact_by_its_validation_losses(controller: str) -> None:
    """The fifteenth schedule of torch is stepped at each validation, with its loss; disabled, it goes on so."""
    models = [network(), network()]
    optimizers = [sgd(model) for model in models]
    bare, wrapped = (
        torch_schedules.ReduceLROnPlateau(optimizer, factor=0.3, patience=1, cooldown=1) for optimizer in optimizers
    )
    losses = [3.0, 2.0, 2.5, 2.6, 2.7, 1.0, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]
    given = iter(losses)
    chosen = half() if controller == "half" else controller
    pilot = trimtab.attach(
        optimizers[1], chosen, schedule=wrapped, validate=lambda: next(given), validate_every=10, guard=False
    )
    for number in range(1, 121):
        train(models[1], optimizers[1], pilot, range(number, number + 1))
        if number % 10 == 0:
            bare.step(losses[number // 10 - 1])
        if number == 90:
            pilot.disable()
        factor = 0.5 if controller == "half" and 2 <= number < 90 else 1.0
        if number >= 2:
            assert lrs(optimizers[1]) == pytest.approx([factor * lr for lr in lrs(optimizers[0])], rel=1e-12)
    assert lrs(optimizers[0]) == lrs(optimizers[1])
    assert lrs(optimizers[0])[0] < 0.01


@pytest.mark.parametrize("name", SCHEDULES)
def test_r5_a_turn_multiplies_the_schedule(name: str) -> None:
    """A controller that holds one half halves every rate of the schedule, the recursive ones' too."""
    models = [network(), network()]
    optimizers = [sgd(model) for model in models]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare, wrapped = (SCHEDULES[name](optimizer) for optimizer in optimizers)
        start = lrs(optimizers[1])[0] or 0.05
        place = float(STANDARD["lr"].to_unit(torch.tensor(start / 2, dtype=torch.float64)))
        pilot = trimtab.attach(optimizers[1], Replay.of([(1, [place])]), schedule=wrapped, guard=False)
        for number in range(25):
            train(models[0], optimizers[0], _Bare(bare), range(number, number + 1))
            train(models[1], optimizers[1], pilot, range(number, number + 1))
            if number >= 2:
                assert lrs(optimizers[1]) == pytest.approx([lr / 2 for lr in lrs(optimizers[0])], rel=1e-9, abs=1e-15)


class _Bare:
    """A schedule stepped by the loop that steps pilots."""

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule

    def step(self, loss: Tensor) -> None:
        self.schedule.step()


def test_r7_each_group_owns_its_rate() -> None:
    """One tensor handed to all groups is neither shared by them nor with the caller or the optimizer's defaults."""
    lr = torch.tensor(0.01)
    optimizer = torch.optim.AdamW(trimtab.groups(network()), lr=lr)
    pilot = trimtab.attach(optimizer, "cosine", sites="groups", horizon=10)
    tensors = [group["lr"] for group in optimizer.param_groups]
    assert len({tensor.data_ptr() for tensor in [*tensors, lr, optimizer.defaults["lr"]]}) >= 3
    assert torch.tensor(0.01) == lr == optimizer.defaults["lr"]
    assert pilot.get_last_lr()[0] < 0.01


def test_r8_groups_are_built_before_the_schedule() -> None:
    """`groups` gives one named group a layer, which a torch schedule and a layer-wise pilot then share."""
    model = network()
    optimizer = torch.optim.SGD(trimtab.groups(model, by="layer", lr=0.05))
    pilot = trimtab.attach(
        optimizer, "random", sites="groups", schedule=torch_schedules.StepLR(optimizer, 5), trace=None
    )
    train(model, optimizer, pilot, range(12))
    assert {"0", "2"} == {row["site"] for row in pilot.trace.rows}
    assert len(set(lrs(optimizer))) == 2


def test_r9_a_tensor_rate_stays_a_tensor_after_a_float_checkpoint() -> None:
    """A checkpoint of floats leaves a tensor rate a tensor, which compiled steps read in place."""
    saved = torch.optim.AdamW(network().parameters(), lr=0.3).state_dict()
    optimizer = torch.optim.AdamW(network().parameters(), lr=torch.tensor(0.01))
    pilot = trimtab.attach(optimizer, "constant")
    optimizer.load_state_dict(saved)
    assert isinstance(optimizer.param_groups[0]["lr"], Tensor)
    assert [float(torch.tensor(0.01))] == pilot.get_last_lr()


def test_r9_a_tensor_checkpoint_is_turned_in_place() -> None:
    """A checkpoint of tensors loads into float rates, is written to, and leaves the checkpoint as it was."""
    saved = torch.optim.AdamW(network().parameters(), lr=torch.tensor(0.3)).state_dict()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    pilot = trimtab.attach(optimizer, "cosine", horizon=20)
    optimizer.load_state_dict(saved)
    train(model, optimizer, pilot, range(5))
    assert 0.008 < pilot.get_last_lr()[0] < 0.01
    assert torch.tensor(0.3) == saved["param_groups"][0]["lr"]


def controllers() -> dict[str, Any]:
    """Make one controller of each kind of memory."""

    def taught(**form: Any) -> Policy:
        rng = torch.Generator().manual_seed(1)
        policy = Policy.for_panel(Panel.of(["lr"]), hidden=6, prior="hold", rng=rng, **form)
        with torch.no_grad():
            policy.out_weight.copy_(torch.randn(policy.out_weight.shape, generator=torch.Generator().manual_seed(2)))
        return policy

    return {
        "open-loop": trimtab.controller_named("cosine"),
        "feedback": trimtab.controller_named("hypergradient"),
        "plateau": trimtab.controller_named("plateau"),
        "random": trimtab.controller_named("random"),
        "greedy": trimtab.controller_named("greedy"),
        "hypergradient": KnobDescent(),
        "gru": taught(kind="gru"),
        "calm": taught(calm=0.6),
    }


@pytest.mark.parametrize("name", list(controllers()))
def test_r10_a_state_is_plain(name: str, tmp_path: Path) -> None:
    """`torch.load` with `weights_only=True` reads back what `torch.save` wrote, tensors bit for bit."""
    model = network()
    optimizer = sgd(model)
    pilot = trimtab.attach(optimizer, controllers()[name], horizon=60)
    train(model, optimizer, pilot, range(25))
    torch.save(pilot.state_dict(), tmp_path / "pilot.pt")
    found = torch.load(tmp_path / "pilot.pt", weights_only=True)
    assert flat(pilot.state_dict()) == flat(found)


@pytest.mark.parametrize("name", SCHEDULES)
def test_r10_a_state_with_a_schedule_is_plain(name: str, tmp_path: Path) -> None:
    """So does a pilot around each of torch's schedules."""
    model = network()
    optimizer = sgd(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pilot = trimtab.attach(optimizer, "constant", schedule=SCHEDULES[name](optimizer))
        train(model, optimizer, pilot, range(12))
    torch.save(pilot.state_dict(), tmp_path / "pilot.pt")
    torch.load(tmp_path / "pilot.pt", weights_only=True)


def flat(tree: Any, where: str = "") -> dict[str, Any]:
    """List a tree's leaves by path; tensors as their dtype and numbers, NaN as text."""
    if isinstance(tree, dict):
        return {k: v for name, entry in tree.items() for k, v in flat(entry, f"{where}.{name}").items()}
    if isinstance(tree, list | tuple):
        return {k: v for i, entry in enumerate(tree) for k, v in flat(entry, f"{where}.{i}").items()}
    return {where: (str(tree.dtype), str(tree.tolist())) if isinstance(tree, Tensor) else str(tree)}


def form(tree: Any) -> dict[str, Any]:
    """List a tree's leaves by path with their shape, dtype or type."""
    if isinstance(tree, dict):
        return {f".{name}{k}": v for name, entry in tree.items() for k, v in form(entry).items()} or {"": dict}
    if isinstance(tree, list | tuple):
        return {f".{i}{k}": v for i, entry in enumerate(tree) for k, v in form(entry).items()} or {"": list}
    return {"": (tuple(tree.shape), tree.dtype) if isinstance(tree, Tensor) else type(tree)}


@pytest.mark.parametrize("name", list(controllers()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_r11_a_state_s_form_is_fixed(name: str, dtype: torch.dtype) -> None:
    """From construction to step 50 the state has the same keys, shapes and dtypes, the snapshot apart."""
    model = network().to(dtype)
    optimizer = sgd(model)
    pilot = trimtab.attach(
        optimizer, controllers()[name], sites="run", horizon=60, guard=trimtab.Guard(in_checkpoint=False)
    )
    first = form(pilot.state_dict())
    for number in range(50):
        x, y = batch(number)
        loss = ((model(x.to(dtype)) - y.to(dtype)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
        if number in (0, 1, 2, 4, 8, 9, 15, 18, 49):
            assert first == form(pilot.state_dict())


def test_r11_distributed_checkpoints_hold_a_state(tmp_path: Path) -> None:
    """A round trip through torch's Distributed Checkpoint, loaded into a fresh pilot's state, is exact."""
    from torch.distributed import checkpoint

    def made() -> Any:
        model = network()
        optimizer = torch.optim.AdamW(trimtab.groups(model, lr=0.01))
        return (
            model,
            optimizer,
            trimtab.attach(optimizer, "random", sites="groups", guard=trimtab.Guard(in_checkpoint=False)),
        )

    model, optimizer, pilot = made()
    train(model, optimizer, pilot, range(33))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a run without ranks
        checkpoint.save({"pilot": pilot.state_dict()}, checkpoint_id=tmp_path / "dcp", no_dist=True)
        _, _, fresh = made()
        template = {"pilot": fresh.state_dict()}
        checkpoint.load(template, checkpoint_id=tmp_path / "dcp", no_dist=True)
    fresh.load_state_dict(template["pilot"])
    assert flat(pilot.state_dict()) == flat(fresh.state_dict())


def shaken(number: int) -> bool:
    """Whether a step's gradient is spoilt: often enough for several rollbacks in 200 steps."""
    return number in (57, 58, 59, 103, 131)


Run = tuple[nn.Module, torch.optim.Optimizer, Any]


def resumable(name: str, *, with_schedule: bool = False) -> Run:
    """Build a run from nothing, as a restarted program would."""
    model = nn.Sequential(network(3), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(trimtab.groups(model, lr=0.02, weight_decay=0.01))
    schedule = torch_schedules.LambdaLR(optimizer, lambda t: min(1.0, t / 20) * 0.99**t) if with_schedule else None
    pilot = trimtab.attach(optimizer, controllers()[name], horizon=200, model=model, schedule=schedule)
    return model, optimizer, pilot


def go(run: Run, steps: range) -> None:
    """Train with spoilt gradients."""
    model, optimizer, pilot = run
    for number in steps:
        x, y = batch(number)
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        if shaken(number):
            model[0][0].weight.grad.fill_(torch.nan)
        optimizer.step()
        pilot.step(loss)


@pytest.mark.parametrize(
    "name", ["open-loop", "feedback", "plateau", pytest.param("hypergradient", marks=pytest.mark.slow), "gru", "calm"]
)
def test_r12_a_resumed_run_is_bit_exact(name: str, tmp_path: Path) -> None:
    """Saved at any step and loaded into a fresh program, a run ends with the very weights and the very decisions.

    Also in the middle of an interval, one step before a reading (the look-back is pending), right before a rollback,
    right after one, and between two.
    """
    straight = resumable(name)
    saved = {}
    for at in (1, 43, 59, 60, 61, 106, 139):
        go(straight, range(straight[2].last_epoch, at))
        saved[at] = tmp_path / f"{at}.pt"
        straight[2].save(saved[at], {"model": straight[0].state_dict(), "optimizer": straight[1].state_dict()})
    go(straight, range(139, 150))
    assert straight[2].trace.restores >= 2
    for at, path in saved.items():
        model, optimizer, pilot = resumable(name)
        beside = pilot.load(path)
        model.load_state_dict(beside["model"])
        optimizer.load_state_dict(beside["optimizer"])
        assert at == pilot.last_epoch
        go((model, optimizer, pilot), range(at, 150))
        assert flat(straight[0].state_dict()) == flat(model.state_dict())
        assert flat(straight[2].state_dict()) == flat(pilot.state_dict())


@pytest.mark.parametrize("pilot_first", [True, False])
def test_r12_a_wrapped_schedule_resumes(pilot_first: bool, tmp_path: Path) -> None:
    """The same around a schedule, whichever of optimizer and pilot is loaded first."""
    straight = resumable("feedback", with_schedule=True)
    go(straight, range(66))
    straight[2].save(tmp_path / "at", {"model": straight[0].state_dict(), "optimizer": straight[1].state_dict()})
    go(straight, range(66, 120))
    model, optimizer, pilot = resumable("feedback", with_schedule=True)
    content = torch.load(tmp_path / "at", weights_only=True)
    model.load_state_dict(content["beside"]["model"])
    for is_pilot in (pilot_first, not pilot_first):
        if is_pilot:
            pilot.load_state_dict(content["pilot"])
        else:
            optimizer.load_state_dict(content["beside"]["optimizer"])
    go((model, optimizer, pilot), range(66, 120))
    assert flat(straight[0].state_dict()) == flat(model.state_dict())
    assert straight[2].get_last_lr() == pilot.get_last_lr()


@pytest.mark.parametrize("unscales", [False, True])
@pytest.mark.parametrize("options", [{}, {"fused": True}])
def test_r13_a_step_that_amp_skips_is_no_decision(options: dict[str, Any], unscales: bool) -> None:
    """With GradScaler an overflow moves nothing: not the weights, the count, the schedule; and gradients are unscaled.

    Unfused, torch does not step at all; fused, it fires the hooks, leaves the weights, and gradients carry the scale.
    """
    runs = []
    for scaled in (False, True):
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, **options)
        pilot = trimtab.attach(optimizer, "random", schedule=torch_schedules.ExponentialLR(optimizer, 0.99))
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for number in range(12):
            x, y = batch(number)
            for overflow in (True, False) if scaled and number in (3, 6) else (False,):
                loss = ((model(x) - y) ** 2).mean()
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                if overflow:
                    model[0].weight.grad.fill_(torch.inf)
                if unscales:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                scaler.step(optimizer)
                scaler.update(1024.0)
                pilot.step(loss)
        runs.append((pilot.last_epoch, pilot.get_last_lr(), pilot))
    assert 12 == runs[0][0] == runs[1][0]
    assert runs[0][1] == runs[1][1]
    assert (2 if options else 0) == runs[1][2]._skipped
    for (_, plain), (_, scaled_one) in zip(runs[0][2].trace.decisions, runs[1][2].trace.decisions, strict=True):
        torch.testing.assert_close(plain.seen.signals.grad_sq, scaled_one.seen.signals.grad_sq, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_r14_the_dummy_step_of_a_distributed_checkpoint_is_none(kind: Any) -> None:
    """`get_optimizer_state_dict` steps once at rate 0 to make slots; the pilot does not count it."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = network()
    optimizer = kind(model.parameters(), lr=0.01)
    pilot = trimtab.attach(optimizer, "constant")
    get_optimizer_state_dict(model, optimizer)
    pilot.step(1.0)
    assert (0, [0.01]) == (pilot.last_epoch, pilot.get_last_lr())
    train(model, optimizer, pilot, range(3))
    assert 3 == pilot.last_epoch


def test_r14_a_warm_up_s_first_step_at_rate_zero_is_a_step() -> None:
    """A schedule that begins at rate 0 goes on: its first step is not mistaken for a dummy one."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pilot = trimtab.attach(
        optimizer, "constant", schedule=torch_schedules.LambdaLR(optimizer, lambda t: min(1.0, t / 4))
    )
    train(model, optimizer, pilot, range(3))
    assert (3, [0.1 * 3 / 4]) == (pilot.last_epoch, pilot.get_last_lr())


class _Syncs(TorchDispatchMode):
    """Counts reads of a tensor's number by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_r16_a_step_between_decisions_reads_no_tensor() -> None:
    """Between readings neither the hook nor `step` asks any tensor for its number, the loss included."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01), foreach=False)
    pilot = trimtab.attach(optimizer, "cosine", horizon=100)
    train(model, optimizer, pilot, range(12))
    counts = []
    for _ in range(12, 19):
        with _Syncs() as syncs:
            pilot._before_step(optimizer, (optimizer,), {})
            pilot.step(torch.tensor(1.0))
        counts.append(syncs.count)
    assert [0] * 7 == counts


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_r16_a_decision_waits_for_the_device_once() -> None:
    """On an accelerator a run waits for the device once a decision, and never between."""
    model = network().to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, foreach=True)
    pilot = trimtab.attach(optimizer, "random", guard=trimtab.Guard(longest=10_000, spacing=0.99))
    found = {}
    for number in range(1, 41):
        x, y = (part.to("cuda") for part in batch(number))
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step()
            pilot.step(loss)
        torch.cuda.set_sync_debug_mode("default")
        found[number] = len([w for w in caught if "synchroniz" in str(w.message)])
    assert {10: 1, 20: 1, 30: 1, 40: 1} == {number: count for number, count in found.items() if count and number > 7}


def test_r17_observe_and_suggest_leave_the_run_alone() -> None:
    """In "observe" and "suggest" the weights are those of a run without a pilot; "suggest" decides, "observe" does not.

    Both say "alarm" where "act" would restore.
    """
    ends, moves, events = {}, {}, {}
    for mode in ("none", "observe", "suggest", "act"):
        model = network()
        optimizer = sgd(model, lr=3.0)
        pilot = _Bare(_Nothing()) if mode == "none" else trimtab.attach(optimizer, "random", mode=mode)
        train(model, optimizer, pilot, range(15))
        ends[mode] = str(model[0].weight.tolist())
        if mode != "none":
            moves[mode] = sum(abs(row["move_lr"]) for row in pilot.trace.rows)
            events[mode] = {row["event"] for row in pilot.trace.rows} - {""}
    assert ends["none"] == ends["observe"] == ends["suggest"] != ends["act"]
    assert 0 == moves["observe"] < moves["suggest"]
    assert {"alarm"} == events["observe"] == events["suggest"]
    assert "restore" in events["act"]


class _Nothing:
    """Steps nothing."""

    def step(self) -> None:
        """Do nothing."""


def test_r17_suggestions_start_from_what_the_user_set() -> None:
    """In "suggest" a turn made by hand is where the next suggestion starts from."""
    model = network()
    optimizer = sgd(model)
    pilot = trimtab.attach(optimizer, "random", mode="suggest")
    train(model, optimizer, pilot, range(5))
    optimizer.param_groups[0]["lr"] = 0.001
    train(model, optimizer, pilot, range(5, 12))
    assert 0.001 == optimizer.param_groups[0]["lr"] == pilot.get_last_lr()[0]
    place = pilot.trace.rows[-1]["position_lr"]
    assert 0.001 == pytest.approx(float(STANDARD["lr"].from_unit(torch.tensor(place))), rel=0.7)


def test_r17_a_move_and_the_range_are_bounded() -> None:
    """No decision changes a rate by more than the knob's rate allows, and none leaves its range."""
    model = network()
    optimizer = sgd(model)
    knob = trimtab.Knob("lr", 0.01, 0.06, "log", rate=0.3)
    pilot = trimtab.attach(optimizer, trimtab.controller_named("random"), knobs=[knob], guard=False)
    rates = []
    for number in range(60):
        train(model, optimizer, pilot, range(number, number + 1))
        rates += lrs(optimizer)
    changes = [abs(np.log(b / a)) for a, b in itertools.pairwise(rates)]
    assert 0.01 - 1e-12 <= min(rates) < max(rates) <= 0.06 + 1e-12
    assert 0 < max(changes[10:]) <= 0.3 + 1e-12


@pytest.mark.parametrize("rate", [0.05, torch.tensor(0.05)])
def test_r17_disable_puts_back_the_user_s_values(rate: Any) -> None:
    """After `disable` every knob has, bit for bit, what the user set, and stays so."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1 / 3)
    before = lrs(optimizer)
    pilot = trimtab.attach(optimizer, "random", knobs=("lr", "beta1", "weight_decay"))
    train(model, optimizer, pilot, range(15))
    assert before != lrs(optimizer)
    pilot.disable()
    train(model, optimizer, pilot, range(15, 20))
    group = optimizer.param_groups[0]
    assert (before, (0.9, 0.99), 1 / 3) == (lrs(optimizer), group["betas"], group["weight_decay"])
    trimtab.attach(optimizer, "constant")  # and the next pilot is welcome


@pytest.mark.parametrize("name", SCHEDULES)
def test_r17_disable_leaves_the_bare_schedule(name: str) -> None:
    """After `disable` the loop goes on as it is, and plays the wrapped schedule bit for bit."""
    models = [network(), network()]
    optimizers = [sgd(model) for model in models]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare, wrapped = (SCHEDULES[name](optimizer) for optimizer in optimizers)
        pilot = trimtab.attach(optimizers[1], "random", schedule=wrapped)
        for number in range(25):
            train(models[0], optimizers[0], _Bare(bare), range(number, number + 1))
            train(models[1], optimizers[1], pilot, range(number, number + 1))
            if number == 11:
                pilot.disable()
            if number >= 11:
                assert lrs(optimizers[0]) == lrs(optimizers[1])


def test_r18_global_generators_are_left_alone() -> None:
    """Attaching, deciding, restoring and saving draw nothing from torch's, numpy's or Python's generators."""
    model = network()
    optimizer = sgd(model, lr=30.0)
    before = (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())  # noqa: NPY002
    pilot = trimtab.attach(optimizer, "random", horizon=30)
    train(model, optimizer, pilot, range(30))
    pilot.load_state_dict(pilot.state_dict())
    after = (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())  # noqa: NPY002
    assert pilot.trace.restores
    assert before == after


@pytest.mark.parametrize("count", [1, 2, 17])
def test_r19_any_number_of_groups_needs_no_configuration(count: int) -> None:
    """One group or many, with or without names and decay, `attach(optimizer)` is enough; ratios are kept."""
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(count))
    optimizer = torch.optim.AdamW(
        [{"params": list(layer.parameters()), "lr": 0.01 * (i + 1)} for i, layer in enumerate(layers)]
    )
    pilot = trimtab.attach(optimizer, horizon=40)
    for _ in range(35):
        loss = sum(layer(torch.ones(3, 2)).square().mean() for layer in layers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    assert pilot.get_last_lr()[0] != pytest.approx(0.01, rel=0.01)
    assert [i + 1 for i in range(count)] == pytest.approx([lr / pilot.get_last_lr()[0] for lr in pilot.get_last_lr()])


def test_r19_a_group_added_later_is_left_alone_and_survives_a_rollback() -> None:
    """Parameters unfrozen in mid-run join the guard's snapshot; their rate is the user's."""
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.05)
    pilot = trimtab.attach(optimizer, Constant())
    train(model, optimizer, pilot, range(15))
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.01})
    train(model, optimizer, pilot, range(15, 17))  # before the next snapshot would be due
    with torch.no_grad():
        model[2].weight.fill_(torch.nan)
    train(model, optimizer, pilot, range(17, 45))
    assert pilot.trace.restores == 1
    assert bool(model[2].weight.isfinite().all())
    assert [0.05, 0.01] == lrs(optimizer)
