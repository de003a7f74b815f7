"""The digits in five phases of two classes each, as they come in class-incremental learning.

Letters: ``N`` examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from trimtab.errors import TaskError
from trimtab.task import Split
from trimtab.tasks import digits
from trimtab.tasks.seeded import build_seeded

PHASES, CLASSES, HIDDEN = 5, 10, 32


@final
class SplitDigits:
    """Scikit-learn's digits, two classes a phase: 0 and 1, then 2 and 3, ...; asked about all classes so far.

    No :class:`trimtab.task.Task`: its training data change during the run, and its loss has a part that the learner
    chooses (:mod:`trimtab.teach.incremental`).

    Example:
        >>> SplitDigits().classes(1)
        (2, 3)
    """

    name: str = "split-digits-v1"
    phases: int = PHASES
    metric: str = "accuracy"
    card: str = digits.CARD

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
        """Give the pixels ``[N, 64]`` and classes ``[N]`` of some of the classes."""
        x, y = digits.digits(split)
        chosen = torch.isin(y, torch.tensor(list(classes)))
        return x[chosen], y[chosen]

    def build(self, seed: int) -> nn.Sequential:
        """Make the network 64-32-10 with tanh; the last layer names a class."""
        made = build_seeded(lambda: nn.Sequential(nn.Linear(64, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES)), seed)
        assert isinstance(made, nn.Sequential)
        return made
