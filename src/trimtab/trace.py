"""Trace: what a run recorded, a row per decision and site.

While the run lives, rows are appended to a JSON Lines file, a whole line at a time: after a kill it is readable up to
the last whole line. When it ends, :meth:`Trace.close` writes the same rows in columns, as Parquet where pyarrow is
installed, else as npz. The schema is versioned; :func:`read_trace` reads all three.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from trimtab.columns import read_columns, write_columns
from trimtab.errors import TraceError
from trimtab.guard import REASONS
from trimtab.helm import Decision, is_restored, reason_of

SCHEMA = "trimtab-trace-1"
RECENT = 4096  # rows kept in memory, for `explain`, `metrics` and `report`
Row = dict[str, Any]


class Event(NamedTuple):
    """What the guard did at a decision.

    Attributes:
        kind: "", "alarm", "restore" or "gave up".
        reason: why, in words; "" without an event.
    """

    kind: str
    reason: str


@dataclass(frozen=True)
class Header:
    """What holds for a whole trace.

    Attributes:
        knobs: the knobs' names.
        sites: the sites' names.
        controller: its name.
        note: the caller's own facts (task, seed, ...), JSON.
    """

    knobs: tuple[str, ...]
    sites: tuple[str, ...]
    controller: str
    note: dict[str, Any]


class Trace:
    """Records decisions.

    A row has ``step, site, loss, val_loss, event, reason`` and for each knob its value (``lr``), ``position_lr`` and
    ``move_lr``; around a schedule also ``schedule_lr``, the value without a controller. Floats are None where not
    finite or not measured, so that every line is plain JSON.

    Args:
        header: what holds for the whole run.
        path: the JSON Lines file to append to; None: rows are kept in memory only.

    Raises:
        TraceError: the file cannot be opened, or holds a trace of other knobs or sites.
    """

    def __init__(self, header: Header, path: str | Path | None = None) -> None:
        self.header = header
        self.rows: deque[Row] = deque(maxlen=RECENT)
        self.decisions: deque[tuple[int, Decision]] = deque(maxlen=64)
        self.restores = 0
        self.decided = 0
        self._path = None if path is None else Path(path)
        self._file = None if self._path is None else _opened(self._path, header)
        if self._file is not None:  # a run that ends without `close` leaves no open file behind
            weakref.finalize(self, self._file.close)

    def add(self, step: int, decision: Decision, used: Tensor, *, event: Event, alone: Tensor | None = None) -> None:
        """Record one decision; one write and one flush to the operating system.

        Args:
            step: the optimizer step.
            decision: what came of its reading; member 0 is recorded.
            used: ``[S, K]`` knob values that the step used.
            event: what the guard did.
            alone: ``[S, K]`` values that a wrapped schedule alone would have set; None without one.

        Raises:
            TraceError: the file cannot be written (a full disk): what was written before stays readable.
        """
        rows = list(self._rows(step, decision, used, event))
        for row, values in zip(rows, [] if alone is None else alone.tolist(), strict=False):
            row |= {f"schedule_{name}": _plain(value) for name, value in zip(self.header.knobs, values, strict=True)}
        self.rows.extend(rows)
        self.decisions.append((step, decision))
        self.restores += event.kind in ("restore", "gave up")
        self.decided += 1
        if self._file is not None:
            text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
            try:
                _write_whole(self._file, text.encode())
            except OSError as error:
                message = f"The trace {self._path} cannot be written ({error}): free space, or trace=None."
                raise TraceError(message) from error

    def keep(self, step: int, decision: Decision, used: Tensor, *, event: Event, alone: Tensor | None = None) -> None:
        """Do as `add`, but end the file with a warning where it cannot be written: a long run must not end of it."""
        try:
            self.add(step, decision, used, event=event, alone=alone)
        except TraceError as error:
            if self._file is not None:
                self._file.close()
            self._file = None
            warnings.warn(f"{error} The run goes on without it.", RuntimeWarning, stacklevel=4)

    def close(self) -> Path | None:
        """End the file and write the rows in columns beside it.

        Returns:
            The Parquet or npz file; None where there is no file.

        Raises:
            TraceError: the columns cannot be written; the JSON Lines file stays as it is.
        """
        if self._file is None or self._path is None:
            return None
        self._file.close()
        self._file = None
        header, rows = read_trace(self._path)
        columns = {name: [row.get(name) for row in rows] for name in rows[0]} if rows else {}
        return write_columns(self._path, _line(header), columns)

    def _rows(self, step: int, decision: Decision, used: Tensor, event: Event) -> Iterable[Row]:
        signals = decision.seen.signals
        val = None if signals.val_loss is None else _plain(float(signals.val_loss[0]))
        loss = _plain(float(signals.losses[0].mean()))
        columns = zip(
            self.header.sites, used.tolist(), decision.position[0].tolist(), decision.move[0].tolist(), strict=True
        )
        for site, values, positions, moves in columns:
            row: Row = {"step": step, "site": site, "loss": loss, "val_loss": val, **event._asdict()}
            row["event"] = row.pop("kind")
            for name, value, position, move in zip(self.header.knobs, values, positions, moves, strict=True):
                row |= {name: _plain(value), f"position_{name}": _plain(position), f"move_{name}": _plain(move)}
            yield row


def read_trace(path: str | Path) -> tuple[Header, list[Row]]:
    """Read a trace in any of its forms.

    Args:
        path: a ``.jsonl``, ``.parquet`` or ``.npz`` file. Of a JSON Lines file cut off in the middle of a line, the
            whole lines are read.

    Returns:
        The header and the rows.

    Raises:
        TraceError: it is missing, or no trace of this schema.
    """
    path = Path(path)
    if not path.is_file():
        raise TraceError(f"There is no trace at {path}.")
    if path.suffix in (".npz", ".parquet"):
        return _from_columns(path)
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was never finished
    if not lines:
        raise TraceError(f"{path} holds no whole line: the run ended before its first decision.")
    header = _header_from(lines[0].decode(errors="replace"), path)
    return header, [_row_from(line, number, path) for number, line in enumerate(lines[1:], 2) if line]


def event_of(decision: Decision, *, is_acting: bool = True) -> Event:
    """Name what the guard did at a decision; where nobody acts on it, a restore is an alarm."""
    if decision.verdict is None or not reason_of(decision):
        return Event("", "")
    kind = "gave up" if bool(decision.verdict.gave_up[0]) else "restore"
    return Event(kind if is_acting and is_restored(decision) else "alarm", REASONS[reason_of(decision)])


def _write_whole(file: Any, content: bytes) -> None:
    """Write all of it, or nothing: on a full disk a raw file takes a part and raises only at the next write."""
    end = file.tell()
    try:
        while content:
            content = content[file.write(content) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise


def _opened(path: Path, header: Header) -> Any:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size:
            _mend(path)
            there = read_trace(path)[0] if path.stat().st_size else header
            if (there.knobs, there.sites) != (header.knobs, header.sites):
                raise TraceError(f"{path} traces knobs {there.knobs} at sites {there.sites}, not this run's: move it.")
        if not path.is_file() or not path.stat().st_size:
            path.write_text(json.dumps({"schema": SCHEMA, **vars(header)}) + "\n")
        return path.open("ab", buffering=0)
    except OSError as error:
        raise TraceError(f"The trace {path} cannot be opened ({error}): give another path, or trace=None.") from error


def _mend(path: Path) -> None:
    """Cut off a last line that a kill left unfinished; of a file that is no trace, nothing."""
    content = path.read_bytes()
    first, newline, _ = content.partition(b"\n")
    begin = json.dumps({"schema": SCHEMA})[:-1].encode()
    if newline or first[: len(begin)] != begin[: len(first)]:
        _header_from(first.decode(errors="replace"), path)
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _line(header: Header) -> str:
    return json.dumps({"schema": SCHEMA, **vars(header)})


def _header_from(text: str, path: Path | str) -> Header:
    try:
        fields = json.loads(text)
        known = fields.pop("schema") == SCHEMA
        header = Header(tuple(fields["knobs"]), tuple(fields["sites"]), fields["controller"], fields["note"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{path} is no trace: its first line is no header of schema {SCHEMA}.") from error
    if not known:
        raise TraceError(f"{path} is a trace of another schema; this trimtab reads {SCHEMA}.")
    return header


def _row_from(line: bytes, number: int, path: Path) -> Row:
    try:
        return dict(json.loads(line))
    except (TypeError, ValueError) as error:
        raise TraceError(f"The line {number} of {path} is damaged: {error}.") from error


def _from_columns(path: Path) -> tuple[Header, list[Row]]:
    text, columns = read_columns(path)
    rows = [dict(zip(columns, entries, strict=True)) for entries in zip(*columns.values(), strict=True)]
    return _header_from(text, path), [{n: _plain(v) if isinstance(v, float) else v for n, v in r.items()} for r in rows]


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
