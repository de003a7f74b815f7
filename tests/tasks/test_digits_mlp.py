"""Digits with dropout."""

from __future__ import annotations

import pytest
import torch

from trimtab.errors import TaskError
from trimtab.task import Batch
from trimtab.tasks.digits_mlp import DigitsMLP


def test_dropout_takes_its_mask_from_the_noise() -> None:
    """Units whose noise is below the chance are dropped and the others scaled; evaluation drops none."""
    pytest.importorskip("sklearn")
    task = DigitsMLP(dropout=0.25)
    model = task.build(0)
    x, y = (t[:4] for t in task.data("train"))
    noise = torch.rand(4, 32, generator=torch.Generator().manual_seed(0))
    hidden = torch.tanh(model.hidden(x)) * (noise >= 0.25) / 0.75
    assert torch.equal(model(x, noise), model.output(hidden))
    assert task.loss(model, Batch(x, y, noise)) != task.loss(model, Batch(x, y))
    model.eval()
    assert torch.equal(model(x, noise), model(x))


def test_dropout_has_a_name_of_its_own() -> None:
    """With dropout it is another task, and says which noise it needs."""
    assert (DigitsMLP().name, DigitsMLP().noise_shape) == ("digits-mlp-v1", None)
    assert (DigitsMLP(dropout=0.2).name, DigitsMLP(dropout=0.2).noise_shape) == ("digits-mlp-dropout0.2-v1", (32,))


def test_dropout_of_one_is_refused() -> None:
    """To drop every unit is a mistake."""
    with pytest.raises(TaskError, match="dropout < 1"):
        DigitsMLP(dropout=1.0)
