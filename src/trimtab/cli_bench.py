"""The sub-command ``trimtab bench``; no logic of its own, and everything heavier than torch is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bench = typer.Typer(help="Benches that answer one question each.", no_args_is_help=True)


@bench.callback()
def _group() -> None:
    pass


@bench.command("any-lr")
def any_lr(
    context: typer.Context,
    suite: Annotated[str, typer.Option(help="any-lr-v1, generalize-v1 or longer-v1.")] = "any-lr-v1",
    tasks: Annotated[str, typer.Option(help="Some of the suite's tasks, with commas between; by default all.")] = "",
    card: Annotated[
        list[Path] | None, typer.Option(help="A card that `trimtab teach` wrote takes part as well; repeat it.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs from each learning rate; at most the suite's own.")] = 10,
    jobs: Annotated[int, typer.Option(min=1, help="Heats at the same time, one thread each.")] = 2,
    out: Annotated[Path | None, typer.Option(help="The folder; by default runs/SUITE.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look: one task, 3 learning rates, 2 seeds, a fifth of the steps.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Ask who trains well from a learning rate that nobody tuned: cards, rules, peers, tuned schedules."""
    from trimtab.bench.anylr.command import run

    told = run(
        suite,
        tuple(name.strip() for name in tasks.split(",") if name.strip()),
        tuple(card or ()),
        out or Path("runs") / suite,
        seeds=seeds,
        jobs=jobs,
        is_quick=quick,
        is_json=json,
        words=context.obj,
    )
    typer.echo(told)


@bench.command("one-pass")
def one_pass(
    context: typer.Context,
    table: Annotated[
        str, typer.Option(help="energy, energy-authors (their split), kin8nm, power, fashion, ptb or cifar.")
    ] = "energy",
    method: Annotated[
        list[str] | None, typer.Option(help="One of the methods, by its name; repeat it. By default all.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Random starts, the same for every method.")] = 200,
    steps: Annotated[int, typer.Option(min=0, help="Steps of a run; 0: as many as the paper's.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Methods at the same time, one thread each.")] = 2,
    fast: Annotated[
        bool, typer.Option("--fast", help="Compile the training step: pays from a hundred runs on.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The folder; by default runs/one-pass-TABLE.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Ask what hypergradients make of random hyperparameters, and at what cost: Clarke et al. 2022's protocol."""
    from trimtab.bench.onepass.command import one_pass as run

    folder = out or Path("runs") / f"one-pass-{table}"
    told = run(
        table, method or (), folder, count=runs, steps=steps, jobs=jobs, is_fast=fast, is_json=json, words=context.obj
    )
    typer.echo(told)


@bench.command("control")
def control(
    context: typer.Context,
    tasks: Annotated[
        str, typer.Option(help="Tasks, with commas between; by default quadratic-v1 and digits-mlp-v1.")
    ] = "",
    contender: Annotated[
        list[str] | None, typer.Option(help="One of the contenders, by its name; repeat it. By default all.")
    ] = None,
    decisions: Annotated[int, typer.Option(min=1, help="That each may spend on being taught or searched.")] = 16384,
    seconds: Annotated[
        float, typer.Option(min=0, help="Of the processor, that each may spend in the second comparison; 0: none.")
    ] = 60.0,
    seeds: Annotated[int, typer.Option(min=1, help="Times that each is made.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Contenders at the same time, one thread each.")] = 2,
    out: Annotated[Path | None, typer.Option(help="The folder; by default runs/control.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Ask who steers best for the same decisions, and for the same seconds of teaching: evolution, PPO, SAC, models."""
    from trimtab.bench.control.command import control as run

    told = run(
        tuple(name.strip() for name in tasks.split(",") if name.strip()),
        contender or (),
        out or Path("runs/control"),
        decisions=decisions,
        seconds=seconds,
        seeds=seeds,
        jobs=jobs,
        is_json=json,
        words=context.obj,
    )
    typer.echo(told)
