"""A learned controller: a small network from features to moves, on top of a schedule.

Weights are shared over sites: a layer-wise controller is the same network at every site. Untaught, its last layer is
zero, so every move is exactly zero and the run is exactly its schedule.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``F`` features, ``H`` hidden units.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from trimtab.controller import State
from trimtab.controllers.schedule import SCHEDULES
from trimtab.controllers.spec import FORMAT, Kind, Spec, check, check_names, read_file, roles, shapes_of
from trimtab.controllers.typical import evened, typical
from trimtab.errors import KnobError, SignalError, StateError
from trimtab.features import RUN, SITE, Features
from trimtab.knobs import EARLY_STEPS, LEAP, Panel
from trimtab.signals import Observation
from trimtab.whole import written_whole

Weights = Mapping[str, Tensor]


class Policy(nn.Module):
    """Features in, moves out: ``reach * tanh(out(hidden(z)))``, early `leap` times that.

    ``z = asinh((feature - center) / size)`` brings all features to one scale (:mod:`trimtab.controllers.typical`).

    With ``calm = c`` in the spec it reads, after the first ten steps, ``m ← c m + (1 - c) f`` in place of a feature
    ``f`` of the training (not of the clock and the knobs), for what one batch shows is mostly noise.

    "mlp" is ``tanh(W f + b)``; "gru" a gated recurrent unit (Cho et al. 2014, arXiv:1406.1078, as ``torch.nn.GRUCell``)
    whose memory ``[B, S, H]`` is in the State. `act` is pure and computes in the features' dtype (float64), whatever
    the weights'. Without a horizon the prior is the constant 1. Differs from the source: nothing.

    Args:
        spec: what to build; :meth:`for_panel` writes it for you.
        rng: draws the hidden weights; None for a generator seeded with 0.

    Raises:
        KnobError: the spec does not hold.

    Example:
        >>> policy = Policy.for_panel(Panel.of(["lr"]), hidden=8)
        >>> sorted(name for name, _ in policy.named_parameters())
        ['hidden_bias', 'hidden_weight', 'out_bias', 'out_weight']
    """

    name = "policy"
    needs: frozenset[str]
    _center: Tensor
    _size: Tensor
    _keeps: Tensor

    def __init__(self, spec: Spec, rng: torch.Generator | None = None) -> None:
        super().__init__()
        check(spec)
        self.spec: Spec = cast("Spec", json.loads(json.dumps(spec)))
        self.needs = frozenset({"average"} if self.spec["average"] else ())
        for name in ("center", "size"):
            self.register_buffer(f"_{name}", torch.tensor(self.spec[name], dtype=torch.float64), persistent=False)
        tells = [name.removeprefix("mean_") in RUN + SITE for name in self.spec["features"]]
        keeps = torch.tensor(tells, dtype=torch.float64) * self.spec["calm"]
        self.register_buffer("_keeps", keeps, persistent=False)
        rng = rng or torch.Generator().manual_seed(0)
        for key, shape in shapes_of(self.spec).items():
            weight = torch.zeros(shape)
            if key.endswith("weight") and not key.startswith("out"):
                weight = torch.randn(shape, generator=rng) / math.sqrt(shape[-1])
            self.register_parameter(key, nn.Parameter(weight))

    @classmethod
    def for_panel(
        cls,
        panel: Panel,
        hidden: int = 32,
        *,
        kind: Kind = "mlp",
        prior: str = "hold",
        reach: float = 1.0,
        leap: float = LEAP,
        calm: float = 0.0,
        average: bool = False,
        rng: torch.Generator | None = None,
    ) -> Policy:
        """Make an untaught policy for a panel, on all of its features.

        Args:
            panel: the knobs to be turned.
            hidden: ``H``.
            kind: "mlp", or "gru" for one with a memory.
            prior: the schedule under it.
            reach: the largest move, in (0, 1].
            leap: what multiplies it in the first ten steps, in [1, 3].
            calm: share that moving means of features keep at a reading, in [0, 1); 0: it reads the features themselves.
            average: whether runs under it are read at an average of their weights.
            rng: draws the hidden weights.

        Returns:
            The policy; it plays its prior until it is taught.
        """
        names = list(Features(panel).names)
        center, size = typical(names)
        read = Spec(
            features=names,
            center=center,
            size=size,
            knobs=list(panel.names),
            hidden=hidden,
            kind=kind,
            prior=prior,
            reach=reach,
            leap=leap,
            calm=calm,
            average=average,
        )
        return cls(read, rng)

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give the schedule's ``[T, K]`` factors, or None (the constant 1) without a horizon."""
        return None if horizon is None else SCHEDULES[self.spec["prior"]]().prior(panel, horizon)

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give the memory to begin with.

        Args:
            panel: the knobs, which must be those of the spec; ``beta1`` and ``momentum`` stand for one another.
            members: ``B``.
            sites: ``S``.

        Returns:
            ``memory`` ``[B, S, H]`` for "gru", ``means`` ``[B, S, F]`` for one that is calm, float64; else no entry.

        Raises:
            KnobError: the panel's knobs are not those it was made for.
            StateError: this version's features are not those it was made for.
        """
        if roles(panel.names) != roles(self.spec["knobs"]):
            raise KnobError(
                f"This policy turns the knobs {', '.join(self.spec['knobs'])}, in that order; the panel has "
                f"{', '.join(panel.names)}."
            )
        check_names(self.spec["features"], Features(panel).names)
        state: dict[str, Tensor] = {}
        if self.spec["kind"] == "gru":
            state["memory"] = torch.zeros(members, sites, self.spec["hidden"], dtype=torch.float64)
        if self.spec["calm"]:
            state["means"] = torch.full((members, sites, len(self.spec["features"])), math.nan, dtype=torch.float64)
        return state

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Decide with its own weights; see :class:`trimtab.controller.Controller`."""
        return self.act_with(dict(self.named_parameters()), seen, state)

    def act_with(self, weights: Weights, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Decide with given weights, one set for all members or one for each; runs under ``torch.func``.

        Args:
            weights: the parameters by name, each in its own shape, or with a leading ``B``.
            seen: what there is to know; features that are not numbers count as 0.
            state: what the last call handed back.

        Returns:
            ``[B, S, K]`` moves within the reach, in the features' dtype, and the new memory.

        Raises:
            SignalError: the features are not as many as the policy's.
        """
        wide = len(self.spec["features"])
        if seen.features.shape[-1] != wide:
            raise SignalError(f"This policy reads {wide} features, got {seen.features.shape[-1]}.")
        is_early = seen.signals.step <= EARLY_STEPS
        features, state = self._calmed(seen.features, is_early, state)
        shares, state = self.shares(weights, features, state)
        leap = torch.where(is_early, self.spec["leap"], 1.0).to(shares)
        return self.spec["reach"] * leap[:, None, None] * shares, state

    def shares(self, weights: Weights, features: Tensor, state: State) -> tuple[Tensor, State]:
        """Give moves as shares of the longest one at their time, which is the reach or, early, `leap` times that.

        Args:
            weights: as in `act_with`.
            features: ``[B, S, F]`` as they are to be read, calmed; what is not a number counts as 0.
            state: as in `act_with`.

        Returns:
            ``[B, S, K]`` in (-1, 1), and the new memory.
        """
        features = torch.nan_to_num(features, nan=0.0, posinf=0.0, neginf=0.0)
        features = evened(features, self._center, self._size)
        if self.spec["kind"] == "mlp":
            hidden = torch.tanh(self._layer(weights, "hidden", features))
        else:
            hidden = self._recur(weights, features, state["memory"].to(features))
            state = {**state, "memory": hidden}
        return torch.tanh(self._layer(weights, "out", hidden)), state

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write spec and weights to a safetensors file; the file is whole or not there.

        Args:
            path: where to; its folder must exist.
        """
        from safetensors.torch import save

        weights = {key: value.detach().cpu().contiguous() for key, value in self.named_parameters()}
        blob = save(weights, {FORMAT: json.dumps(self.spec)})
        with written_whole(path) as file:
            file.write(blob)

    @classmethod
    def load(cls, path: str | os.PathLike[str], features: Sequence[str] | None = None) -> Policy:
        """Read a policy that `save` wrote.

        Args:
            path: the file.
            features: the names that the policy must read, or None to leave that to `start`.

        Returns:
            The policy, its weights bit for bit.

        Raises:
            FileNotFoundError: there is no such file.
            StateError: the file is damaged or no policy's, or its features are other ones.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no policy at {os.fspath(path)!r}.")
        spec, weights = read_file(path)
        try:
            policy = cls(spec)
        except (KnobError, KeyError, TypeError) as error:
            raise StateError(f"{os.fspath(path)!r} has a spec that does not hold: {error}") from error
        shapes = {key: tuple(value.shape) for key, value in weights.items()}
        if shapes != shapes_of(spec):
            raise StateError(f"{os.fspath(path)!r} has weights {shapes}, its spec asks for {shapes_of(spec)}.")
        if features is not None:
            check_names(spec["features"], features)
        for key in weights:
            policy.register_parameter(key, nn.Parameter(weights[key]))
        return policy

    def _calmed(self, features: Tensor, is_early: Tensor, state: State) -> tuple[Tensor, State]:
        """Give what it reads of features ``[B, S, F]``: of those that tell of the training moving means, later on."""
        if not self.spec["calm"]:
            return features, state
        means = state["means"].to(features)
        kept = self._keeps.to(features) * (means - features)
        read = torch.where(is_early[:, None, None] | means.isnan(), features, features + kept)
        return read, {**state, "means": read}

    def _layer(self, weights: Weights, key: str, x: Tensor) -> Tensor:
        """``[B, S, I]`` to ``[B, S, O]`` with weights ``[O, I]`` or ``[B, O, I]``."""
        weight, bias = weights[f"{key}_weight"].to(x), weights[f"{key}_bias"].to(x)
        return x @ weight.mT + (bias if bias.ndim == 1 else bias[:, None])

    def _recur(self, weights: Weights, features: Tensor, memory: Tensor) -> Tensor:
        seen = self._layer(weights, "input", features).chunk(3, -1)
        kept = self._layer(weights, "memory", memory).chunk(3, -1)
        reset, keep = torch.sigmoid(seen[0] + kept[0]), torch.sigmoid(seen[1] + kept[1])
        fresh = torch.tanh(seen[2] + reset * kept[2])
        return (1 - keep) * fresh + keep * memory
