"""Rules: functional, differentiable, broadcastable twins of ``torch.optim`` optimizers.

A rule is a frozen record of an optimizer's flags and defaults; :meth:`Rule.update` is its step as a pure function.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from trimtab.errors import TaskError
from trimtab.rules.adam import Adam, AdamW
from trimtab.rules.live import read_fields
from trimtab.rules.muon import Muon
from trimtab.rules.nadam import NAdam
from trimtab.rules.rmsprop import RMSprop
from trimtab.rules.rule import Rule, Slots, Values
from trimtab.rules.sgd import SGD
from trimtab.rules.tangents import load_forward_mode, tangents

__all__ = [
    "CATALOGUE",
    "SGD",
    "Adam",
    "AdamW",
    "Muon",
    "NAdam",
    "RMSprop",
    "Rule",
    "Slots",
    "Values",
    "load_forward_mode",
    "rule_of",
    "tangents",
]

CATALOGUE: dict[str, Callable[..., Rule]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
    "rmsprop": RMSprop,
    "muon": Muon,
}
"""The rules by name."""

_KINDS: dict[type[torch.optim.Optimizer], Callable[..., Rule]] = {
    kind.twin: kind for kind in (SGD, Adam, AdamW, NAdam, RMSprop, Muon)
}


def rule_of(optimizer: torch.optim.Optimizer) -> Rule:
    """Find the rule that a live optimizer follows.

    Flags and numeric defaults are those in its parameter groups now; the numbers may differ between groups, and then
    the first group's are taken.

    Args:
        optimizer: exactly of one of the classes that have a twin, not of a subclass, which may step differently.

    Returns:
        The rule.

    Raises:
        TaskError: the class has no rule, or groups differ in a flag.

    Example:
        >>> rule_of(torch.optim.SGD([torch.zeros(2)], lr=0.1, momentum=0.9, nesterov=True))
        SGD(lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=True, maximize=False)
    """
    kind = _KINDS.get(type(optimizer))
    if kind is None:
        known = ", ".join(f"torch.optim.{twin.__name__}" for twin in _KINDS)
        raise TaskError(
            f"An optimizer's class must be exactly one of {known} to have a rule, got "
            f"{type(optimizer).__module__}.{type(optimizer).__qualname__}: use one of these, or write a Rule for it."
        )
    return kind(**read_fields(optimizer, kind))
