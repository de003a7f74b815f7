"""The digits in five phases of two classes each."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from trimtab.task import Split
from trimtab.tasks import digits
from trimtab.tasks.phases import CLASSES, Phases

HIDDEN = 32


@final
class SplitDigits(Phases):
    """Scikit-learn's digits, read by 64-32-10 with tanh.

    Example:
        >>> SplitDigits().classes(1)
        (2, 3)
    """

    name: str = "split-digits-v1"
    card: str = digits.CARD

    def examples(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give pixels ``[N, 64]`` and classes ``[N]``."""
        return digits.digits(split)

    def network(self) -> nn.Sequential:
        """Make the network."""
        return nn.Sequential(nn.Linear(64, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))
