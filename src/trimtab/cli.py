"""The command line: ``trimtab race | bench | report | tasks | controllers | cards | teach``; no logic of its own.

Everything heavier than torch is imported inside the commands.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli_bench import bench
from trimtab.cli_teach import teach

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.bench.contender import Contender
    from trimtab.bench.race import Plan

DEFAULT_LRS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
DEFAULT_SEEDS = 3  # with five learning rates, `trimtab race digits-mlp-v1` ends within 75 s on two cores
BAD_INPUT = 2
STOPPED = 130

app = typer.Typer(
    name="trimtab",
    help="A controller turns the hyperparameters of a PyTorch training run while it trains.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


app.add_typer(bench, name="bench")
app.add_typer(teach, name="teach")


class UsageError(Exception):
    """An argument is out of range; the message is the sentence to print."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; bad input is one sentence on stderr and exit code 2.

    Args:
        arguments: without the program's name; those of this process by default.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(words, prog_name="trimtab", standalone_mode=False, obj=words)
    except KeyboardInterrupt:
        return _say("Stopped. The same command goes on where it was.", STOPPED)
    except typer.Abort:
        return _say("Stopped.", STOPPED)
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        return _say(sentence, BAD_INPUT) if sentence else BAD_INPUT
    return _say("Stopped. The same command goes on where it was.", STOPPED) if code == STOPPED else code or 0


def _version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"trimtab {version('trimtab')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    pass


@app.command()
def race(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="What to train; see `trimtab tasks`.")],
    lr: Annotated[
        list[str] | None, typer.Option(help="An initial learning rate; repeat it, or give several with commas.")
    ] = None,
    controllers: Annotated[str | None, typer.Option(help="Who takes part, with commas between.")] = None,
    card: Annotated[
        list[Path] | None, typer.Option(help="A card that `trimtab teach` wrote takes part as well; repeat it.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs from each learning rate.")] = DEFAULT_SEEDS,
    budget: Annotated[int | None, typer.Option(help="Optimizer steps a run; by default the task's own.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at the same time, one thread each.")] = 2,
    out: Annotated[Path | None, typer.Option(help="The folder; by default runs/TASK.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the runs that the folder holds.")] = False,
) -> None:
    """Race controllers and tuned schedules from several initial learning rates; write one page about it."""
    _at_least_one(seeds=seeds, jobs=jobs, **({} if budget is None else {"budget": budget}))
    lrs = _lrs(lr or [])
    plan = _plan(task, lrs, controllers, card or [], seeds, budget)
    _race(plan, out or Path("runs") / task, jobs=jobs, is_json=json, is_fresh=fresh, words=context.obj)


@app.command()
def tasks() -> None:
    """List the tasks."""
    from rich.table import Table

    from trimtab.tasks import CATALOGUE, task_named

    table = Table("task", "steps", "batch", "optimizer", "metric", "val loss to beat", "what it is")
    for name in CATALOGUE:
        task = task_named(name)
        what = (type(task).__doc__ or "").partition("\n")[0]
        table.add_row(
            name,
            str(task.horizon),
            str(task.batch_size),
            task.optimizer,
            task.metric,
            f"{task.reference.val_loss:g}",
            what,
        )
    _console().print(table)


@app.command()
def controllers() -> None:
    """List the controllers, and torch's schedules without a pilot."""
    from rich.table import Table

    from trimtab.bench.contender import contender_named, known

    table = Table("controller", "every", "needs", "what it does")
    for name in known():
        contender = contender_named(name)
        made = contender.make()
        if made is None:
            table.add_row(name, "–", "–", "The same schedule by torch.optim.lr_scheduler, without a pilot.")
            continue
        what = (type(made).__doc__ or "").partition("\n")[0]
        table.add_row(name, str(contender.every), ", ".join(sorted(made.needs)) or "–", what)
    _console().print(table)


@app.command()
def cards(
    name: Annotated[str | None, typer.Argument(help="Print this card's page.")] = None,
) -> None:
    """List the taught policies that come with the package, or say where one comes from."""
    from rich.table import Table

    from trimtab.controllers.cards import card, page, shipped

    if name is not None:
        typer.echo(page(name))
        return
    table = Table("card", "knobs", "network", "weights", "score")
    for each in shipped():
        policy = card(each)
        size = sum(weight.numel() for weight in policy.parameters())
        score = next((line for line in page(each).splitlines() if line.startswith("- **Score**: ")), "")
        spec = policy.spec
        what = f"{spec['kind']}, {spec['hidden']} units, on {spec['prior']!r}"
        table.add_row(each, ", ".join(spec["knobs"]), what, str(size), score.removeprefix("- **Score**: "))
    _console().print(table)


@app.command()
def report(
    trace: Annotated[Path, typer.Argument(help="The trace of a run: .jsonl, .parquet or .npz.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page; by default beside the trace.")] = None,
) -> None:
    """Write one page about one run."""
    from trimtab.logbook import Record, write_report
    from trimtab.trace import read_trace

    page = out or trace.with_suffix(".html")
    write_report(Record(*read_trace(trace)), page)
    typer.echo(f"Wrote {page}")


def _race(plan: Plan, folder: Path, *, jobs: int, is_json: bool, is_fresh: bool, words: list[str]) -> None:
    from rich.console import Console

    from trimtab import charts
    from trimtab.bench.machine import Provenance
    from trimtab.bench.page import as_json, write_page
    from trimtab.bench.race import race
    from trimtab.bench.view import View, result_table

    charts.check()
    with View(Console(stderr=True)).shown() as view:
        provenance = Provenance.now(["trimtab", *words])
        result = race(plan, folder, jobs=jobs, is_fresh=is_fresh, provenance=provenance, spectator=view)
    page = write_page(result, folder / "race.html", provenance)
    if is_json:
        typer.echo(as_json(result))
        return
    console = _console()
    console.print(result_table(result))
    console.print(f"The page: {page}", soft_wrap=True)


def _console() -> Console:
    """Give the console for tables: as wide as the terminal, or as a table needs where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 150)


def _plan(
    task: str, lrs: tuple[float, ...], names: str | None, cards: list[Path], seeds: int, budget: int | None
) -> Plan:
    from trimtab.bench.contender import CARD, DEFAULT, contender_named
    from trimtab.bench.race import Plan
    from trimtab.tasks import task_named

    steps = budget or task_named(task).horizon
    wanted = DEFAULT if names is None else [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UsageError("`--controllers` must name at least one; `trimtab controllers` lists them.")
    wanted = [*wanted, *(f"{CARD}{file}" for file in cards)]
    contenders: list[Contender] = [contender_named(name) for name in dict.fromkeys(wanted)]
    return Plan(task, tuple(contenders), lrs, tuple(range(seeds)), steps)


def _lrs(texts: list[str]) -> tuple[float, ...]:
    words = [word for text in texts for word in text.split(",") if word.strip()]
    lrs = []
    for word in words:
        try:
            lr = float(word)
        except ValueError:
            lr = math.nan
        if not (math.isfinite(lr) and lr > 0):
            raise UsageError(f"`--lr` must be a number above 0, got {word!r}.")
        lrs.append(lr)
    return tuple(sorted(set(lrs))) or DEFAULT_LRS


def _at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"`--{name}` must be at least 1, got {count}.")


def _sentence(error: Exception) -> str | None:
    """Say what a user did wrong; "" where it has been said, None where it is our own mistake."""
    from_typer: Any = getattr(error, "format_message", None)  # typer's own and, in older versions, click's
    if callable(from_typer):
        return " ".join(str(from_typer()).split())
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, ImportError) and "pip install" in str(error):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'A file'} cannot be used: {error.strerror or error}."
    from trimtab.errors import TrimtabError

    return str(error) if isinstance(error, TrimtabError) else None


def _say(sentence: str, code: int) -> int:
    try:
        print(sentence, file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code
