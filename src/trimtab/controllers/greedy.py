"""Raise the learning rate while the loss falls, lower it while it does not.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``V`` the smoothing window in readings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.controller import State
from trimtab.controllers.feedback import Memory, lr_position, pay, start_owing, watch
from trimtab.errors import KnobError
from trimtab.knobs import Panel
from trimtab.signals import Observation


@dataclass(frozen=True)
class Greedy:
    """Divides the learning rate by `factor` after improvements in a row, multiplies by it after as many failures.

    More than `patience` readings in a row with a new best loss raise it; as many without one lower it. `reset` cuts in
    a row at the lower bound send it back to where it began. It watches the validation loss in a run that measures one,
    else the mean training loss since the last reading. All sites are turned alike.

    GreedyLR, Subramanian & Ganapathiraman 2025, arXiv:2512.14527, as ``transformers.optimization.GreedyLR`` (v5), mode
    "min", threshold_mode "abs". Differs from the source: counts readings, not evaluations; the bounds are the knob's
    range, not 1e-3 and 1; no `eps` below which a change is left out; a change takes several readings where the knob's
    rate asks for it; the window's mean is summed afresh, so that a loss that is not finite leaves with the window.

    Args:
        factor: the step, in (0, 1).
        patience: readings in a row, good or bad, that are let pass.
        threshold: absolute, in the loss's own unit: a loss below ``best - threshold`` is an improvement.
        warmup: readings ignored after a raise.
        cooldown: readings ignored after a cut.
        window: readings that the loss is averaged over; 1 is none (the source's `smooth=False`).

    Raises:
        KnobError: an argument is outside its range.

    Example:
        >>> Greedy(window=3).start(Panel.of(["lr"]), members=2, sites=1)["window"].shape
        torch.Size([2, 3])
    """

    factor: float = 0.95
    patience: int = 10
    threshold: float = 1e-6
    warmup: int = 0
    cooldown: int = 0
    window: int = 1
    reset: int = 500
    name = "greedy"
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not 0 < self.factor < 1:
            raise KnobError(f"Controller 'greedy' needs `factor` in (0, 1), got {self.factor}.")
        if not 0 <= self.threshold < math.inf:
            raise KnobError(f"Controller 'greedy' needs a finite `threshold >= 0`, got {self.threshold}.")
        counts = {"patience": 0, "warmup": 0, "cooldown": 0, "window": 1, "reset": 1}
        for field, low in counts.items():
            if getattr(self, field) < low:
                raise KnobError(f"Controller 'greedy' needs `{field} >= {low}`, got {getattr(self, field)}.")

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give None: the constant 1."""
        return None

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give the memory to begin with.

        Args:
            panel: the knobs, the learning rate among them.
            members: ``B``.
            sites: ``S``.

        Returns:
            ``best`` ``[B]``; ``good``, ``bad``, ``warming``, ``cooling``, ``lives`` ``[B]`` int64; ``window``
            ``[B, V]``, NaN where still empty; ``home`` ``[B, S]`` the first position, NaN before it; and the debt.
        """
        zero = torch.zeros(members, dtype=torch.int64)
        return {
            "best": torch.full((members,), math.inf, dtype=torch.float64),
            "good": zero,
            "bad": zero.clone(),
            "warming": zero.clone(),
            "cooling": zero.clone(),
            "lives": zero + self.reset,
            "window": torch.full((members, self.window), math.nan, dtype=torch.float64),
            "held": zero.clone(),
            "home": torch.full((members, sites), math.nan, dtype=torch.float64),
            **start_owing(panel, members, sites, self.name),
        }

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Count this reading, and pay what is owed; see :class:`trimtab.controller.Controller`."""
        loss, counts, smoothed = self._smooth(seen, state)
        is_cooling = counts & (state["cooling"] > 0)
        is_warming = counts & ~is_cooling & (state["warming"] > 0)
        judges = counts & ~is_cooling & ~is_warming
        is_better = judges & (loss < state["best"] - self.threshold)
        is_worse = judges & ~is_better
        best = torch.where(is_better, loss, state["best"])
        good = torch.where(is_better, state["good"] + 1, torch.where(counts, 0, state["good"]))
        bad = torch.where(is_worse, state["bad"] + 1, torch.where(counts, 0, state["bad"]))
        rises, falls = good > self.patience, bad > self.patience
        place = lr_position(seen, state)
        home = torch.where(state["home"].isnan(), place, state["home"])
        change = math.log(self.factor) * (falls.to(place) - rises.to(place))
        owed = state["owed"] + change[:, None]
        is_floored = falls & (place + owed / state["span"][:, None] <= 1e-12).all(-1)
        lives = torch.where(rises, self.reset, state["lives"] - is_floored.long())
        ends = is_floored & (lives <= 0)
        owed = torch.where(ends[:, None], (home - place) * state["span"][:, None], owed)
        move, owed = pay(seen, state, owed)
        return move, {
            **state,
            "best": torch.where(ends, math.inf, best),
            "good": torch.where(rises, 0, good),
            "bad": torch.where(falls, 0, bad),
            "warming": torch.where(rises, self.warmup, torch.where(ends, 0, state["warming"] - is_warming.long())),
            "cooling": torch.where(falls, self.cooldown, state["cooling"] - is_cooling.long()),
            "lives": torch.where(ends, self.reset, lives),
            "window": smoothed["window"],
            "held": torch.where(ends, 0, smoothed["held"]),
            "home": home,
            "owed": owed,
        }

    def _smooth(self, seen: Observation, state: Memory) -> tuple[Tensor, Tensor, Memory]:
        """Give the mean loss of the window ``[B]``, where it counts ``[B]``, and the window with this reading in it."""
        loss, counts = watch(seen.signals)
        pushed = torch.cat([state["window"][:, 1:], loss[:, None]], 1)
        window = torch.where(counts[:, None], pushed, state["window"])
        held = torch.where(counts, (state["held"] + 1).clamp_max(self.window), state["held"])
        age = torch.arange(self.window, 0, -1, device=held.device)
        kept = torch.where(age <= held[:, None], window, 0.0)
        return kept.sum(-1) / held.clamp_min(1), counts, {"window": window, "held": held}
