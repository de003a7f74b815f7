"""Laws of runs over several processes, under torchrun and gloo: DDP, FSDP2, their checkpoints, an elastic restart.

What one process says of ranks without a launcher is in `tests/test_ranks.py`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HEAD = """
import json, math, os, sys, warnings
import torch, trimtab
from torch import nn, distributed
from pathlib import Path

here, phase = Path(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo")
rank, world = distributed.get_rank(), distributed.get_world_size()
NAMES = ("grad_sq", "weight_sq", "update_sq", "drift_sq", "last_grad_sq")
DOTS = {
    "grad_dot_update": ("grad_sq", "update_sq"), "grad_dot_last_grad": ("grad_sq", "last_grad_sq"),
    "last_grad_dot_update": ("last_grad_sq", "update_sq"), "grad_dot_drift": ("grad_sq", "drift_sq"),
}

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))

def batch(number):
    "This rank's part of a joined batch of 32."
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(number)).chunk(world)[rank]
    return x, x.sin().sum(1, keepdim=True)

def statistics(pilot):
    "Squared norms, dots in shares of their norms, and the mean loss, reading by reading."
    found = []
    for _, decision in pilot.trace.decisions:
        s = decision.seen.signals
        row = {name: getattr(s, name)[0].tolist() for name in NAMES}
        for name, (a, b) in DOTS.items():
            scale = (getattr(s, a) * getattr(s, b)).sqrt().clamp(min=1e-30)
            row[name] = (1 + getattr(s, name) / scale)[0].tolist()
        found.append(row | {"loss": s.losses[0].tolist()})
    return found

def weights(model):
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return torch.cat([p.detach().flatten() for p in whole]).tolist()

def say(**found):
    (here / f"{phase}-{world}-{rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()
"""


def launch(code: str, here: Path, phase: str = "run", ranks: int = 2) -> list[Any]:
    """Run code under torchrun; give what each rank said."""
    program = here / f"program_{phase}.py"  # a name that shadows no framework
    program.write_text(HEAD + code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(
        [*command, str(program), str(here), phase],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert 0 == done.returncode, done.stderr[-4000:]
    return [json.loads((here / f"{phase}-{ranks}-{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give `launch` in a folder a program, and each of a program's phases once: starting two ranks takes seconds."""
    folders: dict[str, Path] = {}
    found: dict[tuple[str, str, int], list[Any]] = {}

    def run(code: str, phase: str = "run", ranks: int = 2) -> list[Any]:
        folder = folders.setdefault(code, tmp_path_factory.mktemp("ranks"))
        if (code, phase, ranks) not in found:
            found[code, phase, ranks] = launch(code, folder, phase, ranks)
        return found[code, phase, ranks]

    return run


def numbers(tree: Any) -> list[float]:
    """List the numbers of a tree; NaN and None as -1, so that they compare."""
    if isinstance(tree, dict):
        return [x for entry in tree.values() for x in numbers(entry)]
    if isinstance(tree, list):
        return [x for entry in tree for x in numbers(entry)]
    return [-1.0 if tree is None or math.isnan(tree) else float(tree)]


DDP = """
from torch.nn.parallel import DistributedDataParallel

def counted():
    "Count every collective that Python code asks for; DDP's own are below Python."
    count = {"all": 0}
    def wrapped(call):
        def run(*args, **kwargs):
            count["all"] += 1
            return call(*args, **kwargs)
        return run
    for name in ("all_reduce", "all_gather", "broadcast", "reduce", "gather", "all_gather_object", "all_to_all",
                 "broadcast_object_list", "reduce_scatter", "barrier", "all_gather_into_tensor"):
        setattr(distributed, name, wrapped(getattr(distributed, name)))
    return count

model = DistributedDataParallel(network())
optimizer = torch.optim.AdamW(trimtab.groups(model, by="layer", lr=3e-3))
pilot = trimtab.attach(optimizer, "random", sites="groups", model=model)
first, last = (20, 40) if phase == "again" else (0, 20)
told = []
if phase == "again":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        beside = pilot.load(here / ("saved-run-2.pt" if world == 1 else "saved-run-1.pt"))
    told = [str(w.message) for w in caught]
    model.load_state_dict(beside["model"])
    optimizer.load_state_dict(beside["optimizer"])
before = pilot.get_last_lr()
count, calls = counted(), []
for number in range(first, last):
    x, y = batch(number)
    loss = (model(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    had = count["all"]
    if phase == "spoilt" and number == 12 and rank == 1:
        loss = loss * math.inf
    optimizer.step()
    pilot.step(loss)
    calls.append(count["all"] - had)
agreed = [trimtab.ranks.agreed(x) for x in (1.0 + rank, 4.0 if rank == 0 else math.nan)]
if rank == 0:
    pilot.save(here / f"saved-{phase}-{world}.pt", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
say(statistics=statistics(pilot), rows=[dict(row) for row in pilot.trace.rows], calls=calls, before=before, told=told,
    after=pilot.get_last_lr(), weights=weights(model), restores=pilot.trace.restores, steps=pilot.last_epoch,
    agreed=agreed, memory=int(pilot.state_dict()["helm"]["memory"]["seen"]))
"""


def test_two_ranks_under_ddp_are_one_process_on_the_joined_batch(launched: Any) -> None:
    """Decisions are identical on both; every statistic is the joined batch's to 1e-5; a decision costs one collective.

    The steps between cost none.
    """
    first, second = launched(DDP)
    (alone,) = launched(DDP, ranks=1)
    assert first["rows"] == second["rows"]
    assert first["weights"] == second["weights"]
    assert numbers(first["statistics"]) == pytest.approx(numbers(alone["statistics"]), rel=1e-5)
    assert first["after"] == pytest.approx(alone["after"], rel=1e-5)
    readings = [1, 2, 4, 7, 10, 20]
    assert [int(number in readings) for number in range(1, 21)] == first["calls"]
    assert [0] * 20 == alone["calls"]
    assert [1.5, 4.0] == first["agreed"] == second["agreed"]


def test_a_flag_of_one_rank_is_every_rank_s(launched: Any) -> None:
    """A loss that is infinite on one rank, and never on the other, sends both back."""
    first, second = launched(DDP, "spoilt")
    assert launched(DDP)[0]["restores"] + 1 == first["restores"] == second["restores"]
    assert first["rows"] == second["rows"]
    assert first["weights"] == second["weights"]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_an_elastic_restart_with_another_world_size(before: int, after: int, launched: Any) -> None:
    """Two ranks' checkpoint goes on with one, and one's with two: knobs stay, features warm up anew, and it is said."""
    left = launched(DDP, ranks=before)
    found = launched(DDP, "again", ranks=after)
    for rank in found:
        assert [f"{before} ranks became {after}: features warm up anew."] == rank["told"]
        assert left[0]["after"] == rank["before"]
        assert 40 == rank["steps"]
        assert found[0]["rows"] == rank["rows"]
        assert len(rank["rows"]) == 2 * 3  # steps 30 and 40, three layers


FSDP = """
from torch.distributed import checkpoint
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode

def made(piloted=True):
    model = network()
    mesh = init_device_mesh("cpu", (world,))
    for layer in (model[0], model[2], model[4], model):
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.AdamW(trimtab.groups(model, by="layer", lr=3e-3), foreach=False)
    guard = trimtab.Guard(in_checkpoint=False)
    return model, optimizer, trimtab.attach(optimizer, "random", sites="groups", guard=guard) if piloted else None

def go(run, steps):
    model, optimizer, pilot = run
    calls = []
    for number in steps:
        x, y = batch(number)
        with CommDebugMode() as communication:
            loss = (model(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if phase == "spoilt" and number == 12 and rank == 1:
                loss = loss * math.inf
            optimizer.step()
            if pilot is not None:
                pilot.step(loss)
        calls.append(communication.get_total_counts())
    return calls

def template(run):
    state = {"pilot": run[2].state_dict()}
    state["model"], state["optimizer"] = get_state_dict(run[0], run[1])
    return state

run = made()
told = []
if phase == "again":
    state = template(run)
    planner = DefaultLoadPlanner(allow_partial_load=True)
    checkpoint.load(state, checkpoint_id=here / "dcp-run-2", planner=planner)
    set_state_dict(run[0], run[1], model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run[2].load_state_dict(state["pilot"])
    told = [str(w.message) for w in caught]
    start = weights(run[0])
    lr = run[2].get_last_lr()
    go(run, range(20, 40))
    say(told=told, start=start, before=lr, rows=[dict(row) for row in run[2].trace.rows], steps=run[2].last_epoch)
else:
    calls, bare = go(run, range(20)), go(made(False), range(20))
    shard = sum(t.to_local().numel() if hasattr(t, "to_local") else t.numel() for t in run[2]._snapshot.kept["params"])
    whole = sum(p.numel() for p in run[0].parameters())
    lr, reached = run[2].get_last_lr(), weights(run[0])
    checkpoint.save(template(run), checkpoint_id=here / f"dcp-{phase}-{world}")
    say(statistics=statistics(run[2]), rows=[dict(row) for row in run[2].trace.rows], calls=calls, bare=bare,
        weights=reached, restores=run[2].trace.restores, shares=shard / whole, after=lr)
"""


def test_two_ranks_under_fsdp2_are_one_process_on_the_joined_batch(launched: Any) -> None:
    """The same with sharded parameters; a rank's snapshot is its own shards; a decision costs one collective more."""
    first, second = launched(FSDP)
    (alone,) = launched(FSDP, ranks=1)
    assert first["rows"] == second["rows"]
    assert numbers(first["statistics"]) == pytest.approx(numbers(alone["statistics"]), rel=1e-5)
    assert 1 == pytest.approx(first["shares"] + second["shares"])
    assert 0.4 < first["shares"] < 0.7
    more = [a - b for a, b in zip(first["calls"], first["bare"], strict=True)]
    assert [int(number in (1, 2, 4, 7, 10, 20)) for number in range(1, 21)] == more


def test_a_flag_of_one_rank_restores_every_shard(launched: Any) -> None:
    """A loss that is infinite on one rank sends both back, each to its own shards."""
    first, second = launched(FSDP, "spoilt")
    assert launched(FSDP)[0]["restores"] + 1 == first["restores"] == second["restores"]
    assert first["weights"] == second["weights"]
    assert all(map(math.isfinite, first["weights"]))


def test_a_distributed_checkpoint_of_two_ranks_goes_on_with_one(launched: Any) -> None:
    """Weights and knobs are those that were saved, features warm up anew, and decisions come at their steps."""
    two, _ = launched(FSDP)
    (one,) = launched(FSDP, "again", ranks=1)
    assert two["weights"] == one["start"]
    assert two["after"] == one["before"]
    assert ["2 ranks became 1: features warm up anew."] == one["told"]
    assert [30, 30, 30, 40, 40, 40] == [row["step"] for row in one["rows"]]
    assert 40 == one["steps"]


FRAMEWORKS = """
warnings.simplefilter("ignore")
STEPS = 12

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, labels):
        return {"loss": (self.net(x) - labels).square().mean()}

def piloted(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return optimizer, trimtab.attach(optimizer, "random", every=4)

def plain():
    model = Model()
    optimizer, pilot = piloted(model)
    for number in range(STEPS):
        loss = model(*batch(number))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    return pilot

def lightning():
    from lightning.pytorch import LightningModule, Trainer
    from trimtab.fit.lightning import PilotCallback

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Model()

        def training_step(self, given):
            return self.model(*given)["loss"]

        def configure_optimizers(self):
            optimizer, self.pilot = piloted(self.model)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.pilot, "interval": "step"}}

    module = Module()
    trainer = Trainer(max_steps=STEPS, accelerator="cpu", devices=2, strategy="ddp", use_distributed_sampler=False,
                      callbacks=[PilotCallback()], logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(module, torch.utils.data.DataLoader([batch(n) for n in range(STEPS)], batch_size=None))
    return module.pilot

def fabric():
    from lightning.fabric import Fabric

    strong = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    strong.launch()
    raw = Model()
    optimizer, pilot = piloted(raw)
    model, stepper = strong.setup(raw, optimizer)
    for number in range(STEPS):
        loss = model(*batch(number))["loss"]
        stepper.zero_grad()
        strong.backward(loss)
        stepper.step()
        pilot.step(loss)
    return pilot

def transformers():
    from transformers import Trainer, TrainingArguments
    from trimtab.fit.transformers import PilotCallback

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            for number in range(STEPS):
                x = torch.randn(32, 6, generator=torch.Generator().manual_seed(number))
                yield from ({"x": row, "labels": row.sin().sum(0, keepdim=True)} for row in x)

    model = Model()
    optimizer, pilot = piloted(model)
    arguments = TrainingArguments(str(here), max_steps=STEPS, per_device_train_batch_size=16, max_grad_norm=0.0,
                                  use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True,
                                  ddp_backend="gloo", accelerator_config={"dispatch_batches": False})
    Trainer(model, arguments, train_dataset=Stream(), optimizers=(optimizer, pilot),
            callbacks=[PilotCallback(pilot)]).train()
    return pilot

def accelerate():
    from accelerate import Accelerator
    from trimtab.fit.accelerate import PilotSteps

    accelerator = Accelerator(cpu=True)
    raw = Model()
    optimizer, pilot = piloted(raw)
    steps = PilotSteps(accelerator, pilot)
    model, stepper = accelerator.prepare(raw, optimizer)
    for number in range(STEPS):
        loss = model(*batch(number))["loss"]
        stepper.zero_grad()
        accelerator.backward(loss)
        stepper.step()
        steps.step(loss)
    return pilot

pilot = {"plain": plain, "lightning": lightning, "fabric": fabric, "transformers": transformers,
         "accelerate": accelerate}[phase]()
say(statistics=statistics(pilot), rows=[dict(row) for row in pilot.trace.rows], steps=pilot.last_epoch)
"""


@pytest.mark.parametrize("name", ["lightning", "fabric", "transformers", "accelerate"])
def test_a_framework_s_two_ranks_are_one_process_on_the_joined_batch(name: str, launched: Any) -> None:
    """Decisions are identical on both ranks, and every statistic is the plain, single run's to 1e-5."""
    first, second = launched(FRAMEWORKS, name)
    (alone,) = launched(FRAMEWORKS, "plain", ranks=1)
    assert first["rows"] == second["rows"]
    assert 12 == first["steps"] == alone["steps"]
    assert numbers(first["statistics"]) == pytest.approx(numbers(alone["statistics"]), rel=1e-5)
