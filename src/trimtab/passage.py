"""Passage: where members stand between two steps, and what is open between a reading and its decision.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trimtab.copies import Best, Copies, Look, join, pick
from trimtab.errors import OrderError
from trimtab.features import Memory
from trimtab.helm import HelmState
from trimtab.signals import Observation, Signals

PARTS: dict[str, type] = {"copies": Copies, "kept": Copies, "look": Look, "best": Best}


@dataclass(frozen=True)
class Passage:
    """Where a voyage stands between two steps: all that is needed to go on exactly.

    Attributes:
        clock: ``[B]`` int64 on the CPU, optimizer steps that each member has taken.
        copies: the members.
        state: the helm's.
        kept: the members that the guard would go back to.
        look: what the last step left for a reading; None where it left nothing.
        window: ``[B]`` losses since the last reading, oldest first.
        order: the stream's state.
        best: the members' best averages so far; None where no average is kept, or none validated.
    """

    clock: Tensor
    copies: Copies
    state: HelmState
    kept: Copies
    look: Look | None
    window: tuple[Tensor, ...]
    order: dict[str, Any]
    best: Best | None = None

    @property
    def step(self) -> int:
        """Optimizer steps taken, by the first member's clock."""
        return int(self.clock[0])

    @property
    def result(self) -> Copies:
        """The members as they are to be used, or scored: at an earlier average where that validated clearly lower."""
        return self.copies if self.best is None else self.best.used(self.copies)

    def tree(self) -> dict[str, Any]:
        """Give it as dictionaries, tuples, tensors and numbers, which ``torch.load(weights_only=True)`` reads."""
        parts = {name: getattr(self, name) for name in PARTS}
        return {**vars(self), **{name: part and dict(vars(part)) for name, part in parts.items()}}

    @classmethod
    def of_tree(cls, tree: dict[str, Any]) -> Passage:
        """Take what `tree` gave."""
        made = {name: kind(**tree[name]) for name, kind in PARTS.items() if tree.get(name) is not None}
        return cls(**{**tree, **made})

    def picked(self, members: Sequence[int]) -> Passage:
        """Give where some of the members stand, any of them several times."""
        return Passage.of_tree(pick(self.tree(), members))

    @classmethod
    def joined(cls, passages: Sequence[Passage]) -> Passage:
        """Join members of several voyages.

        Args:
            passages: where they stand, as many steps after a reading.

        Returns:
            Where they stand together, the first one's members first.

        Raises:
            OrderError: some of them validate averages and some do not.
        """
        seeing = sum(passage.best is not None for passage in passages)
        if 0 < seeing < len(passages):
            raise OrderError(
                f"Members sail together that all validate an average, or none: {seeing} of these {len(passages)} "
                "passages do. Begin all with the same `averages` and `validate_every`."
            )
        return cls.of_tree(join([passage.tree() for passage in passages]))


@dataclass(frozen=True)
class Pause:
    """A reading that waits for its decision.

    Attributes:
        seen: what a controller may know of it.
        memory: the features' memory after it.
        before: the members before the step that was read: what the guard may keep.
    """

    seen: Observation
    memory: Memory
    before: Copies

    def picked(self, members: Sequence[int]) -> Pause:
        """Give the readings of some of the members, any of them several times."""
        signals = Signals(**pick(vars(self.seen.signals), members))
        seen = {**pick({**vars(self.seen), "signals": None}, members), "signals": signals}
        return Pause(Observation(**seen), pick(self.memory, members), Copies(**pick(vars(self.before), members)))


@dataclass(frozen=True)
class Leg:
    """What the steps up to a reading gave.

    Attributes:
        losses: ``[B]`` training losses at the weights before each step.
        values: ``[B, S, K]`` knob values that each step used.
        pause: the reading at their end; None where the steps ended without one.
    """

    losses: list[Tensor]
    values: list[Tensor]
    pause: Pause | None
