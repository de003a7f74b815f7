"""Defaults: a rule's numeric hyperparameters as one mapping."""

from __future__ import annotations


class Defaults:
    """A rule's attribute ``defaults``: the fields named here, by name.

    A descriptor rather than a property, since the Rule protocol asks for an attribute.

    Args:
        names: the numeric hyperparameters that the rule's update reads.
    """

    def __init__(self, *names: str) -> None:
        self._names = names

    def __get__(self, rule: object, kind: type) -> dict[str, float]:
        """Collect the rule's values."""
        return {name: getattr(rule, name) for name in self._names}
