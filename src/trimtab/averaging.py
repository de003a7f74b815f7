"""Averaging: how an average of the weights moves over a run, the law of the live end and of the plant.

Polynomial-decay averaging, Shamir and Zhang 2013, "Stochastic gradient descent for non-smooth optimization",
arXiv:1212.1824: after step ``t`` the average ``a`` becomes ``a + c (w - a)`` with ``c = (eta + 1) / (t + eta)``. Mostly
the last ninth of the steps so far counts, however long the run will be, and no horizon is needed. `eta` is 8, as in
DoG's own average (Ivgi et al. 2023, arXiv:2302.12022). Differs from the source: in long runs it moves every few steps
(:func:`stride`), each time as far as it would have at all of them had they the same weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch

ETA = 8
SAMPLES = 512  # of a whole run: the stride is at most this share of it


def stride(step: Any) -> Any:
    """Give how many steps lie between two moves of an average: 1, and from step 1,025 on the power of 2 below.

    The largest power of 2 that is at most ``(step - 1) / 512``: of the steps that count, at least 57 are looked at, and
    the longer the run, the less the average costs.

    Args:
        step: optimizer steps taken, from 1; an int, or an int64 tensor of them.

    Returns:
        The steps, an int or an int64 tensor.

    Example:
        >>> [stride(step) for step in (1, 1024, 1025, 2049, 100_000)]
        [1, 1, 2, 4, 128]
    """
    many = (step - 1) // SAMPLES
    if isinstance(many, int):
        return 1 << max(0, many.bit_length() - 1)
    return 2 ** (torch.frexp(many.double()).exponent - 1).clamp_min(0).long()


def share(step: Any, since: Any) -> Any:
    """Give how far an average moves towards the weights: by as much as at all steps since its last move together.

    Args:
        step: optimizer steps taken, from 1; an int, or a tensor of them.
        since: as many at its last move; 0: there was none.

    Returns:
        The share, in (0, 1], a float or a tensor likewise: ``1 - prod (i - 1) / (i + eta)`` over those steps ``i``,
        most of whose factors cancel.

    Example:
        >>> [round(share(step, since), 4) for step, since in ((1, 0), (10, 9), (10, 8))]
        [1.0, 0.5, 0.7647]
    """
    return 1 - math.prod((since + i) / (step + i) for i in range(ETA + 1))
