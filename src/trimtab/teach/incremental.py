"""Incremental: learning classes phase by phase, with three choices a phase, made by a bandit on training data alone.

After Liu et al. 2023, "Online hyperparameter optimization for class-incremental learning", AAAI, arXiv:2301.05032: per
phase an Exp3 bandit sets how strongly the old network is distilled, the learning rate and the classifier. Differs from
the source: one distillation weight (of the outputs) instead of two; 12 choices; trials begin at the phase's own
beginning; the reward is accuracy on held-out *training* data (the source's code rewards with the test set); the choice
that is taken is the one of the best mean reward, draws weighed by one over their chance.

Letters: ``N`` examples, ``C`` classes, ``H`` hidden units.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from trimtab.errors import TaskError
from trimtab.task import Split
from trimtab.tasks.phases import CLASSES, Phases
from trimtab.teach.bandit import Exp3
from trimtab.teach.draw import mixed

EPOCHS, BATCH, MOMENTUM, HEAT = 8, 32, 0.9, 2.0  # heat: of the distilled outputs (Hinton et al. 2015, arXiv:1503.02531)
KEPT = 10  # examples of each old class that may be kept
JUDGING = 0.3  # share of what there is to train on that a trial holds out
Examples = tuple[Tensor, Tensor]
Classifier = Literal["output", "means"]


@dataclass(frozen=True)
class Choice:
    """What is chosen for a phase.

    Attributes:
        distillation: weight of the old network's outputs in the loss.
        lr: of SGD with momentum.
        classifier: "output", the network's own, or "means", the nearest class mean of the hidden layer.
    """

    distillation: float
    lr: float
    classifier: Classifier


CLASSIFIERS: tuple[Classifier, ...] = ("output", "means")
CHOICES = tuple(Choice(*which) for which in itertools.product((0.0, 1.0, 10.0), (0.01, 0.1), CLASSIFIERS))


@dataclass(frozen=True)
class Learner:
    """Where a learner stands between two phases; nothing in it is changed in place.

    Attributes:
        network: after the phases so far.
        kept: examples of the classes so far, :data:`KEPT` of each.
        means: ``[C, H]`` class means of the hidden layer, on the unit sphere; NaN where a class has not come yet.
        phase: how many are over.
        classifier: of the last phase.
    """

    network: nn.Sequential
    kept: Examples
    means: Tensor
    phase: int
    classifier: str = "output"

    @classmethod
    def begin(cls, task: Phases, seed: int) -> Learner:
        """Stand before the first phase."""
        x, y = task.data("train", ())
        network = task.build(seed)
        head = network[-1]
        assert isinstance(head, nn.Linear)
        return cls(network, (x, y), torch.full((CLASSES, head.in_features), torch.nan), 0)

    @torch.no_grad()
    def accuracy(self, examples: Examples) -> float:
        """Give the accuracy, each class weighing the same, in 0..1."""
        x, y = examples
        hidden = self.network[:-1](x)
        seen = ~self.means.isnan().any(1)
        scores = self.network[-1](hidden)
        if self.classifier == "means":
            scores = _unit(hidden) @ self.means.nan_to_num().T
        right = (scores.masked_fill(~seen, -torch.inf).argmax(1) == y).double()
        return float(torch.stack([right[y == name].mean() for name in _names(y)]).mean())


class Chooser(Protocol):
    """Chooses for a phase, from what there is to train on and nothing else."""

    def choose(self, learner: Learner, fresh: Examples, seed: int) -> Choice:
        """Give the choice for the phase that brings `fresh`."""
        ...


@dataclass(frozen=True)
class Fixed:
    """The same choice in every phase.

    Args:
        choice: which.
    """

    choice: Choice

    def choose(self, learner: Learner, fresh: Examples, seed: int) -> Choice:
        """Give it."""
        return self.choice


@dataclass(frozen=True)
class BanditChooser:
    """Tries choices drawn by Exp3 on a part of the phase's data, judges them on the rest, and takes the best one.

    Args:
        rounds: trials a phase.
        arms: what there is to choose from.
    """

    rounds: int = 36
    arms: tuple[Choice, ...] = CHOICES

    def choose(self, learner: Learner, fresh: Examples, seed: int) -> Choice:
        """Run the trials."""
        rng = torch.Generator().manual_seed(mixed(seed, learner.phase, 41))
        bandit = Exp3.tuned(len(self.arms), self.rounds)
        state, sums = bandit.start(), torch.zeros(2, len(self.arms), dtype=torch.float64)
        for count in range(self.rounds):
            (mine, left), (new, judged) = (parted(part, mixed(seed, count, 42)) for part in (learner.kept, fresh))
            arm = bandit.draw(state, rng)
            tried = learned(replace(learner, kept=mine), new, self.arms[int(arm)], seed)
            reward = torch.tensor(tried.accuracy(_both(left, judged)), dtype=torch.float64)
            sums[:, arm] += torch.stack([reward, torch.ones_like(reward)]) / bandit.chances(state)[arm]
            state = bandit.update(state, arm, reward)
        return self.arms[int((sums[0] / sums[1]).nan_to_num(-1.0).argmax())]


def learned(learner: Learner, fresh: Examples, choice: Choice, seed: int) -> Learner:
    """Go through one phase.

    Args:
        learner: where it stands; not changed.
        fresh: examples of the new classes.
        choice: how to learn.
        seed: of the order of examples.

    Returns:
        Where it stands then.
    """
    old, network = learner.network, copy.deepcopy(learner.network)
    x, y = _both(learner.kept, fresh)
    known, seen = (torch.tensor(_names(names), dtype=torch.int64) for names in (learner.kept[1], y))
    column = torch.full((CLASSES,), -1).scatter(0, seen, torch.arange(len(seen)))
    optimizer = torch.optim.SGD(network.parameters(), lr=choice.lr, momentum=MOMENTUM)
    rng = torch.Generator().manual_seed(mixed(seed, learner.phase, 43))
    with torch.enable_grad():
        for _ in range(EPOCHS):
            for part in torch.split(torch.randperm(len(x), generator=rng), BATCH):
                outputs = network(x[part])
                loss = nn.functional.cross_entropy(outputs[:, seen], column[y[part]])
                if len(known) and choice.distillation:
                    loss = loss + choice.distillation * _distilled(outputs[:, known], old(x[part])[:, known].detach())
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch's is untyped
                torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
                optimizer.step()
    kept = [_of(name, (x, y), KEPT) for name in seen.tolist()]
    with torch.no_grad():
        hidden, means = _unit(network[:-1](x)), learner.means.clone()
        for name in seen.tolist():
            means[name] = _unit(hidden[y == name].mean(0, keepdim=True))[0]
    both = torch.cat([each for each, _ in kept]), torch.cat([each for _, each in kept])
    return Learner(network, both, means, learner.phase + 1, choice.classifier)


def course(task: Phases, chooser: Chooser, seed: int, split: Split = "val") -> tuple[list[float], list[Choice]]:
    """Learn all phases.

    Args:
        task: gives them.
        chooser: sees each phase's training data and what was kept.
        seed: of first weights, order of examples and trials.
        split: where accuracy is measured: "val", and "test" once at the very end.

    Returns:
        After each phase the accuracy over all classes so far; and the choices.
    """
    learner, found, chosen = Learner.begin(task, seed), [], []
    seen: list[int] = []
    for phase in range(task.phases):
        fresh = task.data("train", task.classes(phase))
        seen += task.classes(phase)
        choice = chooser.choose(learner, fresh, seed)
        learner = learned(learner, fresh, choice, seed)
        found.append(learner.accuracy(task.data(split, seen)))
        chosen.append(choice)
    return found, chosen


def searched(task: Phases, trials: int, seed: int, arms: Sequence[Choice] = CHOICES) -> Choice:
    """Find the best fixed choice by whole courses on a part of the training data, judged on the rest.

    Knows all phases beforehand, which a learner in the field does not.

    Args:
        task: gives the phases.
        trials: courses, as many as a bandit has rounds a phase; each choice in turn, in a drawn order.
        seed: of the order, and of what is held out.
        arms: what there is to choose from.

    Returns:
        The choice of the best mean.

    Raises:
        TaskError: there is no trial.
    """
    if trials < 1:
        raise TaskError(f"A search needs at least one trial, got {trials}.")
    order = torch.randperm(len(arms), generator=torch.Generator().manual_seed(mixed(seed, 44))).tolist()
    scores: dict[int, list[float]] = {}
    for count in range(trials):
        arm, learner, total = order[count % len(arms)], Learner.begin(task, seed), 0.0
        held: list[Examples] = []
        for phase in range(task.phases):
            new, judged = parted(task.data("train", task.classes(phase)), mixed(seed, count, 45))
            held.append(judged)
            learner = learned(learner, new, arms[arm], seed)
            total += learner.accuracy((torch.cat([x for x, _ in held]), torch.cat([y for _, y in held])))
        scores.setdefault(arm, []).append(total)
    return arms[max(scores, key=lambda arm: sum(scores[arm]) / len(scores[arm]))]


def parted(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """Part examples in those to train on and those to judge by, :data:`JUDGING` of each class."""
    x, y = examples
    rng = torch.Generator().manual_seed(seed)
    judged = torch.zeros(len(y), dtype=torch.bool)
    for name in _names(y):
        places = (y == name).nonzero().flatten()
        judged[places[torch.randperm(len(places), generator=rng)[: round(JUDGING * len(places))]]] = True
    return (x[~judged], y[~judged]), (x[judged], y[judged])


def _distilled(new: Tensor, old: Tensor) -> Tensor:
    """Give the divergence of softened outputs from the old network's, ``[]``, times heat squared."""
    parts = (part / HEAT for part in (new, old))
    log_new, log_old = (torch.log_softmax(part, 1) for part in parts)
    apart: Tensor = nn.functional.kl_div(log_new, log_old, reduction="batchmean", log_target=True)
    return HEAT**2 * apart


def _names(y: Tensor) -> list[int]:
    """Give the classes there are, in order."""
    return sorted(set(y.tolist()))


def _of(name: int, examples: Examples, most: int) -> Examples:
    x, y = examples
    return x[y == name][:most], y[y == name][:most]


def _both(one: Examples, two: Examples) -> Examples:
    return torch.cat([one[0], two[0]]), torch.cat([one[1], two[1]])


def _unit(hidden: Tensor) -> Tensor:
    return nn.functional.normalize(hidden, dim=1)
