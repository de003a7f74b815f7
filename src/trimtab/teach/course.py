"""Course: what is taught, on what and how, as a TOML file says it."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from trimtab.controllers.cards import card
from trimtab.controllers.policy import Policy
from trimtab.controllers.spec import Kind
from trimtab.errors import TaskError
from trimtab.knobs import Panel
from trimtab.teach.distribution import RULES, Distribution
from trimtab.teach.evolution import Evolution, Teacher
from trimtab.teach.fitness import Baseline
from trimtab.teach.genome import Genome
from trimtab.teach.pes import PersistentEvolution
from trimtab.teach.ppo import Proximal
from trimtab.teach.sources import SOURCES
from trimtab.teach.unroll import Unroll

Table = dict[str, Any]
METHODS = {"evolution": Evolution, "persistent": PersistentEvolution, "unroll": Unroll, "ppo": Proximal}
OWN = {  # keys that not every method has
    "pairs": ("evolution", "persistent"),
    "sigma": ("evolution", "persistent"),
    "regret": ("evolution",),
    "unroll": ("persistent", "unroll"),
    "members": ("unroll", "ppo"),
    "clip": ("unroll",),
    "decay": ("evolution", "persistent", "unroll"),
    "epochs": ("ppo",),
    "noise": ("ppo",),
}
DEFAULTS: dict[str, Table] = {
    "": {"name": "", "seed": 0},
    "distribution": {
        "name": Distribution.name,
        "horizons": [50, 600],
        "rules": list(RULES),
        "pool": 0,
        "sources": list(SOURCES),
    },
    "policy": {
        "knobs": ["lr"],
        "kind": "mlp",
        "hidden": 16,
        "prior": "hold",
        "reach": 1.0,
        "leap": 3.0,
        "calm": 0.0,
        "average": False,
        "sites": "run",
        "start": "",
        "features": ["*", "!mean_*", "!rank_*"],
    },
    "teacher": {
        "method": "evolution",
        "generations": 500,
        "pairs": 32,
        "tasks": 2,
        "sigma": 0.1,
        "rate": 0.04,
        "decay": 0.0,
        "regret": False,
        "unroll": 50,
        "members": 32,
        "clip": 1.0,
        "epochs": 8,
        "noise": 0.4,
    },
    "examination": {"every": 50, "lessons": 16, "of_each_kind": False},
    "budget": {"minutes": 0.0},
}
"""Every key there is, with its value where the file does not give it; `minutes` 0: no bound; `start`: a shipped card or
a file of weights to teach on from, "" to begin untaught."""


@dataclass(frozen=True)
class Course:
    """A whole teaching, checked.

    Args:
        name: of the card.
        tables: as in :data:`DEFAULTS`, every key present.

    Raises:
        TaskError: a setting is unknown or out of range.
        KnobError: a knob is unknown, or the policy's settings do not hold.
        DataError: a source's data is not there; says how to get it.
    """

    name: str
    tables: Mapping[str, Table]

    def __post_init__(self) -> None:
        """Build everything once, so that what does not hold is told at once."""
        self.teacher(None)
        self.distribution()
        self.beginning()
        laws = {
            "`[policy] sites` must be 'run', 'layer' or 'block'": self.by in {"run", "layer", "block"},
            "`[examination]` needs `every >= 1` and `lessons >= 1`": min(
                self.tables["examination"][key] for key in ("every", "lessons")
            )
            >= 1,
            "`[budget] minutes` must not be negative": self.minutes >= 0,
        }
        for law, holds in laws.items():
            if not holds:
                raise TaskError(f"{law}.")

    @property
    def by(self) -> str:
        """What is a site."""
        return str(self.tables["policy"]["sites"])

    @property
    def minutes(self) -> float:
        """The budget, by the clock; 0: none."""
        return float(self.tables["budget"]["minutes"])

    @property
    def identity(self) -> str:
        """All that decides what comes of it, as JSON."""
        return json.dumps({name: table for name, table in self.tables.items() if name != "budget"}, sort_keys=True)

    @property
    def settings(self) -> Table:
        """The teacher's table, without what its method does not know."""
        table = self.tables["teacher"]
        return {key: value for key, value in table.items() if table["method"] in OWN.get(key, (table["method"],))}

    def panel(self) -> Panel:
        """Give the knobs."""
        return Panel.of(self.tables["policy"]["knobs"])

    def genome(self) -> Genome:
        """Give what is taught."""
        table = self.tables["policy"]
        policy = Policy.for_panel(
            self.panel(),
            table["hidden"],
            kind=cast("Kind", table["kind"]),
            prior=table["prior"],
            reach=table["reach"],
            leap=table["leap"],
            calm=table["calm"],
            average=table["average"],
        )
        return Genome(policy.spec, tuple(table["features"]))

    def beginning(self) -> Tensor:
        """Give the vector that the teaching begins with, ``[P]``.

        Returns:
            An untaught policy's, or that of the one named by `start`.

        Raises:
            TaskError: there is no such card or file, or it is of another form.
        """
        start = self.tables["policy"]["start"]
        if not start:
            return self.genome().untaught()
        return self.genome().started(Policy.load(start) if Path(start).is_file() else card(start))

    def distribution(self) -> Distribution:
        """Give the lessons."""
        table = self.tables["distribution"]
        return Distribution(
            tuple(table["horizons"]),
            tuple(table["rules"]),
            self.tables[""]["seed"],
            table["pool"],
            tuple(table["sources"]),
            table["name"],
        )

    def teacher(self, baseline: Baseline | None) -> Teacher:
        """Give the teacher.

        Args:
            baseline: gives lessons' best static costs; used where `regret` is asked for.

        Returns:
            It.

        Raises:
            TaskError: there is no such method.
        """
        method, given = self.tables["teacher"]["method"], self.tables["teacher"]
        if method not in METHODS:
            raise TaskError(f"`[teacher] method` must be one of {', '.join(METHODS)}, got {method!r}.")
        for key, owners in OWN.items():
            if method not in owners and given[key] != DEFAULTS["teacher"][key]:
                raise TaskError(f"`[teacher] {key}` is for the method {' or '.join(owners)}, got it for {method!r}.")
        table = {key: value for key, value in self.settings.items() if key != "method"}
        if table.pop("regret", False):
            table["baseline"] = baseline
        shared = {"genome": self.genome(), "panel": self.panel(), "by": self.by, "seed": self.tables[""]["seed"]}
        teacher: Teacher = METHODS[method](**shared, **table)
        return teacher


def read_course(path: Path) -> Course:
    """Read a course.

    Args:
        path: a TOML file; keys it does not give take their defaults, and `name` the file's.

    Returns:
        The course.

    Raises:
        TaskError: it is no TOML, or has a key that is unknown or of another type.
    """
    try:
        given = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"{path} is no TOML file: {error}.") from error
    top = {name: value for name, value in given.items() if name not in DEFAULTS}
    tables = {"": _filled("", top)}
    for name in DEFAULTS:
        if name:
            tables[name] = _filled(name, given.get(name, {}))
    return Course(tables[""]["name"] or path.stem, tables)


def _filled(name: str, given: Any) -> Table:
    """Check a table's keys and types against the defaults, and fill in what is missing."""
    defaults = DEFAULTS[name]
    if not isinstance(given, dict):
        raise TaskError(f"`{name}` must be a table, `[{name}]`, got {given!r}.")
    for key, value in given.items():
        shown = f"[{name}] {key}" if name else key
        if key not in defaults:
            known = list(defaults) if name else [*defaults, *(f"[{table}]" for table in DEFAULTS if table)]
            close = difflib.get_close_matches(key, known)
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {', '.join(known)}."
            raise TaskError(f"`{shown}` is no setting of a teaching: {hint}")
        if not _is_like(value, defaults[key]):
            raise TaskError(f"`{shown}` must be {_kind(defaults[key])}, such as {defaults[key]!r}, got {value!r}.")
    return {key: given.get(key, default) for key, default in defaults.items()}


def _is_like(value: Any, default: Any) -> bool:
    if isinstance(default, list):
        return isinstance(value, list) and all(_is_like(entry, default[0]) for entry in value)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def _kind(default: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return kinds[type(default)]
