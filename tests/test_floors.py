"""Law: a module imports only from lower floors, so that the house can be read from the ground up.

The floors are listed in `FLOORS`, lowest first. A folder of the package (``rules/``) is one entry: what is inside may
import each other. Where two neighbours on one floor must meet, `SAME_FLOOR_OK` names the pair and the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

FLOORS = (
    "errors later",
    "knobs signals level averaging best sites datasets ranks whole workers",
    "controller rules task probe features judgement linkage loop columns layout loss_knob aside",
    "copies checkpoint guard",
    "hypergrad average",
    "helm stream snapshot controllers tasks charts templates compiled",
    "gauge plant trace reasons passage wheel heat",
    "rollout report logbook",
    "pilot env",
    "preconditions",
    "attach teach search contracts fit",
    "bench",
    "cli_bench cli_teach",
    "cli",
    "__init__",
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}

# (who imports, what) -> why the two could not stand on different floors.
SAME_FLOOR_OK: dict[tuple[str, str], str] = {}

MOST_LINES = 300


def source() -> Path:
    """Find the package under test, a checkout's or an installed one, without importing it."""
    spec = find_spec("trimtab")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


SOURCE = source()
FILES = sorted(SOURCE.rglob("*.py"))


def entry(file: Path, package: Path) -> str:
    """Name the floor's entry that a file belongs to: its top folder, or its own name."""
    return file.relative_to(package).with_suffix("").parts[0]


def imported(file: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Yield line and entry of each import of our own, wherever in the file it stands and however it is written."""
    home = (package.name, *file.relative_to(package).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        for parts in modules(node, home):
            if parts[0] == package.name:
                yield node.lineno, parts[1] if len(parts) > 1 else "__init__"


def modules(node: ast.AST, home: tuple[str, ...]) -> list[tuple[str, ...]]:
    """List the modules that one statement imports, each as its dotted name in parts.

    `home` is the package that the statement stands in: what a relative import starts from.
    """
    if isinstance(node, ast.Import):
        return [tuple(alias.name.split(".")) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        start = home[: len(home) - node.level + 1] if node.level else ()
        parts = start + tuple(node.module.split(".") if node.module else ())
        # `from trimtab import knobs` reaches for a module, `from trimtab import Knob` for the top of the house.
        return list({(*parts, a.name) if len(parts) == 1 and a.name in FLOOR else parts: None for a in node.names})
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
            return [tuple(node.args[0].value.split("."))]
    return []


def complaints(file: Path, package: Path) -> list[str]:
    """List what a file imports against the law, one sentence each; empty where it keeps to it."""
    where = file.relative_to(package.parent)
    here = entry(file, package)
    if here not in FLOOR:
        return [f"{where} stands on no floor: add '{here}' to FLOORS in tests/test_floors.py."]
    found = []
    for line, used in imported(file, package):
        if used == here or (here, used) in SAME_FLOOR_OK:
            continue
        if used not in FLOOR:
            found.append(f"{where}:{line} imports '{used}', which stands on no floor: add it to FLOORS.")
        elif FLOOR[used] >= FLOOR[here]:
            found.append(
                f"{where}:{line} on floor {FLOOR[here]} imports '{used}' on floor {FLOOR[used]}: "
                "a module imports only from lower floors."
            )
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_every_import_points_to_a_lower_floor(file: Path) -> None:
    """A module imports only from lower floors, or from its own folder."""
    found = complaints(file, SOURCE)
    assert [] == found, "\n".join(found)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_file_is_longer_than_300_lines(file: Path) -> None:
    """A file of the package has at most 300 lines."""
    lines = len(file.read_text().splitlines())
    assert lines <= MOST_LINES, (
        f"{file.name} has {lines} lines, {lines - MOST_LINES} too many: what is its second noun?"
    )


def test_the_exceptions_are_needed_and_give_a_reason() -> None:
    """Each exception joins two entries of one floor, says why, and is one that a file makes use of."""
    used = {(entry(file, SOURCE), name) for file in FILES for _, name in imported(file, SOURCE)}
    for (here, there), reason in SAME_FLOOR_OK.items():
        assert FLOOR[here] == FLOOR[there]
        assert reason
        assert (here, there) in used, f"No file of '{here}' imports '{there}' any more: drop the exception."


@pytest.mark.parametrize(
    "text",
    [
        "import trimtab",
        "import trimtab.pilot",
        "import numpy, trimtab.pilot as p",
        "from trimtab import Pilot",
        "from trimtab import pilot",
        "from trimtab.pilot import Pilot",
        "from trimtab.bench.score import regret",
        "from .. import pilot",
        "from ..pilot import Pilot",
        "from ..controllers import schedule",
        "def late():\n    from ..pilot import Pilot",
        "if TYPE_CHECKING:\n    from trimtab.pilot import Pilot",
        "import importlib\nimportlib.import_module('trimtab.pilot')",
        "__import__('trimtab.pilot')",
    ],
)
def test_an_import_of_a_higher_floor_is_seen_in_every_form(text: str, tmp_path: Path) -> None:
    """No way of writing an import hides it from the law: relative, inside a function, for types only, by name."""
    file = house(tmp_path, "tasks/digits.py", text)
    assert 1 == len(complaints(file, tmp_path / "trimtab"))


@pytest.mark.parametrize(
    "text",
    [
        "import math, torch",
        "from trimtab import knobs",
        "from trimtab.signals import Signals",
        "from trimtab.rules.sgd import SGD",
        "from . import wine",
        "from .wine import load",
        "from ..task import Task",
        "from trimtab.tasks.wine import load",
        "import_module('json')",
    ],
)
def test_an_import_of_a_lower_floor_or_of_its_own_folder_is_allowed(text: str, tmp_path: Path) -> None:
    """What stands lower, or in the same folder, or is not ours at all, may be imported."""
    file = house(tmp_path, "tasks/digits.py", text)
    assert [] == complaints(file, tmp_path / "trimtab")


def test_neighbours_on_one_floor_may_not_import_each_other(tmp_path: Path) -> None:
    """Two entries of the same floor are strangers, unless SAME_FLOOR_OK says otherwise."""
    file = house(tmp_path, "plant.py", "from trimtab.gauge import Gauge")
    assert FLOOR["plant"] == FLOOR["gauge"]
    assert 1 == len(complaints(file, tmp_path / "trimtab"))


def test_a_module_on_no_floor_is_told_where_to_go(tmp_path: Path) -> None:
    """A new module that no floor lists fails with the name to add and the place to add it."""
    file = house(tmp_path, "gadget.py", "")
    expected = "trimtab/gadget.py stands on no floor: add 'gadget' to FLOORS in tests/test_floors.py."
    assert [expected] == complaints(file, tmp_path / "trimtab")


def house(folder: Path, name: str, text: str) -> Path:
    """Build a package `trimtab` of one file."""
    file = folder / "trimtab" / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file
