"""Trace: what a run recorded, a row per decision and site.

While the run lives, rows are appended to a JSON Lines file, a whole line at a time: after a kill it is readable up to
the last whole line. When it ends, :meth:`Trace.close` writes the same rows in columns, as Parquet where pyarrow is
installed, else as npz. The schema is versioned; :func:`read_trace` reads all three forms of both versions: 1, and 2
(:class:`FullTrace`), whose rows also hold what a controller saw, so that one can be taught from them.
"""

from __future__ import annotations

import json
import math
import os
import warnings
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from trimtab.columns import read_columns, write_columns
from trimtab.errors import TraceError
from trimtab.helm import Decision, reason_of
from trimtab.judgement import REASONS
from trimtab.knobs import Panel
from trimtab.whole import append_whole

SCHEMA = "trimtab-trace-1"
FULL = "trimtab-trace-2"  # rows hold features too, and the header what they and the knobs are
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
        features: the names of the features that rows hold; none in a trace that holds none.
        ranges: where rows hold features, each knob's ``low, high, scale, rate``.
    """

    knobs: tuple[str, ...]
    sites: tuple[str, ...]
    controller: str
    note: dict[str, Any]
    features: tuple[str, ...] = ()
    ranges: tuple[tuple[float, float, str, float], ...] = ()

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Header:
        """Take its fields as JSON gives them."""
        knobs, sites = (tuple(fields[name]) for name in ("knobs", "sites"))
        ranges = tuple(tuple(entry) for entry in fields.get("ranges", ()))
        return cls(knobs, sites, fields["controller"], fields["note"], tuple(fields.get("features", ())), ranges)

    def full(self, features: Sequence[str], panel: Panel) -> Header:
        """Give the header of a trace that holds these features of a run with these knobs."""
        ranges = tuple((knob.low, knob.high, knob.scale, knob.rate) for knob in panel)
        return replace(self, features=tuple(features), ranges=ranges)


@dataclass(frozen=True)
class FullTrace:
    """A trace that one can be taught from, for ``attach(..., trace=FullTrace(path))``; its rows hold features too.

    Args:
        path: the JSON Lines file to append to.
        note: facts to keep in the header, JSON: ``{"task": "digits-mlp-v1", "seed": 0}``.
    """

    path: str | Path
    note: Mapping[str, Any] = field(default_factory=dict)


class Trace:
    """Records decisions.

    A row has ``step, site, loss, val_loss, event, reason`` and for each knob its value (``lr``), ``position_lr`` and
    ``move_lr``; around a schedule also ``schedule_lr``, the value without a controller. Floats are None where not
    finite or not measured, so that every line is plain JSON. Where the header names features, a row also has the list
    ``features``, and ``judged`` and ``left``: a loss measured for whoever reads, not shown to the controller, before
    the decision and after a run's last one.

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

    def add(
        self,
        step: int,
        decision: Decision,
        used: Tensor,
        *,
        event: Event,
        alone: Tensor | None = None,
        member: int = 0,
        also: Sequence[float] = (),
    ) -> None:
        """Record one decision; one write and one flush to the operating system.

        Args:
            step: the optimizer step.
            decision: what came of its reading.
            used: ``[S, K]`` knob values that the step used.
            event: what the guard did.
            alone: ``[S, K]`` values that a wrapped schedule alone would have set; None without one.
            member: whose decision is recorded.
            also: none, or ``judged`` and ``left`` (see the class).

        Raises:
            TraceError: the file cannot be written (a full disk): what was written before stays readable.
        """
        rows = list(self._rows(step, decision, used, event, member))
        for row, values in zip(rows, [] if alone is None else alone.tolist(), strict=False):
            row |= {f"schedule_{name}": _plain(value) for name, value in zip(self.header.knobs, values, strict=True)}
        if self.header.features:
            more = dict(zip(("judged", "left"), map(_plain, also or (math.nan, math.nan)), strict=True))
            seen = decision.seen.features[member].tolist()
            rows = [{**row, **more, "features": at} for row, at in zip(rows, seen, strict=True)]
        self.rows.extend(rows)
        self.decisions.append((step, decision))
        self.restores += event.kind in ("restore", "gave up")
        self.decided += 1
        if self._file is not None:
            text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
            try:
                append_whole(self._file, text.encode())
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

    def _rows(self, step: int, decision: Decision, used: Tensor, event: Event, member: int) -> Iterable[Row]:
        signals = decision.seen.signals
        val = None if signals.val_loss is None else _plain(float(signals.val_loss[member]))
        loss = _plain(float(signals.losses[member].mean()))
        position, move = decision.position[member].tolist(), decision.move[member].tolist()
        columns = zip(self.header.sites, used.tolist(), position, move, strict=True)
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


def event_of(decision: Decision, *, is_acting: bool = True, member: int = 0) -> Event:
    """Name what the guard did at a member's decision; where nobody acts on it, a restore is an alarm."""
    if decision.verdict is None or not reason_of(decision, member):
        return Event("", "")
    kind = "gave up" if bool(decision.verdict.gave_up[member]) else "restore"
    acted = is_acting and bool(decision.verdict.restore[member])
    return Event(kind if acted else "alarm", REASONS[reason_of(decision, member)])


def _opened(path: Path, header: Header) -> Any:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size:
            _mend(path)
            there = read_trace(path)[0] if path.stat().st_size else header
            if replace(there, controller="", note={}) != replace(header, controller="", note={}):
                kind = f"knobs {there.knobs} at sites {there.sites} and {len(there.features)} features"
                raise TraceError(f"{path} traces {kind}, or in other ranges, not this run's: move it.")
        if not path.is_file() or not path.stat().st_size:
            path.write_text(_line(header) + "\n")
        return path.open("ab", buffering=0)
    except OSError as error:
        raise TraceError(f"The trace {path} cannot be opened ({error}): give another path, or trace=None.") from error


def _mend(path: Path) -> None:
    """Cut off a last line that a kill left unfinished; of a file that is no trace, nothing."""
    content = path.read_bytes()
    first, newline, _ = content.partition(b"\n")
    begins = [json.dumps({"schema": schema})[:-1].encode() for schema in (SCHEMA, FULL)]
    if newline or all(first[: len(begin)] != begin[: len(first)] for begin in begins):
        _header_from(first.decode(errors="replace"), path)
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _line(header: Header) -> str:
    more = () if header.features else ("features", "ranges")
    fields = {name: value for name, value in vars(header).items() if name not in more}
    return json.dumps({"schema": SCHEMA if more else FULL, **fields})


def _header_from(text: str, path: Path | str) -> Header:
    try:
        fields = json.loads(text)
        known, header = fields.pop("schema") in (SCHEMA, FULL), Header.read(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{path} is no trace: its first line is no header of schema {SCHEMA} or {FULL}.") from error
    if not known:
        raise TraceError(f"{path} is a trace of another schema; this trimtab reads {SCHEMA} and {FULL}.")
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
