"""Card: a taught policy as a file of weights, and a page that says where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trimtab.controllers.policy import Policy
from trimtab.errors import TraceError
from trimtab.teach.course import Course
from trimtab.teach.distribution import LONG
from trimtab.teach.sketch import KINDS
from trimtab.whole import written_whole

ROWS = 20  # of the curve at most


def write_card(
    folder: Path,
    course: Course,
    policy: Policy,
    curve: Sequence[Mapping[str, float]],
    *,
    cpu: float,
    origin: Mapping[str, str],
) -> Path:
    """Write ``NAME.safetensors`` and ``NAME.md``.

    Args:
        folder: where to.
        course: what was taught.
        policy: what came of it.
        curve: its scores, the last one its own.
        cpu: seconds of processors that it cost.
        origin: what else to say of where it was made, by name.

    Returns:
        The file of weights.

    Raises:
        TraceError: the folder cannot be written.
    """
    path = folder / f"{course.name}.safetensors"
    try:
        policy.save(path)
        with written_whole(path.with_suffix(".md")) as file:
            file.write(page(course, curve, cpu=cpu, origin=origin).encode())
    except OSError as error:
        raise TraceError(f"The card {path} cannot be written ({error}): give another folder.") from error
    return path


def page(course: Course, curve: Sequence[Mapping[str, float]], *, cpu: float, origin: Mapping[str, str]) -> str:
    """Write the card's page, Markdown."""
    policy, lessons, teacher = course.tables["policy"], course.tables["distribution"], course.settings
    last, genome = curve[-1], course.genome()
    done, planned = int(last["generation"]), teacher["generations"]
    short, long = lessons["horizons"]
    kinds = KINDS[lessons["name"]]
    texts = ", causal transformers of 2 blocks of 24 units" if "text" in kinds else ""
    beyond = f"{max(long, LONG[1])}, in lessons that are not clean {long}" if "clean" in kinds else f"{long}"
    calm = f" (calm {policy['calm']:g})" if policy["calm"] else ""
    return "\n".join(
        [
            f"# {course.name}",
            "",
            f"A learned controller of {', '.join(policy['knobs'])}: {policy['kind']}, {policy['hidden']} hidden units, "
            f"{genome.size} taught weights, {len(genome.read)} features{calm}, on the prior {policy['prior']!r}; "
            f"sites: {policy['sites']}{'; runs are read at an average of their weights' if policy['average'] else ''}.",
            "",
            f"- **Taught on** {lessons['name']}: horizons {short} to {long}, optimizers {', '.join(lessons['rules'])}, "
            f"sources {', '.join(lessons['sources'])}, seed {course.tables['']['seed']}.",
            *([f"- **Begun from** {policy['start']}."] if policy["start"] else []),
            f"- **Teacher**: {', '.join(f'{key} {value}' for key, value in teacher.items())}; "
            f"{done} of {planned} generations done.",
            f"- **Cost**: {cpu / 60:.1f} core-minutes, examinations included.",
            *(f"- **{name.capitalize()}**: {text}" for name, text in origin.items()),
            f"- **Score**: median regret {last['median']:.3f}, geometric mean {last['mean']:.3f}, 90th percentile "
            f"{last['ninety']:.2f}, worst {last['worst']:.1f}; lost {last['lost']:.1%}; {last['restores']:.2f} "
            "restores a run.",
            "",
            f"Regret is the held-out loss at the end over that of the best of 39 static runs of the same lesson "
            f"(constant, cosine, linear, each from 13 learning rates over 1e-6 to 10); over "
            f"{course.tables['examination']['lessons']} lessons"
            f"{' of each kind' if course.tables['examination']['of_each_kind'] else ''} that are never taught on, each "
            "from 7 initial learning rates, means of 2 seeds. Lost: ended a tenth above the best constant answer.",
            "",
            "## Curve",
            "",
            *_table(curve),
            "",
            "## Limits",
            "",
            "The score is on small exercises of the kind that it was taught on: perceptrons of at most 3 layers of 64 "
            f"units, smaller convolutional, recurrent and attention networks{texts}, at most 64 inputs. It says "
            f"nothing of other kinds, larger ones or horizons beyond {beyond}: `trimtab bench any-lr --card FILE` "
            "measures those. Below a loss of 1e-4 of the constant answer's, differences did not count.",
            "",
        ]
    )


def _table(curve: Sequence[Mapping[str, float]]) -> list[str]:
    stride = -(-len(curve) // ROWS)
    kept = [point for place, point in enumerate(curve) if place % stride == 0 or place == len(curve) - 1]
    rows = [
        f"| {int(p['generation'])} | {p['core_minutes']:.1f} | {p['median']:.3f} | {p['mean']:.3f} | "
        f"{p['ninety']:.2f} | {p['worst']:.1f} | {p['lost']:.1%} |"
        for p in kept
    ]
    return [
        "| generation | core-minutes | median | mean | 90 % | worst | lost |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]
