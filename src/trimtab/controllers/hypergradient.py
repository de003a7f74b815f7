"""Follow a hypergradient: turn each knob the way that would have made the last update better.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from trimtab.controller import State
from trimtab.errors import KnobError, SignalError
from trimtab.hypergrad import Estimator, PerParameter, estimator_named
from trimtab.hypergrad.followers import FOLLOWERS, Follower
from trimtab.hypergrad.taming import CLIP, tamed, untamed
from trimtab.knobs import EARLY_STEPS, Panel
from trimtab.signals import Observation

TINY = 1e-300
ROUNDING = 1e-12  # of |gradient| |update|: a slope below it, such as beta1's of a first step, is rounding


@dataclass(frozen=True)
class KnobDescent:
    """Steps every knob against its measured hypergradient, in the knob's own direction and free of any scale.

    With ``h`` the derivative by a knob's value and ``s = d value / d (scale's unit)`` (``v`` on a log scale, ``1 - v``
    on one_minus_log, 1 on linear), ``q = h * s`` is how the loss changes with the knob's position. Each knob keeps a
    mean square ``m <- rho * m + (1 - rho) * q**2`` and moves by ``-reach * q / sqrt(m / (1 - rho**n))``, ``n`` the
    readings so far: a typical move is `reach` of the largest, whatever the loss's unit and the knob's range.

    It follows whatever estimator filled `hypergrad` (one-step: Baydin et al. 2018; Luketina et al. 2016,
    arXiv:1511.06727). Steps in transformed space are Clarke et al. 2022's, arXiv:2110.10461, who use Adam there.
    Differs from the source: the second moment only, and a bounded step.

    Args:
        reach: a typical move, as a share of the largest, in (0, 1].
        rho: what the mean square keeps at each reading, in [0, 1).

    Raises:
        KnobError: an argument is outside its range.

    Example:
        >>> KnobDescent().needs
        frozenset({'hypergrad'})
    """

    reach: float = 0.2
    rho: float = 0.9
    name = "hypergradient-all"
    needs = frozenset({"hypergrad"})

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not (0 < self.reach <= 1 and 0 <= self.rho < 1):
            raise KnobError(
                f"Controller 'hypergradient-all' needs `reach` in (0, 1] and `rho` in [0, 1), got reach={self.reach}, "
                f"rho={self.rho}."
            )

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give None: the constant 1."""
        return None

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give the memory to begin with.

        Args:
            panel: the knobs.
            members: ``B``.
            sites: ``S``.

        Returns:
            ``square`` ``[B, S, K]``; ``count`` ``[B, S, K]`` int64, measurements so far; ``is_log`` and
            ``is_one_minus_log`` ``[B, K]`` bool.
        """
        shape = (members, sites, len(panel))
        return {
            "square": torch.zeros(shape, dtype=torch.float64),
            "count": torch.zeros(shape, dtype=torch.int64),
            "is_log": torch.tensor([[knob.scale == "log" for knob in panel]] * members),
            "is_one_minus_log": torch.tensor([[knob.scale == "one_minus_log" for knob in panel]] * members),
        }

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Move against the hypergradient.

        Args:
            seen: what there is to know, `hypergrad` included.
            state: what the last call handed back.

        Returns:
            ``[B, S, K]`` moves, zero where the hypergradient is not finite, and the new memory.

        Raises:
            SignalError: the reading has no hypergradient.
        """
        if seen.signals.hypergrad is None:
            raise SignalError("Controller 'hypergradient-all' needs `hypergrad` in the signals, got None.")
        slope = by_place(seen, state)
        is_finite = (slope * slope).isfinite()
        slope = torch.where(is_finite, slope, 0.0)
        square = torch.where(is_finite, self.rho * state["square"] + (1 - self.rho) * slope**2, state["square"])
        count = state["count"] + is_finite
        mean = square / (1 - self.rho ** count.clamp_min(1).to(square))
        move = (-self.reach * slope / mean.sqrt().clamp_min(math.sqrt(TINY))).clamp(-1, 1)
        return move, {**state, "square": square, "count": count}


@final
class Hypergradient:
    """Follows a hypergradient: an estimator says how the loss answers to the knobs, a follower what is done about it.

    Every estimator goes with every follower, on every knob that the optimizer's update uses, live and simulated. What
    is not a number is never followed; a slope beyond `clip` times the root mean square of those before it is cut to
    that. Both are counted, and shown in ``pilot.metrics()``.

    Args:
        estimator: one, or a name in :data:`trimtab.hypergrad.ESTIMATORS`.
        follower: one, or a name in :data:`trimtab.hypergrad.followers.FOLLOWERS`.
        lookback: steps that "implicit" or "unroll" looks back over; None: the estimator's own.
        clip: how many root mean squares a slope may be; the mean square keeps 0.99 of itself at each reading.
        per_parameter: give every parameter a learning rate of its own, see
            :class:`trimtab.hypergrad.PerParameter`; the learning rate of sites then stays where it is.

    Raises:
        KnobError: a name is unknown, an argument out of range, or the estimator cannot tell parameters apart.

    Example:
        >>> sorted(Hypergradient("implicit", lookback=3).needs)
        ['hypergrad', 'loss_fn', 'val_hypergrad']
    """

    def __init__(
        self,
        estimator: str | Estimator = "implicit",
        follower: str | Follower = "adam",
        *,
        lookback: int | None = None,
        clip: float = CLIP,
        per_parameter: bool = False,
    ) -> None:
        if not clip >= 1:
            raise KnobError(f"`clip` must be at least 1, got {clip}.")
        if isinstance(follower, str) and follower not in FOLLOWERS:
            raise KnobError(f"No follower is named {follower!r}: there are {', '.join(FOLLOWERS)}.")
        self.follower: Follower = FOLLOWERS[follower]() if isinstance(follower, str) else follower
        chosen: Estimator = estimator_named(estimator, lookback) if isinstance(estimator, str) else estimator
        self.estimator = chosen
        if per_parameter:
            self.estimator = PerParameter(chosen, self.follower)
        self.clip, self.per_parameter, self.needs = clip, per_parameter, self.estimator.needs
        self.name = f"{self.estimator.name}-{self.follower.name}"

    def __repr__(self) -> str:
        """Say all settings."""
        return f"Hypergradient({self.estimator!r}, {self.follower!r}, clip={self.clip})"

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give None: the constant 1."""
        return None

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give the memory to begin with.

        Args:
            panel: the knobs.
            members: ``B``.
            sites: ``S``.

        Returns:
            ``follower``, its own; ``tame``, of :func:`trimtab.hypergrad.taming.tamed`; ``rate``, ``is_turned``,
            ``is_log`` and ``is_one_minus_log`` ``[B, K]``, of the knobs.

        Raises:
            KnobError: every parameter is to have its own learning rate, and the learning rate is no knob.
        """
        shape = (members, sites, len(panel))
        zero = torch.zeros(shape, dtype=torch.float64)
        if self.per_parameter and "lr" not in panel.names:
            raise KnobError(
                f"`per_parameter` keeps rates in the range of the knob 'lr', got knobs {panel.names}: add it."
            )
        return {
            "follower": self.follower.start(zero),
            "tame": untamed(members, sites, len(panel)),
            "rate": torch.tensor([[knob.rate for knob in panel]] * members, dtype=torch.float64),
            "is_turned": torch.tensor([[not (self.per_parameter and knob.name == "lr") for knob in panel]] * members),
            "is_log": torch.tensor([[knob.scale == "log" for knob in panel]] * members),
            "is_one_minus_log": torch.tensor([[knob.scale == "one_minus_log" for knob in panel]] * members),
        }

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Follow the reading's hypergradient; see :class:`trimtab.controller.Controller`.

        Args:
            seen: what there is to know, `hypergrad` included.
            state: what the last call handed back.

        Returns:
            ``[B, S, K]`` moves and the new memory.

        Raises:
            SignalError: the reading has no hypergradient.
        """
        if seen.signals.hypergrad is None:
            raise SignalError(f"Controller {self.name!r} needs `hypergrad` in the signals, got None.")
        unit = torch.where(state["is_log"], math.log(10), 1.0)[:, None]
        natural = (seen.signals.grad_sq.sqrt() * seen.signals.update_sq.sqrt())[..., None]
        slope = by_place(seen, state) * unit
        slope = torch.where(slope.abs() <= ROUNDING * natural, 0.0, slope)
        slope, tame = tamed(slope, state["tame"], self.clip)
        change, follower = self.follower.change(slope, unit, natural, state["follower"])
        limit = state["rate"] * torch.where(seen.signals.step <= EARLY_STEPS, 2.0, 1.0)[:, None]
        move = (change * unit / limit[:, None]).clamp(-1, 1) * state["is_turned"][:, None]
        return move, {**state, "follower": follower, "tame": tame}


def by_place(seen: Observation, state: State) -> Tensor:
    """Give the hypergradient by the knobs' places in their scales' units, ``[B, S, K]`` float64.

    Args:
        seen: with `hypergrad`.
        state: with `is_log` and `is_one_minus_log` ``[B, K]``.

    Returns:
        ``h v`` on a log scale, ``h (1 - v)`` on one_minus_log, ``h`` on linear.
    """
    assert seen.signals.hypergrad is not None
    values = seen.signals.values.to(torch.float64)
    slope = torch.where(state["is_one_minus_log"][:, None], 1 - values, 1.0)
    slope = torch.where(state["is_log"][:, None], values, slope)
    return seen.signals.hypergrad.to(torch.float64) * slope
