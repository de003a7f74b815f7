"""Bout: all heats of an any-lr bench; what is finished is never run again.

Rows lie in ``<folder>/rows.jsonl``, a heat's all at once, so that a kill loses the heats under way and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.bench.anylr.field import Heat, run_heat
from trimtab.bench.anylr.suite import entries
from trimtab.bench.machine import Provenance
from trimtab.errors import TraceError
from trimtab.workers import crew

Row = dict[str, Any]


def bout(
    heats: Sequence[Heat],
    folder: Path,
    *,
    jobs: int = 2,
    provenance: Provenance | None = None,
    tell: Callable[[int, int, Heat], None] = lambda done, due, heat: None,
) -> list[Row]:
    """Run what is not finished yet.

    Args:
        heats: who and on what.
        folder: where the rows lie; made if need be.
        jobs: processes, each with one thread of torch.
        provenance: written into the new rows.
        tell: hears after each heat how many are done, how many there are, and which it was.

    Returns:
        The rows of these heats, heat by heat.

    Raises:
        TraceError: the rows cannot be read or written.
    """
    path = folder / "rows.jsonl"
    known = read_rows(path)
    done = {row["key"] for row in known}
    due = [heat for heat in heats if heat.key not in done]
    origin = vars(provenance or Provenance.now())
    with crew(jobs) as spread:
        for number, (heat, rows) in enumerate(zip(due, spread(_run, due), strict=True), len(heats) - len(due) + 1):
            date = datetime.now(UTC).isoformat(timespec="seconds")
            fresh = [{**row, **origin, "date": date} for row in rows]
            append_rows(path, fresh)
            known += fresh
            tell(number, len(heats), heat)
    by_key: dict[str, list[Row]] = {}
    for row in known:
        by_key.setdefault(row["key"], []).append(row)
    return [row for heat in heats for row in by_key[heat.key]]


def read_rows(path: Path) -> list[Row]:
    """Read rows; a line that a kill left unfinished is left out.

    Args:
        path: the file; it need not exist.

    Returns:
        The rows.

    Raises:
        TraceError: a whole line is no row.
    """
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1] if line]
    except ValueError as error:
        raise TraceError(f"{path} holds a line that is no row ({error}): move the file.") from error


def _run(heat: Heat) -> list[Row]:
    entry = next(iter(entries(heat.suite, (heat.entry,))))
    return run_heat(heat, dataclasses.replace(entry, steps=max(20, entry.steps // heat.shorter)))


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows at once, behind what a kill left whole.

    Args:
        path: the file; its folder is made if need be.
        rows: them.

    Raises:
        TraceError: it cannot be written.
    """
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes().rpartition(b"\n")[:2] if path.is_file() else ()
        with path.open("r+b" if path.is_file() else "wb") as file:
            file.truncate(sum(map(len, whole)))
            file.seek(0, os.SEEK_END)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise TraceError(f"The rows {path} cannot be written ({error}): give another folder.") from error


def heats_of(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Row]]]:
    """Give rows by task and contender, in the order of their first rows."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["task"], row["contender"]), []).append(row)
    for (task, contender), mine in found.items():
        yield task, contender, mine
