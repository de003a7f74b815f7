"""Contract: everything in a catalogue keeps the laws that are shipped for strangers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from trimtab.contracts import ControllerContract, RuleContract, TaskContract
from trimtab.controller import Controller
from trimtab.controllers import CATALOGUE as CONTROLLERS
from trimtab.controllers import KnobDescent, Policy, Random
from trimtab.errors import DataError
from trimtab.knobs import Panel
from trimtab.rules import CATALOGUE as RULES
from trimtab.rules import Muon, Rule
from trimtab.task import Task
from trimtab.tasks import CATALOGUE as TASKS


class TestCatalogueControllers(ControllerContract):
    """Every controller of the catalogue, the one that reads hypergradients, and an untaught policy."""

    @pytest.fixture(params=[*CONTROLLERS, "hypergradient-all", "policy"])
    def controller(self, request: pytest.FixtureRequest, panel: Panel) -> Controller:
        """One after the other."""
        # greedy's threshold is absolute, as published; a policy reads features, whose own law is elsewhere
        self.is_unit_free = request.param != "greedy"
        if request.param == "policy":
            return Policy.for_panel(panel, hidden=4)
        return KnobDescent() if request.param == "hypergradient-all" else CONTROLLERS[request.param]()

    def alone(self, controller: Controller, member: int) -> Controller:
        """Member b of a random batch draws as a run of seed + b."""
        return Random(controller.reach, controller.seed + member) if isinstance(controller, Random) else controller


@dataclass(frozen=True)
class HalveOnRise:
    """The controller of docs/write-your-own.md."""

    name = "halve-on-rise"
    needs = frozenset[str]()

    def prior(self, panel: Any, horizon: Any) -> None:
        """Give no schedule."""

    def start(self, panel: Any, members: int, sites: int) -> torch.Tensor:
        """Remember the last loss."""
        return torch.full((members,), torch.inf, dtype=torch.float64)

    def act(self, seen: Any, state: torch.Tensor) -> Any:
        """Halve where it has not fallen."""
        loss = seen.signals.losses.mean(1)
        move = torch.where(loss < state, 0.0, -1.0)[:, None, None]
        return move.expand_as(seen.position), loss


class TestStranger(ControllerContract):
    """A controller from outside needs one fixture."""

    @pytest.fixture
    def controller(self) -> Controller:
        """The documented one."""
        return HalveOnRise()


class TestCatalogueRules(RuleContract):
    """Every rule of the catalogue."""

    @pytest.fixture(params=RULES)
    def rule(self, request: pytest.FixtureRequest) -> Rule:
        """One after the other; Muon in torch's order of rounding."""
        return Muon(one_by_one=True) if request.param == "muon" else RULES[request.param]()


class TestCatalogueTasks(TaskContract):
    """Every task of the catalogue whose data is on this machine."""

    @pytest.fixture(params=TASKS)
    def task(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Task:
        """One after the other; nothing is downloaded."""

        def refuse(*_: object) -> None:
            raise ConnectionError("the tests use no network")

        monkeypatch.setattr("trimtab.datasets._download", refuse)
        task = TASKS[request.param]()
        try:
            task.data("train")
        except DataError as missing:
            pytest.skip(str(missing))
        return task


@dataclass(frozen=True)
class Lawless(HalveOnRise):
    """Breaks laws: moves too far, remembers beside the state."""

    def start(self, panel: Any, members: int, sites: int) -> torch.Tensor:
        """Count from 0."""
        return torch.zeros(members)

    def act(self, seen: Any, state: torch.Tensor) -> Any:
        """Move by two, and change the state in place."""
        state.add_(1)
        return torch.full_like(seen.position, 2.0), state


@pytest.mark.parametrize("law", ["test_moves_are_bounded", "test_act_is_pure"])
def test_a_contract_catches_what_breaks_it(law: str) -> None:
    """A controller that moves too far, or writes into its state, fails by its law's name."""
    with pytest.raises(AssertionError):
        getattr(ControllerContract(), law)(Lawless(), Panel.of(["momentum", "lr"]))
