"""Race: every contender from every initial learning rate and seed; what is finished is never run again.

The rows lie in ``<folder>/rows.jsonl``, traces and final weights beside it. The test split is opened at the end, once,
for each contender at the learning rate that its validation loss chose; every opening is a line of ``tests.jsonl``.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple

import torch

from trimtab.bench.contender import Contender
from trimtab.bench.machine import Provenance
from trimtab.bench.rows import Row, RowFile
from trimtab.bench.run import Cell, metric_on_test, run_cell
from trimtab.bench.score import Standing, chosen_lr, standings
from trimtab.errors import TraceError
from trimtab.tasks import task_named
from trimtab.whole import written_whole
from trimtab.workers import settle

_worker: dict[str, Any] = {}  # what a worker process was started with


class Progress(NamedTuple):
    """How far a running cell is.

    Attributes:
        key: the cell.
        step: optimizer steps done.
        loss: the validation loss there.
        lr: the first group's learning rate.
    """

    key: str
    step: int
    loss: float
    lr: float


class Spectator:
    """Watches a race; this one does not look. Give an object with the same methods to see something."""

    def begin(self, plan: Plan, kept: int) -> None:
        """Hear of the plan, and how many of its cells were finished before."""

    def tell(self, news: Progress) -> None:
        """Hear of a running cell."""

    def finish(self, row: Row) -> None:
        """Hear of a finished cell."""


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        task: the task's name.
        contenders: who takes part.
        lrs: initial learning rates, the same for everyone.
        seeds: of weights and data order, the same for everyone.
        steps: of each run, the same for everyone.
    """

    task: str
    contenders: tuple[Contender, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int

    def cells(self) -> list[Cell]:
        """List the cells, contenders side by side, so that a machine's slow minutes hit all alike."""
        return [
            Cell(self.task, contender, lr, seed, self.steps)
            for seed in self.seeds
            for lr in self.lrs
            for contender in self.contenders
        ]


@dataclass(frozen=True)
class Result:
    """What came of a race.

    Attributes:
        plan: what was run.
        rows: one a cell, in the plan's order.
        tests: the test metric by the row's key, at each contender's chosen learning rate.
        standings: the best first.
        folder: where everything lies.
    """

    plan: Plan
    rows: tuple[Row, ...]
    tests: dict[str, float]
    standings: tuple[Standing, ...]
    folder: Path


def race(
    plan: Plan,
    folder: Path,
    *,
    jobs: int = 2,
    is_fresh: bool = False,
    provenance: Provenance | None = None,
    spectator: Spectator | None = None,
) -> Result:
    """Run what is not finished yet, and rank.

    Args:
        plan: what is to be run.
        folder: where everything lies; made if need be.
        jobs: processes, each with one thread of torch; 1 runs in this one.
        is_fresh: throw away what the folder holds of earlier races.
        provenance: written into the new rows.
        spectator: watches.

    Returns:
        The rows and the ranking.

    Raises:
        TraceError: the folder cannot be written, or its rows cannot be read.
        DataError: the task's data is missing.
    """
    task_named(plan.task).data("train")  # here, once, before processes are started
    _prepare(folder, is_fresh)
    file, watcher = RowFile(folder / "rows.jsonl"), spectator or Spectator()
    done, cells = file.read(), {cell.key: cell for cell in plan.cells()}
    due = [cell for key, cell in cells.items() if key not in done]
    watcher.begin(plan, len(cells) - len(due))
    run = _run_here if jobs == 1 else _run_in_pool
    for row in run(due, folder, provenance or Provenance.now(), jobs=jobs, tell=watcher.tell):
        file.append(row)
        done[row.key] = row
        watcher.finish(row)
    rows = tuple(done[key] for key in cells)
    tests = open_tests(plan.task, rows, folder)
    return Result(plan, rows, tests, tuple(standings(rows, tests)), folder)


def open_tests(task: str, rows: Sequence[Row], folder: Path) -> dict[str, float]:
    """Open the test split for the runs at each contender's chosen learning rate, unless that was done before.

    Args:
        task: the task's name.
        rows: all of the race's; final validation losses choose.
        folder: the race's; each opening becomes a line of ``tests.jsonl`` there.

    Returns:
        The test metric by the row's key.

    Raises:
        TraceError: the metrics cannot be written.
    """
    problem, path = task_named(task), folder / "tests.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    known = {entry["key"]: entry["metric"] for entry in map(json.loads, lines)}
    chosen = {name: chosen_lr(rows, name) for name in {row.contender for row in rows}}
    opened = {row.key: row for row in rows if row.lr == chosen[row.contender]}
    new = {
        key: metric_on_test(problem, folder / "weights" / f"{key}.pt")
        for key in opened
        if key not in known and (folder / "weights" / f"{key}.pt").is_file()
    }
    text = "".join(json.dumps({"key": key, "metric": metric}) + "\n" for key, metric in new.items())
    try:
        # Written as a whole: a line that a kill left unfinished is dropped with it.
        with written_whole(path) as file:
            file.write(("".join(line + "\n" for line in lines) + text).encode())
    except OSError as error:
        raise TraceError(f"{path} cannot be written ({error}): give another folder.") from error
    return {key: (known | new)[key] for key in opened if key in known | new}


def _run_here(
    cells: Sequence[Cell], folder: Path, provenance: Provenance, *, jobs: int, tell: Callable[[Progress], None]
) -> Iterator[Row]:
    with _one_thread():
        for cell in cells:

            def pass_on(step: int, loss: float, lr: float, key: str = cell.key) -> None:
                tell(Progress(key, step, loss, lr))

            yield run_cell(cell, folder, provenance, tell=pass_on)


def _run_in_pool(
    cells: Sequence[Cell], folder: Path, provenance: Provenance, *, jobs: int, tell: Callable[[Progress], None]
) -> Iterator[Row]:
    if not cells:
        return
    context = multiprocessing.get_context("spawn")
    news, stop = context.Queue(), context.Event()
    pool = ProcessPoolExecutor(
        min(jobs, len(cells)), mp_context=context, initializer=_start_worker, initargs=(news, stop)
    )
    pending: set[Future[Row]] = {pool.submit(_work, cell, folder, provenance) for cell in cells}
    try:
        while pending:
            finished, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
            for progress in _drained(news):
                tell(progress)
            for future in finished:
                yield future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _start_worker(news: Any, stop: Any) -> None:
    settle()
    _worker.update(news=news, stop=stop)


def _work(cell: Cell, folder: Path, provenance: Provenance) -> Row:
    def tell(step: int, loss: float, lr: float) -> None:
        if _worker["stop"].is_set():
            raise KeyboardInterrupt
        _worker["news"].put(Progress(cell.key, step, loss, lr))

    return run_cell(cell, folder, provenance, tell=tell)


def _drained(news: Any) -> Iterator[Progress]:
    while True:
        try:
            yield news.get_nowait()
        except Empty:
            return


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepare(folder: Path, is_fresh: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_fresh:
            for name in ("traces", "weights"):
                shutil.rmtree(folder / name, ignore_errors=True)
            for name in ("rows.jsonl", "tests.jsonl"):
                (folder / name).unlink(missing_ok=True)
        for name in ("traces", "weights"):
            (folder / name).mkdir(exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise TraceError(f"The folder {folder} cannot be written ({error.strerror}): give another with --out.") from (
            error
        )
