"""Suite: who takes part in the control bench, and how each is made within a budget of decisions.

A decision is one move of one run. Learners play whole runs of the training instances of an environment; tuned schedules
spend the same decisions on a search; hypergradient followers spend none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trimtab.bench.control.judge import Player, ends
from trimtab.controller import Controller
from trimtab.controllers import Constant, Hypergradient, Policy, controller_named
from trimtab.env import Setting
from trimtab.errors import TaskError
from trimtab.knobs import Panel
from trimtab.tasks import task_named
from trimtab.teach.genome import Genome
from trimtab.teach.offline.cloning import cloned
from trimtab.teach.offline.iql import ImplicitQLearning
from trimtab.teach.offline.transitions import Transitions
from trimtab.teach.practice import Method, practised
from trimtab.teach.surrogate import Log
from trimtab.teach.svg import Sketched, ValueGradients, collected, practised_by_model, taught_from

TASKS = ("quadratic-v1", "digits-mlp-v1")  # the toy problem and the image classification of the thesis
HIDDEN, READ = 8, ("*", "!mean_*", "!rank_*")
RATES = 13  # that a search tries, at most
NOISE = 0.4  # deviation of the moves of a log
MOST = 64  # runs side by side


@dataclass(frozen=True)
class Desk:
    """Where a contender is made.

    Attributes:
        setting: the environment, its training instances.
        decisions: that may be spent.
        seed: of everything that is drawn.
    """

    setting: Setting
    decisions: int
    seed: int

    @classmethod
    def of(cls, task: str, decisions: int, seed: int) -> Desk:
        """Make one for a task, by name."""
        return cls(Setting(task_named(task), prior="hold"), decisions, seed)

    @property
    def runs(self) -> int:
        """Whole runs that the budget is enough for, at least 2: a model is not learned from one."""
        return max(2, self.decisions // self.setting.turns)

    @property
    def genome(self) -> Genome:
        """The form of the policies that are taught."""
        panel = Panel.of(self.setting.knobs)
        return Genome(Policy.for_panel(panel, HIDDEN, prior=self.setting.prior, leap=self.setting.leap).spec, READ)

    def numbers(self, count: int) -> list[int]:
        """Draw training instances, others for another seed."""
        rng = np.random.default_rng([self.seed, 3])
        return [self.setting.drawn(rng) for _ in range(count)]


def _free(make: Callable[[], Controller]) -> Callable[[Desk], Player]:
    return lambda desk: Player(make())


def _searched(name: str) -> Callable[[Desk], Player]:
    """Tune a schedule's learning rate: the lowest mean log validation loss over training instances."""

    def make(desk: Desk) -> Player:
        low, high = desk.setting.starts
        count = min(RATES, desk.runs)
        inside = slice(1, -1) if count < 3 else slice(None)
        rates = np.geomspace(low, high, count + 2 * (count < 3))[inside].tolist()
        numbers, schedule = desk.numbers(max(1, desk.runs // len(rates))), controller_named(name)
        found = [ends(desk.setting, Player(schedule, rate), numbers, ("val",))["val"].log().mean() for rate in rates]
        return Player(schedule, rates[int(torch.nan_to_num(torch.stack(found), nan=torch.inf).argmin())])

    return make


def _practised(method: Method, rate: float) -> Callable[[Desk], Player]:
    def make(desk: Desk) -> Player:
        return Player(practised(desk.setting, desk.genome, method, desk.decisions, rate=rate, seed=desk.seed))

    return make


def _by_model(desk: Desk) -> Player:
    policy, _, _ = practised_by_model(desk.setting, desk.genome, desk.decisions, gradients=ONLINE, seed=desk.seed)
    return Player(policy)


def from_log(teach: Callable[[Log, Desk], Policy]) -> Callable[[Desk], Player]:
    """Teach from runs under random moves alone, as many as the budget is enough for.

    Args:
        teach: gives a policy for a log.

    Returns:
        What makes a contender.
    """

    def make(desk: Desk) -> Player:
        genome, rng = desk.genome, torch.Generator().manual_seed(desk.seed)
        still, numbers = Sketched(genome.policy(genome.untaught()), genome), desk.numbers(desk.runs)
        logs = [
            collected(desk.setting, still, genome, numbers[first : first + MOST], rng, NOISE)
            for first in range(0, len(numbers), MOST)
        ]
        return Player(teach(Log.padded(logs), desk))

    return make


def climbed(gradients: ValueGradients) -> Callable[[Log, Desk], Policy]:
    """Give what teaches by value gradients from a log alone."""
    return lambda log, desk: taught_from(log, desk.genome, gradients, seed=desk.seed)[0]


def _cloned(log: Log, desk: Desk) -> Policy:
    return cloned(desk.genome, Transitions.of_log(log, desk.genome), seed=desk.seed)


def _implicit(log: Log, desk: Desk) -> Policy:
    return ImplicitQLearning(beta=3.0, seed=desk.seed).taught(desk.genome, Transitions.of_log(log, desk.genome))[0]


ONLINE = ValueGradients(rate=1e-3)
OFFLINE = ValueGradients(length=12, steps=60, rate=1e-3)
CONTENDERS: dict[str, Callable[[Desk], Player]] = {
    "no move": _free(Constant),
    "constant, tuned": _searched("constant"),
    "cosine, tuned": _searched("cosine"),
    "hypergradient, training loss": _free(lambda: controller_named("hypergradient")),
    "hypergradient, validation loss": _free(lambda: Hypergradient("one-step-validation")),
    "hypergradient, implicit": _free(lambda: Hypergradient("implicit")),
    "evolution": _practised("evolution", 0.04),
    "PPO": _practised("ppo", 1e-2),
    "SAC": _practised("sac", 1e-2),
    "value gradients, online": _by_model,
    "value gradients, offline": from_log(climbed(OFFLINE)),
    "implicit Q-learning, offline": from_log(_implicit),
    "behaviour cloning, offline": from_log(_cloned),
}
"""How each is made; the schedules that are tuned are the bar. Offline: from a log of random moves. Rates of evolution,
PPO, SAC and value gradients are those that `benchmarks/control_rates.py` chose on another task; implicit Q-learning and
cloning have their defaults, but for beta."""
FREE = ("no move", *(name for name in CONTENDERS if name.startswith("hypergradient")))
BARS = ("constant, tuned", "cosine, tuned")


def contenders(names: Sequence[str]) -> list[str]:
    """Give the contenders of those names, all where there are none.

    Args:
        names: in :data:`CONTENDERS`.

    Returns:
        The names.

    Raises:
        TaskError: there is none of that name.
    """
    for name in names:
        if name not in CONTENDERS:
            raise TaskError(f"The control bench has no contender {name!r}: there are {'; '.join(CONTENDERS)}.")
    return list(names) or list(CONTENDERS)
