"""Ensemble: actor-critics of different settings that learn in the very run they control, and vote on each move.

Online weighted Q-ensembles, arXiv:2209.15078, of which we know the abstract alone. With ``a_j = pi_j(s)`` candidates::

    p_i(j) = softmax_j Q_i(s, a_j),  a = a_j of the largest sum_i w_i p_i(j)
    delta = r + discount sum_i w_i Q'_i(s', a') - sum_i w_i Q_i(s, a),  w <- onto the simplex (w - rate g / |g|),

``g`` the derivative of the mean of ``delta^2`` by ``w``. So a member whose values are wrong loses its vote, whatever it
would do. Differs from the source, as far as that can be told: the slope is taken to length 1, so that a critic that
exploded does not throw the others' weights about; delta is averaged over the replay's draw; values that are no numbers
vote for all alike.

What it learns from is :mod:`trimtab.teach.replay`; :meth:`QEnsemble.after` takes what was learned to the next run.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``F`` features read, ``M`` brains, ``N`` moments kept, ``n`` of a
draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from trimtab.controller import State
from trimtab.controllers.schedule import SCHEDULES
from trimtab.controllers.typical import typical
from trimtab.copies import select
from trimtab.errors import KnobError
from trimtab.features import Features
from trimtab.knobs import EARLY_STEPS, LEAP, Panel
from trimtab.signals import Observation
from trimtab.teach import replay
from trimtab.teach.brains import Brain, acted, fresh, improved, valued
from trimtab.teach.draw import mixed

READ = ("trend_fast", "trend_mid", "noise", "best_gap", "progress_made", "cos_grad", "cos_update", "update_ratio",
        "lr_secant", "lr_polyak", "progress", "age")  # fmt: skip
DRAWING = 51  # what an act's draws are for


@final
@dataclass(frozen=True, eq=False)
class QEnsemble:
    """A :class:`trimtab.controller.Controller` that learns while it acts; the same move at all sites.

    Args:
        brains: ``M`` settings, of which nobody knows which is good.
        prior_name: the schedule under the moves.
        seed: of first networks, noise and draws; member ``b`` of a run is a run of one with ``seed + b``.
        noise: standard deviation of what is added to the moves; 0 to play without trying.
        updates: of the networks at each decision; 0 to stop learning.
        batch: ``n``.
        kept: ``N``.
        rate: how far the weights go at each decision; 0: all votes count alike, for comparison.
        discount: in ``delta``.
        begun: a state to begin from, of as many members; None: from nothing.

    Raises:
        KnobError: a setting is out of range.
    """

    brains: tuple[Brain, ...]
    prior_name: str = "hold"
    seed: int = 0
    noise: float = 0.2
    updates: int = 4
    batch: int = 32
    kept: int = 2048
    rate: float = 0.05
    discount: float = 0.9
    begun: Any = None

    name = "q-ensemble"
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        """Check the settings."""
        counts = len(self.brains) >= 1 and self.updates >= 0 and 1 <= self.batch <= self.kept
        if not (counts and self.noise >= 0 and self.rate >= 0 and 0 <= self.discount < 1):
            raise KnobError(
                "An ensemble needs a brain, `updates >= 0`, `1 <= batch <= kept`, `noise >= 0`, `rate >= 0` and "
                f"`discount` in [0, 1), got {len(self.brains)} brains, updates={self.updates}, batch={self.batch}, "
                f"kept={self.kept}, noise={self.noise}, rate={self.rate}, discount={self.discount}."
            )
        if self.prior_name not in SCHEDULES:
            raise KnobError(f"`prior_name` must be one of {', '.join(SCHEDULES)}, got {self.prior_name!r}.")

    def after(self, state: State, *, noise: float | None = None, updates: int | None = None) -> QEnsemble:
        """Give the controller for the next run, which knows what this one has learned.

        Args:
            state: at the end of a run.
            noise: other than before.
            updates: other than before.

        Returns:
            A controller for as many members.
        """
        state = {**state, "is_under_way": torch.zeros_like(state["is_under_way"])}
        given = {
            "noise": self.noise if noise is None else noise,
            "updates": self.updates if updates is None else updates,
        }
        return replace(self, begun=state, **given)  # type: ignore[arg-type]

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give the schedule's factors, or None (the constant 1) without a horizon."""
        return None if horizon is None else SCHEDULES[self.prior_name]().prior(panel, horizon)

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give the memory to begin with; what has been learned, where that was given.

        Args:
            panel: the knobs.
            members: ``B``.
            sites: ``S``.

        Returns:
            ``nets``, ``votes`` ``[B, M]``, the ``replay`` and the ``last`` moment, and what counts them.

        Raises:
            KnobError: what has been learned is of another number of members.
        """
        if self.begun is not None:
            if len(self.begun["seed"]) != members:
                raise KnobError(f"This ensemble has learned in {len(self.begun['seed'])} runs, not in {members}.")
            return self.begun
        count = len(self.brains)
        generators = [torch.Generator().manual_seed(mixed(self.seed + b, DRAWING)) for b in range(members)]
        drawn = [fresh(count, len(READ), len(panel), rng) for rng in generators]
        nets = {name: {key: torch.stack([d[name][key] for d in drawn]) for key in drawn[0][name]} for name in drawn[0]}
        names, table = Features(panel).names, torch.tensor(typical(READ), dtype=torch.float64)
        columns = [names.index(name) for name in READ]
        votes = torch.full((members, count), 1 / count, dtype=torch.float64)
        return {
            "nets": nets,
            "votes": votes,
            **replay.begun(members, self.kept, len(panel), columns, table, self.seed),
        }

    @torch.no_grad()
    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Remember what the last move brought, learn, vote; see :class:`trimtab.controller.Controller`."""
        now, level = replay.read(seen, state), replay.height(seen)
        state = replay.remembered(now, level, state)
        generators = replay.dice(state, DRAWING)
        state = self._taught(state, generators)
        action = self._voted(now, state)
        if self.noise > 0:
            shape = action.shape[1:]
            tries = torch.stack([torch.randn(shape, generator=rng, dtype=torch.float64) for rng in generators])
            action = (action + self.noise * tries).clamp(-1, 1)
        leap = torch.where(seen.signals.step <= EARLY_STEPS, LEAP, 1.0)[:, None, None]
        move = (leap * action[:, None]).expand_as(seen.position).clone()
        return move, replay.acted_on(now, action, level, state)

    def _taught(self, state: State, generators: Sequence[torch.Generator]) -> State:
        """Update networks and votes, where there are enough moments."""
        is_ready = state["moments"] >= self.batch
        if not bool(is_ready.any()):
            return state
        nets, votes, count = state["nets"], state["votes"], state["updates"]
        filled = state["moments"].clamp(1, self.kept).tolist()
        for _ in range(self.updates):
            pairs = zip(generators, filled, strict=True)
            index = torch.stack([torch.randint(most, (self.batch,), generator=rng) for rng, most in pairs])
            rows = torch.arange(len(index))[:, None]
            batch = {key: kept[rows, index] for key, kept in state["replay"].items()}
            nets = improved(nets, self.brains, batch, count)
            votes = self._weighed(nets, votes, batch)
            count = count + 1
        new = {**state, "nets": nets, "votes": votes, "updates": count}
        return {**state, **{key: select(is_ready, new[key], state[key]) for key in ("nets", "votes", "updates")}}

    def _weighed(self, nets: dict[str, Any], votes: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Turn votes down the slope of the ensemble's squared temporal difference."""
        ahead = self._chosen(nets, votes, batch["next"])
        values, future = (
            torch.nan_to_num(valued(nets[name], seen, action), nan=0.0)
            for name, seen, action in (
                ("critic", batch["seen"], batch["action"]),
                ("critic_target", batch["next"], ahead),
            )
        )  # [B, M, n] each
        change = self.discount * future - values
        delta = batch["reward"] + (votes[..., None] * change).sum(1)
        slope = 2 * (delta[:, None] * change).mean(-1)
        return simplex(votes - self.rate * slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-300))

    def _chosen(self, nets: dict[str, Any], votes: Tensor, seen: Tensor) -> Tensor:
        """``[B, n, K]``: the candidates that win the vote at ``[B, n, F]``."""
        candidates = acted(nets["actor"], seen)  # [B, M, n, K]
        each = [valued(nets["critic"], seen, candidates[:, j]) for j in range(candidates.shape[1])]
        preferred = torch.softmax(torch.stack(each, -1), -1)  # [B, M, n, M]
        preferred = torch.nan_to_num(preferred, nan=1 / len(each))
        winner = (votes[..., None, None] * preferred).sum(1).argmax(-1)  # [B, n]
        rows, moments = torch.arange(len(seen))[:, None], torch.arange(seen.shape[1])
        return candidates[rows, winner, moments]

    def _voted(self, now: Tensor, state: State) -> Tensor:
        return self._chosen(state["nets"], state["votes"], now[:, None])[:, 0]


def simplex(weights: Tensor) -> Tensor:
    """Give the nearest weights ``[B, M]`` that are at least 0 and sum to 1 (Duchi et al. 2008, Fig. 1)."""
    falling = weights.sort(dim=-1, descending=True).values
    ranks = torch.arange(1, weights.shape[-1] + 1, dtype=weights.dtype)
    excess = (falling.cumsum(-1) - 1) / ranks
    last = (falling > excess).sum(-1, keepdim=True) - 1
    return (weights - excess.gather(-1, last)).clamp_min(0)
