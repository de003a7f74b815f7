"""Open-loop schedules: a table of factors over the horizon, and no feedback.

The value in force at step ``t`` is ``value(position) * factor[t]``; a schedule never moves a position, so the knob's
value at attach is the *peak*, and the table says which share of it step ``t`` uses. Knobs other than ``lr`` have
factor 1, momentum under :class:`OneCycle` apart.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``T`` the horizon in optimizer steps, ``t`` a step counted from 1,
``w`` and ``d`` steps of warm-up and of decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.controller import Controller, State
from trimtab.errors import KnobError, SignalError
from trimtab.knobs import Panel
from trimtab.signals import Observation

MOMENTA = ("momentum", "beta1")


class _OpenLoop:
    """What every schedule shares: no memory, and no move."""

    needs: frozenset[str] = frozenset()

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give the memory to begin a run with: none."""
        return None

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Leave every knob where it is: ``[B, S, K]`` zeros."""
        return torch.zeros_like(seen.position), state


@dataclass(frozen=True)
class Constant(_OpenLoop):
    """Keeps every knob at its initial value.

    Example:
        >>> Constant().prior(Panel.of(["lr"]), 100) is None
        True
    """

    name = "constant"

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give None: the constant 1."""
        return None


@dataclass(frozen=True)
class WarmupCosine(_OpenLoop):
    """Rises linearly to the peak, then falls along half a cosine.

    With ``w = round(warmup * T)``: ``t / (w + 1)`` for ``t <= w``, then
    ``floor + (1 - floor) * (1 + cos(pi * (t - 1 - w) / (T - w))) / 2``: step ``w + 1`` is the peak.

    Eq. (5), Loshchilov & Hutter 2017 (SGDR), arXiv:1608.03983, one cycle. Equal to torch's ``LinearLR`` followed by
    ``CosineAnnealingLR(T_max=T - w)``. Differs from the source: warm-up, no restart.

    Args:
        warmup: share of the horizon spent rising, in [0, 1).
        floor: the share of the peak approached at the end, in [0, 1].

    Raises:
        KnobError: a share is outside its range.

    Example:
        >>> WarmupCosine(warmup=0.0).prior(Panel.of(["lr"]), 4)[:, 0].round(decimals=3).tolist()
        [1.0, 0.854, 0.5, 0.146]
    """

    warmup: float = 0.05
    floor: float = 0.0
    name = "cosine"
    needs = frozenset({"horizon"})

    def __post_init__(self) -> None:
        """Check the shares."""
        _check_shares(self.name, warmup=(self.warmup, 1.0, False), floor=(self.floor, 1.0, True))

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give ``[T, K]`` factors; see :class:`trimtab.controller.Controller`."""
        index, total = _index(self.name, horizon)
        rise = round(self.warmup * total)
        angle = math.pi * (index - rise) / (total - rise)
        factor = self.floor + (1 - self.floor) * (1 + torch.cos(angle)) / 2
        return _table(panel, _warmed(index, rise, factor))


@dataclass(frozen=True)
class WSD(_OpenLoop):
    """Warm-up, stable, decay: rises linearly, holds the peak, then falls linearly.

    With ``w = round(warmup * T)``, ``d = round(decay * T)``: ``t / (w + 1)`` for ``t <= w``, 1 until ``T - d``, then
    ``1 - (1 - floor) * (t - 1 - (T - d)) / d``: the floor would be reached one step past the end.

    Hu et al. 2024 (MiniCPM), arXiv:2404.06395, sec. 4.2; with the linear cooldown of Hägele et al. 2024,
    arXiv:2405.18392. Differs from the source: MiniCPM decays exponentially.

    Args:
        warmup: share of the horizon spent rising.
        decay: share of the horizon spent falling; the two are at least 0 and together at most 1.
        floor: the share of the peak approached at the end, in [0, 1].

    Raises:
        KnobError: a share is outside its range.

    Example:
        >>> WSD(warmup=0.0, decay=0.5).prior(Panel.of(["lr"]), 4)[:, 0].tolist()
        [1.0, 1.0, 1.0, 0.5]
    """

    warmup: float = 0.05
    decay: float = 0.2
    floor: float = 0.0
    name = "wsd"
    needs = frozenset({"horizon"})

    def __post_init__(self) -> None:
        """Check the shares."""
        _check_shares(
            self.name,
            warmup=(self.warmup, 1.0, True),
            decay=(self.decay, 1.0 - self.warmup, True),
            floor=(self.floor, 1.0, True),
        )

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give ``[T, K]`` factors; see :class:`trimtab.controller.Controller`."""
        index, total = _index(self.name, horizon)
        rise = round(self.warmup * total)
        fall = min(round(self.decay * total), total - rise)
        share = ((index - (total - fall)) / max(fall, 1)).clamp_min(0)
        return _table(panel, _warmed(index, rise, 1 - (1 - self.floor) * share))


@dataclass(frozen=True)
class Linear(_OpenLoop):
    """Falls linearly from the peak: ``1 - (1 - floor) * (t - 1) / T``, as torch's ``LinearLR(1, floor, T)``.

    Differs from the source: nothing.

    Args:
        floor: the share of the peak approached at the end, in [0, 1].

    Raises:
        KnobError: the floor is outside its range.

    Example:
        >>> Linear().prior(Panel.of(["lr"]), 4)[:, 0].tolist()
        [1.0, 0.75, 0.5, 0.25]
    """

    floor: float = 0.0
    name = "linear"
    needs = frozenset({"horizon"})

    def __post_init__(self) -> None:
        """Check the floor."""
        _check_shares(self.name, floor=(self.floor, 1.0, True))

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give ``[T, K]`` factors; see :class:`trimtab.controller.Controller`."""
        index, total = _index(self.name, horizon)
        return _table(panel, 1 - (1 - self.floor) * index / total)


@dataclass(frozen=True)
class OneCycle(_OpenLoop):
    """One cycle of the learning rate up and far down, momentum the other way.

    With ``i = t - 1``, ``p = rise * T - 1`` and the cosine ramp ``r(a, b, x) = b + (a - b) * (1 + cos(pi * x)) / 2``:
    ``r(1 / div, 1, i / p)`` for ``i <= p``, then ``r(1, 1 / (div * final_div), (i - p) / (T - 1 - p))``: the knob's
    value at attach plays ``max_lr``. Where the panel has ``momentum`` or ``beta1``, it runs from 0.95 to 0.85 and back
    on the same ramps: ``1 - v`` gets the factor ``(1 - m_t) / (1 - 0.9)``, so exactly those values for a run that
    starts at the usual 0.9, and the same shape around any other start.

    Smith & Topin 2018, arXiv:1708.07120, as ``torch.optim.lr_scheduler.OneCycleLR``. Differs from the source: torch
    puts momentum at 0.95 to 0.85 whatever it was; here these are relative to the run's own, and a start below 1/3
    would be scaled below 0 (leave the knob out of the panel for plain SGD). The knob ``momentum`` is turned only if
    it is on the scale "one_minus_log".

    Args:
        rise: share of the horizon spent rising (torch's ``pct_start``), in [0, 1].
        div: the peak over the first value (``div_factor``).
        final_div: the first value over the last (``final_div_factor``).

    Raises:
        KnobError: `rise` is outside [0, 1], or a divisor is not at least 1.

    Example:
        >>> OneCycle(rise=0.5).prior(Panel.of(["lr"]), 10)[:, 0].argmax().item()
        4
    """

    rise: float = 0.3
    div: float = 25.0
    final_div: float = 1e4
    name = "onecycle"
    needs = frozenset({"horizon"})

    def __post_init__(self) -> None:
        """Check the share and the divisors."""
        _check_shares(self.name, rise=(self.rise, 1.0, True))
        if not (1 <= self.div < math.inf and 1 <= self.final_div < math.inf):
            raise KnobError(
                f"Schedule 'onecycle' needs finite `div >= 1` and `final_div >= 1`, got div={self.div}, "
                f"final_div={self.final_div}."
            )

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give ``[T, K]`` factors; see :class:`trimtab.controller.Controller`."""
        index, total = _index(self.name, horizon)
        table = _table(panel, self._ramps(index, total, 1 / self.div, 1.0, 1 / (self.div * self.final_div)))
        memory = (1 - self._ramps(index, total, 0.95, 0.85, 0.95)) / (1 - 0.9)
        for k, knob in enumerate(panel):
            if knob.name in MOMENTA and knob.scale == "one_minus_log":
                table[:, k] = memory
        return table

    def _ramps(self, index: Tensor, total: int, first: float, peak: float, last: float) -> Tensor:
        turn = self.rise * total - 1
        up = _ramp(first, peak, index / turn) if turn > 0 else torch.full_like(index, peak)
        down = _ramp(peak, last, (index - turn) / (total - 1 - turn)) if total - 1 > turn else up
        return torch.where(index <= turn, up, down)


SCHEDULES: dict[str, Callable[[], Controller]] = {
    "constant": Constant,
    "cosine": WarmupCosine,
    "hold": lambda: WSD(warmup=0.0, decay=0.5, floor=0.02),
    "linear": Linear,
    "onecycle": OneCycle,
    "wsd": WSD,
}
"""Schedules by name, each at its defaults; "hold" is 1 for half the horizon, then linear to 0.02."""


def _index(name: str, horizon: int | None) -> tuple[Tensor, int]:
    """``[T]`` float64 ``t - 1``, and ``T``."""
    if horizon is None or horizon < 1:
        raise SignalError(
            f"Schedule {name!r} needs a horizon of at least 1 optimizer step, got {horizon}: give horizon=<planned "
            f"steps>, or take a controller that needs none ('constant', 'plateau', 'greedy')."
        )
    return torch.arange(horizon, dtype=torch.float64), horizon


def _warmed(index: Tensor, rise: int, factor: Tensor) -> Tensor:
    return torch.where(index < rise, (index + 1) / (rise + 1), factor)


def _ramp(start: float, end: float, share: Tensor) -> Tensor:
    return end + (start - end) / 2 * (1 + torch.cos(math.pi * share))


def _table(panel: Panel, lr: Tensor) -> Tensor:
    """``[T, K]``: `lr` in the column of that name, 1 in the others."""
    table = torch.ones(len(lr), len(panel), dtype=torch.float64)
    for k, name in enumerate(panel.names):
        if name == "lr":
            table[:, k] = lr
    return table


def _check_shares(name: str, **shares: tuple[float, float, bool]) -> None:
    for field, (value, high, is_closed) in shares.items():
        if not (0 <= value <= high and (is_closed or value < high)):
            raise KnobError(
                f"Schedule {name!r} needs `{field}` in [0, {high:g}{']' if is_closed else ')'}, got {value}."
            )
