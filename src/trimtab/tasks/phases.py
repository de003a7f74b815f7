"""Ten classes in five phases of two, as they come in class-incremental learning.

Letters: ``N`` examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trimtab.errors import TaskError
from trimtab.task import Split
from trimtab.tasks.seeded import build_seeded

PHASES, CLASSES = 5, 10


class Phases(ABC):
    """Two classes a phase: 0 and 1, then 2 and 3, ...; a learner is asked about all classes so far.

    No :class:`trimtab.task.Task`: its training data change during the run, and its loss has a part that the learner
    chooses (:mod:`trimtab.teach.incremental`).
    """

    name: str
    card: str
    phases: int = PHASES
    metric: str = "accuracy"

    @abstractmethod
    def examples(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give all inputs, examples first, and classes ``[N]`` of a split."""

    @abstractmethod
    def network(self) -> nn.Sequential:
        """Make the network; its last layer is linear and names a class."""

    def classes(self, phase: int) -> tuple[int, ...]:
        """Give the classes that are new in a phase, from 0.

        Args:
            phase: which.

        Returns:
            Their names.

        Raises:
            TaskError: there is no such phase.
        """
        if not 0 <= phase < PHASES:
            raise TaskError(f"{self.name} has phases 0 to {PHASES - 1}, got {phase}.")
        return (2 * phase, 2 * phase + 1)

    def data(self, split: Split, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Give the inputs and classes ``[N]`` of some of the classes."""
        x, y = self.examples(split)
        chosen = torch.isin(y, torch.tensor(list(classes)))
        return x[chosen], y[chosen]

    def build(self, seed: int) -> nn.Sequential:
        """Make the network with weights drawn from `seed`."""
        made = build_seeded(self.network, seed)
        assert isinstance(made, nn.Sequential)
        return made
