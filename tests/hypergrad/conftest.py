"""Tanh regression in float64, steps of it under any rule, and the exact slope through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab.hypergrad import Form, Memory, Step
from trimtab.knobs import Panel
from trimtab.layout import Layout
from trimtab.plant import Plant
from trimtab.rules import Rule
from trimtab.sites import sites_of
from trimtab.stream import Stream
from trimtab.task import Batch, Reference, Split
from trimtab.tasks.seeded import build_seeded

F64 = torch.float64


@pytest.fixture(autouse=True)
def _in_double() -> Iterator[None]:
    """Torch keeps NAdam's momentum product in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(before)


class Waves:
    """A sine to be learned by 3-5-1 with tanh, batches of 8."""

    name = "waves"
    horizon, batch_size, optimizer, metric = 50, 8, "sgd", "rmse"
    noise_shape: tuple[int, ...] | None = None
    card = "Test."
    reference = Reference(0.1, 0.1, 0.1, "none")

    def build(self, seed: int) -> nn.Module:
        """Make the network."""
        return build_seeded(
            lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(-2, -1)), seed
        )

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give a split."""
        start = {"train": 0, "val": 40, "test": 60}[split]
        x = torch.randn(80, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
        y = torch.sin(2 * x.sum(1)) + 0.1 * x[:, 0]
        rows = slice(start, start + (40 if split == "train" else 20))
        return x[rows], y[rows]

    def loss(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """Give the squared error."""
        return (model(batch.x) - batch.y).square().mean()

    def score(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """Give its root."""
        return self.loss(model, batch).sqrt()


@dataclass
class Keeper:
    """An estimator that keeps every step it sees."""

    steps: list[Step] = field(default_factory=list)
    name = "keeper"
    needs = frozenset({"hypergrad", "val_hypergrad", "loss_fn"})
    is_running = True

    def start(self, form: Form) -> Memory:
        """Remember nothing."""
        return {}

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Keep the step."""
        self.steps.append(step)
        return memory

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Give zeros."""
        return grad.new_zeros(len(grad), 1, 1)


@dataclass(frozen=True)
class Ride:
    """A few steps of waves under fixed knobs.

    Attributes:
        plant: where.
        values: ``[B, S, K]``.
        steps: all of them.
        held: the held-out loss at the end, ``[B]``.
    """

    plant: Plant
    values: Tensor
    steps: tuple[Step, ...]
    held: Tensor

    @property
    def row(self) -> Tensor:
        """The held-out loss's gradient at the end, ``[B, n]``."""
        return self.steps[-1].held_out_grad(self.steps[-1].after)


def ridden(
    rule: Rule, knobs: dict[str, float], count: int, *, by: str = "run", estimator: Any = None, values: Any = None
) -> Ride:
    """Take steps with knobs held."""
    task, keeper = Waves(), Keeper()
    panel = Panel.of(list(knobs))
    plant = Plant(
        task, rule, panel, sites=sites_of(task.build(0), by), every=1, estimator=estimator or keeper, dtype=F64
    )
    if values is None:
        row = torch.tensor(list(knobs.values()), dtype=F64)
        values = row.expand(2, len(plant.sites), -1) * torch.tensor([1.0, 0.6], dtype=F64)[:, None, None]
    seeds = tuple(member % 2 for member in range(len(values)))
    stream = Stream(task, seeds, dtype=F64)
    copies, look = plant.start(seeds), None
    for number in range(1, count + 1):
        copies, _, look, _ = plant.step(copies, values, stream.next(), number, look)
    x, y = (part[:10] for part in task.data("val"))
    return Ride(plant, values, tuple(keeper.steps), plant.evaluate(copies, (x, y))[0])


@pytest.fixture
def ride() -> Callable[..., Ride]:
    """Take steps with knobs held; see :func:`ridden`."""
    return ridden
