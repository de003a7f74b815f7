"""Follow a hypergradient: turn each knob the way that would have made the last update better.

Letters: ``B`` members, ``S`` sites, ``K`` knobs. ``g_t`` is the gradient at step ``t``, ``u_{t-1}`` the update that
led there (old weights minus new).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from trimtab.controller import State
from trimtab.controllers.feedback import largest, start_owing
from trimtab.controllers.followers import FOLLOWERS, Follower
from trimtab.errors import KnobError, SignalError
from trimtab.hypergrad import Estimator, estimator_named
from trimtab.knobs import EARLY_STEPS, Panel
from trimtab.signals import Observation

TINY = 1e-300
ROUNDING = 1e-12  # of |gradient| |update|: a slope below it, such as beta1's of a first step, is rounding
CLIP_MEMORY = 0.99  # of the mean square that slopes are measured against


@dataclass(frozen=True)
class HypergradientDescent:
    """Grows the learning rate while successive steps agree, shrinks it where they undo each other.

    ``lr <- lr * (1 + beta * cos(g_t, u_{t-1}))``, at every site by its own cosine. It acts at readings only: the
    faithful setting is ``every=1``; with more, it sees one pair of steps in `every`, and wants a larger `beta`. Free of
    the loss's unit and of the gradient's scale, and costs nothing: the cosine is in every reading.

    The multiplicative rule of Baydin et al. 2018, arXiv:1703.04782, with their one-step hypergradient
    ``d L(w_t) / d lr = -<g_t, u_{t-1}> / lr``, which holds for every optimizer whose update is lr times something.
    Differs from the source: the cosine uses the update itself, so that Adam's and momentum's need no rule of their own;
    a step is cut to one largest move (a factor ``exp(rate)``); weight decay inside the update counts as part of it;
    acts at readings.

    Args:
        beta: the relative step at full agreement, in (0, 1).

    Raises:
        KnobError: `beta` is outside (0, 1).

    Example:
        >>> HypergradientDescent(beta=0.02).needs
        frozenset()
    """

    beta: float = 0.1
    name = "hypergradient"
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        """Check the step."""
        if not 0 < self.beta < 1:
            raise KnobError(f"Controller 'hypergradient' needs `beta` in (0, 1), got {self.beta}.")

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give None: the constant 1."""
        return None

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give what the panel tells, each with leading ``B``; nothing is remembered between readings."""
        return start_owing(panel, members, sites, self.name)

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Move by the cosine; see :class:`trimtab.controller.Controller`."""
        signals = seen.signals
        size = signals.grad_sq.sqrt() * signals.update_sq.sqrt()  # not of the product, which may overflow
        cosine = torch.where(size > 0, signals.grad_dot_update / size.clamp_min(TINY), 0.0)
        cosine = torch.nan_to_num(cosine, nan=0.0, posinf=0.0, neginf=0.0).clamp(-1, 1)
        move = (torch.log1p(self.beta * cosine) / largest(seen, state)).clamp(-1, 1)
        return move[..., None].to(seen.position) * state["is_lr"][:, None], state


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
        follower: one, or a name in :data:`trimtab.controllers.followers.FOLLOWERS`.
        lookback: steps that "implicit" or "unroll" looks back over; None: the estimator's own.
        clip: how many root mean squares a slope may be; the mean square keeps 0.99 of itself at each reading.

    Raises:
        KnobError: a name is unknown, or an argument out of range.

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
        clip: float = 10.0,
    ) -> None:
        if not clip >= 1:
            raise KnobError(f"`clip` must be at least 1, got {clip}.")
        self.estimator = estimator_named(estimator, lookback) if isinstance(estimator, str) else estimator
        if isinstance(follower, str) and follower not in FOLLOWERS:
            raise KnobError(f"No follower is named {follower!r}: there are {', '.join(FOLLOWERS)}.")
        self.follower: Follower = FOLLOWERS[follower]() if isinstance(follower, str) else follower
        self.clip, self.needs = clip, self.estimator.needs
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
            ``follower``, its own; ``square`` and ``count`` ``[B, S, K]``, of slopes so far; ``clipped`` and ``refused``
            ``[B]``, how many; ``rate``, ``is_log`` and ``is_one_minus_log`` ``[B, K]``, of the knobs.
        """
        shape = (members, sites, len(panel))
        zero = torch.zeros(shape, dtype=torch.float64)
        none = torch.zeros(members, dtype=torch.int64)
        return {
            "follower": self.follower.start(shape),
            **{"square": zero, "count": zero.clone(), "clipped": none, "refused": none.clone()},
            "rate": torch.tensor([[knob.rate for knob in panel]] * members, dtype=torch.float64),
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
        slope, state = self._tamed(slope, state)
        change, follower = self.follower.change(slope, unit, seen, state["follower"])
        limit = state["rate"] * torch.where(seen.signals.step <= EARLY_STEPS, 2.0, 1.0)[:, None]
        return (change * unit / limit[:, None]).clamp(-1, 1), {**state, "follower": follower}

    def _tamed(self, slope: Tensor, state: State) -> tuple[Tensor, State]:
        """Cut what is too large to the largest that is allowed, and what is no number to 0."""
        is_finite = (slope * slope).isfinite()
        slope = torch.where(is_finite, slope, 0.0)
        most = self.clip * (state["square"] / state["count"].clamp_min(1)).sqrt()
        is_wild = (state["count"] > 0) & (slope.abs() > most)
        slope = torch.where(is_wild, most * slope.sign(), slope)
        tells = slope != 0
        fade = torch.where(tells, CLIP_MEMORY, 1.0)
        return slope, {
            **state,
            "square": fade * state["square"] + tells * slope**2,
            "count": fade * state["count"] + tells,
            "clipped": state["clipped"] + is_wild.flatten(1).sum(1),
            "refused": state["refused"] + (~is_finite).flatten(1).sum(1),
        }


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
