"""Contenders: who takes part in a race, and how often each may decide.

A contender's name is a controller's or a shipped card's, or ``plain-`` and a schedule's for the same schedule by
``torch.optim.lr_scheduler`` without any pilot, or ``card:`` and a file for the policy taught there. A controller's or a
card's may have ``@layer`` or ``@block`` behind it, and then decides for every layer or block on its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from trimtab.controller import Controller
from trimtab.controllers import CATALOGUE, Policy, controller_named, shipped
from trimtab.controllers.cards import DEFAULT as USUAL
from trimtab.errors import TaskError
from trimtab.knobs import Panel

PLAIN = "plain-"
CARD = "card:"
LAYERS = "trimtab-layer-v1"  # the shipped card that was taught layer by layer
EVERY = 10
CADENCE = {"hypergradient": 1}  # the rule as published acts at every step
OPEN_LOOP = ("constant", "cosine", "wsd", "onecycle", "linear")
DEFAULT = (*OPEN_LOOP, "plateau", "greedy", "hypergradient", USUAL, "plain-constant")


@dataclass(frozen=True)
class Contender:
    """One who takes part.

    Attributes:
        name: what tables call it.
        controller: a controller's name, or one made by the caller; None: torch's own schedule, without a pilot.
        every: steps between decisions.
        by: what decides on its own: "run", "layer" or "block".
    """

    name: str
    controller: str | Controller | None
    every: int = EVERY
    by: str = "run"

    def make(self) -> Controller | None:
        """Make a controller for one run; None without a pilot."""
        if isinstance(self.controller, str):
            return _made(self.controller)
        return self.controller

    def scheduler(self, optimizer: Optimizer, lr: float, steps: int) -> LRScheduler | None:
        """Make torch's own scheduler on the run's optimizer; None with a pilot.

        Args:
            optimizer: the run's.
            lr: the initial learning rate, of a schedule the peak.
            steps: the run's length.

        Returns:
            The scheduler, or None.
        """
        return None if self.controller is not None else PLAINS[self.name](optimizer, lr, steps)


def contender_named(name: str) -> Contender:
    """Make a contender.

    Args:
        name: see the head of this file.

    Returns:
        It, at the defaults of its kind.

    Raises:
        TaskError: nothing has that name; says what comes close. Or there is no such card.

    Example:
        >>> contender_named("hypergradient").every, contender_named("plain-cosine").controller
        (1, None)
    """
    if name in PLAINS:
        return Contender(name, None)
    if name.startswith(CARD):
        return _taught(name)
    base, _, by = name.partition("@")
    if by not in ("", "layer", "block"):
        raise TaskError(f"A contender may end in '@layer' or '@block', got {name!r}.")
    if base not in {"policy", *CATALOGUE, *shipped()}:
        _look_up(name, base)
    usual = "layer" if base == LAYERS else "run"
    return Contender(name, base, CADENCE.get(base, EVERY), by or usual)


def known() -> tuple[str, ...]:
    """Give the names that need nothing installed beside trimtab."""
    return (*sorted({*CATALOGUE, "policy"}), *shipped(), *PLAINS)


def _taught(name: str) -> Contender:
    """Make a contender of a card; its name becomes the file's, for it names files in turn."""
    path, _, by = name.removeprefix(CARD).rpartition("@")
    if not path or by not in ("layer", "block"):
        path, by = name.removeprefix(CARD), ""
    try:
        policy = Policy.load(path)
    except FileNotFoundError:
        raise TaskError(f"There is no card at {path!r}; `trimtab teach` writes one.") from None
    return Contender(f"card-{Path(path).stem}{by and f'@{by}'}", policy, EVERY, by or "run")


def _look_up(name: str, base: str) -> None:
    """Let an installed package's controller pass, and say which names come close where there is none."""
    try:
        controller_named(base)
    except TaskError:
        close = difflib.get_close_matches(name, known())
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known are {', '.join(known())}."
        raise TaskError(f"No controller is named {name!r}: {hint}") from None


def _made(name: str) -> Controller:
    # What `attach` takes for knobs without a card: untaught, it plays its prior schedule.
    return Policy.for_panel(Panel.of(["lr"])) if name == "policy" else controller_named(name)


def _constant(optimizer: Optimizer, lr: float, steps: int) -> LRScheduler:
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def _cosine(optimizer: Optimizer, lr: float, steps: int) -> LRScheduler:
    rise = round(0.05 * steps)
    tail = CosineAnnealingLR(optimizer, steps - rise)
    if rise == 0:
        return tail
    return SequentialLR(optimizer, [LinearLR(optimizer, 1 / (rise + 1), 1.0, rise), tail], [rise])


def _linear(optimizer: Optimizer, lr: float, steps: int) -> LRScheduler:
    return LinearLR(optimizer, 1.0, 0.0, steps)


def _onecycle(optimizer: Optimizer, lr: float, steps: int) -> LRScheduler:
    return OneCycleLR(optimizer, max_lr=lr, total_steps=steps, cycle_momentum=False)


def _wsd(optimizer: Optimizer, lr: float, steps: int) -> LRScheduler:
    rise = round(0.05 * steps)
    fall = min(round(0.2 * steps), steps - rise)
    return LambdaLR(optimizer, lambda i: min((i + 1) / (rise + 1), 1.0, 1.0 - (i - (steps - fall)) / max(fall, 1)))


PLAINS: dict[str, Callable[[Optimizer, float, int], LRScheduler]] = {
    "plain-constant": _constant,
    "plain-cosine": _cosine,
    "plain-wsd": _wsd,
    "plain-onecycle": _onecycle,
    "plain-linear": _linear,
}
"""Torch's own schedules by name, with the settings that the controllers of the same name have."""
