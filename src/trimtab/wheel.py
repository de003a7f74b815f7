"""Wheel: turns a live optimizer's knobs to the helm's values, step by step, over a wrapped schedule's own.

Letters: ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from trimtab.checkpoint import copied
from trimtab.helm import Helm, HelmState
from trimtab.linkage import Linkage
from trimtab.signals import is_reading


class Wheel:
    """Writes the values of the step to come; one that is not held writes nothing, and only lets the schedule run.

    Args:
        helm: says what the values are.
        linkage: carries them to the optimizer's groups.
        schedule: the user's own, which the wheel steps and whose values it multiplies; None without one.
        every: steps between readings.
    """

    def __init__(self, helm: Helm, linkage: Linkage, schedule: LRScheduler | None, every: int) -> None:
        self.schedule, self.is_held = schedule, True
        self._helm, self._linkage, self._every = helm, linkage, every
        self._now = linkage.start.tolist()  # [S][K] values of the step to come
        self._ahead: dict[int, list[list[float]]] = {}  # [S][K] values by step, up to the next reading

    @property
    def start(self) -> Tensor:
        """``[S, K]`` values that the run began with."""
        return self._linkage.start

    def used(self) -> Tensor:
        """``[S, K]`` values that are set now."""
        if not self.is_held or self.schedule is not None:
            return self._linkage.read()
        return torch.tensor(self._now, dtype=torch.float64)

    def alone(self) -> Tensor | None:
        """``[S, K]`` values that the wrapped schedule alone would have set now; None without one."""
        if self.schedule is None:
            return None
        return self._linkage.alone() if self.is_held else self._linkage.read()

    def write(self, state: HelmState, number: int) -> None:
        """Set the values of step `number`, where they are not what is set already."""
        if not self.is_held:
            return
        if number not in self._ahead:  # all up to the next reading at once: they cannot change before it
            last = next(step for step in itertools.count(number) if is_reading(step, self._every))
            rows = self._helm.values_over(state, number, last)[:, 0].tolist()
            self._ahead = dict(zip(range(number, last + 1), rows, strict=True))
        now = self._ahead[number]
        if self.schedule is not None or now != self._now:
            self._linkage.write(now)
        self._now = now

    def hold(self) -> None:
        """Own the last write: what a checkpoint of the optimizer put into its groups is not what holds."""
        if self.is_held:
            self._linkage.write(self._now)

    @property
    def needs_metric(self) -> bool:
        """Whether the wrapped schedule is stepped by validation losses, not by steps."""
        return isinstance(self.schedule, ReduceLROnPlateau)

    def follow(self, metric: float | None) -> None:
        """Let the wrapped schedule see its own values, and take its next ones as the base.

        Args:
            metric: a validation loss measured at this step; None or NaN: none was, and what needs one stays as it is.
        """
        if self.schedule is None or (self.needs_metric and (metric is None or math.isnan(metric))):
            return
        if self.is_held:
            self._linkage.restore()
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(cast("float", metric))
        else:
            self.schedule.step()
        if self.is_held:
            self._linkage.follow()

    def let_go(self) -> None:
        """Put back the user's or the schedule's own values, bit for bit, and write no more."""
        if self.is_held:
            self._linkage.restore()
        self._linkage.unhook()
        self.is_held = False

    def turned(self) -> None:
        """Forget the values ahead: a decision, or a checkpoint, has changed them."""
        self._ahead = {}

    def state_dict(self) -> dict[str, Any]:
        """Give what an exact resume needs: base values, the start, and the schedule's own state."""
        return {
            "base": copied(self._linkage.base),
            "start": self._linkage.start.clone(),
            "schedule": {} if self.schedule is None else self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave; entries of others are left alone."""
        self._linkage.base, self._linkage.start = state["base"], state["start"]
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.turned()
