"""View: a race in the terminal, while it runs and when it is over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from trimtab.bench.race import Plan, Progress, Result, Spectator
from trimtab.bench.rows import Row
from trimtab.bench.run import Cell
from trimtab.bench.table import cells, columns, number
from trimtab.tasks import task_named

ON_THE_PAGE_ALONE = ("IQM", "seconds")  # a terminal is narrow


class View(Spectator):
    """Shows a race: in a terminal a bar and the running cells, elsewhere a line at each tenth.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("runs  elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._live: Live | None = None
        self._cells: dict[str, Cell] = {}
        self._running: dict[str, Progress] = {}
        self._kept = self._done = 0
        self._begin = time.perf_counter()

    @contextlib.contextmanager
    def shown(self) -> Iterator[View]:
        """Show the race for as long as the block runs."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, refresh_per_second=4, transient=True) as self._live:
            yield self

    def begin(self, plan: Plan, kept: int) -> None:
        """Hear of the plan."""
        self._cells = {cell.key: cell for cell in plan.cells()}
        self._kept = self._done = kept
        self._begin = time.perf_counter()
        self._bar.add_task(plan.task, total=len(self._cells), completed=kept)
        seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}"
        who = f"{len(plan.contenders)} contenders × {len(plan.lrs)} learning rates × {seeds}"
        found = f", {kept} of them finished before" if kept else ""
        self._console.print(
            f"{plan.task}: {who} = {len(self._cells)} runs of {plan.steps} steps{found}", soft_wrap=True
        )

    def tell(self, news: Progress) -> None:
        """Hear of a running cell."""
        self._running[news.key] = news
        self._show()

    def finish(self, row: Row) -> None:
        """Hear of a finished cell."""
        self._running.pop(row.key, None)
        self._done += 1
        self._bar.advance(self._bar.task_ids[0])
        self._show()
        tenth = max(1, len(self._cells) // 10)
        if self._live is None and (self._done % tenth == 0 or self._done == len(self._cells)):
            spent = time.perf_counter() - self._begin
            left = spent / (self._done - self._kept) * (len(self._cells) - self._done)
            self._console.print(f"{self._done} of {len(self._cells)} runs, {spent:.0f} s, about {left:.0f} s left")

    def _show(self) -> None:
        if self._live is None:
            return
        table = Table("running", "from lr", "seed", "step", "val loss", "lr now", box=None, header_style="dim")
        for key, news in sorted(self._running.items()):
            cell = self._cells[key]
            step = f"{news.step} of {cell.steps}"
            row = (cell.contender.name, f"{cell.lr:g}", str(cell.seed), step, number(news.loss), f"{news.lr:.2e}")
            table.add_row(*row)
        self._live.update(Group(self._bar, table))


def result_table(result: Result) -> Table:
    """Give the final table for a terminal."""
    task = task_named(result.plan.task)
    seeds = len(result.plan.seeds)
    title = (
        f"{task.name}, {result.plan.steps} steps, {seeds} seed{'s' * (seeds > 1)}, {len(result.plan.lrs)} learning "
        f"rates; target: validation loss {task.reference.target:g}"
    )
    table = Table(title=title, title_style="bold", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    heads = [column.title for column in columns(task.metric)]
    shown = [at for at, head in enumerate(heads) if head not in ON_THE_PAGE_ALONE]
    for at in shown:
        table.add_column(heads[at], justify="right" if at else "left", no_wrap=True)
    for standing in result.standings:
        row = cells(standing)
        table.add_row(*(row[at] for at in shown))
    return table
