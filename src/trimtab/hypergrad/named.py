"""Named: estimators by name."""

from __future__ import annotations

from collections.abc import Callable

from trimtab.errors import KnobError
from trimtab.hypergrad.distilled import HyperDistill
from trimtab.hypergrad.estimator import Estimator
from trimtab.hypergrad.forward import ForwardMode
from trimtab.hypergrad.implicit import Implicit
from trimtab.hypergrad.one_step import OneStep, OneStepValidation
from trimtab.hypergrad.unrolled import Unroll
from trimtab.hypergrad.zeroth import ZerothOrder

ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "one-step": OneStep,
    "one-step-validation": OneStepValidation,
    "implicit": Implicit,
    "forward": ForwardMode,
    "distilled": HyperDistill,
    "zeroth-order": ZerothOrder,
    "unroll": Unroll,
}
"""Estimators by name, each at its defaults."""

LOOK_BACK: dict[str, Callable[[int], Estimator]] = {"implicit": Implicit, "unroll": Unroll}


def estimator_named(name: str, lookback: int | None = None) -> Estimator:
    """Make an estimator by its name.

    Args:
        name: one of :data:`ESTIMATORS`.
        lookback: steps to look back over; None: its own default.

    Returns:
        A new estimator.

    Raises:
        KnobError: nothing has that name, or it does not look back over a number of steps.

    Example:
        >>> estimator_named("implicit", 3).lookback
        3
    """
    if name not in ESTIMATORS:
        hint = " Whole runs are differentiated by `trimtab.hypergrad.reversed`." if name == "reversed" else ""
        raise KnobError(f"No estimator is named {name!r}: there are {', '.join(ESTIMATORS)}.{hint}")
    if lookback is None:
        return ESTIMATORS[name]()
    if name not in LOOK_BACK:
        raise KnobError(f"`lookback` is for {' and '.join(LOOK_BACK)}, got it for {name!r}.")
    return LOOK_BACK[name](lookback)
