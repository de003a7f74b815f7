"""Benchmark: does teaching a policy inside the run that it controls help?

Two commands; rows go to ``results/online.jsonl``::

    OMP_NUM_THREADS=1 python benchmarks/online.py choose
    OMP_NUM_THREADS=1 python benchmarks/online.py measure digits-mlp-v1 energy-mlp-v1 digits-cnn-v1

`choose` tries settings of the teaching on examination lessons of teach-v1, from a card and from nothing, 7 initial
learning rates and 2 seeds each, and writes the geometric mean of regrets over lessons and rates, a row a setting.
`measure` takes the setting with the lowest one for each start, and runs the shipped tasks, which neither the card nor
the choice has seen: the frozen card, the card taught online, nothing (its prior schedule) and nothing taught online,
from 7 initial learning rates over six decades with 5 seeds. Regret is the mean final validation loss over that of the
best of 52 static runs (constant, cosine, WSD, OneCycle, each from 13 rates of the same six decades, the same seeds, no
guard). No controller sees a validation loss. The row `hindsight` says how short-sighted the one-step slope is: along
the constant schedule of the best rate and two rates about it, the share of readings at which it asks for a lower one.

Letters: ``B`` members, ``T`` steps.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rows import append, facts
from torch import Tensor

from trimtab.controller import Controller
from trimtab.controllers import CATALOGUE, Constant, Policy
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import Rollout, rollout
from trimtab.rules import SGD, AdamW, Rule
from trimtab.task import Task
from trimtab.tasks import task_named
from trimtab.teach import Distribution
from trimtab.teach.distribution import LR_RANGE, Lesson
from trimtab.teach.examination import Grids
from trimtab.teach.fitness import attempt
from trimtab.teach.online import OnlineTeaching

RESULTS = Path(__file__).parent.parent / "results" / "online.jsonl"
LR = Panel.of(["lr"])
SEEDS, STATIC = tuple(range(5)), ("constant", "cosine", "wsd", "onecycle")
STARTS, PEAKS = torch.logspace(-6, 0, 7, dtype=torch.float64), torch.logspace(-6, 0, 13, dtype=torch.float64)
SETTINGS = [
    {"lr": lr, "update_every": every, "anchor": anchor}
    for lr, every, anchor in itertools.product((0.001, 0.003, 0.01, 0.03, 0.1), (1, 4), (0.0, 10.0))
]


def main() -> None:
    """Choose or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["choose", "measure"])
    parser.add_argument("tasks", nargs="*", default=["digits-mlp-v1", "energy-mlp-v1", "digits-cnn-v1"])
    parser.add_argument("--card", type=Path, help="a card's file; the shipped trimtab-v1 by default")
    parser.add_argument("--lessons", type=int, default=16)
    parser.add_argument("--grids", type=Path, help="a file that keeps the lessons' static runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    card = _card(asked.card)
    if asked.what == "choose":
        rows = choices(card, asked.lessons, asked.grids)
    else:
        rows = (row for name in asked.tasks for row in measured(task_named(name), card, chosen(asked.results)))
    for row in rows:
        append(asked.results, row | {"card": _digest(card)} | facts())
        print(json.dumps(row), flush=True)


def choices(card: Policy, count: int, path: Path | None) -> Iterator[dict[str, Any]]:
    """Score settings on lessons that are never taught on; the first of each start is the frozen policy."""
    lessons, grids = Distribution().examined(count), Grids(LR, path)
    for start, policy in (("card", card), ("nothing", Policy.for_panel(LR))):
        for setting in [{"lr": 0.0, "update_every": 1, "anchor": 0.0}, *SETTINGS]:
            begin = time.perf_counter()
            teaching = OnlineTeaching(policy, **setting)  # type: ignore[arg-type]
            regrets = torch.stack([examined(teaching, lesson, grids) for lesson in lessons])
            grids.save()
            yield {
                **{"kind": "choice", "start": start, **setting, "lessons": count},
                **{"geometric_mean": float(regrets.mean().exp()), "median": float(regrets.median().exp())},
                **{"ninety": float(regrets.quantile(0.9).exp()), "seconds": round(time.perf_counter() - begin, 1)},
            }


@torch.no_grad()
def examined(controller: Controller, lesson: Lesson, grids: Grids) -> Tensor:
    """Give ``[7]`` log-regrets of one lesson, means of 2 seeds."""
    plant = Plant(lesson.task, lesson.rule, LR, needs=controller.needs)
    low, high = (math.log10(bound) for bound in LR_RANGE)
    starts = torch.logspace(low, high, 7, dtype=torch.float64)
    done, _ = attempt(lesson, plant, controller, starts.repeat_interleave(2)[:, None], lesson.seeds(2) * 7)
    return done.end.reshape(7, 2).mean(1) - grids.of(lesson).end


def chosen(path: Path) -> dict[str, dict[str, Any]]:
    """Give each start's setting with the lowest geometric mean of regrets, the frozen one left out."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = {}
    for start in ("card", "nothing"):
        tried = [row for row in rows if row["kind"] == "choice" and row["start"] == start and row["lr"] > 0]
        best = min(tried, key=lambda row: row["geometric_mean"])
        found[start] = {name: best[name] for name in ("lr", "update_every", "anchor")}
    return found


def measured(task: Task, card: Policy, settings: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Give a task's rows: the static runs, each arm, and how short-sighted the slope is."""
    base = {"task": task.name, "steps": task.horizon, "seeds": list(SEEDS)}
    static = {name: losses_of(task, run(task, CATALOGUE[name](), PEAKS)).mean(1) for name in STATIC}
    best, where = min((float(loss.nan_to_num(nan=math.inf).min()), name) for name, loss in static.items())
    rate = float(PEAKS[int(static[where].nan_to_num(nan=math.inf).argmin())])
    yield {"kind": "static", **base, "schedule": where, "lr": rate, "val_loss": best}
    nothing = Policy.for_panel(LR)
    arms: dict[str, tuple[Controller, dict[str, Any]]] = {
        "card, frozen": (card, {}),
        "card, online": (OnlineTeaching(card, **settings["card"]), settings["card"]),
        "nothing, frozen": (nothing, {}),
        "nothing, online": (OnlineTeaching(nothing, **settings["nothing"]), settings["nothing"]),
    }
    for arm, (controller, setting) in arms.items():
        begin = time.perf_counter()
        done = run(task, controller, STARTS, guard=Guard())
        yield {"kind": "arm", **base, "arm": arm, "setting": setting, **scores(task, done, best)} | {
            "seconds": round(time.perf_counter() - begin, 1)
        }
    peak = int(static["constant"].nan_to_num(nan=math.inf).argmin())
    yield {"kind": "hindsight", **base, **hindsight(task, PEAKS[[max(peak - 2, 0), peak, min(peak + 2, 12)]])}


@torch.no_grad()
def run(task: Task, controller: Controller, rates: Tensor, *, guard: Guard | None = None) -> Rollout:
    """Train every rate with every seed, at the task's horizon."""
    rule: Rule = SGD(momentum=0.9) if task.optimizer == "sgd" else AdamW()
    plant = Plant(task, rule, LR, needs=controller.needs)
    values = rates.repeat_interleave(len(SEEDS))[:, None, None]
    seeds = SEEDS * len(rates)
    return rollout(plant, controller, values, seeds=seeds, steps=task.horizon, horizon=task.horizon, guard=guard)


def losses_of(task: Task, done: Rollout) -> Tensor:
    """Give ``[rates, seeds]`` final losses on the whole validation split."""
    plant = Plant(task, SGD(), LR)
    return plant.evaluate(done.copies, plant.split("val"))[0].double().reshape(-1, len(SEEDS))


def scores(task: Task, done: Rollout, best: float) -> dict[str, Any]:
    """Sum up an arm: regrets by initial rate, their middle and their end, and the rates it used."""
    losses = losses_of(task, done)
    regrets = losses.mean(1) / best
    used = done.values[..., 0, 0].log10().reshape(len(done.values), -1, len(SEEDS))  # [T, rates, seeds]
    quarters = [float(used[round(share * (len(used) - 1))].median()) for share in (0.1, 0.25, 0.5, 0.75)]
    return {
        "median_regret": float(regrets.median()),
        "ninety": float(regrets.quantile(0.9)),
        "worst": float(regrets.max()),
        "regret_by_seed": (losses.median(0).values / best).tolist(),
        "regrets": regrets.tolist(),
        "val_losses": losses.tolist(),
        "log10_lr_at_0.1_0.25_0.5_0.75": quarters,
        "restores": float(done.state["guard"]["restores"].double().mean()),
    }


def hindsight(task: Task, rates: Tensor) -> dict[str, Any]:
    """Give the share of readings at which the one-step slope asks for a lower rate: ``[rates][quarters]``."""

    class Watched(Constant):
        """A constant that makes readings carry slopes."""

        needs = frozenset({"hypergrad"})

    done = run(task, Watched(), rates)
    slopes = torch.stack([d.seen.signals.hypergrad[:, 0, 0] for d in done.decisions[2:]])  # type: ignore[index]
    shares = [(part > 0).double().mean(0).reshape(-1, len(SEEDS)).mean(1) for part in slopes.chunk(4)]
    return {"rates": rates.tolist(), "share_asking_for_less_by_quarter": torch.stack(shares, 1).tolist()}


def _card(path: Path | None) -> Policy:
    from trimtab.controllers import card

    return card("trimtab-v1") if path is None else Policy.load(path)


def _digest(policy: Policy) -> str:
    parts: Sequence[bytes] = [w.detach().numpy().tobytes() for _, w in sorted(policy.named_parameters())]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


if __name__ == "__main__":
    main()
