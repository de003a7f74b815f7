"""Hypergradients: where the derivative of a loss by the knobs comes from, one file a paper.

An estimator fills ``Signals.hypergrad``, live and simulated; what is done with it is a controller's matter
(:mod:`trimtab.controllers.hypergradient`, :class:`trimtab.teach.OnlineTeaching`).
"""

from __future__ import annotations

from trimtab.controller import Controller
from trimtab.hypergrad.estimator import Estimator, Follower, Form, Memory
from trimtab.hypergrad.forward import ForwardMode
from trimtab.hypergrad.implicit import Implicit
from trimtab.hypergrad.one_step import OneStep, OneStepValidation
from trimtab.hypergrad.step import Curve, Step
from trimtab.hypergrad.unrolled import Window

__all__ = [
    "Curve",
    "Estimator",
    "Follower",
    "ForwardMode",
    "Form",
    "Implicit",
    "Memory",
    "OneStep",
    "OneStepValidation",
    "Step",
    "Window",
    "estimator_of",
]


def estimator_of(controller: Controller) -> Estimator | None:
    """Give the estimator that a controller follows; None where it needs no hypergradient.

    Args:
        controller: one that names its estimator, or only says in `needs` what it needs.

    Returns:
        Its own, or that of one step.
    """
    if isinstance(controller, Follower):
        return controller.estimator
    if "hypergrad" not in controller.needs:
        return None
    return OneStepValidation() if "val_hypergrad" in controller.needs else OneStep()
