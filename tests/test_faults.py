"""Laws of faults: what goes wrong in real runs is recovered from, or said; without the guard the same run is ruined.

Training is `digits-mlp-v1`'s; losses are on its validation split.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trimtab
from trimtab.errors import StateError
from trimtab.judgement import GLITCHES, REASONS, UNSOUND
from trimtab.stream import Stream
from trimtab.task import Batch
from trimtab.tasks.digits_mlp import DigitsMLP

TASK = DigitsMLP()
STEPS = 300


def val_loss(model: nn.Module) -> float:
    """Give the validation loss in evaluation mode."""
    x, y = TASK.data("val")
    model.eval()
    with torch.no_grad():
        loss = float(TASK.loss(model, Batch(x, y)))
    model.train()
    return loss


def train(kind: str, fault: str, *, guard: bool = True, every: int = 10, seed: int = 0, controller: str = "constant",
          model: nn.Module | None = None, protect: bool = True) -> tuple[float, Any]:  # fmt: skip
    """Train with one fault; give the validation loss at the end, and the pilot."""
    net = TASK.build(seed) if model is None else model
    lr = 1e3 if fault == "rate" else {"sgd": 0.1, "adam": 0.003}[kind]
    made = {"sgd": lambda: torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9),
            "adam": lambda: torch.optim.Adam(net.parameters(), lr=lr)}[kind]  # fmt: skip
    optimizer = made()
    pilot = trimtab.attach(
        optimizer, controller, guard=guard, every=every, horizon=STEPS, model=net if protect else None
    )
    stream, rng = Stream(TASK, [seed]), torch.Generator().manual_seed(seed)
    for number in range(STEPS):
        x, y, _ = stream.next()
        if fault == "batch" and number == 150:
            x = torch.full_like(x, math.inf)
        loss = TASK.loss(net, Batch(x[0], y[0]))
        optimizer.zero_grad()
        loss.backward()
        if fault == "gradients" and float(torch.rand((), generator=rng)) < 0.01:
            for parameter in net.parameters():
                parameter.grad.fill_(math.nan)
        optimizer.step()
        pilot.step(loss)
    return val_loss(net), pilot


def test_harm_of_the_first_steps_is_undone() -> None:
    """From a rate that does harm but explodes nothing, step 7 leads to the first weights, at a rate found since."""

    class Braking:
        """Comes down by a factor of ten at each of the first readings."""

        name, needs = "braking", frozenset()

        def prior(self, panel: Any, horizon: Any) -> None:
            """No schedule."""

        def start(self, panel: Any, members: int, sites: int) -> dict[str, Any]:
            """No memory."""
            return {}

        def act(self, seen: Any, state: Any) -> Any:
            """Brake while the clock is early."""
            return torch.full_like(seen.position, -1.0 if int(seen.signals.step) <= 7 else 0.0), state

    net = TASK.build(0)
    first = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.3)
    pilot = trimtab.attach(optimizer, Braking(), model=net)
    stream = Stream(TASK, [0])
    for _ in range(7):
        x, y, _ = stream.next()
        loss = TASK.loss(net, Batch(x[0], y[0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
        found = pilot.get_last_lr()[0]
    assert all(torch.equal(old, new.detach()) for old, new in zip(first, net.parameters(), strict=True))
    assert found < 0.03
    assert "the first steps did harm; back to the first weights, at the lr found since" in pilot.explain()


def learn_by_heart(guard: Any) -> tuple[list[float], Any]:
    """Fit forty noisy points by forty times as many weights; give the validation losses and the pilot."""
    draw = torch.Generator().manual_seed(0)
    x, noise = torch.randn(240, 4, generator=draw), torch.randn(240, generator=draw)
    y = x[:, 0] + noise
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    seen: list[float] = []

    def validate() -> float:
        with torch.no_grad():
            seen.append(float((net(x[40:]).squeeze(1) - y[40:]).square().mean()))
        return seen[-1]

    pilot = trimtab.attach(optimizer, "constant", horizon=STEPS * 3, guard=guard, validate=validate, validate_every=20)
    for _ in range(STEPS * 3):
        loss = (net(x[:40]).squeeze(1) - y[:40]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    validate()
    return seen, pilot


def test_a_run_that_learns_by_heart_ends_near_its_best() -> None:
    """With the guard the validation loss ends within a tenth of its lowest; without that law at twice it."""
    seen, pilot = learn_by_heart(trimtab.Guard())
    assert seen[-1] <= 1.1 * min(seen)
    assert pilot.trace.restores >= 1
    assert {"", "the validation loss rose"} == {row["reason"] for row in pilot.trace.rows}
    assert "the validation loss rose; back to the last good weights" in pilot.explain(last=1000)
    seen, pilot = learn_by_heart(trimtab.Guard(rise=None))
    assert seen[-1] > 2 * min(seen)
    assert 0 == pilot.trace.restores


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "every"), [("sgd", 10), ("adam", 10)])
def test_nan_gradients_at_one_step_in_a_hundred_are_survived(kind: str, every: int) -> None:
    """With the guard the loss ends within 1.5 times the clean run's; without it the weights are lost."""
    clean, _ = train(kind, "", every=every)
    guarded, pilot = train(kind, "gradients", every=every)
    ruined, _ = train(kind, "gradients", guard=False, every=every)
    assert pilot.trace.restores >= 1
    assert guarded <= 1.5 * clean
    assert math.isnan(ruined)
    assert {"", "the loss or the gradient is not finite"} == {row["reason"] for row in pilot.trace.rows}


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_batch_of_inf_is_survived(kind: str) -> None:
    """One batch of Inf costs what passed since the last snapshot, and no learning rate."""
    clean, _ = train(kind, "")
    guarded, pilot = train(kind, "batch")
    ruined, _ = train(kind, "batch", guard=False)
    assert 1 == pilot.trace.restores
    assert {"sgd": 0.1, "adam": 0.003}[kind] == pilot.get_last_lr()[0]
    assert guarded <= 1.5 * clean
    assert math.isnan(ruined)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_rate_of_a_thousand_is_brought_down(kind: str) -> None:
    """From a learning rate of 1000 the guard cuts until the run lives; without it the loss is in the thousands.

    The guard stops at a rate that does not explode: finding the best one is the controller's work.
    """
    guarded, pilot = train(kind, "rate", controller="linear")
    ruined, _ = train(kind, "rate", controller="linear", guard=False)
    assert 1 <= pilot.trace.restores <= 10
    assert guarded < 2.5 < 100 < ruined
    assert "restore" in {row["event"] for row in pilot.trace.rows}


def test_the_guard_gives_up_in_the_end() -> None:
    """Where every step spoils the run, tries are bounded, the weights are the snapshot's, and the trace says so."""
    net = TASK.build(0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    pilot = trimtab.attach(optimizer, "constant", every=1, guard=trimtab.Guard(tries=3))
    x, y = TASK.data("train")
    for number in range(20):
        loss = TASK.loss(net, Batch(x[:32], y[:32]))
        optimizer.zero_grad()
        loss.backward()
        if number > 3:
            net.hidden.weight.grad.fill_(math.nan)
        optimizer.step()
        pilot.step(loss)
    assert "gave up" in {row["event"] for row in pilot.trace.rows}
    assert pilot.trace.restores <= 3 + GLITCHES + 1


@pytest.mark.parametrize("controller", ["constant", "trimtab-v6"])
def test_a_change_of_the_data_is_trained_on(controller: str) -> None:
    """Labels that change for good make every loss far too high: the guard lets the run learn them at a useful rate."""
    net = TASK.build(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    pilot = trimtab.attach(optimizer, controller, horizon=900)
    stream = Stream(TASK, [0])
    losses = []
    for number in range(900):
        x, y, _ = stream.next()
        loss = TASK.loss(net, Batch(x[0], y[0] if number < 400 else (y[0] + 1) % 10))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
        losses.append(loss.item())
    assert max(losses[380:400]) < 1 < 5 < min(losses[400:403])
    assert sum(losses[-20:]) / 20 < 0.6
    assert "gave up" not in {row["event"] for row in pilot.trace.rows}
    assert REASONS[UNSOUND] in {row["reason"] for row in pilot.trace.rows}
    assert f"restore: {REASONS[UNSOUND]}; on from it, lr there × 0.25" in pilot.explain(60)


class Normed(nn.Module):
    """The task's network with batch norm before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 10))

    def forward(self, x: torch.Tensor, noise: Any = None) -> torch.Tensor:
        """Give logits."""
        return self.body(x)  # type: ignore[no-any-return]


def test_running_statistics_are_restored_with_the_model() -> None:
    """With `model=` batch norm's statistics come back too; without, they stay spoilt, and evaluation with them."""
    clean, _ = train("sgd", "", model=Normed())
    whole, _ = train("sgd", "batch", model=Normed())
    half, pilot = train("sgd", "batch", model=(net := Normed()), protect=False)
    assert 1 == pilot.trace.restores
    assert whole <= 1.5 * clean
    assert math.isnan(half)
    assert all(bool(parameter.isfinite().all()) for parameter in net.parameters())


def made(path: Path | None = None, controller: str = "random") -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    """Build a short run."""
    net = TASK.build(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    return net, optimizer, trimtab.attach(optimizer, controller, trace=path)


def advance(run: tuple[nn.Module, torch.optim.Optimizer, Any], steps: int) -> None:
    """Train on."""
    net, optimizer, pilot = run
    x, y = TASK.data("train")
    for _ in range(steps):
        loss = TASK.loss(net, Batch(x[:64], y[:64]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)


KILLED = """
import sys, torch, trimtab
from pathlib import Path
net = torch.nn.Linear(1000, 1000)
optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
pilot = trimtab.attach(optimizer, "random", every=1, trace=sys.argv[1] + "/trace.jsonl")
number = 0
while True:
    number += 1
    net.weight.grad = torch.full_like(net.weight, 1e-3)
    optimizer.step()
    pilot.step(1.0)
    pilot.save(sys.argv[1] + "/run.pt", {"model": net.state_dict(), "number": number})
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.013, 0.041])
def test_a_kill_in_the_middle_of_writing_leaves_whole_files(after: float, tmp_path: Path) -> None:
    """SIGKILL while checkpoint and trace are written leaves the last whole checkpoint, and a trace that reads.

    The next run appends to that trace, and goes on from that checkpoint.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    written = [int(process.stdout.readline()) for _ in range(3)]
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    written += [int(line) for line in process.stdout.read().split()]
    process.stdout.close()
    assert -signal.SIGKILL == process.wait()
    net = nn.Linear(1000, 1000)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    pilot = trimtab.attach(optimizer, "random", every=1, trace=tmp_path / "trace.jsonl")
    beside = pilot.load(tmp_path / "run.pt")
    net.load_state_dict(beside["model"])
    assert beside["number"] == pilot.last_epoch
    assert written[-1] <= pilot.last_epoch <= written[-1] + 1
    _, rows = trimtab.read_trace(tmp_path / "trace.jsonl")
    assert rows[-1]["step"] >= pilot.last_epoch


def test_a_torn_line_of_a_trace_is_mended(tmp_path: Path) -> None:
    """A trace cut at any byte of its last line reads up to the line before, and is appended to from there."""
    path = tmp_path / "trace.jsonl"
    run = made(path)
    advance(run, 12)
    run[2].trace.close()
    whole = path.read_bytes()
    for cut in (1, 20, 60):
        path.write_bytes(whole[:-cut])
        assert [1, 2, 4, 7] == [row["step"] for row in trimtab.read_trace(path)[1]]
        again = made(path)
        advance(again, 1)
        again[2].trace.close()
        assert [1, 2, 4, 7, 1] == [row["step"] for row in trimtab.read_trace(path)[1]]


def limited(code: str, tmp_path: Path, size: int) -> str:
    """Run code in a process that may write no file beyond `size` bytes, as on a full disk; give what it printed."""
    head = f"""
        import resource, signal, sys, warnings
        import torch, trimtab
        from pathlib import Path
        here = Path({str(tmp_path)!r})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        torch.manual_seed(0)
        net = torch.nn.Linear(30, 30)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        def full():
            resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
        def advance(pilot, steps):
            for _ in range(steps):
                optimizer.zero_grad()
                loss = net(torch.ones(2, 30)).square().mean()
                loss.backward()
                optimizer.step()
                pilot.step(loss)
    """
    script = textwrap.dedent(head) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """Where a checkpoint cannot be written, the error says so, the last one is whole, and no part lies about."""
    said = limited(
        """
        pilot = trimtab.attach(optimizer, "random")
        advance(pilot, 3)
        pilot.save(here / "run.pt", {"model": net.state_dict()})
        advance(pilot, 3)
        full()
        try:
            pilot.save(here / "run.pt", {"model": net.state_dict()})
        except trimtab.StateError as error:
            print(error)
        advance(pilot, 3)
        print(pilot.last_epoch)
        """,
        tmp_path,
        4096,
    )
    assert "run.pt cannot be written" in said
    assert "what was there before is untouched" in said
    assert said.endswith("\n9\n")
    assert ["run.pt"] == os.listdir(tmp_path)
    assert 3 == torch.load(tmp_path / "run.pt", weights_only=True)["pilot"]["step"]


@pytest.mark.slow
def test_a_full_disk_ends_the_trace_and_not_the_run(tmp_path: Path) -> None:
    """Where a trace cannot be written, one warning says so, the run goes on, and what was written reads."""
    said = limited(
        """
        warnings.simplefilter("always")
        pilot = trimtab.attach(optimizer, "random", trace=here / "trace.jsonl", every=1)
        full()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            advance(pilot, 40)
        print([str(w.message) for w in caught], pilot.last_epoch, len(pilot.trace.rows))
        """,
        tmp_path,
        3000,
    )
    assert 1 == said.count("cannot be written")
    assert "The run goes on without it." in said
    assert said.endswith(" 40 40\n")
    _, rows = trimtab.read_trace(tmp_path / "trace.jsonl")
    assert list(range(1, len(rows) + 1)) == [row["step"] for row in rows]
    assert 5 < len(rows) < 40


def state_of(run: Any) -> str:
    """List all that a refused load must leave."""
    net, optimizer, pilot = run
    return str((net.state_dict(), optimizer.state_dict(), pilot.state_dict()))


def test_a_damaged_checkpoint_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """A file cut off anywhere, an empty one, another program's and none at all: each is named in one sentence."""
    run = made()
    advance(run, 12)
    run[2].save(tmp_path / "run.pt", {"model": run[0].state_dict()})
    whole = (tmp_path / "run.pt").read_bytes()
    fresh = made()
    advance(fresh, 3)
    before = state_of(fresh)
    bad = tmp_path / "bad.pt"
    damaged = [whole[: len(whole) * n // 10] for n in range(10)] + [b"hello\n" * 50, b"\x80\x04."]
    for content in damaged:
        bad.write_bytes(content)
        with pytest.raises(
            StateError, match=r"bad.pt' cannot be read as a checkpoint .* Go back to an earlier one"
        ) as e:
            fresh[2].load(bad)
        assert "\n" not in str(e.value)
    with pytest.raises(StateError, match=r"There is no checkpoint at .*none.pt"):
        fresh[2].load(tmp_path / "none.pt")
    for foreign in ({"model": torch.ones(2)}, torch.ones(3), fresh[1].state_dict()):
        torch.save(foreign, bad)
        with pytest.raises(StateError, match=r"is no checkpoint of a pilot's: read it with torch.load"):
            fresh[2].load(bad)
    assert before == state_of(fresh)


def test_a_state_that_does_not_belong_is_refused_and_changes_nothing() -> None:
    """Another controller's, knobs', sites', model's, version's, schedule's; a scheduler's; one with a part missing."""
    run = made()
    advance(run, 25)
    before = state_of(run)
    mine = run[2].state_dict()

    def other(controller: Any = "random", **options: Any) -> Any:
        net = options.pop("net", None) or TASK.build(0)
        optimizer = torch.optim.AdamW(trimtab.groups(net, lr=0.01))
        kind = options.pop("schedule", None)
        pilot = trimtab.attach(optimizer, controller, schedule=None if kind is None else kind(optimizer, 3), **options)
        advance((net, optimizer, pilot), 12) if isinstance(net, type(TASK.build(0))) else None
        return pilot.state_dict()

    wide = nn.Linear(7, 7)
    cases = [
        (other("constant"), "controller must be 'random' as this pilot's, got 'constant'"),
        (other(knobs=("lr", "beta1")), r"knobs must be \['lr'\] as this pilot's, got \['lr', 'beta1'\]"),
        (other(sites="groups"), r"sites must be \['run'\]"),
        (other(schedule=torch.optim.lr_scheduler.StepLR), "another schedule, or around none: wrap the same one"),
        (other(), r"base must have 1 entries, got 2"),
        (other(net=wide), r"base must have 1 entries, got 2|must be of shape"),
        (mine | {"version": 99}, "This state is of version 99, this trimtab reads 1"),
        ({n: v for n, v in mine.items() if n != "gauge"}, "A pilot's state has"),
        ({"last_epoch": 3, "_step_count": 4}, "This is no pilot's state: it has no 'helm' and 'version'"),
        (None, "This is no pilot's state"),
        (mine | {"gauge": {"whole": {}}}, "gauge's whole must have"),
        (mine | {"step": "12"}, "step must be a int, got '12'"),
        (mine | {"helm": mine["helm"] | {"position": torch.zeros(2, 1, 1)}}, r"position must be of shape \[1, 1, 1\]"),
        (mine | {"snapshot": mine["snapshot"] | {"params": []}}, "was taken of another model"),
        (
            mine | {"snapshot": {"params": mine["snapshot"]["params"]}},
            "snapshot must have params, slots, groups, buffers, average, got average, params",
        ),
    ]
    for state, words in cases:
        with pytest.raises(StateError, match=words):
            run[2].load_state_dict(state)
        assert before == state_of(run)
    run[2].load_state_dict(mine)
    assert before == state_of(run)
