"""Tangents: how one step of a rule answers to its knobs.

Letters: ``K`` knobs, ``...`` leading member axes and the parameter's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.rules.rule import Rule, Slots, Values


def tangents(rule: Rule, grad: Tensor, slots: Slots, param: Tensor, values: Values, names: Sequence[str]) -> Tensor:
    """Differentiate the step about to be taken by the values of knobs, slots and gradient held fixed.

    Forward mode, one pass a knob. Where a value is ``[B, 1]``, members do not see each other, so that one pass gives
    every member its own derivative.

    Args:
        rule: the rule.
        grad: ``[...]`` gradient.
        slots: the rule's memory before the step.
        param: ``[...]`` the tensor before the step.
        values: values by name, broadcastable against `param`; one of `names` left out takes the rule's default.
        names: the knobs, among the rule's `defaults`.

    Returns:
        ``[K, ...]``: d new tensor / d value, in the parameter's unit per unit of the value; also finite where a
        coordinate never had a gradient.

    Raises:
        KnobError: the rule does not read one of the names.

    Example:
        >>> from trimtab.rules import SGD
        >>> rule, param = SGD(), torch.tensor([1.0, 2.0])
        >>> tangents(rule, torch.tensor([3.0, 4.0]), rule.start(param), param, {"lr": torch.tensor(0.1)}, ("lr",))
        tensor([[-3., -4.]])
    """
    load_forward_mode()
    rows = [torch.zeros_like(param, requires_grad=False).expand(0, *param.shape)]
    for name in names:
        if name not in rule.defaults:
            raise KnobError(f"{rule.name} does not read {name!r}: its knobs are {', '.join(rule.defaults)}.")
        value = values.get(name)
        if value is None:
            value = torch.tensor(rule.defaults[name], dtype=torch.float64, device=param.device)
        rows.append(_along(rule, grad, slots, param, values, name, value)[None])
    return torch.cat(rows)


def _along(rule: Rule, grad: Tensor, slots: Slots, param: Tensor, values: Values, name: str, value: Tensor) -> Tensor:
    def step(turned: Tensor) -> Tensor:
        return rule.update(grad, slots, param, {**values, name: turned})[0]

    tangent: Tensor = torch.func.jvp(step, (value,), (torch.ones_like(value),))[1]
    return tangent


@cache
def load_forward_mode() -> None:
    """Let torch load its forward mode; it uses its own deprecated ``torch.jit`` for that, and warns of it once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.square, (torch.ones(()),), (torch.ones(()),))
