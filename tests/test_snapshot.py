"""Laws of the snapshot: what is put back is what was held, bit for bit, in place, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from trimtab.average import Average
from trimtab.errors import StateError
from trimtab.snapshot import Snapshot

KINDS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "plain": lambda p: torch.optim.SGD(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


def network(kind: str = "") -> nn.Module:
    """Build a network with buffers, a frozen parameter and, where the optimizer can, channels_last weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    net[3].bias.requires_grad_(False)
    return net if kind == "lbfgs" else net.to(memory_format=torch.channels_last)


def go(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, steps: int) -> None:
    """Train."""
    for number in range(first, first + steps):
        x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(number))

        def closure(x: torch.Tensor = x) -> torch.Tensor:
            optimizer.zero_grad()
            loss = (net(x) - x.mean((1, 2, 3))[:, None]).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def picture(net: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """List weights, buffers and slots."""
    return str((net.state_dict(), optimizer.state_dict()["state"]))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_kept_comes_back(kind: str) -> None:
    """Weights, slots and buffers are as they were; training on gives what it gave then; tensors keep their place."""
    net = network(kind)
    optimizer = KINDS[kind](net.parameters())
    snapshot = Snapshot(optimizer, net)
    go(net, optimizer, 0, 3)
    snapshot.hold()
    snapshot.keep()
    before, places = picture(net, optimizer), [p.data_ptr() for p in net.parameters()]
    go(net, optimizer, 3, 3)
    after = picture(net, optimizer)
    assert before != after
    for _ in range(2):  # a snapshot can be used again
        snapshot.restore()
        assert before == picture(net, optimizer)
        assert places == [p.data_ptr() for p in net.parameters()]
        go(net, optimizer, 3, 3)
        assert after == picture(net, optimizer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_from_before_the_first_step_has_no_slots(kind: str) -> None:
    """Going back to the start makes the optimizer begin its slots anew."""
    net = network(kind)
    optimizer = KINDS[kind](net.parameters())
    snapshot = Snapshot(optimizer, net)
    snapshot.hold()
    snapshot.keep()
    go(net, optimizer, 0, 3)
    first = picture(net, optimizer)
    snapshot.restore()
    go(net, optimizer, 0, 3)
    assert first == picture(net, optimizer)


def test_without_a_model_buffers_are_left() -> None:
    """The optimizer knows no buffers: batch norm's statistics stay as they are."""
    net = network()
    optimizer = KINDS["sgd"](net.parameters())
    snapshot = Snapshot(optimizer, None)
    snapshot.hold()
    snapshot.keep()
    go(net, optimizer, 0, 2)
    mean = net[1].running_mean.clone()
    snapshot.restore()
    assert torch.equal(mean, net[1].running_mean)


def test_what_is_held_is_kept_only_when_told() -> None:
    """A state held and dropped, or held over, is not the snapshot."""
    net = network()
    optimizer = KINDS["sgd"](net.parameters())
    snapshot = Snapshot(optimizer, net)
    with pytest.raises(StateError, match="There is no snapshot to restore"):
        snapshot.restore()
    assert snapshot.kept is None
    snapshot.hold()
    snapshot.drop()
    snapshot.keep()
    assert snapshot.kept is None
    snapshot.hold()
    snapshot.keep()
    before = picture(net, optimizer)
    go(net, optimizer, 0, 1)
    snapshot.hold()
    snapshot.drop()
    snapshot.restore()
    assert before == picture(net, optimizer)
    assert not snapshot.begins()


def test_an_average_goes_back_with_its_weights() -> None:
    """What was averaged since the snapshot is taken back, buffers included; a snapshot without it is refused."""
    net = network()
    optimizer, average = KINDS["sgd"](net.parameters()), Average(net)
    snapshot = Snapshot(optimizer, net, average)

    def further(first: int) -> None:
        for step in range(first, first + 3):
            go(net, optimizer, step, 1)
            average.follow(step + 1)

    further(0)
    assert snapshot.begins()
    assert not snapshot.begins()
    before = [tensor.clone() for tensor in average.tensors()]
    further(3)
    assert not all(map(torch.equal, before, average.tensors()))
    after = [tensor.clone() for tensor in average.tensors()]
    snapshot.restore()
    assert all(map(torch.equal, before, average.tensors()))
    average.load_state_dict(average.state_dict(), 3)
    further(3)
    assert all(map(torch.equal, after, average.tensors()))
    kept = snapshot.kept
    assert kept is not None
    with pytest.raises(StateError, match="holds 0 average, this run has"):
        snapshot.check({name: part for name, part in kept.items() if name != "average"})


def test_a_held_state_shares_no_memory() -> None:
    """Neither training on nor restoring changes what is kept."""
    net = network()
    optimizer = KINDS["adamw"](net.parameters())
    snapshot = Snapshot(optimizer, net)
    go(net, optimizer, 0, 1)
    snapshot.hold()
    snapshot.keep()
    kept = copy.deepcopy(snapshot.kept)
    go(net, optimizer, 1, 2)
    snapshot.restore()
    go(net, optimizer, 1, 2)
    assert str(kept) == str(snapshot.kept)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda kept: kept["params"].pop(), r"holds 5 params, this run has 6, or their shapes differ"),
        (lambda kept: kept["params"].__setitem__(0, torch.ones(2)), r"holds 6 params, this run has 6, or their shapes"),
        (lambda kept: kept["buffers"].pop(), r"holds 2 buffers, this run has 3"),
        (lambda kept: kept["slots"].pop(), r"holds 6 params, and slots of 5"),
        (lambda kept: kept.pop("slots"), r"groups, buffers, average, got average, buffers, groups, params"),
    ],
)
def test_another_model_s_snapshot_is_refused(change: Any, words: str) -> None:
    """The error says what does not fit, and no weight has moved."""
    net = network()
    optimizer = KINDS["adamw"](net.parameters())
    snapshot = Snapshot(optimizer, net)
    snapshot.hold()
    snapshot.keep()
    go(net, optimizer, 0, 1)
    before = picture(net, optimizer)
    assert snapshot.kept is not None
    change(snapshot.kept)
    with pytest.raises(StateError, match=words):
        snapshot.restore()
    assert before == picture(net, optimizer)


def test_what_an_optimizer_counts_in_its_groups_goes_back_and_what_is_set_there_stays() -> None:
    """A count and an estimate are put back; a rate that somebody set since is not."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    group = optimizer.param_groups[0]
    group |= {"k": 3, "d": torch.tensor(0.5)}
    distance = group["d"]
    snapshot = Snapshot(optimizer, model)
    snapshot.hold()
    snapshot.keep()
    group |= {"k": 9, "lr": 0.7}
    distance.fill_(torch.nan)
    snapshot.restore()
    assert (3, 0.7, 0.5) == (group["k"], group["lr"], distance.item())
    assert group["d"] is distance
