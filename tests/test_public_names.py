"""Law: what `trimtab` shows is what it lists."""

from types import ModuleType

import trimtab


def test_the_public_names_are_sorted() -> None:
    """`trimtab.__all__` is in alphabetical order, capitals and small letters alike."""
    assert sorted(trimtab.__all__, key=str.casefold) == list(trimtab.__all__)


def test_the_public_names_are_those_that_are_there() -> None:
    """`trimtab.__all__` holds each public name of the package, its modules apart, and nothing else."""
    there = {
        name for name in dir(trimtab) if not name.startswith("_") and not isinstance(getattr(trimtab, name), ModuleType)
    }
    assert there == set(trimtab.__all__)


def test_the_public_names_are_listed_once() -> None:
    """No name stands in `trimtab.__all__` twice."""
    assert len(set(trimtab.__all__)) == len(trimtab.__all__)
