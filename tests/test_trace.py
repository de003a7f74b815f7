"""Laws of the trace: what was written is read back, whatever ended the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.controllers import Random
from trimtab.errors import TraceError
from trimtab.features import Features
from trimtab.guard import Guard
from trimtab.helm import Decision, Helm
from trimtab.knobs import Panel
from trimtab.signals import Signals
from trimtab.trace import SCHEMA, Event, Header, Trace, read_trace

F64 = torch.float64
PANEL = Panel.of(["lr", "momentum"])
HEADER = Header(PANEL.names, ("stem", "head"), "random", {"horizon": 100, "task": "σ"})
QUIET = Event("", "")


def decisions(count: int) -> list[Decision]:
    """Make decisions of two sites and two knobs; the second loss is not finite."""
    features = Features(PANEL, (0.0, 1.0), (0.5, 0.5))
    helm = Helm(PANEL, Random(), features, Guard(), horizon=100)
    state = helm.start(torch.tensor([[[0.1, 0.9], [0.2, 0.8]]], dtype=F64))
    made = []
    for n in range(1, count + 1):
        loss = torch.tensor([[1.0 / n, torch.inf if n == 2 else 0.5]], dtype=F64)
        ones = torch.ones(1, 2, dtype=F64)
        val = torch.tensor([torch.nan if n % 2 else 0.25], dtype=F64)
        signals = Signals(torch.tensor([10 * n]), loss, helm.values_at(state, n), *[ones] * 9, val_loss=val)
        decision, state = helm.steer(signals, state)
        made.append(decision)
    return made


def record(trace: Trace, count: int = 3, first: int = 0) -> None:
    """Add some decisions."""
    for n, decision in enumerate(decisions(first + count)[first:], first + 1):
        event = Event("restore", "it exploded") if n == 2 else QUIET
        trace.add(10 * n, decision, decision.seen.signals.values[0], event=event)


@pytest.fixture(autouse=True)
def _end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the files of traces that a test, like a killed run, did not close."""
    made: list[Trace] = []
    plain = Trace.__init__

    def remember(self: Trace, *args: Any) -> None:
        made.append(self)
        self._file = None
        plain(self, *args)

    monkeypatch.setattr(Trace, "__init__", remember)
    yield
    for trace in made:
        if trace._file is not None:
            trace._file.close()


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one.jsonl"


def test_a_row_has_its_columns(path: Path) -> None:
    """One row a decision and site; knobs by name, with position and move; plain JSON, None where not finite."""
    trace = Trace(HEADER, path)
    record(trace)
    header, rows = read_trace(path)
    assert header == HEADER
    assert rows == list(trace.rows)
    assert 6 == len(rows)
    names = ["step", "site", "loss", "val_loss", "reason", "event"]
    knobs = [f"{kind}{knob}" for knob in PANEL.names for kind in ("", "position_", "move_")]
    assert [*names, *knobs] == list(rows[0])
    assert (10, "stem", 0.75, None, "", "") == tuple(rows[0][name] for name in names)
    assert (20, "head", None, 0.25, "it exploded", "restore") == tuple(rows[3][name] for name in names)
    decision = decisions(1)[0]
    assert decision.seen.signals.values[0, 1].tolist() == [rows[1]["lr"], rows[1]["momentum"]]
    assert decision.position[0, 1].tolist() == [rows[1]["position_lr"], rows[1]["position_momentum"]]
    assert decision.move[0, 1].tolist() == [rows[1]["move_lr"], rows[1]["move_momentum"]]
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()


def test_the_first_line_says_the_schema(path: Path) -> None:
    """A trace names its schema and what holds for the whole run."""
    Trace(HEADER, path)
    first = json.loads(path.read_text().splitlines()[0])
    assert {"schema", "knobs", "sites", "controller", "note"} == set(first)
    assert SCHEMA == first["schema"]
    assert ({"horizon": 100, "task": "σ"}, "random") == (first["note"], first["controller"])


def test_it_counts_what_happened() -> None:
    """Decisions and restores are counted, rows kept, with no file at all."""
    trace = Trace(HEADER)
    record(trace, 5)
    assert (5, 1, 10) == (trace.decided, trace.restores, len(trace.rows))
    assert [10, 20, 30, 40, 50] == [step for step, _ in trace.decisions]
    assert trace.close() is None


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_line_cut_off_by_a_kill_is_left_out(path: Path, cut: int) -> None:
    """The whole lines are read, and a new run of the same kind appends after them."""
    record(Trace(HEADER, path))
    rows = read_trace(path)[1]
    path.write_bytes(path.read_bytes()[:-cut])
    assert rows[:-1] == read_trace(path)[1]
    again = Trace(HEADER, path)
    record(again, 1, first=3)
    assert [*rows[:-1], *again.rows] == read_trace(path)[1]


def test_a_header_cut_off_by_a_kill_is_written_anew(path: Path) -> None:
    """Where the kill came in the first line, the next run begins the file."""
    record(Trace(HEADER, path), 1)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(TraceError, match="no whole line: the run ended before its first decision"):
        read_trace(path)
    record(Trace(HEADER, path), 1)
    assert 2 == len(read_trace(path)[1])


@pytest.mark.slow
def test_a_killed_run_is_readable(path: Path) -> None:
    """After SIGKILL everything that `add` returned from is there."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_trace import *
trace = Trace(HEADER, {str(path)!r})
record(trace, 2)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert -9 == done.returncode, done.stderr.decode()
    trace = Trace(HEADER)
    record(trace, 2)
    assert list(trace.rows) == read_trace(path)[1]


@pytest.mark.parametrize("kind", ["parquet", "npz"])
@pytest.mark.parametrize("count", [0, 3])
def test_columns_hold_the_same_rows(path: Path, kind: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed, a trace is written as Parquet, or npz without pyarrow, and either reads back as the very same rows."""
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    else:
        monkeypatch.setitem(sys.modules, "pyarrow", None)  # as where it is not installed
    trace = Trace(HEADER, path)
    record(trace, count)
    written = trace.close()
    assert path.with_suffix(f".{kind}") == written
    assert read_trace(path) == read_trace(written)
    assert (HEADER, list(trace.rows)) == read_trace(written)
    assert sorted(["one.jsonl", f"one.{kind}"]) == sorted(file.name for file in path.parent.iterdir())
    assert trace.close() is None


FOREIGN = {
    "text": b"dear diary\n",
    "text without an end": b"dear diary,\nit rains",
    "one line without an end": b"dear diary",
    "json": b'{"knobs": ["lr"]}\n',
    "a list": b"[1, 2]\n",
    "bytes": bytes(range(256)),
    "another schema": b'{"schema": "trimtab-trace-0", "knobs": [], "sites": [], "controller": "", "note": {}}\n',
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    """A file that is no trace is neither read nor appended to, and not a byte of it changes."""
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(TraceError):
        read_trace(path)
    with pytest.raises(TraceError, match=r"is no trace|another schema"):
        Trace(HEADER, path)
    assert content == path.read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_foreign_columns_are_refused(tmp_path: Path, suffix: str) -> None:
    """So is a file that only has the suffix."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"one{suffix}"
    path.write_bytes(b"dear diary\n")
    with pytest.raises(TraceError, match="is no trace"):
        read_trace(path)


def test_a_line_that_is_no_row_is_refused(path: Path) -> None:
    """Damage in the middle is an error that names the line, never rows silently missing."""
    record(Trace(HEADER, path))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:20] + b"\n", *lines[3:]]))
    with pytest.raises(TraceError, match=r"line 3 of .* is damaged"):
        read_trace(path)


@pytest.mark.parametrize("header", [{"knobs": ("lr",)}, {"sites": ("run",)}])
def test_a_trace_of_another_kind_is_not_appended_to(path: Path, header: dict[str, Any]) -> None:
    """Rows of other knobs or sites would not fit the columns."""
    record(Trace(HEADER, path))
    before = path.read_bytes()
    with pytest.raises(TraceError, match=r"traces knobs .* at sites .*, not this run's: move it"):
        Trace(Header(**(vars(HEADER) | header)), path)
    assert before == path.read_bytes()


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    """There is nothing to read."""
    with pytest.raises(TraceError, match="There is no trace at"):
        read_trace(tmp_path / "none.jsonl")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A folder is no file; the error says the ways out."""
    with pytest.raises(TraceError, match=r"cannot be opened .*give another path, or trace=None"):
        Trace(HEADER, tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_is_refused_at_the_start() -> None:
    """Where not even the header can be written, the run does not begin."""
    with pytest.raises(TraceError, match="cannot be opened"):
        Trace(HEADER, "/dev/full")


FULL = """
import resource, signal, sys
sys.path.insert(0, {here!r})
from test_trace import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
trace = Trace(HEADER, {path!r})
added = 0
try:
    for n in range(1, 9):
        record(trace, 1, first=n - 1)
        added += 1
except TraceError as error:
    print(added, "cannot be written" in str(error))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
record(trace, 1, first=8)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limit on files' sizes")
def test_a_disk_that_fills_up_costs_no_row_that_was_written(path: Path) -> None:
    """The add that does not fit raises; rows before it are whole, and once there is room again it goes on."""
    code = FULL.format(here=str(Path(__file__).parent), path=str(path), limit=1500)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    added, told = done.stdout.split()
    assert "True" == told
    assert 1 <= int(added) < 8
    rows = read_trace(path)[1]
    steps = [row["step"] for row in rows]
    assert [10 * n for n in range(1, int(added) + 1) for _ in range(2)] == [step for step in steps if step < 90]
    assert [90, 90] == steps[-2:]


def test_keep_goes_on_without_a_file(path: Path) -> None:
    """`keep` ends the file with a warning where `add` would raise; rows are still in memory."""
    trace = Trace(HEADER, path)
    record(trace, 1)
    trace._file.close()
    trace._file = open(path, "rb", buffering=0)  # a file that refuses writes  # noqa: SIM115
    decision = decisions(1)[0]
    with pytest.warns(RuntimeWarning, match="cannot be written .* The run goes on without it"):
        trace.keep(20, decision, decision.seen.signals.values[0], event=QUIET)
    trace.keep(30, decision, decision.seen.signals.values[0], event=QUIET)
    assert (3, 6) == (trace.decided, len(trace.rows))
    assert 2 == len(read_trace(path)[1])
