"""Benchmark: does teaching a policy inside the run that it controls help?

Two commands; rows go to ``results/online.jsonl``::

    OMP_NUM_THREADS=1 python benchmarks/online.py choose [--estimator one-step-validation]
    OMP_NUM_THREADS=1 python benchmarks/online.py measure digits-mlp-v1 energy-mlp-v1 digits-cnn-v1

`choose` tries settings of the teaching on examination lessons of teach-v1, from a card and from nothing, 7 initial
learning rates and 2 seeds each, and writes the geometric mean of regrets over lessons and rates, a row a setting; a
setting with a row is not tried again. `measure` takes, for each start and estimator, the setting with the lowest one,
and runs the shipped tasks, which neither the card nor the choice has seen: policies frozen and taught online, from a
card and from nothing (an untaught policy frozen is its prior schedule), and, without any policy, a knob that descends
the one-step slope itself, from 7 initial learning rates over six decades
with 5 seeds. Regret is the mean final loss over that of the best of 52 static runs (constant, cosine, WSD, OneCycle,
each from 13 rates of the same six decades, the same seeds, no guard), on the second half of the validation split; only
held-out slopes see the first. The row `hindsight` says how short-sighted the one-step slope is: along constant
schedules at the best rate, a tenth and ten times of it, the share of readings at which it asks for a lower rate.

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
from trimtab.controllers import CATALOGUE, Constant, KnobDescent, Policy
from trimtab.guard import Guard
from trimtab.hypergrad import Estimator, OneStep, OneStepValidation, estimator_of
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
    {"lr": lr, "update_every": every, "anchor": 0.0}
    for lr, every in itertools.product((0.001, 0.003, 0.01, 0.03), (1, 4, 16))
]
ESTIMATORS = {estimator.name: estimator for estimator in (OneStep(), OneStepValidation())}
FROZEN = {"lr": 0.0, "update_every": 1, "anchor": 0.0}


def main() -> None:
    """Choose or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["choose", "measure"])
    parser.add_argument("tasks", nargs="*", default=["digits-mlp-v1", "energy-mlp-v1", "digits-cnn-v1"])
    parser.add_argument("--card", type=Path, help="a card's file; the shipped trimtab-v1 by default")
    parser.add_argument("--estimator", choices=ESTIMATORS, default="one-step", help="to choose settings for")
    parser.add_argument("--lessons", type=int, default=16)
    parser.add_argument("--grids", type=Path, help="a file that keeps the lessons' static runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    card = _card(asked.card)
    if asked.what == "choose":
        rows = choices(card, ESTIMATORS[asked.estimator], asked.lessons, asked.grids, known(asked.results))
    else:
        settings = chosen(asked.results)
        rows = (row for name in asked.tasks for row in measured(task_named(name), card, settings))
    for row in rows:
        append(asked.results, row | {"card": _digest(card)} | facts())
        print(json.dumps(row), flush=True)


def choices(
    card: Policy, estimator: Estimator, count: int, path: Path | None, done: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Score settings on lessons that are never taught on; the first of each start is the frozen policy."""
    lessons, grids = Distribution().examined(count), Grids(LR, path)
    for start, setting in itertools.product(("card", "nothing"), [FROZEN, *SETTINGS]):
        policy = card if start == "card" else Policy.for_panel(LR)
        tried = {"kind": "choice", "start": start, "estimator": estimator.name, **setting}
        if any({"estimator": "one-step", **row}.items() >= tried.items() for row in done):
            continue
        begin = time.perf_counter()
        teaching = OnlineTeaching(policy, estimator, **setting)  # type: ignore[arg-type]
        regrets = torch.stack([examined(teaching, lesson, grids) for lesson in lessons])
        grids.save()
        yield {
            **{**tried, "lessons": count, "geometric_mean": float(regrets.mean().exp())},
            **{"median": float(regrets.median().exp()), "ninety": float(regrets.quantile(0.9).exp())},
            "seconds": round(time.perf_counter() - begin, 1),
        }


def known(path: Path) -> list[dict[str, Any]]:
    """Give the rows that there are; hashable entries only, all that a choice is told by."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [row for row in rows if row["kind"] == "choice"]


@torch.no_grad()
def examined(controller: Controller, lesson: Lesson, grids: Grids) -> Tensor:
    """Give ``[7]`` log-regrets of one lesson, means of 2 seeds."""
    plant = Plant(lesson.task, lesson.rule, LR, estimator=estimator_of(controller))
    low, high = (math.log10(bound) for bound in LR_RANGE)
    starts = torch.logspace(low, high, 7, dtype=torch.float64)
    done, _ = attempt(lesson, plant, controller, starts.repeat_interleave(2)[:, None], lesson.seeds(2) * 7)
    return done.end.reshape(7, 2).mean(1) - grids.of(lesson).end


def chosen(path: Path) -> dict[str, tuple[str, Estimator, dict[str, Any]]]:
    """Give each arm taught online: its start, estimator, and the setting with the lowest geometric mean of regrets."""
    found: dict[str, tuple[str, Estimator, dict[str, Any]]] = {}
    for start, estimator in itertools.product(("card", "nothing"), ESTIMATORS.values()):
        tried = [row for row in known(path) if row["start"] == start and row["lr"] > 0]
        tried = [row for row in tried if row.get("estimator", "one-step") == estimator.name]
        if tried:
            best = min(tried, key=lambda row: row["geometric_mean"])
            setting = {name: best[name] for name in ("lr", "update_every", "anchor")}
            found[f"{start}, {estimator.name}"] = (start, estimator, setting)
    return found


def measured(
    task: Task, card: Policy, settings: dict[str, tuple[str, Estimator, dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """Give a task's rows: the static runs, each arm, and how short-sighted the slope is."""
    base = {"task": task.name, "steps": task.horizon, "seeds": list(SEEDS)}
    static = {name: losses_of(task, run(task, CATALOGUE[name](), PEAKS)).mean(1) for name in STATIC}
    static = {name: losses.nan_to_num(nan=math.inf) for name, losses in static.items()}
    best, where = min((float(losses.min()), name) for name, losses in static.items())
    rate = float(PEAKS[int(static[where].argmin())])
    yield {"kind": "static", **base, "schedule": where, "lr": rate, "loss": best}
    starts = {"card": card, "nothing": Policy.for_panel(LR)}
    arms: dict[str, tuple[Controller, dict[str, Any]]] = {f"{name}, frozen": (p, {}) for name, p in starts.items()}
    arms["slope alone"] = (KnobDescent(), {})
    arms |= {arm: (OnlineTeaching(starts[name], e, **s), s) for arm, (name, e, s) in settings.items()}
    for arm, (controller, setting) in arms.items():
        begin = time.perf_counter()
        done = run(task, controller, STARTS, guard=Guard())
        seconds = round(time.perf_counter() - begin, 1)
        yield {"kind": "arm", **base, "arm": arm, "setting": setting, **scores(task, done, best), "seconds": seconds}
    peak = int(static["constant"].argmin())
    yield {"kind": "hindsight", **base, **hindsight(task, PEAKS[[max(peak - 2, 0), peak, min(peak + 2, 12)]])}


@torch.no_grad()
def run(task: Task, controller: Controller, rates: Tensor, *, guard: Guard | None = None) -> Rollout:
    """Train every rate with every seed, at the task's horizon."""
    rule: Rule = SGD(momentum=0.9) if task.optimizer == "sgd" else AdamW()
    plant = Plant(task, rule, LR, estimator=estimator_of(controller))
    values = rates.repeat_interleave(len(SEEDS))[:, None, None]
    seeds = SEEDS * len(rates)
    return rollout(plant, controller, values, seeds=seeds, steps=task.horizon, horizon=task.horizon, guard=guard)


def losses_of(task: Task, done: Rollout) -> Tensor:
    """Give ``[rates, seeds]`` final losses on the second half of the validation split."""
    plant = Plant(task, SGD(), LR)
    x, y = (part[len(part) // 2 :] for part in plant.split("val"))
    return plant.evaluate(done.copies, (x, y))[0].double().reshape(-1, len(SEEDS))


def scores(task: Task, done: Rollout, best: float) -> dict[str, Any]:
    """Sum up an arm: regrets over initial rates, each seed's median, and the rates it used on the way."""
    losses = losses_of(task, done)
    regrets = losses.mean(1) / best
    used = done.values[..., 0, 0].log10()  # [T, B]
    return {
        "median_regret": float(regrets.median()),
        "ninety": float(regrets.quantile(0.9)),
        "worst": float(regrets.max()),
        "median_by_seed": (losses.median(0).values / best).tolist(),
        "regrets": regrets.tolist(),
        "losses": losses.tolist(),
        "log10_lr": {str(at): float(used[round(at * (len(used) - 1))].median()) for at in (0.1, 0.25, 0.5, 0.75, 1.0)},
        "restores": float(done.state["guard"]["restores"].double().mean()),
    }


def hindsight(task: Task, rates: Tensor) -> dict[str, Any]:
    """Give the share of readings at which the one-step slope asks for a lower rate: ``[rates][quarters]``."""

    class Watched(Constant):
        """A constant that makes readings carry slopes."""

        needs = frozenset({"hypergrad"})

    done = run(task, Watched(), rates)
    slopes = torch.stack([d.seen.signals.hypergrad[:, 0, 0] for d in done.decisions[2:]])  # type: ignore[index]
    told = torch.where(slopes.isfinite(), (slopes > 0).double(), torch.nan)  # a run that diverged says nothing
    shares = [part.reshape(len(part), -1, len(SEEDS)).nanmean((0, 2)).tolist() for part in told.chunk(4)]
    by_rate = [[None if math.isnan(x) else x for x in row] for row in zip(*shares, strict=True)]
    return {"rates": rates.tolist(), "share_asking_for_less_by_quarter": by_rate}


def _card(path: Path | None) -> Policy:
    from trimtab.controllers import card

    return card("trimtab-v1") if path is None else Policy.load(path)


def _digest(policy: Policy) -> str:
    parts: Sequence[bytes] = [w.detach().numpy().tobytes() for _, w in sorted(policy.named_parameters())]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


if __name__ == "__main__":
    main()
