"""Readings: a recorded run's numbers, on the schedule of the policy that is to be taught.

A trace's moves may lie on another schedule than that policy's. The values that the run used then say what the policy
would have had to do: its position is where its own schedule gives the same value, its move what takes it from one
reading's position to the next one's, cut to the longest move. Where the guard brought the run back, the move is the
recorded one.

Letters: ``N`` readings, ``S`` sites, ``K`` knobs, ``F`` features, ``T`` the horizon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from trimtab.controllers.schedule import SCHEDULES
from trimtab.features import LIMIT
from trimtab.knobs import EARLY_STEPS, LEAP, Knob, Panel
from trimtab.trace import Header, Row

SAME = 1e-6  # places closer than this in the unit cube are the same


def panel_of(header: Header) -> Panel:
    """Give the knobs of a full trace; those of the user's own without their means to be set."""
    return Panel(
        Knob(name, low, high, cast("Any", scale), rate)
        for name, (low, high, scale, rate) in zip(header.knobs, header.ranges, strict=True)
    )


@dataclass(frozen=True)
class Readings:
    """Numbers of one run, a row a reading; float64 where nothing else is said.

    Attributes:
        panel: the knobs.
        names: the features' names.
        steps: ``[N]`` int64.
        features: ``[N, S, F]`` what was seen.
        values: ``[N, S, K]`` knob values that the step used.
        position: ``[N, S, K]`` after the decision.
        moves: ``[N, S, K]``.
        is_back: ``[N]`` bool, the guard brought the run back.
    """

    panel: Panel
    names: tuple[str, ...]
    steps: Tensor
    features: Tensor
    values: Tensor
    position: Tensor
    moves: Tensor
    is_back: Tensor

    @classmethod
    def of(cls, header: Header, readings: Sequence[Sequence[Row]]) -> Readings:
        """Take them from a trace's rows, those of a reading together; moves cut to what a panel lets through."""
        steps = torch.tensor([reading[0]["step"] for reading in readings])
        features = torch.tensor([[row["features"] for row in reading] for reading in readings], dtype=torch.float64)
        values, position, moves = (_stacked(readings, header.knobs, kind) for kind in ("", "position_", "move_"))
        longest = torch.where(steps <= EARLY_STEPS, LEAP, 1.0)[:, None, None]
        moves = torch.nan_to_num(moves, nan=0.0).clamp(-longest, longest)
        is_back = torch.tensor([reading[0]["event"] in ("restore", "gave up") for reading in readings])
        return cls(panel_of(header), header.features, steps, features, values, position, moves, is_back)

    def on(self, prior: str, horizon: int | None) -> Readings:
        """Give them on a schedule; as they are where that is the run's own.

        Args:
            prior: a name in :data:`trimtab.controllers.schedule.SCHEDULES`.
            horizon: ``T``; None: undeclared, and the schedule the constant 1.

        Returns:
            Readings with other moves and, among the features, other positions and last moves.
        """
        place = self._place(None if horizon is None else SCHEDULES[prior]().prior(self.panel, horizon))
        early = (self.steps[:-1] <= EARLY_STEPS)[:, None, None]
        change = place.diff(dim=0) / (self.panel.rates() * torch.where(early, 2.0, 1.0))
        change = change.clamp(-torch.where(early, LEAP, 1.0), torch.where(early, LEAP, 1.0))
        is_own = (self.position[:-1] - place[1:]).abs() < SAME
        is_kept = is_own | self.is_back[:-1, None, None]
        if bool(is_kept.all()):
            return self
        moves = torch.cat([torch.where(is_kept, self.moves[:-1], change), self.moves[-1:]])
        features = self.features.clone()
        before = torch.cat([torch.zeros_like(moves[:1]), moves[:-1]])
        standing = (2 * self.panel.standing(place) - 1).clamp(-LIMIT, LIMIT)
        for k, knob in enumerate(self.panel):
            features[..., self.names.index(f"position_{knob.name}")] = standing[..., k]
            features[..., self.names.index(f"move_{knob.name}")] = before[..., k]
        return replace(self, features=features, moves=moves)

    def _place(self, factors: Tensor | None) -> Tensor:
        """``[N, S, K]`` in the unit cube: where the schedule of these ``[T, K]`` factors gives the run's values."""
        values = self.values
        if factors is not None:
            rows = factors[(self.steps - 1).clamp(max=len(factors) - 1)]
            values = self.panel.scaled(values, (1 / rows)[:, None].expand_as(values))
        place = self.panel.to_unit(values).clamp(0, 1)
        return torch.where(place.isnan(), self.position, place)


def _stacked(readings: Sequence[Sequence[Row]], knobs: Sequence[str], kind: str) -> Tensor:
    """``[N, S, K]`` float64, NaN where there is no number."""
    rows = [[[row[f"{kind}{knob}"] for knob in knobs] for row in reading] for reading in readings]
    return torch.tensor(
        [[[math.nan if entry is None else entry for entry in row] for row in reading] for reading in rows],
        dtype=torch.float64,
    )
