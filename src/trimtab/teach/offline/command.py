"""The command ``trimtab teach offline``: traces, a method, a card and the page that says what it is worth."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trimtab.controllers.policy import Policy
from trimtab.env.setting import Setting
from trimtab.errors import TaskError, TraceError
from trimtab.features import Features
from trimtab.tasks import CATALOGUE, task_named
from trimtab.teach.genome import Genome
from trimtab.teach.offline.cloning import cloned
from trimtab.teach.offline.episode import Episode, read_episodes
from trimtab.teach.offline.iql import ImplicitQLearning
from trimtab.teach.offline.readings import panel_of
from trimtab.teach.offline.score import fit, worths
from trimtab.teach.offline.transitions import Transitions, log_of
from trimtab.teach.svg import ValueGradients, taught_from
from trimtab.whole import written_whole

Method = Literal["bc", "iql", "svg"]
METHODS: tuple[Method, ...] = ("bc", "iql", "svg")
LENGTH, SHARE = 12, 50  # of "svg": moves of a piece; steps of the surrogate for one of the policy
ROLLOUTS = 16  # held-out instances of a task that the policy drives


@dataclass(frozen=True)
class Study:
    """What is taught from traces, and how.

    Args:
        method: "bc" (behaviour cloning), "iql" (implicit Q-learning) or "svg" (value gradients through a model).
        hidden: the policy's hidden units.
        prior: the schedule under it.
        reach: its longest move.
        features: patterns of what it reads.
        temperature: of "bc"; 0: all runs count alike.
        expectile: of "iql".
        beta: of "iql".
        penalty: of "svg", on what the model's networks disagree about.
        steps: of Adam; of "svg" those of the model, at most, and a fiftieth of them of the policy.
        held_out: share of the runs that is kept for the examination.
        seed: of everything drawn.

    Raises:
        TaskError: a setting is out of range.
    """

    method: Method = "bc"
    hidden: int = 16
    prior: str = "hold"
    reach: float = 1.0
    features: Sequence[str] = ("*", "!mean_*", "!rank_*")
    temperature: float = 0.0
    expectile: float = ImplicitQLearning.expectile
    beta: float = ImplicitQLearning.beta
    penalty: float = 0.1
    steps: int = 4000
    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what nobody else checks."""
        if self.method not in METHODS or not 0 < self.held_out < 1 or self.temperature < 0:
            raise TaskError(
                f"Offline teaching needs a method of {', '.join(METHODS)}, `0 < held_out < 1` and `temperature >= 0`, "
                f"got {self.method!r}, {self.held_out}, {self.temperature}."
            )

    def genome(self, episodes: Sequence[Episode]) -> Genome:
        """Give the policy's form for these runs' knobs.

        Args:
            episodes: of one kind.

        Returns:
            The form.

        Raises:
            TraceError: the runs' features are not this version's.
        """
        header = episodes[0].header
        panel = panel_of(header)
        if Features(panel).names != header.features:
            raise TraceError(
                "The traces' features are not this version's: record anew, or use the version they are of."
            )
        policy = Policy.for_panel(panel, self.hidden, prior=self.prior, reach=self.reach)
        return Genome(policy.spec, tuple(self.features))

    def taught(self, genome: Genome, episodes: Sequence[Episode]) -> Policy:
        """Teach."""
        if self.method == "svg":
            climb = ValueGradients(length=LENGTH, steps=max(1, self.steps // SHARE), rate=1e-3, penalty=self.penalty)
            return taught_from(log_of(episodes, genome), genome, climb, fits=self.steps, seed=self.seed)[0]
        rows = Transitions.of(episodes, genome.spec)
        if self.method == "bc":
            return cloned(genome, rows, temperature=self.temperature or math.inf, steps=self.steps, seed=self.seed)
        learner = ImplicitQLearning(expectile=self.expectile, beta=self.beta, steps=self.steps, seed=self.seed)
        return learner.taught(genome, rows)[0]


def teach_offline(folder: Path, out: Path, study: Study, origin: Mapping[str, str]) -> dict[str, Any]:
    """Teach from a folder of traces and write the card.

    Args:
        folder: the traces.
        out: the card; its suffix becomes ``.safetensors``, and a page of the same name stands beside it.
        study: what and how.
        origin: what else the page says of where it was made, by name.

    Returns:
        The summary: what was used, the fit, and scores by name.

    Raises:
        TraceError: the traces cannot be taught from, or the card cannot be written.
    """
    begin = time.process_time()
    episodes = read_episodes(folder, prior=study.prior)
    if len(episodes) < 2:
        raise TraceError(f"{folder} holds {len(episodes)} run that can be used: one to learn from and one to examine.")
    genome = study.genome(episodes)
    kept, held = _parted(episodes, study)
    policy = study.taught(genome, kept)
    summary: dict[str, Any] = {
        "runs": len(kept),
        "moves": sum(len(episode.moves) for episode in kept),
        "held_out_runs": len(held),
        "fit": fit(policy, Transitions.of(kept, genome.spec)),
        "held_out_fit": fit(policy, Transitions.of(held, genome.spec, fewest=1)),
        "recorded_worth": _mean(torch.tensor([episode.worth for episode in held])),
        "rollouts": _rollouts(policy, held),
        "core_seconds": time.process_time() - begin,
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        policy.save(out.with_suffix(".safetensors"))
        with written_whole(out.with_suffix(".md")) as file:
            file.write(page(out.stem, genome, study, summary, _behaviours(episodes), origin).encode())
    except OSError as error:
        raise TraceError(f"The card {out} cannot be written ({error}): give another place with `--out`.") from error
    return summary


def page(
    name: str,
    genome: Genome,
    study: Study,
    summary: Mapping[str, Any],
    behaviours: Mapping[str, int],
    origin: Mapping[str, str],
) -> str:
    """Write the card's page, Markdown."""
    spec = genome.spec
    settings = {
        "bc": f"temperature {study.temperature or 'none'}",
        "iql": f"expectile {study.expectile}, beta {study.beta}",
        "svg": f"penalty {study.penalty}",
    }
    behaved = ", ".join(f"{who} {count}" for who, count in behaviours.items())
    rollouts = [
        f"- **Driving {task}**: worth {found['policy']:.3f} on {ROLLOUTS} held-out instances; without a move "
        f"{found['still']:.3f}."
        for task, found in summary["rollouts"].items()
    ]
    return "\n".join(
        [
            f"# {name}",
            "",
            f"A learned controller of {', '.join(spec['knobs'])}: mlp, {spec['hidden']} hidden units, {genome.size} "
            f"taught weights, {len(genome.read)} features, on the prior {spec['prior']!r}; taught from recorded runs.",
            "",
            f"- **Taught from** {summary['runs']} runs, {summary['moves']} moves; with those held out, by controller: "
            f"{behaved}.",
            f"- **Teacher**: {study.method}, {settings[study.method]}, {study.steps} steps, seed {study.seed}.",
            f"- **Cost**: {summary['core_seconds']:.0f} core-seconds, scores included.",
            *(f"- **{key.capitalize()}**: {text}" for key, text in origin.items()),
            f"- **Score**: tells {summary['held_out_fit']:.1%} of the moves' variance in {summary['held_out_runs']} "
            f"held-out runs ({summary['fit']:.1%} in those taught from); they were worth "
            f"{summary['recorded_worth']:.3f}.",
            *rollouts,
            "",
            "Worth is the fall of the log loss from the beginning to the end: of the validation examples that a reward "
            "is measured on; where a trace has none, of the validation loss, else of the training loss.",
            "",
            "## Limits",
            "",
            "It has seen what the recorded controllers did on the recorded runs, and nothing else.",
            "",
        ]
    )


def _parted(episodes: Sequence[Episode], study: Study) -> tuple[list[Episode], list[Episode]]:
    order = torch.randperm(len(episodes), generator=torch.Generator().manual_seed(study.seed)).tolist()
    count = min(len(episodes) - 1, max(1, round(study.held_out * len(episodes))))
    return [episodes[n] for n in sorted(order[count:])], [episodes[n] for n in sorted(order[:count])]


def _rollouts(policy: Policy, held: Sequence[Episode]) -> dict[str, dict[str, float]]:
    """Drive each shipped task that the held-out runs name, at its usual optimizer."""
    still, found = Policy(policy.spec), {}
    for episode in held:
        note = episode.header.note
        task, whole = note.get("task"), len(episode.header.sites) == 1
        if task not in CATALOGUE or task in found or not whole:
            continue
        setting = Setting(
            task_named(task),
            knobs=panel_of(episode.header),
            horizon=note["horizon"],
            every=note["every"],
            instances="held-out",
        )
        numbers = range(ROLLOUTS)
        found[task] = {
            name: _mean(worths(setting, who, numbers)) for name, who in (("policy", policy), ("still", still))
        }
    return found


def _behaviours(episodes: Sequence[Episode]) -> dict[str, int]:
    names = [episode.header.controller for episode in episodes]
    return {name: names.count(name) for name in sorted(set(names))}


def _mean(values: Tensor) -> float:
    return float(values.mean())
