"""Laws of knobs: whatever shapes a run can be turned while it runs, and a change is felt at the next step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset

import trimtab
from trimtab.errors import KnobError
from trimtab.fit.batch_size import ResizableBatches


class Run:
    """A classifier that shows every hyperparameter that people turn."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.dropout = nn.Dropout(0.2)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), self.dropout, nn.Linear(16, 4))
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
        self.clip, self.weight = 0.5, 0.1
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, weight_decay=0.01)

    def go(self, pilot: Any, steps: int) -> list[float]:
        """Train; give the losses."""
        losses = []
        for number in range(steps):
            rng = torch.Generator().manual_seed(number)
            x = torch.randn(32, 8, generator=rng)
            torch.manual_seed(number)  # dropout's masks depend on its rate alone
            out = self.model(x)
            penalty = sum(p.square().mean() for p in self.model.parameters())
            loss = self.criterion(out, x[:, :4].argmax(1)) + self.weight * penalty
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            if pilot is not None:
                pilot.step(loss)
            losses.append(loss.item())
        return losses


def of(run: Run, name: str) -> trimtab.Knob:
    """Give a knob for an attribute of the run's parts."""
    places: dict[str, tuple[Any, str, float, float, Any]] = {
        "dropout": (run.dropout, "p", 0.0, 0.8, "linear"),
        "label_smoothing": (run.criterion, "label_smoothing", 0.0, 0.3, "linear"),
        "clip_norm": (run, "clip", 0.01, 10.0, "log"),
        "loss_weight": (run, "weight", 1e-3, 10.0, "log"),
    }
    owner, field, low, high, scale = places[name]
    return trimtab.Knob(
        name, low, high, scale, get=lambda: getattr(owner, field), set=lambda value: setattr(owner, field, value)
    )


KNOBS: dict[str, tuple[Callable[[Run], trimtab.Knob | str], Callable[[Run], float]]] = {
    "weight_decay": (lambda run: "weight_decay", lambda run: run.optimizer.param_groups[0]["weight_decay"]),
    "beta1": (lambda run: "beta1", lambda run: run.optimizer.param_groups[0]["betas"][0]),
    "beta2": (lambda run: "beta2", lambda run: run.optimizer.param_groups[0]["betas"][1]),
    "eps": (lambda run: "eps", lambda run: run.optimizer.param_groups[0]["eps"]),
    "dropout": (lambda run: of(run, "dropout"), lambda run: run.dropout.p),
    "label_smoothing": (lambda run: of(run, "label_smoothing"), lambda run: run.criterion.label_smoothing),
    "clip_norm": (lambda run: of(run, "clip_norm"), lambda run: run.clip),
    "loss_weight": (lambda run: of(run, "loss_weight"), lambda run: run.weight),
}


@pytest.mark.parametrize("name", KNOBS)
def test_a_hyperparameter_is_turned_and_given_back(name: str) -> None:
    """It moves within its range, the run feels it, and `disable` puts it back bit for bit."""
    plain = Run().go(None, 30)
    run = Run()
    knob, read = KNOBS[name]
    before = read(run)
    pilot = trimtab.attach(run.optimizer, "random", knobs=[knob(run)], guard=False)
    turned = run.go(pilot, 30)
    (range_,) = pilot._helm.panel
    assert before != read(run)
    assert range_.low <= read(run) <= range_.high
    assert plain[0] == turned[0]
    assert plain != turned
    assert pilot.metrics()[f"trimtab/run/{name}"] == pytest.approx(read(run))
    pilot.disable()
    assert before == read(run)


def test_all_of_them_at_once_resume() -> None:
    """Eight knobs of one run, the user's own among them, come back from a state with their values."""
    run = Run()
    pilot = trimtab.attach(run.optimizer, "random", knobs=[knob(run) for knob, _ in KNOBS.values()])
    run.go(pilot, 25)
    again = Run()
    fresh = trimtab.attach(again.optimizer, "random", knobs=[knob(again) for knob, _ in KNOBS.values()])
    fresh.load_state_dict(pilot.state_dict())
    assert [read(run) for _, read in KNOBS.values()] == [read(again) for _, read in KNOBS.values()]


@pytest.mark.parametrize(("by", "names"), [("layer", 4), ("block", 2), (r"(weight|bias)", 2), ("run", 1)])
def test_a_knob_is_turned_by_layer_block_or_pattern(by: str, names: int) -> None:
    """Each site of `groups` goes its own way, under its own name."""
    torch.manual_seed(0)
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)) for _ in range(2))
    model = nn.ModuleDict({"blocks": blocks})
    optimizer = torch.optim.AdamW(trimtab.groups(model, by=by), lr=0.01, weight_decay=0.01)
    sites = "groups" if names > 1 else "run"
    pilot = trimtab.attach(optimizer, "random", sites=sites, knobs=("lr", "weight_decay"))
    for number in range(12):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(number))
        loss = (blocks[1](blocks[0](x)) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    assert names == len(optimizer.param_groups) == len(pilot.trace.header.sites)
    assert names == len({group["lr"] for group in optimizer.param_groups})
    assert names == len({group["weight_decay"] for group in optimizer.param_groups})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_every_example_comes_once_an_epoch_while_the_size_changes(workers: int) -> None:
    """However often the size changes, an epoch is every example once; workers bring a change a little later."""
    data = TensorDataset(torch.arange(500))
    batches = ResizableBatches(RandomSampler(data, generator=torch.Generator().manual_seed(0)), 8)
    sizes, seen = itertools.cycle([8, 3, 50.4, 1, 20]), []
    found = set()
    for (rows,) in DataLoader(data, batch_sampler=batches, num_workers=workers):
        seen += rows.tolist()
        found.add(len(rows))
        batches.resize(next(sizes))
    assert list(range(500)) == sorted(seen)
    assert {8, 3, 50, 1, 20} <= found


@pytest.mark.parametrize("drop", [False, True])
def test_without_a_change_batches_are_torch_s(drop: bool) -> None:
    """The same batches, as many, as `BatchSampler` gives."""
    plain = torch.utils.data.BatchSampler(SequentialSampler(range(23)), 5, drop_last=drop)
    batches = ResizableBatches(SequentialSampler(range(23)), 5, drop_last=drop)
    assert list(plain) == list(batches)
    assert len(plain) == len(batches)


def test_a_batch_size_is_a_knob_that_resumes() -> None:
    """It moves between its bounds, keeps its fraction for itself, and comes back from a state."""
    runs = []
    for state in (None, {}):
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        batches = ResizableBatches(range(100), 10)
        pilot = trimtab.attach(optimizer, "random", knobs=[batches.knob(4, 40)])
        runs.append((batches, pilot))
        if state is None:
            for _ in range(40):
                model(torch.ones(2, 3)).square().mean().backward()
                optimizer.step()
                pilot.step(1.0)
    (first, pilot), (second, fresh) = runs
    assert 10 != first.size
    fresh.load_state_dict(pilot.state_dict())
    assert first.size == second.size
    assert 4 <= first.size <= 40


@pytest.mark.parametrize("size", [0, 0.4, -3, float("nan")])
def test_a_batch_of_nothing_is_refused(size: float) -> None:
    """The error gives the size."""
    with pytest.raises(KnobError, match=r"A batch must have at least 1 example, got a size of"):
        ResizableBatches(range(5), size)
