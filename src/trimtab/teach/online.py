"""Online: keep teaching a policy in the very run that it controls.

The policy's weights are part of the controller's state, so that each member learns its own, checkpoints carry them, and
a live run learns what a simulated one learns. At a reading the loss's derivative by the knobs that were in use says how
the decision behind them should have come out; every so many decisions the weights take a step down that slope.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``F`` features, ``P`` weights of a policy.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from trimtab.controller import State
from trimtab.controllers.policy import Policy
from trimtab.copies import select
from trimtab.errors import KnobError, SignalError
from trimtab.hypergrad import Estimator, OneStep
from trimtab.hypergrad.taming import CLIP, tamed, untamed
from trimtab.knobs import EARLY_STEPS, Panel
from trimtab.signals import Observation

Weights = dict[str, Tensor]
Memory = dict[str, Any]
NEAR = 1e-9  # of the unit cube: a knob further than this from where a decision put it was put there by something else


@final
class OnlineTeaching:
    """A policy that goes on learning in the run it controls; a :class:`trimtab.controller.Controller`.

    With ``h`` the estimator's slope, ``v`` a knob's value, ``p`` its place in the unit cube and ``a`` the policy's
    move, a decision adds ``sum over S, K of h * dv/dp * dp/da * da/dw`` to the slope by the weights ``w``: the chain
    rule through the one update that the reading looked at, exact at a constant prior. Every `update_every` decisions
    that gave a slope, with ``g`` their sum scaled to a root mean square of 1 over its ``P`` entries, and ``n`` such
    updates::

        m <- momentum m + (1 - momentum) g
        w <- w - lr m / (1 - momentum**n) - lr anchor (w - card)

    so that neither the loss's unit nor one wild slope decides how far a step goes. The mean's bias is taken off as in
    Adam (Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1).

    Differs from the exact slope: a decision that holds for one step only (the first, which is seldom looked at; all,
    with ``every=1``) is credited one reading later, at the weights of then; a memory ("gru") is taken as given; a
    prior's factor is this step's, not the last one's. What the guard, the user or a bound put in place is nobody's
    decision and teaches nothing. A restore brings back the weights of its snapshot too.

    Args:
        policy: a card, or an untaught one; never changed: what is learned is in the state.
        estimator: where slopes come from.
        lr: size of a step of the weights; 0: the policy decides as it is, to the bit.
        update_every: decisions to a step.
        anchor: pull towards the policy's own weights, as a share of the distance per `lr`.
        momentum: what the mean of slopes keeps at each step.
        clip: how many root mean squares of those before it a slope may be; a larger one is cut, and counted.

    Raises:
        KnobError: an argument is outside its range.

    Example:
        >>> teaching = OnlineTeaching(Policy.for_panel(Panel.of(["lr"])), lr=0.01)
        >>> sorted(teaching.needs)
        ['hypergrad']
    """

    name = "online"

    def __init__(
        self,
        policy: Policy,
        estimator: Estimator | None = None,
        *,
        lr: float = 0.01,
        update_every: int = 1,
        anchor: float = 0.0,
        momentum: float = 0.9,
        clip: float = CLIP,
    ) -> None:
        if not clip >= 1:
            raise KnobError(f"`clip` must be at least 1, got {clip}.")
        if not (0 <= lr < math.inf and 0 <= anchor < math.inf and 0 <= momentum < 1):
            raise KnobError(
                f"Online teaching needs finite `lr >= 0` and `anchor >= 0`, and `momentum` in [0, 1), got lr={lr}, "
                f"anchor={anchor}, momentum={momentum}."
            )
        if isinstance(update_every, bool) or not isinstance(update_every, int) or update_every < 1:
            raise KnobError(f"`update_every` must be a whole number of decisions of at least 1, got {update_every!r}.")
        self.policy, self.estimator = policy, estimator or OneStep()
        self.lr, self.update_every, self.anchor, self.momentum, self.clip = lr, update_every, anchor, momentum, clip
        self.needs = policy.needs | self.estimator.needs

    def __repr__(self) -> str:
        """Say all settings."""
        return (
            f"OnlineTeaching({self.estimator.name}, lr={self.lr}, update_every={self.update_every}, "
            f"anchor={self.anchor}, momentum={self.momentum}, clip={self.clip})"
        )

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give the policy's schedule."""
        return self.policy.prior(panel, horizon)

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give the memory to begin with, all float64 where not said.

        Args:
            panel: the knobs, which must be the policy's.
            members: ``B``.
            sites: ``S``.

        Returns:
            ``weights``, ``slope`` (their summed slope) and ``mean``, each by name with leading ``B``; ``count``
            decisions since the last step of the weights and ``updates`` ``[B]`` int64; ``mind``, the policy's own;
            ``last`` and ``before``, the last two decisions; ``tame``, of
            :func:`trimtab.hypergrad.taming.tamed`; ``panel``, what is needed of the knobs, ``[B, K]``.
        """
        own = _own(self.policy)
        mind = self.policy.start(panel, members, sites)
        weights = {name: w.expand(members, *w.shape).clone() for name, w in own.items()}
        blank = {name: torch.zeros_like(w) for name, w in weights.items()}
        zero = torch.zeros(members, dtype=torch.int64)
        place = torch.full((members, sites, len(panel)), math.nan, dtype=torch.float64)
        features = torch.zeros(members, sites, len(self.policy.spec["features"]), dtype=torch.float64)
        decision = {"step": zero, "features": features, "position": place, "aim": place, "mind": mind}
        facts = {
            "rate": panel.rates(),
            "span": torch.tensor([knob.span for knob in panel], dtype=torch.float64),
            "is_log": torch.tensor([knob.scale == "log" for knob in panel]),
            "is_one_minus_log": torch.tensor([knob.scale == "one_minus_log" for knob in panel]),
        }
        return {
            **{"weights": weights, "slope": blank, "mean": blank, "count": zero, "updates": zero, "mind": mind},
            **{"last": decision, "before": decision},
            "tame": untamed(members, sites, len(panel)),
            "panel": {name: fact.expand(members, -1).clone() for name, fact in facts.items()},
        }

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Learn from what the last decision brought, then decide; see :class:`trimtab.controller.Controller`."""
        weights = _own(self.policy)  # each member's own copy of them would round otherwise
        if self.lr > 0:
            state = self._learn(self._credit(seen, _measured(seen), state))
            weights = state["weights"]
        with torch.no_grad():
            move, mind = self.policy.act_with(weights, seen, state["mind"])
        limit = torch.where(seen.signals.step <= EARLY_STEPS, 2.0, 1.0).to(move)[:, None, None]
        aim = (seen.position + state["panel"]["rate"][:, None] * (limit * move)).clamp(0, 1)
        made = {"step": seen.signals.step.to(torch.int64), "features": seen.features, "position": seen.position}
        last = {**made, "aim": aim, "mind": state["mind"]}
        return move, {**state, "mind": mind, "before": state["last"], "last": last}

    def policy_of(self, state: State, member: int = 0) -> Policy:
        """Give what a member has learned as a policy of its own, to be saved as a card or attached elsewhere.

        Args:
            state: one of this controller's: a pilot's ``state_dict()["helm"]["mind"]``, a rollout's ``state["mind"]``.
            member: which one.

        Returns:
            The policy, its weights in the precision of the one begun with.
        """
        made = Policy(self.policy.spec)
        for name, weight in self.policy.named_parameters():
            made.register_parameter(name, nn.Parameter(state["weights"][name][member].detach().to(weight).clone()))
        return made

    def _credit(self, seen: Observation, slope: Tensor, state: Memory) -> Memory:
        """Add what this reading's slope says of the decision whose knobs it is about."""
        last, before = state["last"], state["before"]
        held = last["step"] <= seen.signals.step - 2  # the last decision's knobs were in use before this step
        obeyed = select(held, _near(last["aim"], seen.position), _near(before["aim"], last["position"]))
        decision: Memory = select(held, last, before)
        slope = slope.to(torch.float64)
        good = slope.isfinite().flatten(1).all(1) & obeyed.flatten(1).any(1)
        stretch = _stretch(seen, decision["aim"], state["panel"]).nan_to_num(0.0)  # nothing was aimed at yet
        towards, tame = tamed(slope * stretch, state["tame"], self.clip)
        early = torch.where(decision["step"] <= EARLY_STEPS, 2.0, 1.0).to(towards)[:, None, None]
        is_free = obeyed & (decision["aim"] > 0) & (decision["aim"] < 1)
        pull = torch.where(is_free & good[:, None, None], towards * early * state["panel"]["rate"][:, None], 0.0)
        found = self._by_weights(seen, decision, pull, state["weights"])
        size = sum((grad * grad).flatten(1).sum(1) for grad in found.values())
        good = good & torch.as_tensor(size).isfinite()
        total = {name: _where(good, state["slope"][name] + grad, state["slope"][name]) for name, grad in found.items()}
        return {**state, "slope": total, "count": state["count"] + good, "tame": tame}

    def _by_weights(self, seen: Observation, decision: Memory, pull: Tensor, weights: Weights) -> Weights:
        """Give ``pull * d move / d weights`` of an earlier decision, for each member its own."""
        signals = replace(seen.signals, step=decision["step"])
        then = replace(seen, signals=signals, features=decision["features"])
        with torch.enable_grad():
            leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            move, _ = self.policy.act_with(leaves, then, decision["mind"])
            grads = torch.autograd.grad((pull * move).sum(), list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, grads, strict=True))

    def _learn(self, state: Memory) -> Memory:
        """Take a step of the weights, where enough decisions have been credited."""
        slope, count = state["slope"], len(_flat(state["slope"])[0])
        largest = _flat(slope).abs().amax(1)  # first to the largest, whose square cannot overflow
        scaled = {name: s / _like(largest, s).clamp_min(1e-300) for name, s in slope.items()}
        size = (_flat(scaled).square().sum(1) / count).sqrt()
        due = (state["count"] >= self.update_every) & (largest > 0)
        updates = state["updates"] + due
        kept = 1 - self.momentum ** updates.clamp_min(1).to(torch.float64)
        mean, weights = {}, {}
        for name, card in _own(self.policy).items():
            old, weight = state["mean"][name], state["weights"][name]
            unit = scaled[name] / _like(size, scaled[name]).clamp_min(1e-300)
            mean[name] = _where(due, self.momentum * old + (1 - self.momentum) * unit, old)
            step = mean[name] / _like(kept, weight) + self.anchor * (weight - card.to(weight))
            weights[name] = _where(due, weight - self.lr * step, weight)
        slope = {name: _where(due, torch.zeros_like(s), s) for name, s in slope.items()}
        count_left = torch.where(due, 0, state["count"])
        return {**state, "weights": weights, "mean": mean, "slope": slope, "count": count_left, "updates": updates}


def _measured(seen: Observation) -> Tensor:
    if seen.signals.hypergrad is None:
        raise SignalError("Online teaching needs `hypergrad` in the signals: make the plant with its `estimator`.")
    return seen.signals.hypergrad


def _own(policy: Policy) -> Weights:
    return {name: weight.detach().to(torch.float64) for name, weight in policy.named_parameters()}


def _stretch(seen: Observation, aim: Tensor, panel: Weights) -> Tensor:
    """``[B, S, K]`` d value / d place at `aim`: ``span v``, on one_minus_log ``span (1 - v)``, on linear `span`."""
    span, is_log, is_memory = (panel[name][:, None] for name in ("span", "is_log", "is_one_minus_log"))
    values, back = seen.signals.values.to(torch.float64), torch.exp(span * (aim - seen.position))
    return span * torch.where(is_log, values * back, torch.where(is_memory, (1 - values) / back, 1.0))


def _near(aim: Tensor, position: Tensor) -> Tensor:
    return (aim - position).abs() <= NEAR


def _flat(weights: Weights) -> Tensor:
    return torch.cat([weight.flatten(1) for weight in weights.values()], 1)


def _like(per_member: Tensor, tensor: Tensor) -> Tensor:
    return per_member.reshape(-1, *([1] * (tensor.ndim - 1)))


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(_like(mask, yes), yes, no)
