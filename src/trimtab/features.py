"""Features: what a controller sees of a run, scale-free and bounded.

`docs/features.md` states each one's formula, range and invariance; :func:`catalogue` is the same list as data. The
memory between readings is passed in and handed back; nothing is kept here.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``F`` features, ``R``/``Q`` run-level/site-level raw features, ``H``
readings of history.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
Memory = dict[str, Tensor]

RUN = ("trend_fast", "trend_mid", "trend_slow", "noise", "best_gap", "progress_made", "bad_share", "val_gap",
       "val_trend", "val_best_gap")  # fmt: skip
SITE = ("cos_update", "cos_grad", "update_ratio", "grad_trend_fast", "grad_trend_slow", "snr", "distance",
        "directness", "lr_dog", "lr_dadapt", "lr_secant", "lr_polyak")  # fmt: skip
CLOCK = ("progress", "horizon", "has_horizon", "age", "has_val", "depth", "share")


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
            "means": full(0, len(SPANS)),
            "weight": full(0, len(SPANS)),
            "noise_sq": full(0),
            "noise_weight": full(0),
            "best": full(math.inf),
            "first": full(math.nan),
            "val": full(math.nan, 3),  # last, one before, best
            "last_step": full(0),
            "grad_log": full(0, sites, 2),
            "grad_weight": full(0, sites, 2),
            "snr": full(0, sites, 2),
            "path": full(0, sites, 4),  # sum |u|, max drift, sum |p|^2, D-Adaptation's numerator
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
        clock = self._clock(signals, horizon, raw)
        features = torch.cat([raw, clock, 2 * position - 1, move, means, rank], -1)
        return features, {**run_memory, **site_memory, "history": history, "seen": memory["seen"] + 1}

    def _lr(self, signals: Signals) -> Tensor:
        """``[B, S]`` the learning rate in use; 1 where no knob tells it (ratios then are to the update itself)."""
        if "lr" in self.panel.names:
            return signals.values[..., self.panel.names.index("lr")]
        return torch.ones_like(signals.grad_sq)

    def _clock(self, signals: Signals, horizon: int | None, like: Tensor) -> Tensor:
        step = signals.step.to(like)
        known = torch.zeros_like(step) if horizon is None else torch.ones_like(step)
        progress = known * step / (horizon or 1)
        length = known * (math.log10(horizon or 1) / 2 - 1)
        has_val = known * 0 if signals.val_loss is None else torch.ones_like(step)
        age = torch.log10(step.clamp_min(1)) / 2 - 1
        run = torch.stack([progress.clamp(0, LIMIT), length, known, age, has_val], -1)[:, None]
        site = like.new_tensor([[2 * d - 1, math.log10(s)] for d, s in zip(self.depth, self.share, strict=True)])
        sites = len(self.share)
        return torch.cat([run.expand(-1, sites, -1), site.expand(len(step), -1, -1)], -1)


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
    means, weight = _moving_means(losses, finite, memory)
    level = means / weight.clamp_min(TINY)
    first = torch.where(memory["first"].isnan() & finite[:, 0], losses[:, 0], memory["first"])
    noise_sq, noise_weight = _noise(losses, finite, level[:, 1], memory)
    best = torch.minimum(memory["best"], torch.where(weight[:, 0] > 0, level[:, 0], math.inf))
    spread = (noise_sq / noise_weight.clamp_min(TINY)).sqrt()
    val = _val_memory(signals, memory)
    fast, mid = level[:, 0], level[:, 1]
    above = torch.stack([fast, mid, level[:, 2], spread, fast, fast, val[:, 0], val[:, 0], val[:, 0]], -1)
    below = torch.stack([mid, level[:, 2], level[:, 3], mid.abs(), best, first, mid, val[:, 1], val[:, 2]], -1)
    ratios = _log_ratio(above, below)
    bad_share = 1 - finite.to(torch.float64).mean(1, keepdim=True)
    new = {"means": means, "weight": weight, "noise_sq": noise_sq, "noise_weight": noise_weight, "best": best}
    new |= {"first": first, "val": val, "last_step": signals.step.to(torch.float64)}
    return torch.cat([ratios[:, :6], bad_share, ratios[:, 6:]], -1), new


def _moving_means(losses: Tensor, finite: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """Carry four exponential means over the window in closed form: ``[B, 4]`` sums and their weights."""
    width = losses.shape[1]
    keep = torch.tensor([1 - 1 / span for span in SPANS], dtype=torch.float64, device=losses.device)
    ages = torch.arange(width - 1, -1, -1, dtype=torch.float64, device=losses.device)
    kernel = (1 - keep) * keep ** ages[:, None]  # [W, 4]
    clean = torch.where(finite, losses, 0.0)
    decay = keep**width
    return memory["means"] * decay + clean @ kernel, memory["weight"] * decay + finite.to(losses) @ kernel


def _noise(losses: Tensor, finite: Tensor, level: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """Carry the mean squared distance of losses from their moving level, over about 32 steps."""
    width = losses.shape[1]
    decay = (1 - 1 / SPANS[1]) ** width
    apart = torch.where(finite, (losses - level[:, None]) ** 2, 0.0)
    gain = 1 - decay
    share = finite.to(losses).mean(1)
    return memory["noise_sq"] * decay + gain * apart.mean(1), memory["noise_weight"] * decay + gain * share


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
    steps = (s.step.to(torch.float64) - memory["last_step"]).clamp_min(1)[:, None]
    squares = torch.stack([s.grad_sq, s.update_sq, s.weight_sq, s.drift_sq, s.last_grad_sq], -1)
    grad, update, _, drift, last_grad = (norms := squares.sqrt()).unbind(-1)
    logs = _half_log(squares)
    grad_log, grad_weight, level = _grad_levels(s, logs[..., 0], steps, memory)
    noise = torch.stack([s.grad_dot_last_grad, (s.grad_sq + s.last_grad_sq) / 2], -1) / s.grad_sq[..., None]
    snr = memory["snr"] + 0.2 * (_zero_bad(noise) - memory["snr"])
    path, dog, dadapt = _classical(s, lr, norms, steps, memory["path"])
    gain = s.last_grad_dot_update - s.grad_dot_update  # |u|^2 times the curvature along the last update
    moved = (s.update_sq > 0) & (s.last_grad_sq > 0)
    loss = s.loss[:, None].to(gain).expand_as(gain)
    along = s.last_grad_dot_update
    secant, polyak = _log_ratio(torch.stack([along, loss]), torch.stack([gain, along])).unbind()
    # where the curvature is not positive the line goes down without end: the furthest ratio allowed
    secant = torch.where(gain > 0, secant, LIMIT)
    columns = [
        s.grad_dot_update / (grad * update),
        s.grad_dot_last_grad / (grad * last_grad),
        (logs[..., 1] - logs[..., 2]) / math.log(10) + 3,
        logs[..., 0] - level[..., 0],
        level[..., 0] - level[..., 1],
        snr[..., 0] / snr[..., 1].clamp_min(TINY),
        (logs[..., 3] - logs[..., 2]) / math.log(10) + 1,
        torch.log10((drift / path[..., 0]).clamp_min(1e-10)) + 1,
        dog,
        dadapt,
        torch.where(moved, secant, 0.0),
        torch.where(moved, polyak / 2, 0.0),
    ]
    return torch.stack(columns, -1), {"grad_log": grad_log, "grad_weight": grad_weight, "snr": snr, "path": path}


def _grad_levels(s: Signals, log: Tensor, steps: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
    """Carry two moving means (32 and 256 steps) of ``log |g|``: ``[B, S, 2]`` sums, weights, levels."""
    known = (s.grad_sq > 0) & s.grad_sq.isfinite()
    log = torch.where(known, log, 0.0)
    keep = torch.exp(-steps[..., None] / steps.new_tensor([32.0, 256.0]))
    sums = memory["grad_log"] * keep + (1 - keep) * log[..., None]
    weight = memory["grad_weight"] * keep + (1 - keep) * known[..., None]
    return sums, weight, sums / weight.clamp_min(TINY)


def _classical(s: Signals, lr: Tensor, norms: Tensor, steps: Tensor, path: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compare the rate in use with those that DoG and D-Adaptation would choose, in the update's own geometry.

    With ``p = u / lr`` the direction an optimizer takes at rate 1 (the gradient for plain SGD), DoG (Ivgi et al. 2023,
    Eq. 1) is ``max |w - w_1| / sqrt(sum |p|^2)``; D-Adaptation (Defazio & Mishchenko 2023, Alg. 1) puts
    ``sum |u| cos(g, w_1 - w) |w_1 - w| / |w_1 - w_t|`` in place of the distance. Differs from the sources: sums are
    taken at readings and stand for the steps between them; directions are the optimizer's, so that a scaled loss
    leaves both unchanged under Adam too.

    Returns:
        The new path ``[B, S, 4]`` and the two log-ratios ``[B, S]``, 0 until the run has moved.
    """
    grad, update, _, drift, _ = norms.unbind(-1)
    toward = update * s.grad_dot_drift / grad
    parts = _zero_bad(torch.stack([update, s.update_sq / lr**2, toward, drift], -1))
    walked, steep, gained = (path[..., (0, 2, 3)] + steps[..., None] * parts[..., :3]).unbind(-1)
    furthest = torch.maximum(path[..., 1], parts[..., 3])
    scale = _half_log(steep) + torch.log(lr.clamp_min(TINY))
    moved = steep > 0
    dog, dadapt = torch.log(torch.stack([furthest, gained / drift]).clamp_min(TINY)).unbind()
    dog = torch.where(moved, dog - scale, 0.0)
    dadapt = torch.where(moved & (gained > 0), dadapt - scale, 0.0)
    return torch.stack([walked, furthest, steep, gained], -1), dog, dadapt


def _zero_bad(x: Tensor) -> Tensor:
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def _rank(raw: Tensor, history: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Rank each feature within its last ``H`` values: ``[B, S, R+Q]`` in [-1, 1] (0: the median, or no history yet)."""
    below = (history < raw[..., None]).sum(-1) + 0.5 * (history == raw[..., None]).sum(-1)
    known = seen.clamp(0, HISTORY)[:, None, None]
    rank = torch.where(known > 0, 2 * below / known.clamp_min(1) - 1, 0.0)
    slot = (seen.to(torch.int64) % HISTORY)[:, None, None, None].expand(*raw.shape, 1)
    return rank, history.scatter(-1, slot, raw[..., None])
