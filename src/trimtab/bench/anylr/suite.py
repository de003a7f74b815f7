"""Suite: which tasks, for how long, from which learning rates, and what of the validation data is for whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from trimtab.errors import TaskError
from trimtab.rules import SGD, AdamW, RMSprop, Rule
from trimtab.task import Batch, Model, Reference, Split, Task
from trimtab.tasks import task_named
from trimtab.tasks.chars_transformer import CharsTransformer
from trimtab.tasks.cifar_resnet18 import CifarResNet18
from trimtab.tasks.digits_mlp import DigitsMLP

LRS = tuple(float(lr) for lr in torch.logspace(-5, 1, 13, dtype=torch.float64))  # half decades
SEEN, SCORED = 1000, 2000  # examples of the validation split's halves that are used, at most
TEXTS = 48  # of the transformer's, each of 64 characters to be named
RULES: dict[str, Callable[[], Rule]] = {
    "sgd": lambda: SGD(momentum=0.9),
    "adamw": AdamW,
    "rmsprop": RMSprop,
}
"""The optimizers' twins, everything but the learning rate at its default, SGD's momentum apart."""


@dataclass(frozen=True)
class Entry:
    """One problem of the bench.

    Attributes:
        name: of the entry.
        make: gives the task.
        steps: optimizer steps of each run.
        seeds: of weights and data order, at most.
        rule: a name in :data:`RULES`.
        seen: examples of the validation split's first half that a controller sees, at most.
        scored: examples of its second half that score, at most.
    """

    name: str
    make: Callable[[], Task]
    steps: int
    seeds: int
    rule: str
    seen: int = SEEN
    scored: int = SCORED

    @cached_property
    def task(self) -> Halved:
        """The task, its validation split in halves."""
        return Halved(self.make(), self.seen, self.scored)

    def twin(self) -> Rule:
        """Make the optimizer's twin."""
        return RULES[self.rule]()


class Halved:
    """A task whose validation split is what a controller may see: the first half. The second half is scored.

    Args:
        task: any.
        seen: examples of the first half that are used, at most.
        scored: of the second half, likewise.
    """

    def __init__(self, task: Task, seen: int = SEEN, scored: int = SCORED) -> None:
        self.task, self._seen, self._scored = task, seen, scored
        self.name, self.card, self.metric, self.reference = task.name, task.card, task.metric, task.reference
        self.horizon, self.batch_size, self.optimizer = task.horizon, task.batch_size, task.optimizer
        self.noise_shape = task.noise_shape

    name: str
    card: str
    metric: str
    reference: Reference
    horizon: int
    batch_size: int
    optimizer: str
    noise_shape: tuple[int, ...] | None

    def build(self, seed: int) -> nn.Module:
        """Make the network."""
        return self.task.build(seed)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give a split; of "val" the half that a controller may see."""
        x, y = self.task.data(split)
        half = min(len(x) // 2, self._seen)
        return (x[:half], y[:half]) if split == "val" else (x, y)

    def scored(self) -> tuple[Tensor, Tensor]:
        """Give the half of the validation split that scores."""
        x, y = self.task.data("val")
        rows = slice(len(x) // 2, len(x) // 2 + self._scored)
        return x[rows], y[rows]

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Give the task's loss."""
        return self.task.loss(model, batch)

    def score(self, model: Model, batch: Batch) -> Tensor:
        """Give the task's metric."""
        return self.task.score(model, batch)


def _of(task: str, steps: int, rule: str, seeds: int = 10) -> Entry:
    return Entry(task, lambda: task_named(task), steps, seeds, rule)


SUITES: dict[str, tuple[Entry, ...]] = {
    "any-lr-v1": (
        _of("energy-mlp-v1", 1500, "sgd"),
        _of("diabetes-mlp-v1", 500, "adamw"),
        _of("digits-cnn-v1", 400, "sgd"),
        _of("kin8nm-mlp-v1", 1000, "adamw"),
        _of("fashion-mlp-v1", 600, "sgd"),
        Entry("chars-transformer-v1", CharsTransformer, 200, 3, "adamw", seen=TEXTS, scored=TEXTS),
    ),
    "generalize-v1": (
        Entry("horizon-x10", DigitsMLP, 6000, 3, "adamw"),
        Entry("width-x16", lambda: DigitsMLP(width=512), 600, 3, "adamw"),
        Entry("optimizer-left-out", DigitsMLP, 600, 5, "rmsprop"),
        Entry("family-left-out", CifarResNet18, 150, 2, "sgd"),
    ),
    "longer-v1": (
        Entry("energy-x5", lambda: task_named("energy-mlp-v1"), 7500, 3, "sgd"),
        Entry("kin8nm-x5", lambda: task_named("kin8nm-mlp-v1"), 5000, 3, "adamw"),
        Entry("fashion-x5", lambda: task_named("fashion-mlp-v1"), 3000, 3, "sgd"),
    ),
}
"""Entries by suite; the second asks what lies beyond the teaching: ten times the horizon, sixteen times the width, an
optimizer and a family of networks, residual ones on photographs, that no lesson has. The third is three tasks of the
first at five times their length, well beyond most lessons: a bar that is tuned for that length too."""


def entries(suite: str, names: tuple[str, ...] = ()) -> tuple[Entry, ...]:
    """Give a suite's entries, or some.

    Args:
        suite: a name in :data:`SUITES`.
        names: of entries; none for all.

    Returns:
        Them, in the suite's order.

    Raises:
        TaskError: there is no such suite, or no such entry.
    """
    if suite not in SUITES:
        raise TaskError(f"No suite is named {suite!r}: there are {', '.join(SUITES)}.")
    known = [entry.name for entry in SUITES[suite]]
    for name in names:
        if name not in known:
            raise TaskError(f"Suite {suite!r} has no task {name!r}: there are {', '.join(known)}.")
    return tuple(entry for entry in SUITES[suite] if not names or entry.name in names)
