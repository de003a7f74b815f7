"""The command ``trimtab teach``, of a course or offline; no logic of its own, what is heavy is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

COURSE = "course"


class _CourseFirst(TyperGroup):
    """A group whose first command need not be named: ``trimtab teach FILE`` is ``trimtab teach course FILE``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Name the command where none is."""
        is_named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if is_named else [COURSE, *args])


teach = typer.Typer(
    cls=_CourseFirst, help="Teach a controller; write its card: `teach FILE`, or `teach offline FOLDER`."
)


@teach.command(COURSE)
def course(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The course, TOML; examples/teach.toml is one.")],
    out: Annotated[Path | None, typer.Option(help="The folder; by default runs/NAME.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Minutes to teach, earlier ones included; by default as the course says.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Lessons at the same time, one thread each; the result is the same.")] = 2,
    ray: Annotated[
        str | None, typer.Option(help="Spread lessons over the Ray cluster at this address; 'local' starts one.")
    ] = None,
) -> None:
    """Teach the course in a file; the same command goes on where it was. `trimtab teach FILE` is the same."""
    from trimtab.bench.machine import Provenance
    from trimtab.errors import TaskError
    from trimtab.teach.command import teach

    if jobs < 1:
        raise TaskError(f"`--jobs` must be at least 1, got {jobs}.")
    card = teach(file, out, minutes, vars(Provenance.now(["trimtab", *context.obj])), jobs=jobs, ray=ray)
    typer.echo(f"The card: {card}")


@teach.command()
def offline(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Traces that hold features: attach(..., trace=FullTrace(path)).")],
    method: Annotated[str, typer.Option(help="bc, iql or svg.")] = "bc",
    out: Annotated[Path, typer.Option("--out", "-o", help="The card.")] = Path("runs/offline.safetensors"),
    prior: Annotated[str, typer.Option(help="The schedule under the policy.")] = "hold",
    hidden: Annotated[int, typer.Option(help="The policy's hidden units.")] = 16,
    temperature: Annotated[float, typer.Option(help="bc: good runs count more, the lower it is; 0: all alike.")] = 0.0,
    expectile: Annotated[float, typer.Option(help="iql: 0.5 the mean of what was done, towards 1 the best.")] = 0.7,
    beta: Annotated[float, typer.Option(help="iql: how much more better moves count; 0: all alike.")] = 1.0,
    penalty: Annotated[float, typer.Option(help="svg: on what the model's networks disagree about.")] = 0.1,
    steps: Annotated[int, typer.Option(help="Steps of learning.")] = 4000,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
) -> None:
    """Teach from recorded runs alone: by cloning, implicit Q-learning or a learned model; score it on others."""
    from typing import Any, cast

    from trimtab.bench.machine import Provenance
    from trimtab.teach.offline.command import Study, teach_offline

    study = Study(
        cast("Any", method),
        hidden=hidden,
        prior=prior,
        temperature=temperature,
        expectile=expectile,
        beta=beta,
        penalty=penalty,
        steps=steps,
        seed=seed,
    )
    summary = teach_offline(folder, out, study, vars(Provenance.now(["trimtab", *context.obj])))
    for name, value in summary.items():
        if name == "rollouts":
            for task, worth in value.items():
                typer.echo(f"driving {task}, worth: " + ", ".join(f"{who} {w:.3f}" for who, w in worth.items()))
        else:
            typer.echo(f"{name.replace('_', ' ')}: {value:.4g}")
    typer.echo(f"The card: {out.with_suffix('.safetensors')}")
