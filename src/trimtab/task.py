"""The Task protocol: a base-model problem that runs live and simulated from one description.

Letters: ``B`` members, ``n`` examples of a batch, ``N`` examples of a split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor, nn

Split = Literal["train", "val", "test"]
Model = Callable[..., Tensor]
"""An ``nn.Module``, or the same module called with other parameters: ``model(x)``, ``model(x, noise)``."""


class Batch(NamedTuple):
    """Examples of one member, unbatched over members.

    Attributes:
        x: ``[n, ...]`` inputs.
        y: ``[n, ...]`` targets.
        noise: ``[n, ...]`` uniform draws in [0, 1) for dropout, from the member's own generator; None where the task
            has none, and in evaluation.
    """

    x: Tensor
    y: Tensor
    noise: Tensor | None = None


@dataclass(frozen=True)
class Reference:
    """The score of a tuned schedule, to place others beside.

    Attributes:
        val_loss: final validation loss, the task's own unit.
        test_metric: the test metric at the same end.
        target: the validation loss that counts as "reached".
        how: how it was found: schedule, values tried, seeds.
    """

    val_loss: float
    test_metric: float
    target: float
    how: str


class Task(Protocol):
    """One base-model problem.

    A loss that has hyperparameters of its own takes them by name, each ``[]``, and names them in an attribute
    ``loss_knobs``, a tuple: ``loss(model, batch, smoothing=0.0)``. Without them it is what evaluation measures.

    Attributes:
        name: versioned, such as ``"digits-mlp-v1"``: a change of behaviour is a new version.
        horizon: optimizer steps of its reference run.
        batch_size: examples of a training batch.
        optimizer: its usual one: ``"sgd"`` (momentum 0.9), ``"adamw"``, ....
        metric: what `score` gives beside the loss: ``"accuracy"`` (higher is better), ``"rmse"``, ....
        noise_shape: shape, without the batch axis, of ``Batch.noise``; None where the task needs none.
        reference: a tuned schedule's score.
        card: what the data is, where it comes from, licence, splits; Markdown.
    """

    name: str
    horizon: int
    batch_size: int
    optimizer: str
    metric: str
    noise_shape: tuple[int, ...] | None
    reference: Reference
    card: str

    def build(self, seed: int) -> nn.Module:
        """Make the network, float32 on the CPU, weights drawn from `seed` alone; leaves the global generator as is."""
        ...

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give a whole split, ``[N, ...]`` inputs (float32 or int64) and ``[N, ...]`` targets; cached, CPU.

        Raises:
            DataError: the data set is not there; says how to get it.
        """
        ...

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Give the mean loss of one member, ``[]``; must run under ``torch.func.vmap``."""
        ...

    def score(self, model: Model, batch: Batch) -> Tensor:
        """Give the metric of one member, ``[]``; not differentiated."""
        ...
