"""Benchmark: own twins against ``torch.optim``'s functional path, as rules of many members at once.

Two questions. Which knobs does torch's single-tensor path (``differentiable=True``) take as tensors, one value a
member, on a joined ``[B, n]`` buffer or under ``vmap``? And what does a step cost, each way?

    python benchmarks/rules.py [--members 64] [--size 2410] [--repeats 200] [--json FILE]

One torch thread. Set MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ to 1000000000 to keep glibc from handing memory
back to the system between steps and paying page faults for it again.

Letters: ``B`` members, ``n`` parameters of a member.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import adam, nadam, rmsprop, sgd
from torch.optim._muon import muon

from trimtab.rules import CATALOGUE, Rule, tangents

State = dict[str, Tensor]
Knobs = dict[str, Any]
ROWS = 10  # of Muon's matrices: n = ROWS * columns
SLOW = ("torch_loop", "torch_vmap")
START = {"sgd": {"momentum": 0.9}, "rmsprop": {"momentum": 0.9}}


def main() -> None:
    """Measure, print a table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--size", type=int, default=2410)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--json", type=str, help="write the rows here")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="There is a performance drop")  # vmap's, of in-place operations: measured
    rows = [measure(name, asked.members, asked.size, asked.repeats) for name in CATALOGUE]
    print(f"B={asked.members}, n={asked.size}, float32, one thread, torch {torch.__version__}: microseconds a step\n")
    print(table(rows))
    if asked.json:
        where = {"machine": platform.machine(), "torch": torch.__version__, "python": platform.python_version()}
        with open(asked.json, "w") as file:
            json.dump({**where, **vars(asked), "rows": rows}, file, indent=1)


def measure(name: str, members: int, size: int, repeats: int) -> dict[str, Any]:
    """Time one rule each way, and see which knobs torch's path takes."""
    rule = CATALOGUE[name](**START.get(name, {}))
    shape = (size,) if rule.elementwise else (ROWS, size // ROWS)
    rng = torch.Generator().manual_seed(0)
    param, grad = torch.randn(2, members, *shape, generator=rng)
    knobs = {knob: torch.full((members, *[1] * len(shape)), value) for knob, value in rule.defaults.items()}
    paths: dict[str, Callable[[], Any]] = {
        "twin_lr": twin(rule, param, grad, {"lr": knobs["lr"]}),
        "twin_all": twin(rule, param, grad, knobs),
        "torch_joined": torch_joined(rule, param, grad),
        "torch_loop": torch_loop(rule, param, grad),
    }
    found = coverage(rule)
    if "lr" in found["vmap"]:
        paths["torch_vmap"] = torch_vmap(rule, param, grad, found["vmap"])
    spent = interleaved(paths, repeats)
    slots = rule.start(param)
    spent["tangents_lr"] = timed(lambda: tangents(rule, grad, slots, param, knobs, ("lr",)), repeats)
    return {"rule": name, "knobs": list(rule.defaults), **spent, **found}


def twin(rule: Rule, param: Tensor, grad: Tensor, knobs: Knobs) -> Callable[[], Any]:
    """Give one step of the twin over all members, slots carried on."""
    slots = rule.start(param)

    def step() -> None:
        nonlocal slots
        _, slots = rule.update(grad, slots, param, knobs)

    return step


def torch_joined(rule: Rule, param: Tensor, grad: Tensor) -> Callable[[], Any]:
    """Give one step of torch's path over the joined buffer (Muon's: each matrix), every knob one number for all."""
    members = [(param, grad)] if rule.elementwise else list(zip(param, grad, strict=True))
    states = [start(rule, p) for p, _ in members]

    def step() -> None:
        for (p, g), state in zip(members, states, strict=True):
            # the path works in place, and a simulation needs the state before the step too
            copied = {name: slot.clone() for name, slot in state.items()}
            functional(rule, p.clone(), g, copied, rule.defaults)

    return step


def torch_vmap(rule: Rule, param: Tensor, grad: Tensor, knobs: list[str]) -> Callable[[], Any]:
    """Give one step of torch's path under vmap, those knobs each member's own that it takes so."""
    own = {name: torch.full((len(param),), rule.defaults[name]) for name in knobs}

    def one(p: Tensor, g: Tensor, values: Knobs) -> Tensor:
        p = p.clone()
        functional(rule, p, g, start(rule, p), {**rule.defaults, **values})
        return p

    return lambda: torch.func.vmap(one)(param, grad, own)


def torch_loop(rule: Rule, param: Tensor, grad: Tensor) -> Callable[[], Any]:
    """Give one step of ``B`` real optimizers, one after the other."""
    params = [torch.nn.Parameter(p.clone()) for p in param]
    for p, g in zip(params, grad, strict=True):
        p.grad = g
    optimizers = [rule.optimizer([p]) for p in params]
    return lambda: [optimizer.step() for optimizer in optimizers]


def coverage(rule: Rule) -> dict[str, list[str]]:
    """List the knobs that torch's path takes as tensors, with the right result: joined, and under vmap.

    Args:
        rule: the rule.

    Returns:
        Names by way; each way is tried with values that require a gradient and that do not, since torch's path branches
        on it, and counts if one of the two works.
    """
    found: dict[str, list[str]] = {"joined": [], "vmap": []}
    shape = (5,) if rule.elementwise else (3, 4)
    rng = torch.Generator().manual_seed(0)
    param, grad = torch.randn(2, 3, *shape, generator=rng, dtype=torch.float64)
    for knob, value in rule.defaults.items():
        scale = torch.tensor([0.5, 0.7, 0.9], dtype=torch.float64)
        own = scale * value if value else 0.1 * scale
        singles = [run(rule, p, g, knob, float(v)) for p, g, v in zip(param, grad, own, strict=True)]
        truth = torch.stack(singles)
        for way, call in (("joined", run_joined), ("vmap", run_vmap)):
            tries = [partial(call, rule, param, grad, knob, own.clone().requires_grad_(g)) for g in (False, True)]
            if any(is_right(attempt, truth) for attempt in tries):
                found[way].append(knob)
    return found


def is_right(call: Callable[[], Tensor], truth: Tensor) -> bool:
    """Say whether a call works and gives the truth."""
    try:
        made = call()
    except Exception:  # any failure counts as "not taken": shapes, data-dependent branches, in-place under vmap
        return False
    return made.shape == truth.shape and bool((made - truth).abs().max() < 1e-9)


def run_joined(rule: Rule, param: Tensor, grad: Tensor, knob: str, own: Tensor) -> Tensor:
    """Run members joined, one knob ``[B, 1]``."""
    return run(rule, param, grad, knob, own.reshape(-1, *[1] * (param.ndim - 1)))


def run_vmap(rule: Rule, param: Tensor, grad: Tensor, knob: str, own: Tensor) -> Tensor:
    """Run members under vmap, one knob each member's own."""
    made: Tensor = torch.func.vmap(lambda p, g, v: run(rule, p, g, knob, v))(param, grad, own)
    return made


def run(rule: Rule, param: Tensor, grad: Tensor, knob: str, value: float | Tensor) -> Tensor:
    """Take three steps of torch's path from `param` with one gradient, one knob set."""
    param, state = param.clone(), start(rule, param)
    for _ in range(3):
        functional(rule, param, grad, state, {**rule.defaults, knob: value})
    return param


def start(rule: Rule, param: Tensor) -> State:
    """Give the state that torch's path wants; the step is a plain 0-d tensor, shared by all members."""
    slots = {name: slot for name, slot in rule.start(param).items() if name not in ("started", "step", "mu_product")}
    product = torch.ones_like(param[..., :1] if rule.elementwise and param.ndim > 1 else param.sum())
    return {**slots, "step": torch.zeros((), dtype=torch.float64), "mu_product": product}


def functional(rule: Rule, param: Tensor, grad: Tensor, state: State, knobs: Knobs) -> None:
    """Take one step of torch's single-tensor path, in place."""
    PATHS[rule.name]([param], [grad], {name: [slot] for name, slot in state.items()}, dict(knobs))


def by_sgd(param: list[Tensor], grad: list[Tensor], state: dict[str, list[Tensor]], knobs: Knobs) -> None:
    """Step ``torch.optim.sgd.sgd``."""
    sgd.sgd(param, grad, state["momentum_buffer"], foreach=False, nesterov=False, maximize=False, **knobs)  # type: ignore[arg-type]


def by_adam(param: list[Tensor], grad: list[Tensor], state: dict[str, list[Tensor]], knobs: Knobs) -> None:
    """Step ``torch.optim.adam.adam``."""
    flags: Knobs = {"foreach": False, "differentiable": True, "amsgrad": False, "maximize": False}
    adam.adam(param, grad, state["exp_avg"], state["exp_avg_sq"], [], state["step"], **flags, **knobs)


def by_adamw(param: list[Tensor], grad: list[Tensor], state: dict[str, list[Tensor]], knobs: Knobs) -> None:
    """Step ``torch.optim.adam.adam`` with decoupled weight decay."""
    by_adam(param, grad, state, {**knobs, "decoupled_weight_decay": True})


def by_nadam(param: list[Tensor], grad: list[Tensor], state: dict[str, list[Tensor]], knobs: Knobs) -> None:
    """Step ``torch.optim.nadam.nadam``."""
    flags: Knobs = {"foreach": False, "differentiable": True}
    exp_avgs, exp_avg_sqs = state["exp_avg"], state["exp_avg_sq"]
    nadam.nadam(param, grad, exp_avgs, exp_avg_sqs, state["mu_product"], state["step"], **{**flags, **knobs})


def by_rmsprop(param: list[Tensor], grad: list[Tensor], state: dict[str, list[Tensor]], knobs: Knobs) -> None:
    """Step ``torch.optim.rmsprop.rmsprop``."""
    flags: Knobs = {"foreach": False, "differentiable": True, "centered": False}
    velocity = state["momentum_buffer"]
    rmsprop.rmsprop(param, grad, state["square_avg"], [], velocity, state["step"], **{**flags, **knobs})


def by_muon(param: list[Tensor], grad: list[Tensor], state: dict[str, list[Tensor]], knobs: Knobs) -> None:
    """Step ``torch.optim._muon.muon``."""
    rule = CATALOGUE["muon"]()
    names = ("nesterov", "ns_coefficients", "ns_steps", "adjust_lr_fn")
    flags = {name: getattr(rule, name) for name in names}
    muon(param, grad, state["momentum_buffer"], has_complex=False, **flags, **knobs)


PATHS: dict[str, Callable[..., None]] = {
    "sgd": by_sgd,
    "adam": by_adam,
    "adamw": by_adamw,
    "nadam": by_nadam,
    "rmsprop": by_rmsprop,
    "muon": by_muon,
}


def interleaved(paths: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Give each path's median microseconds, taken in five rounds by turns, so that a busy spell hits all of them."""
    rounds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(5):
        for name, path in paths.items():
            rounds[name].append(timed(path, max(3, repeats // (25 if name in SLOW else 5))))
    return {name: statistics.median(taken) for name, taken in rounds.items()}


def timed(call: Callable[[], Any], repeats: int) -> float:
    """Give a call's median microseconds."""
    taken = []
    for _ in range(repeats + 3):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return round(1e6 * statistics.median(taken[3:]), 1)


def table(rows: list[dict[str, Any]]) -> str:
    """Lay the rows out in Markdown."""
    head = (
        "rule",
        "twin, lr turned",
        "twin, all turned",
        "tangent by lr",
        "torch, numbers only",
        "torch, vmap",
        "B real optimizers",
    )
    lines = [[*head, "tensor knobs torch takes: joined", "under vmap"]]
    for row in rows:
        columns = ("twin_lr", "twin_all", "tangents_lr", "torch_joined", "torch_vmap", "torch_loop")
        times = [f"{row[name]:.0f}" if name in row else "-" for name in columns]
        taken = [
            f"{len(row[way])} of {len(row['knobs'])} ({', '.join(row[way]) or 'none'})" for way in ("joined", "vmap")
        ]
        lines.append([row["rule"], *times, *taken])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
