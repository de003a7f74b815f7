"""Replay: what a controller that learns in the very run it controls remembers of it, as a tree of tensors.

The reward of a move is the fall of the log training loss until the next decision. All of it is the controller's state,
so that checkpoints carry it, a restore takes it back, and a live run learns what a simulated one learns.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``F`` features read, ``N`` moments kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.controller import State
from trimtab.controllers.typical import evened
from trimtab.copies import select
from trimtab.signals import Observation
from trimtab.teach.draw import mixed

CUT = 2.0  # of a reward


def begun(members: int, kept: int, knobs: int, columns: Sequence[int], scale: Tensor, seed: int) -> dict[str, Any]:
    """Give an empty memory.

    Args:
        members: ``B``.
        kept: ``N``.
        knobs: ``K``.
        columns: places of the ``F`` features that are read.
        scale: ``[2, F]`` their centres and sizes.
        seed: of member 0; the others' follow.

    Returns:
        The ``replay`` and the ``last`` moment, and what counts them.
    """
    wide = {"seen": (len(columns),), "action": (knobs,), "reward": (), "next": (len(columns),)}
    zero = torch.zeros(members, dtype=torch.int64)
    return {
        "replay": {key: torch.zeros(members, kept, *shape, dtype=torch.float64) for key, shape in wide.items()},
        "last": {key: torch.zeros(members, *wide[key], dtype=torch.float64) for key in ("seen", "action", "reward")},
        "is_under_way": zero.bool(),
        "moments": zero,
        "updates": zero,
        "seed": seed + torch.arange(members, dtype=torch.int64),
        "acts": zero,
        "columns": torch.tensor(list(columns)).expand(members, -1).clone(),
        "scale": scale.expand(members, -1, -1).clone(),
    }


def read(seen: Observation, state: State) -> Tensor:
    """Give the features read, mean over sites, on one scale, ``[B, F]``."""
    means = torch.nan_to_num(seen.features, nan=0.0, posinf=0.0, neginf=0.0).mean(1)
    center, size = state["scale"].unbind(1)
    return evened(means.gather(1, state["columns"]), center, size)


def height(seen: Observation) -> Tensor:
    """Give the mean training loss since the last decision, ``[B]``."""
    return seen.signals.losses.to(torch.float64).mean(1)


def dice(state: State, purpose: int) -> list[torch.Generator]:
    """Give each member's generator for this act: a function of its seed and of how often it has acted."""
    counted = zip(state["seed"].tolist(), state["acts"].tolist(), strict=True)
    return [torch.Generator().manual_seed(mixed(seed, count, purpose)) for seed, count in counted]


def remembered(now: Tensor, level: Tensor, state: State) -> State:
    """Add the moment that ends now, where one is under way that began at a known loss; one that ruins counts as worst.

    Args:
        now: ``[B, F]`` features.
        level: ``[B]`` training loss.
        state: with a memory in it.

    Returns:
        The state with the moment in it.
    """
    last, kept = state["last"], state["replay"]["reward"].shape[1]
    share = (last["reward"] - level) / (last["reward"].abs() + level.abs()).clamp_min(1e-300)
    reward = torch.nan_to_num(2 * torch.atanh(share.clamp(-1 + 1e-9, 1 - 1e-9)), nan=-CUT).clamp(-CUT, CUT)
    moment = {"seen": last["seen"], "action": last["action"], "reward": reward, "next": now}
    place, rows = state["moments"] % kept, torch.arange(len(reward))
    added = {key: old.index_put((rows, place), moment[key]) for key, old in state["replay"].items()}
    is_new = state["is_under_way"] & last["reward"].isfinite()  # where no loss was known, nothing can be said
    return {**state, "replay": select(is_new, added, state["replay"]), "moments": state["moments"] + is_new}


def acted_on(now: Tensor, action: Tensor, level: Tensor, state: State) -> State:
    """Note what is done at ``[B, F]`` features: ``[B, K]`` moves, and the loss until then."""
    last = {"seen": now, "action": action, "reward": level}
    return {**state, "last": last, "is_under_way": torch.ones_like(state["is_under_way"]), "acts": state["acts"] + 1}
