"""The quadratic's closed form."""

from __future__ import annotations

import pytest
import torch

from trimtab.task import Batch
from trimtab.tasks.quadratic import Quadratic

LRS = [0.02 * step for step in range(1, 21)]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_expected_loss_is_that_of_a_run_without_noise(momentum: float) -> None:
    """With full batches the expectation is the loss of the run itself (float64, 1e-12)."""
    task = Quadratic()
    model = task.build(5).double()
    start = next(model.parameters()).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum)
    train, val = (Batch(*(t.double() for t in task.data(split))) for split in ("train", "val"))
    for lr in LRS:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        task.loss(model, train).backward()
        optimizer.step()
    for split, batch in (("train", train), ("val", val)):
        expected = task.expected_loss(LRS, split=split, momentum=momentum, start=start)
        assert float(task.loss(model, batch).detach()) == pytest.approx(expected, rel=1e-12)


def test_expected_loss_is_the_textbook_power() -> None:
    """At a constant rate the train loss is lowest + ½ Σ h (1 − η h)^2T (w0 − x̄)²."""
    task = Quadratic()
    start, h = torch.ones(32, dtype=torch.float64), torch.logspace(-2, 0, 32, dtype=torch.float64)
    excess = 0.5 * (h * (1 - 0.3 * h) ** 14 * (start - task.optimum()) ** 2).sum()
    actual = task.expected_loss([0.3] * 7, split="train", start=start)
    assert actual == pytest.approx(task.lowest_loss() + float(excess), rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_expected_loss_is_the_mean_of_noisy_runs(momentum: float) -> None:
    """With batches and random starts the expectation is within 5 standard errors of 4,000 runs' mean."""
    task, runs = Quadratic(), 4000
    rng = torch.Generator().manual_seed(0)
    x, root = task.data("train")[0].double(), torch.logspace(-1, 0, 32, dtype=torch.float64)
    w = torch.randn(runs, 32, generator=rng, dtype=torch.float64)
    buffer = torch.zeros_like(w)
    for lr in LRS:
        batch = x[torch.randint(len(x), (runs, task.batch_size), generator=rng)].mean(1)
        buffer = momentum * buffer + root.square() * (w - batch)
        w = w - lr * buffer
    val = task.optimum("val")
    losses = task.lowest_loss("val") + 0.5 * (root * (w - val)).square().sum(1)
    expected = task.expected_loss(LRS, momentum=momentum, batch_size=task.batch_size)
    assert abs(float(losses.mean()) - expected) < 5 * float(losses.std()) / runs**0.5


def test_optimum_has_the_lowest_loss() -> None:
    """At the optimum the loss is the lowest, the score and the gradient are zero."""
    task = Quadratic()
    model = task.build(0).double()
    (w,) = model.parameters()
    w.data.copy_(task.optimum("val"))
    batch = Batch(*(t.double() for t in task.data("val")))
    loss = task.loss(model, batch)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(task.lowest_loss("val"), rel=1e-6)
    assert float(task.score(model, batch).detach()) < 1e-12
    assert w.grad is not None
    assert float(w.grad.abs().max()) < 1e-7
