"""Hypergradients: where the derivative of a loss by the knobs comes from, one file a paper.

An estimator fills ``Signals.hypergrad``, live and simulated; what is done with it is a controller's matter
(:mod:`trimtab.controllers.hypergradient`, :class:`trimtab.teach.OnlineTeaching`). Each is loaded when it is asked for:
a run without a hypergradient needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.controller import Controller
from trimtab.later import later

if TYPE_CHECKING:
    from trimtab.hypergrad.distilled import HyperDistill
    from trimtab.hypergrad.estimator import Estimator, Fine, Following, Form, Memory
    from trimtab.hypergrad.forward import ForwardMode
    from trimtab.hypergrad.implicit import Implicit
    from trimtab.hypergrad.named import ESTIMATORS, estimator_named
    from trimtab.hypergrad.one_step import OneStep, OneStepValidation
    from trimtab.hypergrad.per_parameter import PerParameter
    from trimtab.hypergrad.products import Curve
    from trimtab.hypergrad.step import Step
    from trimtab.hypergrad.unrolled import Unroll
    from trimtab.hypergrad.zeroth import ZerothOrder

__all__ = [
    "ESTIMATORS",
    "Curve",
    "Estimator",
    "Fine",
    "Following",
    "ForwardMode",
    "Form",
    "HyperDistill",
    "Implicit",
    "Memory",
    "OneStep",
    "OneStepValidation",
    "PerParameter",
    "Step",
    "Unroll",
    "ZerothOrder",
    "estimator_named",
    "estimator_of",
]

__getattr__, __dir__ = later(
    __name__,
    {
        "ESTIMATORS": "trimtab.hypergrad.named",
        **dict.fromkeys(("Estimator", "Fine", "Following", "Form", "Memory"), "trimtab.hypergrad.estimator"),
        "Curve": "trimtab.hypergrad.products",
        "ForwardMode": "trimtab.hypergrad.forward",
        "HyperDistill": "trimtab.hypergrad.distilled",
        "Implicit": "trimtab.hypergrad.implicit",
        "OneStep": "trimtab.hypergrad.one_step",
        "OneStepValidation": "trimtab.hypergrad.one_step",
        "PerParameter": "trimtab.hypergrad.per_parameter",
        "Step": "trimtab.hypergrad.step",
        "Unroll": "trimtab.hypergrad.unrolled",
        "ZerothOrder": "trimtab.hypergrad.zeroth",
        "estimator_named": "trimtab.hypergrad.named",
    },
)


def estimator_of(controller: Controller) -> Estimator | None:
    """Give the estimator that a controller follows; None where it needs no hypergradient.

    Args:
        controller: one that names its estimator, or only says in `needs` what it needs.

    Returns:
        Its own, or that of one step.
    """
    if "hypergrad" not in controller.needs and not hasattr(controller, "estimator"):
        return None
    from trimtab.hypergrad.estimator import Following  # few controllers get here
    from trimtab.hypergrad.one_step import OneStep, OneStepValidation

    if isinstance(controller, Following):
        return controller.estimator
    return OneStepValidation() if "val_hypergrad" in controller.needs else OneStep()
