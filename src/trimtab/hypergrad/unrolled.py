"""Truncated unroll: the exact slope through the last few steps, each at its own weights and batch.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trimtab.errors import KnobError
from trimtab.hypergrad.step import Step
from trimtab.rules import Slots


@dataclass(frozen=True)
class Window:
    """Exact reverse differentiation through steps that were kept: a slope by the knobs of each.

    ``p <- grad L(w_T)``, and for each step from the last: the slope is ``p^T dF/dv``, then ``p <- p^T dF/d(w, s)``.
    Steps keep weights, slots and batches, no graph: each one's is built, used and let go.

    Truncated backpropagation through the optimizer: Domke 2012; Shaban et al. 2019, arXiv:1810.10667, Alg. 1 with K
    steps. Differs from the source: any optimizer that has a rule.

    Args:
        steps: oldest first, each beginning where the one before ended.

    Raises:
        KnobError: there are none.
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        """Check that there is a step."""
        if not self.steps:
            raise KnobError("A window needs at least one step.")

    def slopes(self, row: Tensor) -> list[Tensor]:
        """Differentiate a loss at the end by every step's values.

        Args:
            row: ``[B, n]`` gradient of the loss at the last step's new weights.

        Returns:
            ``[B, S, K]`` a step, oldest first.
        """
        slots: tuple[Slots, ...] = ()
        found = []
        for step in reversed(self.steps[1:]):
            made = step.pull(row, slots)
            found.append(made.values)
            row, slots = made.weights, made.slots or ()
        found.append(self.steps[0].pull_values(row, slots))
        return found[::-1]
