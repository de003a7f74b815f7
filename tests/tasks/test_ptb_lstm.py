"""The word model is torch's own LSTM, and its windows are the text."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from trimtab.task import Batch, Split
from trimtab.tasks.classification import cross_entropy
from trimtab.tasks.ptb_lstm import SMALL, PtbLSTM

needs_data = pytest.mark.skipif("TRIMTAB_DATA" not in os.environ, reason="TRIMTAB_DATA is not set")
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def test_the_network_is_torch_s_lstm() -> None:
    """Embedding, two layers and output give what ``nn.LSTM`` gives with the same weights (float64, 1e-12)."""
    model = PtbLSTM().build(3).double()
    known = model.state_dict()
    twin = nn.LSTM(SMALL.width, SMALL.width, 2, batch_first=True, dtype=torch.float64)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    twin.load_state_dict({f"{name}_l{k}": known[f"layers.{k}.{name}"] for k in (0, 1) for name in names})
    x = torch.randint(SMALL.vocabulary, (3, 7), generator=torch.Generator().manual_seed(0))
    states, _ = twin(known["words.weight"][x])
    expected = states @ known["output.weight"].mT + known["output.bias"]
    torch.testing.assert_close(expected, model(x), rtol=1e-12, atol=1e-12)


def test_the_loss_of_many_windows_is_their_mean() -> None:
    """Windows that are read some at a time count alike, a last smaller lot too."""
    task = PtbLSTM()
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randint(SMALL.vocabulary, (93, 5), generator=rng) for _ in range(2))
    model = task.build(0).double()
    torch.testing.assert_close(cross_entropy(model, Batch(x, y)), task.loss(model, Batch(x, y)), rtol=1e-12, atol=0)
    torch.testing.assert_close(task.loss(model, Batch(x, y)).exp(), task.score(model, Batch(x, y)))


@needs_data
@pytest.mark.parametrize("split", SPLITS)
def test_windows_are_the_text(split: Split) -> None:
    """Each target is the next word; windows follow each other; the commonest word is a word's number 0."""
    task = PtbLSTM()
    x, y = task.data(split)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(x[1:, 0], y[:-1, -1])
    assert int(x.max()) < SMALL.vocabulary
    assert (len(x), x.shape[1]) == ((SMALL.words[split] - 1) // SMALL.window, SMALL.window)
