"""Brains: actors and critics of several settings, learning side by side in one program, as trees of tensors.

Deep deterministic policy gradients, Algorithm 1 of Lillicrap et al. 2016, arXiv:1509.02971, with Adam. Differs from the
source: no normalization inside the networks (features come on one scale), noise is the caller's, parameters are cut to
±:data:`FAR`, and slopes that are no numbers count as 0: a setting under which learning explodes is a result.

Letters: ``B`` members, ``M`` brains, ``F`` features, ``K`` knobs, ``H`` hidden units, ``n`` moments of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import KnobError

FAR = 1e3
HIDDEN = 24
KEEP, KEEP_SQUARE, EPS = 0.9, 0.999, 1e-8  # of Adam's moments, its authors' defaults
Net = Mapping[str, Tensor]
Moments = Mapping[str, Tensor]
"""``seen`` and ``next`` ``[B, n, F]``, ``action`` ``[B, n, K]``, ``reward`` ``[B, n]``."""


@dataclass(frozen=True)
class Brain:
    """How one actor-critic learns.

    Args:
        actor_lr: of its actor.
        critic_lr: of its critic.
        discount: of its critic's future, in [0, 1).
        blend: share of the new networks in their targets at each update, in [0, 1].

    Raises:
        KnobError: a setting is out of range.
    """

    actor_lr: float = 3e-3
    critic_lr: float = 1e-2
    discount: float = 0.9
    blend: float = 0.05

    def __post_init__(self) -> None:
        """Check the settings."""
        rates = 0 <= self.actor_lr < math.inf and 0 <= self.critic_lr < math.inf
        if not (rates and 0 <= self.discount < 1 and 0 <= self.blend <= 1):
            raise KnobError(
                f"A brain needs finite rates of at least 0, `discount` in [0, 1) and `blend` in [0, 1], got {self}."
            )


def fresh(brains: int, features: int, knobs: int, rng: torch.Generator) -> dict[str, Net]:
    """Draw one member's networks, their targets and Adam's moments, each ``[M, ...]`` float64."""
    shapes = {"actor": (features, knobs), "critic": (features + knobs, 1)}
    made: dict[str, Net] = {}
    for name, (wide, out) in shapes.items():
        net = {"in_weight": torch.randn(brains, HIDDEN, wide, generator=rng, dtype=torch.float64) / math.sqrt(wide)}
        net["in_bias"] = torch.zeros(brains, HIDDEN, dtype=torch.float64)
        net["out_weight"] = torch.randn(brains, out, HIDDEN, generator=rng, dtype=torch.float64) / (10 * HIDDEN**0.5)
        net["out_bias"] = torch.zeros(brains, out, dtype=torch.float64)
        zeros = {key: torch.zeros_like(value) for key, value in net.items()}
        made |= {name: net, f"{name}_target": net, f"{name}_first": zeros, f"{name}_second": zeros}
    return made


def acted(actor: Net, seen: Tensor) -> Tensor:
    """Give every actor's actions ``[B, M, n, K]`` in (-1, 1) for ``[B, n, F]`` or ``[B, M, n, F]``."""
    return torch.tanh(_through(actor, seen))


def valued(critic: Net, seen: Tensor, action: Tensor) -> Tensor:
    """Give every critic's values ``[B, M, n]`` of ``[B, n, F]`` and ``[B, n, K]``, or of those with ``M``."""
    return _through(critic, torch.cat([seen, action], -1))[..., 0]


def improved(nets: dict[str, Net], brains: Sequence[Brain], batch: Moments, count: Tensor) -> dict[str, Net]:
    """Take one step of every critic and every actor, and let the targets follow.

    Args:
        nets: as `fresh` gives them, with leading ``B``; not changed in place.
        brains: ``M`` settings.
        batch: moments, the same for all brains.
        count: ``[B]`` int64, updates so far.

    Returns:
        The new networks.
    """
    setting = {key: torch.tensor([getattr(b, key) for b in brains], dtype=torch.float64) for key in vars(brains[0])}
    seen, following = (batch[name][:, None].expand(-1, len(brains), -1, -1) for name in ("seen", "next"))
    action = batch["action"][:, None].expand(-1, len(brains), -1, -1)
    future = valued(nets["critic_target"], following, acted(nets["actor_target"], following))
    wanted = (batch["reward"][:, None] + setting["discount"][:, None] * future).detach()
    with torch.enable_grad():
        critic = {key: value.detach().requires_grad_() for key, value in nets["critic"].items()}
        actor = {key: value.detach().requires_grad_() for key, value in nets["actor"].items()}
        error = (valued(critic, seen, action) - wanted).square().mean(-1).sum()
        critic_slopes = dict(zip(critic, torch.autograd.grad(error, list(critic.values())), strict=True))
        worth = -valued(nets["critic"], seen, acted(actor, seen)).mean(-1).sum()
        actor_slopes = dict(zip(actor, torch.autograd.grad(worth, list(actor.values())), strict=True))
    new: dict[str, Net] = {}
    for name, slopes in (("critic", critic_slopes), ("actor", actor_slopes)):
        new |= stepped(name, nets, slopes, setting[f"{name}_lr"], count)
        old, blend = nets[f"{name}_target"], setting["blend"]
        new[f"{name}_target"] = {
            key: old[key] + _like(blend, old[key]) * (value - old[key]) for key, value in new[name].items()
        }
    return new


def stepped(name: str, nets: Mapping[str, Net], slopes: Net, lr: Tensor, count: Tensor) -> dict[str, Net]:
    """Take a step of Adam.

    Args:
        name: of the networks; their moments lie beside them, with ``_first`` and ``_second`` behind it.
        nets: all networks, ``[B, M, ...]``.
        slopes: of these.
        lr: ``[M]``.
        count: ``[B]`` int64, steps taken so far.

    Returns:
        The networks and moments after it.
    """
    number = (count + 1).to(torch.float64)
    net: dict[str, Tensor] = {}
    first: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}
    for key, raw in slopes.items():
        slope = torch.nan_to_num(raw, nan=0.0, posinf=0.0, neginf=0.0)
        at = number.reshape(-1, *[1] * (slope.ndim - 1))
        first[key] = KEEP * nets[f"{name}_first"][key] + (1 - KEEP) * slope
        second[key] = KEEP_SQUARE * nets[f"{name}_second"][key] + (1 - KEEP_SQUARE) * slope**2
        step = first[key] / (1 - KEEP**at) / ((second[key] / (1 - KEEP_SQUARE**at)).sqrt() + EPS)
        net[key] = (nets[name][key] - _like(lr, slope) * step).clamp(-FAR, FAR)
    return {name: net, f"{name}_first": first, f"{name}_second": second}


def _through(net: Net, x: Tensor) -> Tensor:
    """``[B, n, I]`` or ``[B, M, n, I]`` to ``[B, M, n, O]``."""
    x = x if x.ndim == 4 else x[:, None]
    hidden = torch.tanh(x @ net["in_weight"].mT + net["in_bias"][:, :, None])
    return hidden @ net["out_weight"].mT + net["out_bias"][:, :, None]


def _like(per_brain: Tensor, tensor: Tensor) -> Tensor:
    """``[M]`` against ``[B, M, ...]``."""
    return per_brain.reshape(1, -1, *[1] * (tensor.ndim - 2))
