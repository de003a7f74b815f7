"""Controllers: what turns a run's knobs, from a constant to a learned policy.

:data:`CATALOGUE` names those that need no weights; `docs/which-controller.md` says which one when. A package of
anyone's adds its own with an entry point in the group ``trimtab.controllers``: a callable without arguments that
gives a :class:`trimtab.controller.Controller`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, cast

from trimtab.controller import Controller
from trimtab.controllers.ablation import Random, Replay
from trimtab.controllers.cards import card, shipped
from trimtab.controllers.descent import HypergradientDescent
from trimtab.controllers.greedy import Greedy
from trimtab.controllers.plateau import Plateau
from trimtab.controllers.policy import Policy
from trimtab.controllers.population import Population
from trimtab.controllers.schedule import WSD, Constant, Linear, OneCycle, WarmupCosine
from trimtab.errors import TaskError
from trimtab.later import later

if TYPE_CHECKING:
    from trimtab.controllers.hypergradient import Hypergradient, KnobDescent

GROUP = "trimtab.controllers"

CATALOGUE: dict[str, Callable[[], Controller]] = {
    "constant": Constant,
    "cosine": WarmupCosine,
    "greedy": Greedy,
    "hypergradient": HypergradientDescent,
    "linear": Linear,
    "onecycle": OneCycle,
    "plateau": Plateau,
    "random": Random,
    "wsd": WSD,
}
"""Controllers by name, each at its defaults."""

__all__ = [
    "CATALOGUE",
    "WSD",
    "Constant",
    "Greedy",
    "Hypergradient",
    "HypergradientDescent",
    "KnobDescent",
    "Linear",
    "OneCycle",
    "Plateau",
    "Policy",
    "Population",
    "Random",
    "Replay",
    "WarmupCosine",
    "card",
    "controller_named",
    "shipped",
]

__getattr__, __dir__ = later(
    __name__, dict.fromkeys(("Hypergradient", "KnobDescent"), "trimtab.controllers.hypergradient")
)


def controller_named(name: str) -> Controller:
    """Make a controller by its name, at its defaults.

    Args:
        name: one of :data:`CATALOGUE`, the name of a shipped card, or that of an installed entry point.

    Returns:
        A new controller.

    Raises:
        TaskError: nothing has that name.

    Example:
        >>> controller_named("cosine").needs
        frozenset({'horizon'})
    """
    if name in CATALOGUE:
        return CATALOGUE[name]()
    if name in shipped():
        return card(name)
    strangers: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=GROUP)}
    if name in strangers:
        return cast("Callable[[], Controller]", strangers[name].load())()
    known = sorted({*CATALOGUE, *shipped(), *strangers})
    close = difflib.get_close_matches(name, known)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known are {', '.join(known)}."
    raise TaskError(f"No controller is named {name!r}: {hint}")
