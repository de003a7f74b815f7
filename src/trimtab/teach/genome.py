"""Genome: the weights of a policy that are taught, as one vector.

Letters: ``B`` members, ``P`` taught weights, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import torch
from torch import Tensor

from trimtab.controllers.policy import Policy
from trimtab.controllers.spec import Spec, roles
from trimtab.errors import TaskError


@dataclass(frozen=True)
class Genome:
    """Maps a vector to a policy's weights; those that read a feature left out are 0 and stay so.

    Args:
        spec: the policy's.
        features: patterns such as ``"trend_*"``; a feature is read that matches one, and none that ``!`` stands before.

    Raises:
        TaskError: a pattern matches no feature.

    Example:
        >>> from trimtab.knobs import Panel
        >>> spec = Policy.for_panel(Panel.of(["lr"]), hidden=4).spec
        >>> Genome(spec).size, Genome(spec, ("trend_*", "!*_slow")).size
        (269, 17)
    """

    spec: Spec
    features: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        """Check the patterns."""
        for pattern in self.features:
            if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in self.spec["features"]):
                raise TaskError(f"{pattern!r} matches no feature; there are {', '.join(self.spec['features'])}.")
        if not self.read:
            raise TaskError(f"A policy must read at least one feature; {list(self.features)} leave none.")

    @property
    def read(self) -> tuple[str, ...]:
        """The features that the policy reads."""
        wanted = [pattern for pattern in self.features if not pattern.startswith("!")]
        refused = [pattern[1:] for pattern in self.features if pattern.startswith("!")]
        return tuple(name for name in self.spec["features"] if _fits(name, wanted) and not _fits(name, refused))

    @property
    def columns(self) -> Tensor:
        """Places of the features that the policy reads."""
        read = set(self.read)
        return torch.tensor([place for place, name in enumerate(self.spec["features"]) if name in read])

    @property
    def size(self) -> int:
        """``P``."""
        return int(self._mask.sum())

    def untaught(self) -> Tensor:
        """Give the vector of a fresh policy, ``[P]`` float64: its moves are zero."""
        flat = torch.cat([weight.detach().reshape(-1) for _, weight in Policy(self.spec).named_parameters()])
        return flat.double()[self._mask]

    def started(self, policy: Policy) -> Tensor:
        """Give the vector that plays as another policy does, to teach on from there.

        Weights of features and knobs that the other has not are 0: a new knob is left alone at first. Hidden units that
        it has not are an untaught policy's, and nothing listens to them yet. Where this one is calm and the other is
        not, the weights are the same and what they read is not, so that it plays otherwise.

        Args:
            policy: of the same kind and as many hidden units, or fewer where it has no memory.

        Returns:
            ``[P]`` float64.

        Raises:
            TaskError: it is of another kind or size, or reads something that this one does not.
        """
        theirs, ours = policy.spec, self.spec
        known = theirs["hidden"]
        grows = ours["kind"] == "mlp" and known < ours["hidden"]
        if theirs["kind"] != ours["kind"] or not (known == ours["hidden"] or grows):
            raise TaskError(
                f"A teaching can start from a policy of its own kind and size, {ours['kind']} with {ours['hidden']} "
                f'hidden units (of an "mlp" with fewer, too), got {theirs["kind"]} with {known}.'
            )
        made = Policy(ours)
        rows = _places(theirs["knobs"], ours["knobs"])
        columns = _places(theirs["features"], ours["features"])
        with torch.no_grad():
            for name, weight in made.named_parameters():
                old = policy.get_parameter(name).detach()
                if name == "out_weight":
                    weight[list(rows.values()), :known] = old[list(rows)]
                elif name == "out_bias":
                    weight[list(rows.values())] = old[list(rows)]
                elif name in {"hidden_weight", "input_weight"}:
                    weight[:, ~self.is_read] = 0.0
                    weight[: len(old)] = 0.0
                    weight[: len(old), list(columns.values())] = old[:, list(columns)]
                else:
                    weight[: len(old)] = old
            flat = torch.cat([weight.detach().reshape(-1) for _, weight in made.named_parameters()]).double()
        if bool(flat[~self._mask].any()):
            raise TaskError("The policy to start from reads features that this teaching leaves out.")
        return flat[self._mask]

    def weights(self, rows: Tensor) -> Mapping[str, Tensor]:
        """Give weights by name, each with leading ``B``, float64.

        Args:
            rows: ``[B, P]``.

        Returns:
            What :class:`trimtab.controllers.Population` takes.
        """
        flat = torch.zeros(len(rows), len(self._mask), dtype=torch.float64)
        flat[:, self._mask] = rows.double()
        cut = torch.split(flat, [shape.numel() for shape in self._shapes.values()], 1)
        return {name: part.reshape(-1, *shape) for (name, shape), part in zip(self._shapes.items(), cut, strict=True)}

    def policy(self, vector: Tensor) -> Policy:
        """Make the policy of one vector, ``[P]``; its weights are float32."""
        policy = Policy(self.spec)
        with torch.no_grad():
            for name, weight in self.weights(vector[None]).items():
                policy.get_parameter(name).copy_(weight[0])
        return policy

    @cached_property
    def _shapes(self) -> dict[str, torch.Size]:
        return {name: weight.shape for name, weight in Policy(self.spec).named_parameters()}

    @property
    def is_read(self) -> Tensor:
        """``[F]`` bool."""
        return torch.tensor([name in set(self.read) for name in self.spec["features"]])

    @cached_property
    def _mask(self) -> Tensor:
        """``[all weights]`` bool: those that are taught."""
        is_read, parts = self.is_read, []
        for name, shape in self._shapes.items():
            reads = name in {"hidden_weight", "input_weight"}
            parts.append((is_read if reads else torch.ones(1, dtype=torch.bool)).expand(shape).reshape(-1))
        return torch.cat(parts)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _places(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Give where each name that both have stands, by where it stood; ``beta1`` is ``momentum``."""
    here = {name: place for place, name in enumerate(roles(new))}
    return {place: here[name] for place, name in enumerate(roles(old)) if name in here}
