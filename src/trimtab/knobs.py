"""Knobs, and panels of them.

Letters: ``B`` members, ``S`` sites, ``K`` knobs. A *site* is what a controller turns on its own: the whole run, or one
of several sets of parameter groups. *Unit* is a knob's place between its bounds, 0 at `low`, 1 at `high`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from trimtab.errors import KnobError

Scale = Literal["linear", "log", "one_minus_log"]
EARLY_STEPS = 10  # moves count twice up to here: a wrong start must be left fast
LEAP = 3.0  # the longest move up to there; with the standard lr's rate the four early decisions span five decades


@dataclass(frozen=True)
class Knob:
    """One hyperparameter that may be turned.

    Args:
        name: a numeric field of ``param_groups`` ("lr", "weight_decay", "momentum", "eps", ...), "beta1" or "beta2"
            (inside ``betas``), or, with `get` and `set`, any name of the user's own.
        low: lower bound, in the hyperparameter's own unit.
        high: upper bound, likewise.
        scale: "log" steps in ``log v``, "one_minus_log" in ``-log(1 - v)``, "linear" in ``v``.
        rate: the largest change per decision, in the scale's unit (for "log": a factor ``exp(rate)``); twice that
            during the first ten steps, where a controller may also leap :data:`LEAP` times as far.
        get: for a knob of the user's own, returns its value now.
        set: for a knob of the user's own, makes a value take effect.

    Raises:
        KnobError: the range is empty or outside the scale's domain, or only one of `get` and `set` is given.

    Example:
        >>> lr = Knob("lr", 1e-4, 1.0, "log")
        >>> round(lr.from_unit(torch.tensor(0.5)).item(), 12)
        0.01
    """

    name: str
    low: float
    high: float
    scale: Scale = "log"
    rate: float = 0.5
    get: Callable[[], float] | None = None
    set: Callable[[float], None] | None = None

    def __post_init__(self) -> None:
        """Check the range against the scale."""
        where = f"for knob {self.name!r}, got low={self.low}, high={self.high}"
        if not isinstance(self.name, str) or not self.name:
            raise KnobError(f"A knob's name must be a non-empty string, got {self.name!r}.")
        if self.scale not in ("linear", "log", "one_minus_log"):
            raise KnobError(
                f"`scale` must be 'linear', 'log' or 'one_minus_log' for knob {self.name!r}, got {self.scale!r}."
            )
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise KnobError(f"`low < high`, both finite, must hold {where}.")
        if self.scale == "log" and self.low <= 0:
            raise KnobError(f"A log scale needs `low > 0` {where}: give a small positive low, or scale='linear'.")
        if self.scale == "one_minus_log" and self.high >= 1:
            raise KnobError(f"A one_minus_log scale needs `high < 1` {where}.")
        if not (math.isfinite(self.span) and self.span > 0):
            raise KnobError(f"A range must not be too wide or too narrow for float64 {where}.")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise KnobError(f"`rate > 0` must hold for knob {self.name!r}, got rate={self.rate}.")
        if (self.get is None) != (self.set is None):
            raise KnobError(f"Knob {self.name!r} needs both `get` and `set`, or neither (then it is an optimizer's).")

    @property
    def span(self) -> float:
        """The range's length in the scale's unit."""
        return self._warp_float(self.high) - self._warp_float(self.low)

    def to_unit(self, value: Tensor) -> Tensor:
        """Give a value's place between the bounds, same shape; outside [0, 1] where the value is outside them."""
        value = value.to(torch.float64)
        if self.scale == "log":
            value = value.log()
        elif self.scale == "one_minus_log":
            value = -torch.log1p(-value)
        return (value - self._warp_float(self.low)) / self.span

    def from_unit(self, unit: Tensor) -> Tensor:
        """Give the value at a place between the bounds; the inverse of `to_unit`."""
        warped = self._warp_float(self.low) + unit.to(torch.float64) * self.span
        if self.scale == "log":
            return warped.exp()
        return -torch.expm1(-warped) if self.scale == "one_minus_log" else warped

    def scaled(self, value: Tensor, factor: Tensor) -> Tensor:
        """Multiply a value's magnitude: ``v`` itself, or ``1 - v`` on the one_minus_log scale (a momentum's memory)."""
        return 1 - (1 - value) * factor if self.scale == "one_minus_log" else value * factor

    def _warp_float(self, value: float) -> float:
        if self.scale == "log":
            return math.log(value)
        return -math.log1p(-value) if self.scale == "one_minus_log" else value


STANDARD = {
    knob.name: knob
    for knob in (
        Knob("lr", 1e-8, 10.0, "log"),
        Knob("weight_decay", 1e-8, 1.0, "log"),
        Knob("momentum", 0.0, 0.999, "one_minus_log", rate=0.35),
        Knob("beta1", 0.0, 0.999, "one_minus_log", rate=0.35),
        Knob("beta2", 0.5, 0.99999, "one_minus_log", rate=0.35),
        Knob("alpha", 0.5, 0.99999, "one_minus_log", rate=0.35),
        Knob("dampening", 0.0, 1.0, "linear", rate=0.1),
        Knob("momentum_decay", 1e-4, 0.1, "log"),
        Knob("eps", 1e-12, 1e-1, "log", rate=1.0),
    )
}
"""The ranges of well-known hyperparameters, used where a knob is named by a string."""


class Panel(tuple[Knob, ...]):
    """The ``K`` knobs of a run; the only place where moves are limited and clipped.

    Raises:
        KnobError: there is no knob, or two share a name.

    Example:
        >>> panel = Panel([STANDARD["lr"], STANDARD["momentum"]])
        >>> panel.names
        ('lr', 'momentum')
    """

    __slots__ = ()

    def __new__(cls, knobs: Iterable[Knob]) -> Panel:
        """Check that there is at least one knob and that no two share a name."""
        panel = super().__new__(cls, knobs)
        names = [knob.name for knob in panel]
        if not names:
            raise KnobError("A panel needs at least one knob, got none.")
        if len(set(names)) < len(names):
            raise KnobError(f"A panel's knobs must have different names, got {names}.")
        return panel

    @classmethod
    def of(cls, knobs: Panel | Sequence[Knob | str]) -> Panel:
        """Make a panel of knobs and of names of standard ones.

        Args:
            knobs: knobs, or names in :data:`STANDARD`.

        Returns:
            The panel, in that order.

        Raises:
            KnobError: a name is not a standard one.
        """
        if isinstance(knobs, Panel):
            return knobs
        if isinstance(knobs, str) or not isinstance(knobs, Iterable):
            raise KnobError(f"`knobs` must be a sequence of names or Knobs, such as ('lr',), got {knobs!r}.")
        made = []
        for knob in knobs:
            if isinstance(knob, str) and knob not in STANDARD:
                raise KnobError(
                    f"{knob!r} is no standard knob ({', '.join(STANDARD)}): give Knob({knob!r}, low, high, scale)."
                )
            if not isinstance(knob, str | Knob):
                raise KnobError(f"A knob must be a name or a Knob, got {knob!r}.")
            made.append(STANDARD[knob] if isinstance(knob, str) else knob)
        return cls(made)

    @property
    def names(self) -> tuple[str, ...]:
        """The knobs' names, in order."""
        return tuple(knob.name for knob in self)

    def to_unit(self, values: Tensor) -> Tensor:
        """``[..., K]`` values to ``[..., K]`` places in the unit cube, float64."""
        return torch.stack([knob.to_unit(v) for knob, v in zip(self, values.unbind(-1), strict=True)], -1)

    def from_unit(self, unit: Tensor) -> Tensor:
        """``[..., K]`` places in the unit cube to ``[..., K]`` values, float64."""
        return torch.stack([knob.from_unit(u) for knob, u in zip(self, unit.unbind(-1), strict=True)], -1)

    def scaled(self, values: Tensor, factors: Tensor) -> Tensor:
        """``[..., K]`` values times ``[..., K]`` factors, on each knob's magnitude; in its range, if the value is."""
        pairs = zip(self, values.unbind(-1), factors.unbind(-1), strict=True)
        scaled = [(knob, v, knob.scaled(v, f)) for knob, v, f in pairs]
        held = [torch.minimum(torch.maximum(to, v.clamp(max=k.low)), v.clamp(min=k.high)) for k, v, to in scaled]
        return torch.stack(held, -1)

    def rates(self) -> Tensor:
        """``[K]`` float64: the largest change per decision after the first steps, in units of the unit cube."""
        return _rates(self, torch.device("cpu"))

    def standing(self, position: Tensor) -> Tensor:
        """Give places in the standard ranges, so that they mean the same values whatever range the user allows.

        Args:
            position: ``[..., K]`` in this panel's ranges.

        Returns:
            ``[..., K]``; outside [0, 1] where the range is wider than the standard one; `position` itself where no
            knob differs. A knob that has no standard range of its scale keeps its place.
        """
        change = _standing(self, position.device)
        return position if change is None else position * change[0] + change[1]

    def turn(self, position: Tensor, move: Tensor, step: Tensor) -> Tensor:
        """Apply moves: the ONLY rate limit and clip.

        Args:
            position: ``[B, S, K]`` in the unit cube.
            move: ``[B, S, K]``, cut to [-1, 1], in the first ten steps to ±:data:`LEAP`; what is not finite counts as
                zero.
            step: ``[B]`` optimizer steps.

        Returns:
            ``[B, S, K]`` in [0, 1].
        """
        rates = _rates(self, position.device)
        move = torch.nan_to_num(move.to(torch.float64), nan=0.0, posinf=0.0, neginf=0.0)
        is_early = (step <= EARLY_STEPS)[:, None, None]
        move = torch.where(is_early, 2 * move.clamp(-LEAP, LEAP), move.clamp(-1, 1))
        return (position + rates * move).clamp(0, 1)


@cache
def _rates(panel: Panel, device: torch.device) -> Tensor:
    return torch.tensor([knob.rate / knob.span for knob in panel], dtype=torch.float64, device=device)


@cache
def _standing(panel: Panel, device: torch.device) -> Tensor | None:
    """``[2, K]`` slope and offset of :meth:`Panel.standing`, or None where nothing changes."""
    rows = []
    for knob in panel:
        usual = STANDARD.get(knob.name, knob)
        if usual.scale != knob.scale:
            usual = knob
        low = float(usual.to_unit(torch.tensor(knob.low, dtype=torch.float64)))
        rows.append((1.0, 0.0) if (usual.low, usual.high) == (knob.low, knob.high) else (knob.span / usual.span, low))
    is_same = all(row == (1.0, 0.0) for row in rows)
    return None if is_same else torch.tensor(rows, dtype=torch.float64, device=device).T
