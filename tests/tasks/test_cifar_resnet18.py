"""The photographs' subset and the residual network's form."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.tasks import cifar_resnet18
from trimtab.tasks.cifar_resnet18 import CifarResNet18, first_of_each

needs_data = pytest.mark.skipif("TRIMTAB_DATA" not in os.environ, reason="TRIMTAB_DATA is not set")


def test_the_subset_is_the_first_of_each_class() -> None:
    """As many of each, in the order of the whole, none before it left out."""
    classes = np.array([1, 0, 1, 1, 0, 2, 0, 2, 2], np.uint8)
    pixels = np.arange(9, dtype=np.uint8).reshape(9, 1, 1, 1)
    chosen, named = first_of_each((pixels, classes), 2)
    assert [0, 1, 2, 4, 5, 7] == chosen.flatten().tolist()
    assert [1, 0, 1, 0, 2, 2] == named.tolist()


def test_the_archive_is_read_as_its_authors_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red, green and blue planes of a row become a picture's channels; five files follow each other."""
    rows = np.arange(3072, dtype=np.uint16).reshape(1, 3072).astype(np.uint8)
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(1, 6):
            body = pickle.dumps({b"data": rows, b"labels": [number]})
            entry = tarfile.TarInfo(f"cifar-10-batches-py/data_batch_{number}")
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    monkeypatch.setattr(cifar_resnet18, "fetch", lambda file: path)
    pixels, classes = cifar_resnet18._images("train", is_whole=True)
    assert (5, 32, 32, 3) == pixels.shape
    assert [1, 2, 3, 4, 5] == classes.tolist()
    assert rows[0, [33, 1024 + 33, 2048 + 33]].tolist() == pixels[2, 1, 1].tolist()


def test_the_network_halves_four_times() -> None:
    """From 32 pixels to 1 before the mean, eighteen layers with weights."""
    model = CifarResNet18().build(0)
    sizes: list[int] = []
    for part in model:  # type: ignore[attr-defined]
        part.register_forward_hook(lambda _, __, out: sizes.append(out.shape[-1]))
    model(torch.zeros(2, 3, 32, 32))
    assert [16, 16, 16, 8, 8, 8, 4, 4, 2, 2, 1, 1] == sizes[:12]
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size != (1, 1)]
    assert 18 == len(layers) + 1


@needs_data
def test_splits_have_their_sizes() -> None:
    """9,000 train, 1,000 validate, 2,000 test; channels are standardised over the first two."""
    task = CifarResNet18()
    parts = {split: task.data(split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    assert [9000, 1000, 2000] == [len(x) for x, _ in parts.values()]
    whole = torch.cat([parts["train"][0], parts["val"][0]])
    torch.testing.assert_close(whole.std((0, 2, 3)), torch.ones(3), rtol=0, atol=1e-3)
    assert [200] * 10 == parts["test"][1].bincount().tolist()
