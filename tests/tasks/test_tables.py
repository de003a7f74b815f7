"""The regression tables are normalised by their training rows, and their splits are apart."""

from __future__ import annotations

import os

import pytest
import torch

from trimtab.task import Batch, Split
from trimtab.tasks.diabetes_mlp import DiabetesMLP
from trimtab.tasks.kin8nm_mlp import Kin8nmMLP
from trimtab.tasks.power_mlp import PowerMLP

SPLITS: tuple[Split, ...] = ("train", "val", "test")
needs_data = pytest.mark.skipif("TRIMTAB_DATA" not in os.environ, reason="TRIMTAB_DATA is not set")
TASKS = [
    DiabetesMLP(),
    pytest.param(Kin8nmMLP(), marks=needs_data),
    pytest.param(PowerMLP(), marks=needs_data),
]
SIZES = {"diabetes-mlp-v1": [242, 100, 100], "kin8nm-mlp-v1": [5898, 1475, 819], "power-mlp-v1": [6889, 1722, 957]}
TWICE = {"power-mlp-v1": 41}  # rows that the original holds twice
DEVIATIONS = {"diabetes-mlp-v1": 77.0, "kin8nm-mlp-v1": 0.2636, "power-mlp-v1": 17.066}  # of all targets, as published


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_training_rows_have_mean_0_and_deviation_1(task: DiabetesMLP | Kin8nmMLP | PowerMLP) -> None:
    """Each column of the training split; the other splits are normalised by the same numbers."""
    for part in task.data("train"):
        assert float(part.mean(0).abs().max()) < 1e-5
        assert float((part.std(0) - 1).abs().max()) < 1e-5
    assert float(task.data("val")[0].mean(0).abs().max()) > 1e-3


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_splits_have_their_sizes_and_are_apart(task: DiabetesMLP | Kin8nmMLP | PowerMLP) -> None:
    """As the card says, and no row is in two splits but those that the source holds twice."""
    parts = [torch.cat([task.data(split)[0], task.data(split)[1][:, None]], 1) for split in SPLITS]
    assert SIZES[task.name] == [len(part) for part in parts]
    assert sum(SIZES[task.name]) - TWICE.get(task.name, 0) == len(torch.cat(parts).unique(dim=0))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_metric_is_in_the_targets_own_unit(task: DiabetesMLP | Kin8nmMLP | PowerMLP) -> None:
    """To foretell the training mean costs about the deviation of all targets."""
    score = task.score(lambda x: torch.zeros(len(x)), Batch(*task.data("train")))
    assert DEVIATIONS[task.name] == pytest.approx(float(score), rel=0.06)
