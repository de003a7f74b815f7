"""A population of policies: every member of a plant steered by weights of its own.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from trimtab.controller import State
from trimtab.controllers.policy import Policy
from trimtab.errors import SignalError
from trimtab.knobs import Panel
from trimtab.signals import Observation


@dataclass(eq=False)
class Population:
    """Gives each member its own copy of a policy's weights, without a loop over members.

    Args:
        policy: the architecture, prior and reach that all share.
        weights: its parameters by name, each with a leading ``B``.

    Raises:
        SignalError: a parameter is missing, of another shape, or of another number of members.

    Example:
        >>> import torch
        >>> policy = Policy.for_panel(Panel.of(["lr"]), hidden=4)
        >>> two = {name: torch.stack([w.detach(), w.detach() + 1]) for name, w in policy.named_parameters()}
        >>> Population(policy, two).members
        2
    """

    policy: Policy
    weights: Mapping[str, Tensor]
    needs: frozenset[str] = field(init=False)

    name = "population"

    def __post_init__(self) -> None:
        """Check the weights against the policy's own, and need what it needs."""
        self.needs = self.policy.needs
        own = {name: tuple(weight.shape) for name, weight in self.policy.named_parameters()}
        found = {name: tuple(weight.shape[1:]) for name, weight in self.weights.items()}
        if own != found:
            raise SignalError(f"A population needs the policy's parameters {own} with members first, got {found}.")
        if len({len(weight) for weight in self.weights.values()}) != 1:
            raise SignalError("All of a population's parameters must have the same number of members.")

    @property
    def members(self) -> int:
        """How many there are."""
        return len(next(iter(self.weights.values())))

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give the policy's schedule."""
        return self.policy.prior(panel, horizon)

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give the policy's memory for all members.

        Args:
            panel: the knobs.
            members: must be as many as there are weights.
            sites: how many.

        Returns:
            The state.

        Raises:
            SignalError: the members are more or fewer than the weights.
        """
        if members != self.members:
            raise SignalError(f"This population has weights for {self.members} members, the run has {members}.")
        return self.policy.start(panel, members, sites)

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Decide, each member by its own weights; see :class:`trimtab.controller.Controller`."""
        return self.policy.act_with(self.weights, seen, state)
