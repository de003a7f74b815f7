"""In the run: a model of the run and a policy, both learned beside the one run that they control.

Stochastic value gradients (:mod:`trimtab.teach.svg`) where there is one run and no second try: at every decision an
ensemble of networks is fitted a little further to what the run has answered so far, and the policy takes a few steps
uphill through it, from pieces of the run's own past with the noise inferred from them. Begins from nothing, or from a
policy that was taught before; :meth:`ModelControl.after` takes what was learned to the next run.

What it learns from is :mod:`trimtab.teach.replay`. Differs from Heess et al. 2015, arXiv:1510.09142, as `teach.svg`
does; the fit has no held-out part, for a run is too short to give one away.

Letters: ``B`` members, ``E`` networks, ``n`` of a draw, ``H`` moves of a piece, ``F`` features read, ``K`` knobs,
``D`` = F + 1, ``N`` moments kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from trimtab.controller import State
from trimtab.controllers.policy import Policy
from trimtab.controllers.spec import memory_of
from trimtab.copies import select
from trimtab.errors import KnobError
from trimtab.knobs import EARLY_STEPS, Panel
from trimtab.signals import Observation
from trimtab.teach import replay
from trimtab.teach.brains import stepped
from trimtab.teach.draw import mixed
from trimtab.teach.genome import Genome
from trimtab.teach.surrogate import BETA, NETWORKS, Log, Net, Surrogate, noise_behind, told, unlikelihood
from trimtab.teach.value import worth

DRAWING = 71  # what an act's draws are for
FIT_RATE = 2e-3
LAYERS = {"hidden_weight": "weight0", "hidden_bias": "bias0", "out_weight": "weight1", "out_bias": "bias1"}


@final
@dataclass(frozen=True, eq=False)
class ModelControl:
    """A :class:`trimtab.controller.Controller` that learns while it acts; the same move at all sites.

    Args:
        policy: to begin from, kind "mlp": a card, or an untaught one (:meth:`trimtab.Policy.for_panel`).
        features: patterns of what is read beside what the policy reads already.
        seed: of first networks, noise and draws; member ``b`` of a run is a run of one with ``seed + b``.
        noise: standard deviation of what is added to the moves; 0 to play without trying.
        fits: steps of the model's fit at each decision; with `climbs`, 0 to stop learning.
        climbs: steps of the policy at each decision.
        length: ``H``.
        batch: ``n``.
        kept: ``N``.
        fewest: moments before anything is learned.
        rate: of the policy's steps, Adam's.
        penalty: on what the networks disagree about, a move.
        begun: a state to begin from, of as many members; None: from `policy`.

    Raises:
        KnobError: a setting is out of range, or the policy has a memory.
    """

    policy: Policy
    features: tuple[str, ...] = ("*", "!mean_*", "!rank_*")
    seed: int = 0
    noise: float = 0.2
    fits: int = 20
    climbs: int = 4
    length: int = 6
    batch: int = 32
    kept: int = 2048
    fewest: int = 16
    rate: float = 3e-3
    penalty: float = 0.0
    begun: Any = None

    name = "model-control"
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        """Check the settings."""
        counts = min(self.fits, self.climbs) >= 0 and self.batch >= 1
        counts = counts and 1 <= self.length <= self.fewest <= self.kept and self.fewest >= 2
        if not (counts and self.noise >= 0 and self.rate >= 0 and self.penalty >= 0):
            raise KnobError(
                f"Control by a model needs `fits`, `climbs`, `noise`, `rate`, `penalty` of at least 0, `batch >= 1`, "
                f"`1 <= length <= fewest <= kept` and `fewest >= 2`, got fits={self.fits}, climbs={self.climbs}, "
                f"noise={self.noise}, rate={self.rate}, penalty={self.penalty}, batch={self.batch}, "
                f"length={self.length}, fewest={self.fewest}, kept={self.kept}."
            )
        if memory := memory_of(self.policy.spec):
            raise KnobError(f"Control by a model teaches policies without memory ('mlp', `calm = 0`), got {memory}.")

    def after(
        self, state: State, *, noise: float | None = None, fits: int | None = None, climbs: int | None = None
    ) -> ModelControl:
        """Give the controller for the next run, which knows what this one has learned.

        Args:
            state: at the end of a run; of a live one ``pilot.state_dict()["helm"]["mind"]``.
            noise: other than before.
            fits: other than before.
            climbs: other than before.

        Returns:
            A controller for as many members.
        """
        state = {**state, "is_under_way": torch.zeros_like(state["is_under_way"])}
        changed: dict[str, Any] = {"noise": noise, "fits": fits, "climbs": climbs}
        return replace(self, begun=state, **{name: value for name, value in changed.items() if value is not None})

    def learned(self, state: State, member: int = 0) -> Policy:
        """Give a member's policy as it stands, to attach or to save."""
        actor, made = state["nets"]["actor"], Policy(self.policy.spec)
        with torch.no_grad():
            for name, key in LAYERS.items():
                weight = actor[key][member, 0]
                own = made.get_parameter(name)
                if name == "hidden_weight":
                    own.zero_()[:, self._columns] = weight.to(own)
                else:
                    own.copy_(weight.reshape(own.shape))
        return made

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give the policy's schedule."""
        return self.policy.prior(panel, horizon)

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give the memory to begin with; what has been learned, where that was given.

        Args:
            panel: the policy's knobs.
            members: ``B``.
            sites: any number.

        Returns:
            ``nets`` (actor, model, and Adam's moments of both) and the memory.

        Raises:
            KnobError: the knobs are not the policy's, or what has been learned is of another number of members.
        """
        self.policy.start(panel, members, sites)  # refuses other knobs
        if self.begun is not None:
            if len(self.begun["seed"]) != members:
                raise KnobError(f"This control has learned in {len(self.begun['seed'])} runs, not in {members}.")
            return self.begun
        spec, columns = self.policy.spec, self._columns
        nets: dict[str, Net] = {"actor": _joined([self._actor(columns)] * members)}
        rngs = [torch.Generator().manual_seed(mixed(self.seed + b, DRAWING)) for b in range(members)]
        fresh = [dict(Surrogate(len(columns), len(panel), rng).named_parameters()) for rng in rngs]
        nets["model"] = _joined([{name: weight.detach() for name, weight in each.items()} for each in fresh])
        for name in ("actor", "model"):
            zeros = {key: torch.zeros_like(weight) for key, weight in nets[name].items()}
            nets |= {f"{name}_first": zeros, f"{name}_second": zeros}
        scale = torch.tensor([spec["center"], spec["size"]], dtype=torch.float64)[:, columns]
        return {"nets": nets, **replay.begun(members, self.kept, len(panel), columns.tolist(), scale, self.seed)}

    @torch.no_grad()
    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Remember what the last move brought, learn, move; see :class:`trimtab.controller.Controller`."""
        now, level = replay.read(seen, state), replay.height(seen)
        state = replay.remembered(now, level, state)
        rngs = replay.dice(state, DRAWING)
        state = self._taught(state, rngs)
        action = self.policy.spec["reach"] * _acted(state["nets"]["actor"], now[:, None, None])[:, 0, 0]
        if self.noise > 0:
            tries = [torch.randn(action.shape[1], generator=rng, dtype=torch.float64) for rng in rngs]
            action = (action + self.noise * torch.stack(tries)).clamp(-1, 1)
        leap = torch.where(seen.signals.step <= EARLY_STEPS, self.policy.spec["leap"], 1.0)[:, None, None]
        move = (leap * action[:, None]).expand_as(seen.position).clone()
        return move, replay.acted_on(now, action, level, state)

    @property
    def _columns(self) -> Tensor:
        """Places of the features read: those that are named, and those that the policy has a weight for."""
        has_weight = (self.policy.get_parameter("hidden_weight") != 0).any(0)
        is_named = torch.zeros_like(has_weight)
        is_named[Genome(self.policy.spec, self.features).columns] = True
        return (
            (is_named | (has_weight & bool((self.policy.get_parameter("out_weight") != 0).any()))).nonzero().flatten()
        )

    def _actor(self, columns: Tensor) -> dict[str, Tensor]:
        """Give the policy as a network on the features that it reads, with a leading 1."""
        own = {name: self.policy.get_parameter(name).detach().double() for name in LAYERS}
        own["hidden_weight"] = own["hidden_weight"][:, columns]
        return {key: own[name].reshape(1, -1, own[name].shape[-1]) for name, key in LAYERS.items()}

    def _taught(self, state: State, rngs: Sequence[torch.Generator]) -> State:
        """Fit the model and climb, where there are enough moments."""
        is_ready = state["moments"] >= self.fewest
        if not bool(is_ready.any()) or not (self.fits or self.climbs):
            return state
        filled = state["moments"].clamp(self.fewest, self.kept).tolist()
        nets, scales = state["nets"], _scales(state["replay"], filled)
        rates = {"model": torch.full((NETWORKS,), FIT_RATE).double(), "actor": torch.full((1,), self.rate).double()}
        count = state["updates"]
        for number in range(self.fits):
            slopes = self._fit(nets["model"], scales, state["replay"], filled, rngs)
            nets = {**nets, **stepped("model", nets, slopes, rates["model"], count * self.fits + number)}
        for number in range(self.climbs):
            slopes = self._climb(nets, scales, state, filled, rngs)
            nets = {**nets, **stepped("actor", nets, slopes, rates["actor"], count * self.climbs + number)}
        new = {"nets": nets, "updates": count + 1}
        return {**state, **{key: select(is_ready, new[key], state[key]) for key in new}}

    def _fit(self, net: Net, scales: Net, kept: Net, filled: Sequence[int], rngs: Sequence[torch.Generator]) -> Net:
        """Give the slopes of the model's negative log-likelihood, of moments drawn for each network."""
        shape = (NETWORKS, self.batch)
        index = torch.stack([torch.randint(most, shape, generator=g) for most, g in zip(filled, rngs, strict=True)])
        rows = torch.arange(len(index))[:, None, None]
        seen, action, reward, then = (kept[name][rows, index] for name in ("seen", "action", "reward", "next"))
        happened = torch.cat([then, reward[..., None]], -1)
        with torch.enable_grad():
            weights = {key: weight.detach().requires_grad_() for key, weight in net.items()}
            mean, deviation = told(weights, scales, seen, action)
            loss = unlikelihood(mean, deviation, happened, scales["change_size"], BETA).mean((-1, -2)).sum()
            return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))

    def _climb(
        self, nets: dict[str, Net], scales: Net, state: State, filled: Sequence[int], rngs: Sequence[torch.Generator]
    ) -> Net:
        """Give the slopes of what pieces would have been worth, downhill, each member's cut to a norm of 1."""
        reach, found = self.policy.spec["reach"], []
        for b, (most, rng) in enumerate(zip(filled, rngs, strict=True)):
            first = torch.randint(most - self.length + 1, (self.batch,), generator=rng)
            log = _pieces({key: part[b] for key, part in state["replay"].items()}, first, self.length)
            bound = _Bound({k: w[b] for k, w in nets["model"].items()}, {k: s[b, 0] for k, s in scales.items()})
            with torch.enable_grad():
                actor = {key: weight[b : b + 1].detach().requires_grad_() for key, weight in nets["actor"].items()}
                gained = worth(bound, lambda seen, net=actor: reach * _acted(net, seen), log, penalty=self.penalty)  # type: ignore[misc]
                slopes = torch.autograd.grad(-gained, list(actor.values()))
            size = torch.stack([slope.norm() for slope in slopes]).norm().clamp_min(1.0)
            found.append({key: slope[0] / size for key, slope in zip(actor, slopes, strict=True)})
        return _joined(found)


class _Bound:
    """One member's model, as :func:`trimtab.teach.value.worth` wants it."""

    def __init__(self, weights: Net, scales: Net) -> None:
        self._weights, self._scales = weights, scales

    def inferred(self, log: Log) -> Tensor:
        return noise_behind(self, NETWORKS, log)

    def __call__(self, seen: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return told(self._weights, self._scales, seen, action)


def _acted(net: Net, seen: Tensor) -> Tensor:
    """``[..., n, F]`` to ``[..., n, K]`` in (-1, 1)."""
    weight = {key: part if seen.ndim == 4 else part[0] for key, part in net.items()}
    hidden = torch.tanh(seen @ weight["weight0"].mT + weight["bias0"])
    return torch.tanh(hidden @ weight["weight1"].mT + weight["bias1"])


def _joined(each: Sequence[Net]) -> dict[str, Tensor]:
    return {key: torch.stack([net[key] for net in each]) for key in each[0]}


def _scales(kept: Net, filled: Sequence[int]) -> dict[str, Tensor]:
    """Give centres and sizes of what goes into each member's model and of what comes out, ``[B, 1, 1, ...]``."""
    rows: dict[str, list[Tensor]] = {name: [] for name in ("center", "size", "change_center", "change_size")}
    for b, most in enumerate(filled):
        seen = kept["seen"][b, :most]
        both = torch.cat([seen, kept["action"][b, :most]], -1)
        change = torch.cat([kept["next"][b, :most] - seen, kept["reward"][b, :most, None]], -1)
        for name, values in (("", both), ("change_", change)):
            rows[f"{name}center"].append(values.mean(0))
            rows[f"{name}size"].append(values.std(0).clamp_min(1e-6))
    return {name: torch.stack(values)[:, None, None] for name, values in rows.items()}


def _pieces(kept: Net, first: Tensor, length: int) -> Log:
    """Cut pieces; where the next moment does not begin where the last ended (another run), it is not known."""
    index = first[:, None] + torch.arange(length)
    seen, then = kept["seen"][index], kept["next"][index]
    goes_on = (seen[:, 1:] == then[:, :-1]).all(-1).long().cumprod(1).bool()
    known = torch.cat([torch.ones(len(first), 1, dtype=torch.bool), goes_on], 1)
    return Log(torch.cat([seen, then[:, -1:]], 1), kept["action"][index], kept["reward"][index], known)
