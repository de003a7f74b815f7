"""Tables of numbers to be estimated, and the loss of a network that estimates them.

Letters: ``n`` examples of a batch, ``N`` of a split, ``D`` features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.task import Batch, Model, Split


class Table(NamedTuple):
    """All examples, normalised by the training ones, the rows of each split, and the training targets' deviation."""

    x: Tensor
    y: Tensor
    rows: dict[Split, slice]
    deviation: float

    def split(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give features ``[N, D]`` and targets ``[N]``, float32, normalised."""
        return self.x[self.rows[split]], self.y[self.rows[split]]

    def root_error(self, model: Model, batch: Batch) -> Tensor:
        """Give the root mean squared error, ``[]`` in the target's own unit; lower is better."""
        return squared_error(model, batch).sqrt() * self.deviation


def normalised(numbers: Tensor, rows: dict[Split, slice]) -> Table:
    """Bring a table to mean 0 and deviation 1 over its training rows.

    Args:
        numbers: ``[all, D + 1]``, the target last, rows in the order of the splits.
        rows: of each split.

    Returns:
        The table, float32.
    """
    deviation, mean = torch.std_mean(numbers[rows["train"]], 0)
    numbers = (numbers - mean) / deviation
    return Table(numbers[:, :-1].float(), numbers[:, -1].float(), rows, float(deviation[-1]))


def squared_error(model: Model, batch: Batch) -> Tensor:
    """Give the mean squared error of a network's answers ``[n]``: ``[]`` in the training targets' variance."""
    return (model(batch.x) - batch.y).square().mean()


class TableTask(ABC):
    """What all tasks on a table have in common; the others' facts, `build` and `table` are each one's own."""

    metric: str = "rmse"
    noise_shape: tuple[int, ...] | None = None

    @property
    @abstractmethod
    def table(self) -> Table:
        """The numbers; read once."""

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give features ``[N, D]`` and targets ``[N]``, float32, normalised."""
        return self.table.split(split)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Give the mean squared error, ``[]`` in the training targets' variance."""
        return squared_error(model, batch)

    def score(self, model: Model, batch: Batch) -> Tensor:
        """Give the root mean squared error, ``[]`` in the target's own unit (the card says which); lower is better."""
        return self.table.root_error(model, batch)
