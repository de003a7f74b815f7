"""Field: who takes part in an any-lr bench, and what each heat gives as rows.

Letters: ``L`` learning rates, ``N`` seeds, ``T`` steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimtab.bench.anylr.heat import Course, drive, replay
from trimtab.bench.anylr.peers import PEERS, compete
from trimtab.bench.anylr.suite import LRS, Entry
from trimtab.bench.contender import CADENCE, EVERY, LAYERS
from trimtab.bench.run import settings
from trimtab.controller import Controller
from trimtab.controllers import Policy, controller_named
from trimtab.controllers.cards import card, shipped

STATIC = ("constant", "cosine", "wsd", "onecycle")
FREE = ("hypergradient", "greedy", "random")
VAL, REPLAY, PATHS, AVERAGE = "+val", "+replay", "+paths", "+average"


@dataclass(frozen=True)
class Heat:
    """One contender on one entry; pickled small.

    Attributes:
        suite: the suite's name.
        entry: the entry's name.
        contender: whose turn.
        card: the file of weights where the contender is a card of the user's own.
        lrs: to begin from.
        seeds: of weights and data order.
        shorter: divides the entry's steps.
    """

    suite: str
    entry: str
    contender: str
    card: str | None
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    shorter: int = 1

    @property
    def key(self) -> str:
        """Name the heat: the same for the same runs."""
        lrs = f"{len(self.lrs)}lrs{self.lrs[0]:.3g}-{self.lrs[-1]:.3g}"
        what = "" if self.card is None else "." + settings(Policy.load(self.card)).rpartition(" ")[2]
        name = self.contender.partition("+")[0]
        if self.card is None and name in shipped():
            what = "." + settings(card(name)).rpartition(" ")[2]
        return f"{self.suite}.{self.entry}.{self.contender}{what}.{lrs}.{len(self.seeds)}seeds.{self.shorter}"

    def controller(self) -> Controller:
        """Make who decides."""
        name = self.contender.partition("+")[0]
        return controller_named(name) if self.card is None else Policy.load(self.card)


def contenders(cards: tuple[Path, ...]) -> tuple[tuple[str, str | None], ...]:
    """List who takes part: names, each with its file where it is a card of the user's own.

    Args:
        cards: files of weights beside the shipped ones.

    Returns:
        Schedules, at their last weights and at averages, rules, peers, then each card without and with validation, and
        its replays.
    """
    taught: list[tuple[str, str | None]] = [(name, None) for name in shipped()]
    taught += [(path.stem, str(path)) for path in cards]
    averaged = [name + AVERAGE for name in STATIC]
    plain: list[tuple[str, str | None]] = [(name, None) for name in (*STATIC, *averaged, *FREE, *PEERS)]
    return (*plain, *((name + kind, file) for name, file in taught for kind in ("", VAL)))


def run_heat(heat: Heat, entry: Entry) -> list[dict[str, Any]]:
    """Run a heat.

    Args:
        heat: who.
        entry: on what.

    Returns:
        A row for each learning rate (None for a peer), without its origin; a card's without validation are followed by
        those of its replays.
    """
    if heat.contender in PEERS:
        return _rows(heat, entry, heat.contender, compete(entry, heat.contender, heat.seeds), (None,))
    name = heat.contender.partition("+")[0]
    controller = heat.controller()
    done = drive(
        entry,
        controller,
        heat.lrs,
        heat.seeds,
        by="layer" if name == LAYERS else "run",
        every=CADENCE.get(name, EVERY),
        has_guard=name not in STATIC,
        sees_val=heat.contender.endswith(VAL),
        averages=True if heat.contender.endswith(AVERAGE) else None,
    )
    rows = _rows(heat, entry, heat.contender, done, heat.lrs)
    is_global = isinstance(controller, Policy) and controller.spec["knobs"] == ["lr"] and name != LAYERS
    if not is_global or heat.contender.endswith((VAL, AVERAGE)):
        return rows
    mean, averages = done.values.log().mean(1, keepdim=True).exp(), "average" in controller.needs
    for name, values, lrs in ((REPLAY, mean, (None,)), (PATHS, done.values, heat.lrs)):
        played = replay(entry, values, heat.seeds, averages=averages)
        rows += _rows(heat, entry, heat.contender + name, played, lrs)
    return rows


def _rows(
    heat: Heat, entry: Entry, contender: str, done: Course, lrs: tuple[float | None, ...]
) -> list[dict[str, Any]]:
    """Give a row a learning rate."""
    return [
        {
            "suite": heat.suite,
            "task": heat.entry,
            "contender": contender,
            "key": heat.key,
            "lr": lr,
            "steps": entry.steps,
            "rule": entry.rule,
            "seeds": list(heat.seeds),
            "finals": _plain(done.finals[place]),
            "curve": _plain(done.curve[:, place]),
            "restores": int(done.restores[place]),
            "schedule": _plain(_thinned(done.values[:, place])),
            "core_seconds": round(done.seconds / len(lrs), 2),
        }
        for place, lr in enumerate(lrs)
    ]


def _thinned(values: Tensor) -> Tensor:
    """Give a learning rate's course at the curve's points."""
    return values[torch.linspace(0, len(values) - 1, 21).round().long()]


def _plain(numbers: Tensor) -> list[float | None]:
    """Give numbers to five digits; None for what is not finite."""
    return [float(f"{number:.5g}") if math.isfinite(number) else None for number in numbers.tolist()]


def field(
    suite: str, entries: tuple[Entry, ...], cards: tuple[Path, ...], *, seeds: int, lrs: tuple[float, ...] = LRS,
    shorter: int = 1,
) -> list[Heat]:  # fmt: skip
    """List all heats.

    Args:
        suite: the suite's name.
        entries: of it.
        cards: of the user's own.
        seeds: at most, each entry has its own bound.
        lrs: to begin from.
        shorter: divides the steps.

    Returns:
        Them, entry by entry.
    """
    return [
        Heat(suite, entry.name, name, file, lrs, tuple(range(min(seeds, entry.seeds))), shorter)
        for entry in entries
        for name, file in contenders(cards)
    ]
