"""The characters' text."""

from __future__ import annotations

import torch

from trimtab.tasks.chars_transformer import VOCABULARY, CharsTransformer, encode


def test_vocabulary_is_fixed() -> None:
    """Seventy characters are known, whatever the text of this Python holds."""
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 70


def test_text_is_reduced_to_the_vocabulary() -> None:
    """Capitals become small, typographic signs plain, and what is unknown a question mark."""
    assert "".join(VOCABULARY[place] for place in encode("“Straße”…\tÉ")) == '"stra?e"...??'


def test_splits_are_consecutive_parts_of_one_text() -> None:
    """Training windows begin every 16 characters, the others every 64, and no window crosses a border."""
    task = CharsTransformer()
    lengths = {}
    for split, stride in (("train", 16), ("val", 64), ("test", 64)):
        x, _ = task.data(split)
        assert torch.equal(x[1, : 64 - stride], x[0, stride:])
        lengths[split] = stride * len(x)
    assert abs(lengths["val"] - lengths["test"]) <= 64
    assert abs(lengths["train"] - 8 * lengths["val"]) < 1200


def test_no_place_sees_the_future() -> None:
    """Changing the last character changes the last place's logits alone."""
    task = CharsTransformer()
    model = task.build(0).double()
    x = task.data("train")[0][:2]
    other = x.clone()
    other[:, -1] = (other[:, -1] + 1) % 70
    with torch.no_grad():
        difference = (model(x) - model(other)).abs().amax((0, 2))
    assert float(difference[:-1].max()) == 0
    assert float(difference[-1]) > 0
