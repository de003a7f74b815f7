"""Rows: what a race keeps of each run, in a JSON Lines file that survives a kill."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import TraceError


@dataclass(frozen=True)
class Row:
    """One finished run.

    Attributes:
        key: names the cell; a row with the same key is the same run.
        task: the task's name.
        contender: its name.
        settings: what the controller was, in words.
        lr: the initial learning rate.
        seed: of weights and data order.
        steps: optimizer steps.
        train_loss: mean training loss of the last twentieth of the steps, the task's unit; NaN where not finite.
        val_loss: final loss over the whole validation split, likewise.
        curve: pairs of a step and the validation loss there, from step 0.
        target: the validation loss that counts as reached.
        steps_to_target: the first measured step at or below the target; None: never.
        seconds_to_target: seconds of training until then.
        seconds: of training: forward, backward, update, pilot; without drawing data and measuring validation loss.
        step_seconds: the median step.
        restores: how often the guard went back.
        is_diverged: the final validation loss is not finite, or a tenth above the one before the first step.
        commit: of the code, "-dirty" behind it where files differed.
        machine: the processor and its threads.
        torch: its version.
        command: that gave the row.
        date: UTC, ISO 8601.
    """

    key: str
    task: str
    contender: str
    settings: str
    lr: float
    seed: int
    steps: int
    train_loss: float
    val_loss: float
    curve: tuple[tuple[int, float], ...]
    target: float
    steps_to_target: int | None
    seconds_to_target: float | None
    seconds: float
    step_seconds: float
    restores: int
    is_diverged: bool
    commit: str
    machine: str
    torch: str
    command: str
    date: str


class RowFile:
    """A JSON Lines file of rows, one whole line at a time.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Row]:
        """Read all whole rows; a line that a kill left unfinished is left out.

        Returns:
            The rows by key; of two with the same key the later one.

        Raises:
            TraceError: a whole line is no row.
        """
        return {row.key: row for row in map(self._row, self._lines())}

    def append(self, row: Row) -> None:
        """Add one row; it is on the disk when this returns.

        Args:
            row: the run.

        Raises:
            TraceError: the file cannot be written.
        """
        line = json.dumps(plain(dataclasses.asdict(row)), separators=(",", ":")) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._mend()
            with self.path.open("ab", buffering=0) as file:
                file.write(line.encode())
                os.fsync(file.fileno())
        except OSError as error:
            raise TraceError(f"The rows {self.path} cannot be written ({error}): give another folder.") from error

    def _lines(self) -> Iterator[bytes]:
        if self.path.is_file():
            yield from (line for line in self.path.read_bytes().split(b"\n")[:-1] if line)

    def _row(self, line: bytes) -> Row:
        try:
            fields = json.loads(line)
            curve = tuple((int(step), _number(loss)) for step, loss in fields.pop("curve"))
            losses: dict[str, Any] = {name: _number(fields.pop(name)) for name in ("train_loss", "val_loss")}
            return Row(curve=curve, **losses, **fields)
        except (ValueError, TypeError, KeyError) as error:
            raise TraceError(
                f"{self.path} holds a line that is no row of this version ({error}): move the file, or give --fresh."
            ) from error

    def _mend(self) -> None:
        """Cut off a last line that a kill left unfinished."""
        if self.path.is_file() and not (content := self.path.read_bytes()).endswith(b"\n") and content:
            with self.path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def plain(value: Any) -> Any:
    """Give a value that plain JSON can hold: what is not finite becomes None."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
