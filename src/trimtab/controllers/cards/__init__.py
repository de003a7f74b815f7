"""Cards: the taught policies that come with the package; each is a file of weights and a page that says its origin.

Loading one reads numbers (safetensors) and executes nothing. `trimtab teach` writes cards of your own.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from trimtab.controllers.policy import Policy
from trimtab.controllers.spec import roles
from trimtab.errors import TaskError

FOLDER = Path(__file__).parent
DEFAULT, LAYERS, JOINT = "trimtab-v6", "trimtab-layer-v1", "trimtab-joint-v2"  # by what there is to turn
AVERAGED = "trimtab-average-v1"  # as DEFAULT, for runs that are read at an average of their weights


@cache
def shipped() -> tuple[str, ...]:
    """Give the names of the cards in the package, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.safetensors")))


def card(name: str) -> Policy:
    """Load a shipped card.

    Args:
        name: one of :func:`shipped`.

    Returns:
        The policy, as it was taught.

    Raises:
        TaskError: there is no such card.

    Example:
        >>> card("trimtab-v1").spec["knobs"]
        ['lr']
    """
    return Policy.load(FOLDER / f"{_known(name)}.safetensors")


def page(name: str) -> str:
    """Give a shipped card's page, Markdown: what it was taught on, by which command, at what cost, how well.

    Args:
        name: one of :func:`shipped`.

    Returns:
        The text.

    Raises:
        TaskError: there is no such card.
    """
    return (FOLDER / f"{_known(name)}.md").read_text()


def fitting(knobs: Sequence[str], sites: int, *, is_averaged: bool = False) -> str | None:
    """Name the shipped card for these knobs.

    Args:
        knobs: their names, in order; ``beta1`` and ``momentum`` stand for one another.
        sites: how many there are; several ask for a card that was taught layer by layer.
        is_averaged: whether an average of the weights is kept; one for it is there for the rate of the whole run.

    Returns:
        The card's name, or None where none was taught on these knobs.
    """
    usual = AVERAGED if is_averaged else DEFAULT
    known = {("lr",): LAYERS if sites > 1 else usual, ("lr", "momentum", "weight_decay"): JOINT}
    return known.get(tuple(roles(knobs)))


def _known(name: str) -> str:
    if name in shipped():
        return name
    close = difflib.get_close_matches(name, shipped())
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(shipped()) or 'none'}."
    raise TaskError(f"No card is named {name!r}: {hint}")
