"""Laws of ranks: what is spread over processes is decided alike on all of them.

Two processes over gloo; each test starts them once.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab import ranks

HEAD = """
import json, os, sys, math, warnings
import torch, trimtab
from torch import nn, distributed
rank, here = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{here}/meet", rank=rank, world_size=2)

def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

def batch(number, rank):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(2 * number + rank))
    return x, x.sum(1, keepdim=True)

def train(model, optimizer, pilot, steps, spoil=lambda number: False):
    for number in steps:
        x, y = batch(number, rank)
        loss = ((model(x) - y) ** 2).mean() * (math.nan if spoil(number) else 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)

def told(pilot, model):
    rows = [{k: v for k, v in row.items()} for row in pilot.trace.rows]
    return {"rows": rows, "sum": float(sum(p.detach().double().abs().sum() for p in model.parameters()))}

def say(**found):
    with open(f"{here}/rank{rank}.json", "w") as file:
        json.dump(found, file)
    distributed.barrier()
    distributed.destroy_process_group()
"""


def on_two(code: str, here: Path) -> list[Any]:
    """Run code on two ranks; give what each said."""
    (here / "run.py").write_text(HEAD + code)
    started = [
        subprocess.Popen(
            [sys.executable, str(here / "run.py"), str(rank), str(here)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=100)[1] for process in started]
    assert [0, 0] == [process.returncode for process in started], "\n".join(errors)
    return [json.loads((here / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_r15_ranks_under_ddp_decide_alike(tmp_path: Path) -> None:
    """Losses differ by rank, decisions do not; a NaN on one rank, or a loss that only one measures, reaches both.

    The gauge's squared gradient norm is the averaged gradient's; the validation loss is the mean over those that
    measured, and a rank that gives None waits for no other.
    """
    code = """
from torch.nn.parallel import DistributedDataParallel
found = {}
for name in ("plain", "nan", "validated"):
    model = DistributedDataParallel(network())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    controller = trimtab.controllers.Plateau(patience=1) if name == "validated" else "random"
    validate = (lambda: 1.0 if rank == 0 else None) if name == "validated" else None
    pilot = trimtab.attach(optimizer, controller, validate=validate, validate_every=10 if validate else None)
    own = []
    train(model, optimizer, pilot, range(60), spoil=lambda n: name == "nan" and rank == 1 and n == 33)
    found[name] = told(pilot, model) | {"restores": pilot.trace.restores}
signals = pilot.trace.decisions[-1][1].seen.signals
found["grad"] = [float(signals.grad_sq), sum(float(p.grad.double().square().sum()) for p in model.parameters())]
say(**found)
"""
    first, second = on_two(code, tmp_path)
    assert first == second
    assert (0, 1, 0) == tuple(first[name]["restores"] for name in ("plain", "nan", "validated"))
    assert {1.0, None} == {row["val_loss"] for row in first["validated"]["rows"]}
    assert first["validated"]["rows"][-1]["lr"] < 0.01
    assert first["grad"][0] == pytest.approx(first["grad"][1], rel=1e-5)


@pytest.mark.slow
def test_r15_ranks_under_fsdp2_see_the_whole_model(tmp_path: Path) -> None:
    """With sharded parameters readings are those of the same run on one process, restores included.

    Layer-wise too, where a rank holds nothing of a one-element bias. A distributed checkpoint resumes to the same end.
    """
    code = r"""
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

def made(shard):
    model = network()
    if shard:
        mesh = init_device_mesh("cpu", (2,))
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.AdamW(trimtab.groups(model, by=r"\d\.\w+", lr=0.01), lr=0.01, foreach=False)
    return model, optimizer, trimtab.attach(optimizer, "random", sites="groups")

def go(run, steps, shard):
    model, optimizer, pilot = run
    for number in steps:
        if shard:
            x, y = batch(number, rank)
        else:
            pairs = [batch(number, r) for r in range(2)]
            x, y = (torch.cat(part) for part in zip(*pairs))
        loss = ((model(x) - y) ** 2).mean()
        if number == 33:
            loss = loss * math.nan if rank == 1 or not shard else loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)

sharded = made(True)
go(sharded, range(45), True)
middle = {"pilot": sharded[2].state_dict()}
middle["model"], middle["optimizer"] = get_state_dict(sharded[0], sharded[1])
checkpoint.save(middle, checkpoint_id=here + "/dcp")
go(sharded, range(45, 60), True)
again = made(True)
template = {"pilot": again[2].state_dict() | {"snapshot": sharded[2].state_dict()["snapshot"]}}
template["model"], template["optimizer"] = get_state_dict(again[0], again[1])
checkpoint.load(template, checkpoint_id=here + "/dcp")
set_state_dict(again[0], again[1], model_state_dict=template["model"], optim_state_dict=template["optimizer"])
again[2].load_state_dict(template["pilot"])
go(again, range(45, 60), True)

def full(model):
    return [p.full_tensor().tolist() for p in model.parameters()]

ends = [full(sharded[0]), full(again[0])]
pilot_sites = list(sharded[2].trace.header.sites)
rows = [row for row in sharded[2].trace.rows]
last = [d.seen.signals for _, d in sharded[2].trace.decisions]
stats = [[s.grad_sq.tolist(), s.weight_sq.tolist(), s.update_sq.tolist(), s.losses.mean().item()] for s in last]
distributed.barrier()

# the same on one process: no process group is seen by it
trimtab.ranks.world = lambda: 1
import trimtab.gauge as gauge
import trimtab.pilot as pilot_module
gauge.averaged = lambda vector: vector
pilot_module.world = lambda: 1
single = made(False)
go(single, range(60), False)
alone = [d.seen.signals for _, d in single[2].trace.decisions]
alone = [[s.grad_sq.tolist(), s.weight_sq.tolist(), s.update_sq.tolist(), s.losses.mean().item()] for s in alone]
say(sites=pilot_sites, rows=rows, ends=ends, stats=stats, alone=alone, restores=sharded[2].trace.restores)
"""
    first, second = on_two(code, tmp_path)
    assert str(first) == str(second)
    assert ["0.weight", "0.bias", "2.weight", "2.bias"] == first["sites"]
    assert 1 == first["restores"]
    assert first["ends"][0] == first["ends"][1]
    assert len(first["stats"]) == len(first["alone"])
    for sharded, alone in zip(first["stats"], first["alone"], strict=True):
        torch.testing.assert_close(flat(sharded), flat(alone), rtol=2e-3, atol=1e-9, equal_nan=True)


def flat(entry: Any) -> torch.Tensor:
    """Join nested lists of numbers."""
    if isinstance(entry, list):
        return torch.cat([flat(part) for part in entry])
    return torch.tensor([math.nan if entry is None else entry], dtype=torch.float64)


def test_without_a_process_group_there_is_one_rank() -> None:
    """Nothing is reduced, nothing imported, and every tensor is whole."""
    vector = torch.ones(3)
    assert 1 == ranks.world()
    assert ranks.averaged(vector) is vector
    assert 2.5 == ranks.agreed(2.5)
    assert ("whole", None) == (ranks.share(None), ranks.shards([vector]))


def test_a_tensor_s_own_part_is_dense_and_real() -> None:
    """Sparse gradients are filled up, complex ones split in two."""
    sparse = torch.sparse_coo_tensor([[1]], [2.0], (3,), check_invariants=True)
    assert [0.0, 2.0, 0.0] == ranks.local(sparse).tolist()
    assert [[1.0, 2.0]] == ranks.local(torch.tensor([1 + 2j])).tolist()


def test_a_changed_number_of_ranks_warms_up_anew() -> None:
    """A checkpoint of two ranks loads on one: knobs stay where they were, features begin again, and it is said."""
    import trimtab

    def made() -> Any:
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return model, optimizer, trimtab.attach(optimizer, "random")

    model, optimizer, pilot = made()
    for _ in range(12):
        loss = model(torch.ones(2, 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    state = pilot.state_dict()
    part = state["gauge"].pop("whole")
    state["gauge"] = {"rank0of2": part, "rank1of2": part}
    state["world"] = 2
    _, _, fresh = made()
    with pytest.warns(RuntimeWarning, match="2 ranks became 1: features warm up anew"):
        fresh.load_state_dict(state)
    assert (pilot.get_last_lr(), 12) == (fresh.get_last_lr(), fresh.last_epoch)
    assert 0 == int(fresh.state_dict()["helm"]["memory"]["seen"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made()[2].load_state_dict(pilot.state_dict())
