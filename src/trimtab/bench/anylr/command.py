"""The command ``trimtab bench any-lr``: heats, a table, a page."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from trimtab import charts
from trimtab.bench.anylr.bout import Row, bout
from trimtab.bench.anylr.field import Heat, field
from trimtab.bench.anylr.page import HEADS, as_json, cells, score, write_page
from trimtab.bench.anylr.suite import LRS, entries
from trimtab.bench.machine import Provenance
from trimtab.errors import TaskError

QUICK_LRS, QUICK_SEEDS, QUICK_SHORTER = (1e-4, 1e-2, 1.0), 2, 5


def run(
    suite: str,
    tasks: tuple[str, ...],
    cards: tuple[Path, ...],
    out: Path,
    *,
    seeds: int,
    jobs: int,
    is_quick: bool,
    is_json: bool,
    words: list[str],
) -> str:
    """Run what is not finished yet, write the page, and say how it ended.

    Args:
        suite: a name in :data:`trimtab.bench.anylr.suite.SUITES`.
        tasks: some of its tasks; none for all.
        cards: files that take part as well.
        out: the folder.
        seeds: runs from each learning rate.
        jobs: heats at the same time.
        is_quick: one task, three learning rates, two seeds, a fifth of the steps.
        is_json: give JSON.
        words: of this command, for the rows.

    Returns:
        The table, or JSON.

    Raises:
        TaskError: there is no such suite, task or card.
    """
    charts.check()
    for file in cards:
        if not file.is_file():
            raise TaskError(f"There is no card at {str(file)!r}; `trimtab teach` writes one.")
    some = entries(suite, tasks)
    if is_quick:
        heats = field(suite, some[:1], cards, seeds=QUICK_SEEDS, lrs=QUICK_LRS, shorter=QUICK_SHORTER)
    else:
        heats = field(suite, some, cards, seeds=seeds, lrs=LRS)
    for entry in {heat.entry: heat for heat in heats}:
        entries(suite, (entry,))[0].task.data("train")  # here, once, before processes are started
    rows = bout(heats, out, jobs=jobs, provenance=Provenance.now(["trimtab", *words]), tell=_tell)
    page = write_page(rows, out / "any-lr.html", f"Any learning rate: {suite}")
    return as_json(rows) if is_json else f"{table(rows)}\nThe page: {page}"


def table(rows: list[Row]) -> str:
    """Give the standings over all tasks as a table of text."""
    from rich.console import Console
    from rich.table import Table

    made = Table(*(name for name, _ in HEADS))
    for standing in score(rows):
        if not standing.task:
            made.add_row(*cells(standing))
    text = io.StringIO()
    Console(file=text, width=130).print(made)
    return text.getvalue()


def _tell(done: int, due: int, heat: Heat) -> None:
    print(f"{done} of {due} heats: {heat.contender} on {heat.entry}", file=sys.stderr)
