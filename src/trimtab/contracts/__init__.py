"""Contracts: the laws of the house as pytest classes, for controllers, rules and tasks of anyone's.

Subclass one in a test file, override its one fixture, and pytest holds yours to the laws that shipped ones keep::

    class TestMine(ControllerContract):
        @pytest.fixture
        def controller(self):
            return Mine()

Needs pytest, which ``import trimtab`` does not load.
"""

from __future__ import annotations

from trimtab.contracts.controller import ControllerContract
from trimtab.contracts.rule import RuleContract
from trimtab.contracts.task import TaskContract

__all__ = ["ControllerContract", "RuleContract", "TaskContract"]
