"""Heat: one contender from every learning rate and seed of an entry, on the plant.

What the plant does is what a live run does (`docs/house.md`, the first law), at a tenth of the cost.

Letters: ``L`` learning rates, ``N`` seeds, ``B`` members, ``T`` steps, ``P`` points of a curve.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.bench.anylr.suite import Entry
from trimtab.controller import Controller
from trimtab.controllers import Policy
from trimtab.copies import Copies
from trimtab.guard import Guard
from trimtab.hypergrad import estimator_of
from trimtab.knobs import STANDARD, Panel
from trimtab.plant import Plant
from trimtab.rollout import Voyage
from trimtab.sites import sites_of
from trimtab.stream import Stream

POINTS = 20
LOOKS = 20  # at the validation split in a run, where the controller sees it
MOST = 140  # members at a time: more do not go faster


@dataclass(frozen=True)
class Course:
    """What came of a heat.

    Attributes:
        finals: ``[L, N]`` scored loss at the end; NaN or infinite where lost.
        curve: ``[P + 1, L]`` scored loss over the run, mean over seeds, step 0 first.
        chance: scored loss before the first step, mean over seeds.
        restores: ``[L]`` how often the guard went back, all seeds together.
        values: ``[T, L]`` learning rates in force, geometric mean over seeds; of several sites, over them too.
        seconds: of one core.
    """

    finals: Tensor
    curve: Tensor
    chance: float
    restores: Tensor
    values: Tensor
    seconds: float


@torch.no_grad()
def drive(
    entry: Entry,
    controller: Controller,
    lrs: tuple[float, ...],
    seeds: tuple[int, ...],
    *,
    by: str = "run",
    every: int = 10,
    has_guard: bool = True,
    sees_val: bool = False,
    averages: bool | None = None,
) -> Course:
    """Let a controller take an entry's members through their runs.

    Args:
        entry: what to train.
        controller: decides.
        lrs: to begin from.
        seeds: of weights and data order.
        by: what is a site: "run", "layer" or "block".
        every: steps between decisions.
        has_guard: whether the guard watches.
        sees_val: whether the controller sees the validation split's first half, twenty times.
        averages: whether an average of the weights is kept, seen and scored; None: where the controller needs it.

    Returns:
        What came of it.
    """
    begin = time.process_time()
    panel = panel_for(entry, controller)
    sites = None if by == "run" else sites_of(entry.task.build(0), by)
    plant = Plant(entry.task, entry.twin(), panel, sites=sites, every=every, estimator=estimator_of(controller))
    looks = max(every, entry.steps // LOOKS // every * every) if sees_val else None
    guard = Guard() if has_guard else None
    voyage = Voyage(plant, controller, horizon=entry.steps, guard=guard, validate_every=looks, averages=averages)
    parts = []
    share = max(1, MOST // len(lrs))
    for first in range(0, len(seeds), share):
        some = seeds[first : first + share]
        parts.append(_members(entry, plant, voyage, starts(entry, panel, lrs, len(some), len(plant.sites)), some, lrs))
    finals, curves, restores, values = (torch.cat(part, -1) for part in zip(*parts, strict=True))
    return Course(
        finals,
        curves.mean(-1),
        float(curves[0].mean()),
        restores.sum(-1),
        values.log().mean(-1).exp(),
        time.process_time() - begin,
    )


def panel_for(entry: Entry, controller: Controller) -> Panel:
    """Give the knobs: what a policy was taught on, by the names that the entry's optimizer has, else the rate."""
    if not isinstance(controller, Policy):
        return Panel.of(["lr"])
    known = entry.twin().defaults
    other = {"momentum": "beta1", "beta1": "momentum"}
    return Panel.of([STANDARD[name if name in known else other.get(name, name)] for name in controller.spec["knobs"]])


def starts(entry: Entry, panel: Panel, lrs: tuple[float, ...], seeds: int, sites: int) -> Tensor:
    """Give ``[B, S, K]`` where knobs begin: the learning rates, each `seeds` times; others at the rule's default."""
    defaults = entry.twin().defaults
    columns = [
        torch.tensor(lrs, dtype=torch.float64)
        if knob.name == "lr"
        else torch.full((len(lrs),), max(float(defaults[knob.name]), knob.low), dtype=torch.float64)
        for knob in panel
    ]
    return torch.stack(columns, -1).repeat_interleave(seeds, 0)[:, None].expand(-1, sites, -1)


def _members(
    entry: Entry, plant: Plant, voyage: Voyage, values: Tensor, seeds: tuple[int, ...], lrs: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give finals ``[L, N]``, curves ``[P + 1, L, N]``, restores ``[L, N]`` and rates ``[T, L, N]``."""
    scored, shape = entry.task.scored(), (len(lrs), len(seeds))
    passage = voyage.begin(values, seeds * len(lrs))
    curve, used = [_score(plant, passage.copies, scored)], []
    for point in range(1, POINTS + 1):
        steps = round(entry.steps * point / POINTS) - passage.step
        passage, done = voyage.advance(passage, steps)
        curve.append(_score(plant, passage.result, scored))
        used.append(done.values[..., plant.panel.names.index("lr")].log().mean(2).exp())
    guarded = passage.state.get("guard")
    restores = torch.zeros(len(values)) if guarded is None else guarded["restores"].float()
    curves = torch.stack(curve).reshape(-1, *shape)
    return curves[-1], curves, restores.reshape(shape), torch.cat(used).reshape(-1, *shape)


@torch.no_grad()
def replay(entry: Entry, values: Tensor, seeds: tuple[int, ...], *, averages: bool = False) -> Course:
    """Train on learning rates known beforehand, without guard or controller.

    Args:
        entry: what to train.
        values: ``[T, L]``, one column a course; each is run with every seed.
        seeds: of weights and data order.
        averages: whether the weights are read at an average.

    Returns:
        What came of it, ``L`` courses for learning rates.
    """
    begin = time.process_time()
    plant = Plant(entry.task, entry.twin(), Panel.of(["lr"]))
    courses, scored = values.shape[1], entry.task.scored()
    table = values.repeat_interleave(len(seeds), 1)[:, :, None, None]
    every = seeds * courses
    stream, copies = Stream(entry.task, every), plant.start(every)
    copies = copies.averaging() if averages else copies
    marks = {round(entry.steps * point / POINTS) for point in range(1, POINTS + 1)}
    curve = [_score(plant, copies, scored)]
    for number, now in enumerate(table, 1):
        before = copies.average
        copies, _, _, _ = plant.step(copies, now, stream.next(), number, None)
        copies = copies if before is None else copies.following(before, torch.tensor([number]))
        if number in marks:
            curve.append(_score(plant, copies, scored))
    curves = torch.stack(curve).reshape(POINTS + 1, courses, len(seeds))
    return Course(
        curves[-1],
        curves.mean(-1),
        float(curves[0].mean()),
        torch.zeros(courses),
        values,
        time.process_time() - begin,
    )


def _score(plant: Plant, copies: Copies, data: tuple[Tensor, Tensor]) -> Tensor:
    """Give ``[B]`` scored losses, float64; what is no number is infinite."""
    losses = plant.evaluate(copies, data)[0].double()
    return torch.nan_to_num(losses, nan=math.inf, posinf=math.inf)
