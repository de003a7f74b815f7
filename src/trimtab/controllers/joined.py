"""Joined: several policies as one network, whose answer is the mean of theirs.

What two teachings have in common is the lessons; where they differ is mostly chance: which lessons, which weights to
begin with. Their mean has less of that (Dietterich 2000, "Ensemble methods in machine learning"). Side by side in one
hidden layer they are a policy like any other, to be saved, shipped and taught on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from trimtab.controllers.policy import Policy
from trimtab.controllers.spec import Spec
from trimtab.errors import TaskError

ALIKE = ("kind", "features", "center", "size", "knobs", "reach", "leap", "calm")


def joined(policies: Sequence[Policy]) -> Policy:
    """Make one policy of several.

    Args:
        policies: at least one, all of kind "mlp" and alike in what they read, turn and how far; the number of hidden
            units may differ, and of `prior` and `average` the first one's count.

    Returns:
        A policy of as many hidden units as they have together. What it answers before its last ``tanh`` is the mean of
        what they do.

    Raises:
        TaskError: there is none, or they are not alike; says in what.

    Example:
        >>> from trimtab.controllers.cards import card
        >>> joined([card("trimtab-v3"), card("trimtab-v4")]).spec["hidden"]
        48
    """
    if not policies:
        raise TaskError("At least one policy is needed to join.")
    first = policies[0].spec
    for spec in (policy.spec for policy in policies):
        apart = [name for name in ALIKE if cast("Any", spec)[name] != cast("Any", first)[name]]
        if apart or spec["kind"] != "mlp":
            raise TaskError(
                f'Policies can be joined that are of kind "mlp" and alike in {", ".join(ALIKE)}; these differ in '
                f"{', '.join(apart)}: join others."
                if apart
                else f'Policies can be joined that are of kind "mlp", got {spec["kind"]!r}.'
            )
    many, parts = len(policies), [dict(policy.named_parameters()) for policy in policies]
    whole = Policy(cast("Spec", {**first, "hidden": sum(policy.spec["hidden"] for policy in policies)}))
    with torch.no_grad():
        whole.get_parameter("hidden_weight").copy_(torch.cat([part["hidden_weight"] for part in parts]))
        whole.get_parameter("hidden_bias").copy_(torch.cat([part["hidden_bias"] for part in parts]))
        whole.get_parameter("out_weight").copy_(torch.cat([part["out_weight"] for part in parts], 1) / many)
        whole.get_parameter("out_bias").copy_(torch.stack([part["out_bias"] for part in parts]).mean(0))
    return whole
