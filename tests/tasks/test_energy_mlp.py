"""The energy task's units."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from trimtab.datasets import fetch
from trimtab.task import Batch
from trimtab.tasks.energy_mlp import FILES, EnergyMLP

needs_data = pytest.mark.skipif("TRIMTAB_DATA" not in os.environ, reason="TRIMTAB_DATA is not set")


@needs_data
def test_score_is_in_the_targets_own_unit() -> None:
    """To foretell the training mean costs the deviation of the heating load itself."""
    task = EnergyMLP()
    score = task.score(lambda x: torch.zeros(len(x)), Batch(*task.data("train")))
    everything = np.loadtxt(fetch(FILES[0]))[:, 8].std()
    assert float(score) == pytest.approx(everything, rel=0.03)


@needs_data
def test_training_data_are_normalised() -> None:
    """Each column of the training split has mean 0 and deviation 1."""
    for part in EnergyMLP().data("train"):
        assert float(part.mean(0).abs().max()) < 1e-5
        assert float((part.std(0) - 1).abs().max()) < 1e-5


@needs_data
def test_splits_have_their_sizes() -> None:
    """553 train, 138 validation, 77 test."""
    assert [len(EnergyMLP().data(split)[0]) for split in ("train", "val", "test")] == [553, 138, 77]
