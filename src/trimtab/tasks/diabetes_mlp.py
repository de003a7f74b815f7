"""The course of diabetes within a year, estimated by a wide network from few patients: it learns them by heart."""

from __future__ import annotations

from functools import cache
from typing import final

import torch
from torch import nn

from trimtab.errors import DataError
from trimtab.task import Reference, Split
from trimtab.tasks.regression import Table, TableTask, normalised
from trimtab.tasks.seeded import build_seeded

BOUNDS: dict[Split, slice] = {"train": slice(0, 242), "val": slice(242, 342), "test": slice(342, None)}


@final
class DiabetesMLP(TableTask):
    """scikit-learn's diabetes, estimated by a network 10-256-1 with tanh, which over-fits within the run.

    Example:
        >>> DiabetesMLP().build(0)(torch.zeros(5, 10)).shape
        torch.Size([5])
    """

    name: str = "diabetes-mlp-v1"
    horizon: int = 500
    batch_size: int = 32
    optimizer: str = "adamw"
    card: str = """\
Diabetes: Efron, Hastie, Johnstone, Tibshirani 2004, Annals of Statistics 32(2), as scikit-learn carries it; licence
BSD-3-Clause. 442 patients, ten measurements, one target: a measure of progression after a year. In an order drawn with
seed 0 the first 242 are for training, the next 100 for validation, the last 100 for testing; training mean and
deviation normalise everything. The loss is the squared error of the normalised target; the metric the root mean squared
error in the target's unit. Half of the variance is noise: a run that goes on too fast for too long ends above its best.
"""
    reference: Reference = Reference(
        val_loss=0.4594,
        test_metric=54.3,
        target=0.5053,
        how="AdamW, warm-up over 5 %, then cosine to 0; peak 0.001, the best of 8 from 0.0001 to 0.316 by 3 seeds. "
        "Means of 10 other seeds (validation loss ± 0.0053). Target: 1.10 × the validation loss.",
    )

    def build(self, seed: int) -> nn.Module:
        """Make the network, float32 on the CPU."""
        return build_seeded(
            lambda: nn.Sequential(nn.Linear(10, 256), nn.Tanh(), nn.Linear(256, 1), nn.Flatten(-2, -1)), seed
        )

    @property
    def table(self) -> Table:
        """The numbers; read once."""
        return _table()


@cache
def _table() -> Table:
    try:
        from sklearn.datasets import load_diabetes
    except ImportError as error:
        raise DataError(
            "diabetes-mlp-v1's data comes inside scikit-learn, which is not installed: pip install 'trimtab[tasks]'."
        ) from error
    x, y = load_diabetes(return_X_y=True)
    table = torch.cat([torch.from_numpy(x), torch.from_numpy(y)[:, None]], 1)
    table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
    return normalised(table, BOUNDS)
