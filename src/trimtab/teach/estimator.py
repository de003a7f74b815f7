"""Estimator: how the loss answers to the knobs, as an online teacher wants it told.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trimtab.errors import SignalError
from trimtab.signals import Observation


class Estimator(Protocol):
    """Says how the loss answers to the knobs: what an online teacher learns from; pure, keeps nothing.

    One that carries derivatives over several steps does so where the weights are, in gauge and plant; here it reads
    what they measured.

    Attributes:
        name: a short name for tables.
        needs: what readings must carry for it, as a controller's `needs`.
    """

    name: str
    needs: frozenset[str]

    def slope(self, seen: Observation) -> Tensor:
        """Give the slope; called at every reading.

        Args:
            seen: what there is to know.

        Returns:
            ``[B, S, K]`` d loss / d value of the knobs that the last update used, the loss's unit per the value's; a
            member with any that is not finite learns nothing from this reading.
        """
        ...


@dataclass(frozen=True)
class OneStep:
    """One step of hindsight: the slope of the next batch's loss by the knobs of the update before it.

    That batch is one the weights have not been fitted to by this update: in the first epoch its loss is an unbiased
    sample of the population's. The slope through a single step is Baydin et al. 2018's (arXiv:1703.04782). It is
    short-sighted: it favours learning rates that lower the loss at once (Wu et al. 2018, arXiv:1803.02021).
    Differs from the source: any knob of any optimizer that has a rule.

    Example:
        >>> OneStep().needs
        frozenset({'hypergrad'})
    """

    name = "one-step"
    needs = frozenset({"hypergrad"})

    def slope(self, seen: Observation) -> Tensor:
        """Give the reading's hypergradient; see :class:`Estimator`."""
        return _measured(seen)


@dataclass(frozen=True)
class OneStepValidation:
    """One step of hindsight on held-out examples: the slope of their loss, at the same weights.

    Live they are what ``attach(..., validation_loss=)`` gives, in the plant the first half of the validation split, 512
    at most. T1 - T2 of Luketina et al. 2016, arXiv:1511.06727, as short-sighted as :class:`OneStep`.
    Differs from the source: any knob of any optimizer that has a rule; acts at readings.

    Example:
        >>> sorted(OneStepValidation().needs)
        ['hypergrad', 'val_hypergrad']
    """

    name = "one-step-validation"
    needs = frozenset({"hypergrad", "val_hypergrad"})

    def slope(self, seen: Observation) -> Tensor:
        """Give the reading's hypergradient; see :class:`Estimator`."""
        return _measured(seen)


def _measured(seen: Observation) -> Tensor:
    if seen.signals.hypergrad is None:
        raise SignalError("Online teaching needs `hypergrad` in the signals: make the plant with its `needs`.")
    return seen.signals.hypergrad
