"""Handwritten digits that come inside scikit-learn: 1,797 images of 8 x 8 grey values, in ten classes."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from trimtab.errors import DataError
from trimtab.task import Split

SPLITS: dict[Split, slice] = {"train": slice(0, 1197), "val": slice(1197, 1497), "test": slice(1497, 1797)}
CARD = """\
Optical recognition of handwritten digits: the test part of E. Alpaydin and C. Kaynak's UCI set (1998), as
`sklearn.datasets.load_digits` gives it. 1,797 grey images of 8 x 8 pixels, values 0..16, scaled here to -1..1; ten
classes. Licence CC BY 4.0. Splits: 1,197 train, 300 validation, 300 test, of one fixed permutation (seed 0).
"""


@cache
def digits(split: Split) -> tuple[Tensor, Tensor]:
    """Give a split.

    Args:
        split: which.

    Returns:
        Pixels ``[N, 64]`` float32 in -1..1, row by row, and classes ``[N]`` int64.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "The digits come inside scikit-learn, which is not installed: pip install 'trimtab[tasks]'."
        ) from error
    pixels, classes = load_digits(return_X_y=True)
    chosen = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))[SPLITS[split]]
    x = torch.from_numpy(pixels).to(torch.float32) / 8 - 1
    return x[chosen], torch.from_numpy(classes).to(torch.int64)[chosen]
