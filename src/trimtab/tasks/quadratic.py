"""A noisy quadratic bowl, whose expected loss under any schedule is known exactly.

Letters: ``n`` examples of a batch, ``N`` of a split, ``D`` = 32 coordinates, ``T`` steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import final

import torch
from torch import Tensor, nn

from trimtab.task import Batch, Model, Reference, Split
from trimtab.tasks.seeded import build_seeded

DIMENSIONS = 32
CENTRE = 1_000_000  # seed of the optimum, far from those that runs begin with: else seed 0 would begin there
SPREAD = 0.3  # standard deviation of a split's targets about their common centre
SIZES: dict[Split, int] = {"train": 1024, "val": 256, "test": 256}


@final
class Quadratic:
    """A weight vector ``w`` falls towards targets ``x``: loss = mean over a batch of ½ (w − x)ᵀ diag(h) (w − x).

    The eigenvalues ``h`` run from 0.01 to 1, evenly in the logarithm (condition number 100). The targets are a fixed
    centre plus noise; ``w`` starts at N(0, 1). Everything about it is known:

    - The optimum of a split is the mean of its targets, and the loss there is ½ Σ h·var.
    - After T steps of full-batch SGD with learning rate η, ``w_T = x̄ + (1 − η h)^T (w_0 − x̄)``.
    - With batches of n drawn independently with replacement, each step adds noise of variance ``η² h² var / n``, so
      the expected loss follows a linear recursion of second moments: :meth:`expected_loss`.

    Example:
        >>> task = Quadratic()
        >>> still = task.expected_loss([0.1] * 100)
        >>> task.expected_loss([0.1] * 200) < still
        True
    """

    name: str = "quadratic-v1"
    horizon: int = 100
    batch_size: int = 4
    optimizer: str = "sgd"
    metric: str = "excess"
    noise_shape: tuple[int, ...] | None = None
    card: str = """\
Synthetic, made by this task from fixed seeds: a centre drawn from N(0, 1) in 32 dimensions, and 1,024 train, 256
validation and 256 test targets about it with standard deviation 0.3. No licence needed. Batches are meant to be drawn
independently with replacement; only then is `expected_loss` with a `batch_size` exact.
"""
    reference: Reference = Reference(
        val_loss=0.3384,
        test_metric=0.0083,
        target=0.3722,
        how="Exact expectation over batches and seeds, no run: SGD with momentum 0.9, warm-up over 5 %, then cosine to "
        "0; peak 0.316, the best of 8 from 0.000316 to 1. Target: 1.10 × the validation loss.",
    )

    def build(self, seed: int) -> nn.Module:
        """Make the vector ``w``, ``[32]`` float32 on the CPU, drawn from N(0, 1)."""
        return build_seeded(_Vector, seed)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give the targets ``[N, 32]`` float32, and zeros ``[N, 32]``: the distance wished for."""
        x = _targets(split)
        return x, torch.zeros_like(x)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Give the mean loss, ``[]``."""
        return 0.5 * (model(batch.x) - batch.y).square().sum(-1).mean()

    def score(self, model: Model, batch: Batch) -> Tensor:
        """Give the excess, ``[]``: the loss less the lowest that this batch allows; lower is better."""
        return 0.5 * (model(batch.x) - batch.y).mean(0).square().sum()

    def optimum(self, split: Split = "train") -> Tensor:
        """Give the ``w`` of the lowest loss, ``[32]`` float64."""
        return _targets(split).double().mean(0)

    def lowest_loss(self, split: Split = "train") -> float:
        """Give the loss at the split's own optimum."""
        return float(0.5 * (_eigenvalues() * _targets(split).double().var(0, correction=0)).sum())

    def expected_loss(
        self,
        lrs: Sequence[float],
        *,
        split: Split = "val",
        momentum: float = 0.0,
        batch_size: int | None = None,
        start: Tensor | None = None,
    ) -> float:
        """Give the exact expected loss after training by ``torch.optim.SGD``.

        Args:
            lrs: the learning rate of each of T steps.
            split: where the loss is taken; training is on "train".
            momentum: heavy-ball momentum, dampening 0.
            batch_size: examples of a batch, drawn independently with replacement; None takes the whole split, without
                noise.
            start: ``[32]`` the first ``w``; None takes the expectation over seeds.

        Returns:
            The expected loss, over batches and, without `start`, over seeds.
        """
        h, target = _eigenvalues(), self.optimum("train")
        noise = torch.zeros_like(h)  # variance of a batch's gradient, [D]
        if batch_size is not None:
            noise = h.square() * _targets("train").double().var(0, correction=0) / batch_size
        mean_w = (torch.zeros_like(h) if start is None else start.double()) - target  # E of w less its optimum
        mean_b = torch.zeros_like(h)  # E of the momentum buffer
        ww = mean_w.square() + (1.0 if start is None else 0.0)  # E of products, [D] each
        wb, bb = torch.zeros_like(h), torch.zeros_like(h)
        for lr in lrs:
            # b' = momentum b + h w + noise;  w' = w - lr b'
            mean_b = momentum * mean_b + h * mean_w
            mean_w = mean_w - lr * mean_b
            bb_next = momentum**2 * bb + 2 * momentum * h * wb + h.square() * ww + noise
            wb_next = momentum * wb + h * ww
            ww = ww - 2 * lr * wb_next + lr**2 * bb_next
            wb, bb = wb_next - lr * bb_next, bb_next
        shift = target - self.optimum(split)
        return self.lowest_loss(split) + float(0.5 * (h * (ww + 2 * shift * mean_w + shift.square())).sum())


class _Vector(nn.Module):
    """Targets ``[n, 32]`` to weighted distances √h (w − x), ``[n, 32]``."""

    root: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(DIMENSIONS))
        self.register_buffer("root", _root())

    def forward(self, x: Tensor) -> Tensor:
        return self.root * (self.w - x)


def _eigenvalues() -> Tensor:
    """Give ``h``, ``[32]`` float64: to the last digit what the network has."""
    return _root().double().square()


def _root() -> Tensor:
    """Give √h, ``[32]`` float32."""
    return torch.logspace(-1, 0, DIMENSIONS, dtype=torch.float32)


@cache
def _targets(split: Split) -> Tensor:
    """Draw a split's targets, ``[N, 32]``."""
    centre = torch.randn(DIMENSIONS, generator=torch.Generator().manual_seed(CENTRE))
    rng = torch.Generator().manual_seed(1 + CENTRE + list(SIZES).index(split))
    return centre + SPREAD * torch.randn(SIZES[split], DIMENSIONS, generator=rng)
