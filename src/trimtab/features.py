"""Features: what a controller sees of a run, scale-free and bounded.

`docs/features.md` states each one's formula, range and invariance; :func:`catalogue` is the same list as data. The
memory between readings is passed in and handed back; nothing is kept here.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``F`` features, ``R``/``Q`` run-level/site-level raw features, ``H``
readings of history.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from trimtab.errors import SignalError
from trimtab.knobs import Panel
from trimtab.signals import Signals

HISTORY = 32  # readings that a feature is ranked within
SPANS = (8.0, 32.0, 128.0, 512.0)  # time constants of the loss's moving means, in steps
TINY = 1e-300
HUGE = 1e150  # a loss beyond it counts as not finite: its square would be
LIMIT = 10.0
TIE = 1e-6  # values closer than this rank as equal: rounding must not decide between two that are the same
Memory = dict[str, Tensor]

RUN = ("trend_fast", "trend_mid", "trend_slow", "noise", "best_gap", "progress_made", "bad_share", "val_gap",
       "val_trend", "val_best_gap")  # fmt: skip
SITE = ("cos_grad", "cos_update", "update_ratio", "distance", "grad_trend_fast", "grad_trend_slow", "snr", "directness",
        "lr_dog", "lr_dadapt", "lr_secant", "lr_polyak")  # fmt: skip
CLOCK = ("progress", "age", "horizon", "has_horizon", "has_val", "depth", "share")


@dataclass(frozen=True)
class Features:
    """Turns signals into features.

    Args:
        panel: the knobs; their positions and last moves are features too.
        depth: for each site its relative depth in [0, 1] (0 the input side); 0.5 where unknown.
        share: for each site its share of the parameters, (0, 1].

    Example:
        >>> features = Features(Panel.of(["lr"]))
        >>> len(features.names), features.names[0]
        (65, 'trend_fast')
    """

    panel: Panel
    depth: tuple[float, ...] = (0.5,)
    share: tuple[float, ...] = (1.0,)

    @property
    def names(self) -> tuple[str, ...]:
        """The ``F`` features' names, in order: run, site, clock, knobs, means over sites, ranks."""
        knobs = tuple(f"{kind}_{name}" for kind in ("position", "move") for name in self.panel.names)
        means = tuple(f"mean_{name}" for name in SITE)
        ranks = tuple(f"rank_{name}" for name in RUN + SITE)
        return RUN + SITE + CLOCK + knobs + means + ranks

    def start(self, members: int) -> Memory:
        """Give the memory before the first reading, each with leading ``B``."""
        sites = len(self.share)

        def full(value: float, *shape: int) -> Tensor:
            return torch.full((members, *shape), value, dtype=torch.float64)

        return {
            "loss": full(0, 2, len(SPANS)),  # sums and weights of the moving means
            "noise": full(0, 2),  # likewise
            "best": full(math.inf),
            "first": full(math.nan),
            "val": full(math.nan, 3),  # last, one before, best
            "last_step": full(0),
            "grad": full(0, sites, 2, 2),  # sums and weights of two moving means of log |g|
            "snr": full(0, sites, 2),
            "path": full(0, sites, 4),  # sum |u|, sum |p|^2, D-Adaptation's numerator, max drift
            "history": full(math.nan, sites, len(RUN) + len(SITE), HISTORY),
            "seen": full(0),
        }

    def see(
        self, signals: Signals, position: Tensor, move: Tensor, horizon: int | None, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Turn one reading into features.

        Args:
            signals: the reading.
            position: ``[B, S, K]`` knobs in the unit cube.
            move: ``[B, S, K]`` the last move.
            horizon: planned steps, or None.
            memory: what `start` or the last call handed back; not changed in place.

        Returns:
            ``[B, S, F]`` float64 in [-10, 10], finite whatever the signals, and the new memory.

        Raises:
            SignalError: the signals' sites are not the features' sites.
        """
        sites, found = len(self.share), signals.grad_sq.shape[1]
        if found != sites or len(self.depth) != sites:
            raise SignalError(
                f"Features were made for {sites} sites, depth for {len(self.depth)}; signals have {found}."
            )
        run, run_memory = _run_level(signals, memory)
        site, site_memory = _site_level(signals, self._lr(signals), memory)
        raw = torch.cat([run[:, None].expand(-1, sites, -1), site], -1)
        raw = torch.nan_to_num(raw, nan=0.0, posinf=LIMIT, neginf=-LIMIT).clamp(-LIMIT, LIMIT)
        rank, history = _rank(raw, memory["history"], memory["seen"])
        means = raw[..., len(RUN) :].mean(1, keepdim=True).expand(-1, sites, -1)
        clock = self._clock(signals, horizon)
        place = (2 * self.panel.standing(position) - 1).clamp(-LIMIT, LIMIT)
        features = torch.cat([raw, clock, place, move, means, rank], -1)
        return features, {**run_memory, **site_memory, "history": history, "seen": memory["seen"] + 1}

    def _lr(self, signals: Signals) -> Tensor:
        """``[B, S]`` the learning rate in use; 1 where no knob tells it (ratios then are to the update itself)."""
        if "lr" in self.panel.names:
            return signals.values[..., self.panel.names.index("lr")]
        return torch.ones_like(signals.grad_sq)

    def _clock(self, signals: Signals, horizon: int | None) -> Tensor:
        """``[B, S, 7]``: where the run is in time, and where the site is in the network."""
        sites, members = len(self.share), len(signals.step)
        step = signals.step.to(torch.float64)
        progress = step / horizon if horizon is not None else torch.zeros_like(step)
        moving = torch.stack([progress.clamp(max=LIMIT), torch.log10(step) / 2 - 1], -1)[:, None]
        fixed = _fixed_clock(self.depth, self.share, horizon, signals.val_loss is not None, step.device)
        return torch.cat([moving.expand(-1, sites, -1), fixed.expand(members, -1, -1)], -1)


@cache
def _fixed_clock(
    depth: tuple[float, ...], share: tuple[float, ...], horizon: int | None, has_val: bool, device: torch.device
) -> Tensor:
    """``[S, 5]``: log horizon, whether it is known, whether there is validation, the site's depth and log share."""
    length = 0.0 if horizon is None else math.log10(horizon) / 2 - 1
    run = [length, float(horizon is not None), float(has_val)]
    rows = [[*run, 2 * d - 1, math.log10(s)] for d, s in zip(depth, share, strict=True)]
    return torch.tensor(rows, dtype=torch.float64, device=device)


@cache
def _kernel(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """``[W, 4]`` weights of a window's losses in the moving means, and ``[4]`` what is left of the means before."""
    keep = torch.tensor([1 - 1 / span for span in SPANS], dtype=torch.float64, device=device)
    ages = torch.arange(width - 1, -1, -1, dtype=torch.float64, device=device)
    return (1 - keep) * keep ** ages[:, None], keep**width


@cache
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)


def _log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """``log(a / b)`` for positive `a`, `b`; bounded and odd where signs differ or one is 0 (a loss below zero)."""
    share = (a - b) / (a.abs() + b.abs()).clamp_min(TINY)
    return 2 * torch.atanh(share.clamp(-1 + 1e-4, 1 - 1e-4))


def _half_log(square: Tensor) -> Tensor:
    return 0.5 * torch.log(square.clamp_min(TINY))


def _run_level(signals: Signals, memory: Memory) -> tuple[Tensor, Memory]:
    """``[B, R]`` features of the loss and the validation loss, and their new memory."""
    losses = signals.losses.to(torch.float64)
    finite = losses.abs() < HUGE
    both = torch.stack([losses.masked_fill(~finite, 0.0), finite.to(torch.float64)], 1)  # [B, 2, W]
    kernel, decay = _kernel(losses.shape[1], losses.device)
    moving = memory["loss"] * decay + both @ kernel
    fast, mid, slow, slowest = (moving[:, 0] / moving[:, 1].clamp_min(TINY)).unbind(-1)
    first = torch.where(memory["first"].isnan() & finite[:, 0], losses[:, 0], memory["first"])
    noise = _noise(both, mid, memory["noise"])
    spread = (noise[:, 0] / noise[:, 1].clamp_min(TINY)).sqrt()
    best = torch.minimum(memory["best"], fast.masked_fill(moving[:, 1, 0] <= 0, math.inf))
    val = _val_memory(signals, memory)
    last, before, lowest = val.unbind(-1)
    above = torch.stack([fast, mid, slow, spread, fast, fast, last, last, last], -1)
    below = torch.stack([mid, slow, slowest, mid.abs(), best, first, mid, before, lowest], -1)
    ratios = _log_ratio(above, below)
    bad_share = 1 - both[:, 1].mean(1, keepdim=True)
    new = {"loss": moving, "noise": noise, "best": best, "first": first, "val": val}
    return torch.cat([ratios[:, :6], bad_share, ratios[:, 6:]], -1), new


def _noise(both: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """Carry the mean squared distance of losses from their moving level, over about 32 steps: sum and weight."""
    losses, finite = both.unbind(1)
    decay = (1 - 1 / SPANS[1]) ** losses.shape[1]
    apart = (losses - level[:, None]) ** 2 * finite
    return noise * decay + (1 - decay) * torch.stack([apart, finite], 1).mean(-1)


def _val_memory(signals: Signals, memory: Memory) -> Tensor:
    """``[B, 3]`` validation loss: last, the one before, the best; NaN until measured."""
    val = memory["val"]
    if signals.val_loss is None:
        return val
    new = signals.val_loss.to(torch.float64)
    best = torch.fmin(val[:, 2], new)
    return torch.where(new.isfinite()[:, None], torch.stack([new, val[:, 0], best], -1), val)


def _site_level(signals: Signals, lr: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """``[B, S, Q]`` features of gradients, updates and weights, and their new memory."""
    s = signals
    step = s.step.to(torch.float64)
    steps = (step - memory["last_step"]).clamp_min(1)[:, None, None]
    squares = torch.stack([s.grad_sq, s.last_grad_sq, s.update_sq, s.drift_sq, s.weight_sq], -1)
    norms, logs = squares.sqrt(), _half_log(squares)
    dots = torch.stack([s.grad_dot_last_grad, s.grad_dot_update], -1)
    ratios = (logs[..., 2:4] - logs[..., 4:]) / math.log(10) + _constants((3.0, 1.0), step.device)
    trends, grad = _grad_trends(squares[..., :1], logs[..., :1], steps, memory["grad"])
    noise = torch.stack([s.grad_dot_last_grad, squares[..., :2].mean(-1)], -1) / squares[..., :1]
    snr = memory["snr"] + 0.2 * (_zero_bad(noise) - memory["snr"])
    path, classical = _classical(s, lr, norms, steps, memory["path"])
    columns = [
        dots / (norms[..., :1] * norms[..., 1:3]),
        ratios,
        trends,
        snr[..., :1] / snr[..., 1:].clamp_min(TINY),
        classical,
        _along_the_update(s),
    ]
    return torch.cat(columns, -1), {"grad": grad, "snr": snr, "path": path, "last_step": step}


def _grad_trends(square: Tensor, log: Tensor, steps: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Carry two moving means (32 and 256 steps) of ``log |g|``; ``[B, S, 2]``: now to fast, fast to slow."""
    known = (square > 0) & (square < math.inf)
    both = torch.stack([log.masked_fill(~known, 0.0), known.to(torch.float64)], -2)  # [B, S, 2, 1]
    keep = torch.exp(steps / _constants((-32.0, -256.0), steps.device))[..., None, :]
    moving = memory * keep + (1 - keep) * both
    level = moving[..., 0, :] / moving[..., 1, :].clamp_min(TINY)
    return torch.cat([log, level[..., :1]], -1) - level, moving


def _classical(s: Signals, lr: Tensor, norms: Tensor, steps: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the rate in use with those that DoG and D-Adaptation would choose, in the update's own geometry.

    With ``p = u / lr`` the direction an optimizer takes at rate 1 (the gradient for plain SGD), DoG (Ivgi et al. 2023,
    Eq. 1) is ``max |w - w_1| / sqrt(sum |p|^2)``; D-Adaptation (Defazio & Mishchenko 2023, Alg. 1) puts
    ``sum |u| cos(g, w_1 - w) |w_1 - w| / |w_1 - w_t|`` in place of the distance. Differs from the sources: sums are
    taken at readings and stand for the steps between them; directions are the optimizer's, so that a scaled loss
    leaves both unchanged under Adam too.

    Returns:
        The new path ``[B, S, 4]``, and ``[B, S, 3]``: log10 of drift to path, and the two log-ratios, 0 until the run
        has moved.
    """
    grad, _, update, drift, _ = norms.unbind(-1)
    toward = update * s.grad_dot_drift / grad
    parts = _zero_bad(torch.stack([update, s.update_sq / lr**2, toward, drift], -1))
    sums = path[..., :3] + steps * parts[..., :3]
    furthest = torch.maximum(path[..., 3:], parts[..., 3:])
    path = torch.cat([sums, furthest], -1)
    walked, steep, gained = sums.unbind(-1)
    logs = torch.log(torch.stack([drift / walked, furthest[..., 0], gained / drift], -1).clamp_min(TINY))
    scale = (_half_log(steep) + torch.log(lr.clamp_min(TINY)))[..., None]
    known = torch.stack([steep > 0, (steep > 0) & (gained > 0)], -1)
    rates = (logs[..., 1:] - scale).masked_fill(~known, 0.0)
    directness = (logs[..., :1] / math.log(10)).clamp_min(-LIMIT) + 1
    return path, torch.cat([directness, rates], -1)


def _along_the_update(s: Signals) -> Tensor:
    """Compare the last step with the line's minimum (secant) and with reaching loss 0 (Polyak): ``[B, S, 2]``."""
    along = s.last_grad_dot_update
    gain = along - s.grad_dot_update  # |u|^2 times the curvature along the last update
    loss = s.loss[:, None].to(gain).expand_as(gain)
    ratios = _log_ratio(torch.stack([along, loss], -1), torch.stack([gain, along], -1))
    ratios = ratios * _constants((1.0, 0.5), gain.device)
    # where the curvature is not positive the line goes down without end: the furthest ratio allowed
    down = torch.stack([gain > 0, gain.isfinite()], -1)
    moved = (s.update_sq > 0) & (s.last_grad_sq > 0)
    return ratios.masked_fill(~down, LIMIT).masked_fill(~moved[..., None], 0.0)


def _zero_bad(x: Tensor) -> Tensor:
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def _rank(raw: Tensor, history: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Rank each feature within its last ``H`` values: ``[B, S, R+Q]`` in [-1, 1] (0: the median, or no history yet)."""
    value = raw[..., None]
    apart = torch.nn.functional.hardshrink(value - history, TIE)
    rank = torch.nansum(torch.sign(apart), -1) / seen.clamp(1, HISTORY)[:, None, None]
    return rank, torch.cat([history[..., 1:], value], -1)
