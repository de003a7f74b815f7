"""Laws of trust: watching changes nothing, whatever the optimizer; letting go gives back; a state stays small."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lion_pytorch import Lion
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from torch import Tensor, nn

import trimtab

Make = Callable[[list[Any]], torch.optim.Optimizer]


class Users(torch.optim.SGD):
    """A user's subclass: adds noise of torch's global generator, and counts in its group."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Step, then shake."""
        loss = super().step(closure)
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            for p in group["params"]:
                p.add_(torch.randn_like(p), alpha=1e-4)
        return loss


OPTIMIZERS: dict[str, Make] = {
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.5),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.01, t0=5),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    "Muon": lambda p: torch.optim.Muon([q for q in p if q.dim() == 2], lr=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.001),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Schedule-Free AdamW": lambda p: AdamWScheduleFree(p, lr=0.01, warmup_steps=5),
    "Schedule-Free SGD": lambda p: SGDScheduleFree(p, lr=0.1),
    "Prodigy": lambda p: Prodigy(p, lr=1.0),
    "Lion": lambda p: Lion(p, lr=1e-3),
    "a user's": lambda p: Users(p, lr=0.05),
}


# the sign of NaN is 0, and LBFGS gives up: no weight is spoilt, and nothing that a later reading could see
UNMOVED = {"LBFGS", "Lion", "Rprop"}


def network() -> nn.Module:
    """Build 6-16-1 with dropout, so that training draws from torch's generator."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))


def train(model: nn.Module, optimizer: Any, pilot: Any, steps: range, *, spoilt: int = -1) -> float:
    """Train; give the last loss without dropout."""
    if hasattr(optimizer, "train"):
        optimizer.train()
    for number in steps:
        x = torch.randn(32, 6, generator=torch.Generator().manual_seed(number))

        def closure(x: Tensor = x, is_spoilt: bool = number == spoilt) -> Tensor:
            optimizer.zero_grad()
            loss = (model(x) - x.sin().sum(1, keepdim=True)).square().mean()
            loss.backward()
            if is_spoilt:
                model[0].weight.grad.fill_(math.nan)
            return loss

        if isinstance(optimizer, torch.optim.LBFGS):
            loss = optimizer.step(closure)
        else:
            loss = closure()
            optimizer.step()
        if pilot is not None:
            pilot.step(loss)
    model.eval()
    with torch.no_grad():
        x = torch.randn(512, 6, generator=torch.Generator().manual_seed(999))
        loss = (model(x) - x.sin().sum(1, keepdim=True)).square().mean()
    model.train()
    return loss.item()


def leaves(tree: Any) -> list[str]:
    """Write out a tree, numbers to the last digit."""
    if isinstance(tree, dict):
        return [f"{name}: {leaf}" for name, entry in tree.items() for leaf in leaves(entry)]
    if isinstance(tree, list | tuple):
        return [leaf for entry in tree for leaf in leaves(entry)]
    return [str(tree.tolist()) if isinstance(tree, Tensor) else str(tree)]


@pytest.mark.parametrize("mode", ["observe", "suggest"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_watching_changes_nothing(name: str, mode: Any) -> None:
    """Weights, slots, groups and torch's generator are those of a run without a pilot, bit for bit, NaN included."""
    ends = []
    for watched in (False, True):
        model = network()
        optimizer = OPTIMIZERS[name](list(model.parameters()))
        pilot = trimtab.attach(optimizer, "random", mode=mode, model=model) if watched else None
        train(model, optimizer, pilot, range(25), spoilt=20)
        ends.append((leaves(model.state_dict()), leaves(optimizer.state_dict()), leaves(torch.get_rng_state())))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_is_turned_and_comes_back_from_a_spoilt_step(name: str) -> None:
    """The rate moves; a step of NaN is undone with all that the optimizer counts; training then goes on and learns."""
    model = network()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    before = train(model, optimizer, None, range(0))
    pilot = trimtab.attach(optimizer, "hypergradient", model=model)
    after = train(model, optimizer, pilot, range(120), spoilt=60)
    if name not in UNMOVED:
        assert "the loss or the gradient is not finite" in {row["reason"] for row in pilot.trace.rows}
    assert after < before
    assert 1 < len({row["lr"] for row in pilot.trace.rows})
    numbers = [v for group in optimizer.param_groups for v in group.values() if isinstance(v, float)]
    assert not any(math.isnan(v) for v in numbers)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_letting_go_gives_the_user_s_rate_back(name: str) -> None:
    """After `disable` the rate is what it was, bit for bit, and no longer turned."""
    model = network()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    before = [group["lr"] for group in optimizer.param_groups]
    pilot = trimtab.attach(optimizer, "random", model=model)
    train(model, optimizer, pilot, range(15))
    assert before != [group["lr"] for group in optimizer.param_groups]
    pilot.disable()
    train(model, optimizer, pilot, range(15, 25))
    assert before == [group["lr"] for group in optimizer.param_groups]


def test_a_suggestion_is_told_in_words() -> None:
    """In "suggest" the pilot says what it would do."""
    model = network()
    optimizer = OPTIMIZERS["SGD"](list(model.parameters()))
    pilot = trimtab.attach(optimizer, "hypergradient", mode="suggest", model=model)
    train(model, optimizer, pilot, range(30))
    said = pilot.explain(last=1)
    assert "step 20  lr 5.0e-2 → " in said or "step 30  lr 5.0e-2 → " in said
    assert "because" in said


@pytest.mark.parametrize("controller", ["random", "hypergradient", "cosine", "trimtab-v1"])
def test_a_range_is_hard(controller: str) -> None:
    """No value of 200 steps leaves the knob's range, not even in a restore."""
    model = network()
    optimizer = OPTIMIZERS["SGD"](list(model.parameters()))
    knob = trimtab.Knob("lr", 0.03, 0.07, "log")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pilot = trimtab.attach(optimizer, controller, knobs=[knob], model=model, horizon=200)
    rates = []
    for number in range(200):
        train(model, optimizer, pilot, range(number, number + 1), spoilt=100)
        rates += pilot.get_last_lr()
    assert 0.03 - 1e-15 <= min(rates) < max(rates) <= 0.07 + 1e-15


@pytest.mark.parametrize("width", [10, 100, 1000])
def test_a_state_is_of_the_sites_not_of_the_model(width: int) -> None:
    """Without the guard's snapshot it is below 280 KiB a site, whatever the model's size; of which samples are most."""
    model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
    optimizer = torch.optim.AdamW(trimtab.groups(model), lr=1e-3)
    pilot = trimtab.attach(optimizer, "hypergradient", sites="groups", guard=trimtab.Guard(in_checkpoint=False))
    for number in range(12):
        loss = model(torch.randn(4, width, generator=torch.Generator().manual_seed(number))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    state = pilot.state_dict()
    samples, rest = size(state["gauge"]), size({name: entry for name, entry in state.items() if name != "gauge"})
    assert rest < 16_384 * 2
    assert samples <= 2 * 3 * 4 * 8_400 + 1024
    assert samples + rest < 280 * 1024 * 2


def size(tree: Any) -> int:
    """Add up a tree's bytes of tensors."""
    if isinstance(tree, dict):
        return sum(size(entry) for entry in tree.values())
    if isinstance(tree, list | tuple):
        return sum(size(entry) for entry in tree)
    return tree.numel() * tree.element_size() if isinstance(tree, Tensor) else 0
