"""Live: reading a rule and its slots off a ``torch.optim`` optimizer."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import TaskError
from trimtab.rules.rule import Slots

BETAS = {"beta1": 0, "beta2": 1}  # torch keeps these two inside ``betas``


def read_slots(optimizer: torch.optim.Optimizer, param: Tensor, blank: Slots) -> Slots:
    """Read a live parameter's slots; what the optimizer does not have yet is as in `blank`.

    Args:
        optimizer: the real twin.
        param: one of its parameters.
        blank: the slots before the first step, named as in ``optimizer.state``.

    Returns:
        The slots, shaped like `blank`. They share memory with the optimizer, whose next step changes them: clone what
        must outlast it.
    """
    state = optimizer.state.get(param, {})
    slots = dict(blank)
    for name, start in blank.items():
        value = state.get(name)
        if value is not None:
            slots[name] = torch.as_tensor(value).detach().to(start).expand(start.shape)
    return slots


def read_fields(optimizer: torch.optim.Optimizer, kind: Any) -> dict[str, Any]:
    """Read a rule's flags and defaults off a live optimizer.

    Args:
        optimizer: the real twin.
        kind: the rule's dataclass; fields of type ``float`` are numeric hyperparameters, read from the first group,
            the others flags, on which all groups must agree.

    Returns:
        Arguments of `kind`.

    Raises:
        TaskError: two groups differ in a flag.
    """
    arguments = {}
    for field in fields(kind):
        values = [_value(group, field) for group in optimizer.param_groups if field.init and _has(group, field)]
        if not values:
            continue  # no field of the optimizer's: the rule's own choice
        if not _is_numeric(field) and any(value != values[0] for value in values):
            raise TaskError(
                f"All parameter groups must share the flag {field.name!r}, got {values} by group: a rule has one value "
                f"for all. Give each kind of group an optimizer of its own."
            )
        arguments[field.name] = values[0]
    return arguments


def _is_numeric(field: Field[Any]) -> bool:
    return field.type == "float"


def _has(group: dict[str, Any], field: Field[Any]) -> bool:
    return field.name in group or field.name in BETAS


def _value(group: dict[str, Any], field: Field[Any]) -> Any:
    value = group["betas"][BETAS[field.name]] if field.name in BETAS else group[field.name]
    return float(value) if _is_numeric(field) else value
