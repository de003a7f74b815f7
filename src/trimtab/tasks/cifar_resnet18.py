"""Small photographs named by a residual network of eighteen layers.

Letters: ``n`` images of a batch, ``N`` of a split, ``w`` channels of the first layer.
"""

from __future__ import annotations

import pickle
import tarfile
from functools import cache
from itertools import pairwise
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.datasets import DataFile, fetch, given
from trimtab.task import Batch, Model, Reference, Split
from trimtab.tasks import classification
from trimtab.tasks.seeded import build_seeded

WHOLE = DataFile(
    "cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    170_498_071,
)
SUBSETS = {  # what `first_of_each` makes of the whole, where somebody has put it into TRIMTAB_DATA
    "train": ("cifar10/cifar10_train_10k.npz", "aa0fe92cd5a15ba4bf161d95819213e38c2a85c6cf7b3739748584565c327b03"),
    "test": ("cifar10/cifar10_test_2k.npz", "e8dd88c5202fec8afa1538c6099d47152f43e20ee27875d27e72fdc313f895bb"),
}
EACH = {"train": 1000, "test": 200}  # images of a class in the subset
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
HELD_OUT = 0.1  # of the training images, validates, as in the source
Images = tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]


@final
class CifarResNet18:
    """CIFAR-10 read by a ResNet-18: He et al. 2016, arXiv:1512.03385, Table 1, as torchvision builds it.

    By default a reduced form for two cores: a fifth of the images, 4 channels in the first layer instead of 64, and 150
    steps. ``CifarResNet18(width=64, is_whole=True)`` is that of Clarke et al. 2022, arXiv:2110.10461, Sec. 4.
    Differs from the source: values are divided by 255 before they are standardised.

    Args:
        width: channels of the first layer.
        is_whole: read all 60,000 images.

    Example:
        >>> sum(p.numel() for p in CifarResNet18(width=64).build(0).parameters())
        11181642
    """

    batch_size: int = 100
    optimizer: str = "sgd"
    metric: str = "accuracy"
    noise_shape: tuple[int, ...] | None = None
    card: str = """\
CIFAR-10: A. Krizhevsky 2009, "Learning multiple layers of features from tiny images", from
www.cs.toronto.edu/~kriz/cifar.html. 60,000 photographs of 32 x 32 pixels, ten classes. Licence: none stated; its page
asks for the report to be cited. Here the first 1,000 training images and the first 200 test images of each class.
Splits: 9,000 for training, 1,000, drawn with seed 0, for validation, 2,000 for the test; each channel is standardised
by the 10,000. Scores are not those of the whole set. 170 MB, downloaded at first use.
"""
    reference: Reference = Reference(
        val_loss=1.822,
        test_metric=0.32,
        target=2.004,
        how="SGD with momentum 0.9, warm-up over 5 %, then cosine to 0; peak 0.1, the best of 8 from 0.000316 to 1 "
        "by 3 seeds. Means of 10 other seeds (validation loss ± 0.039). Target: 1.10 × the validation loss.",
    )

    def __init__(self, width: int = 4, *, is_whole: bool = False) -> None:
        self._width, self._is_whole = width, is_whole
        self.horizon = 32_400 if is_whole else 150
        self.name = "cifar-resnet18-v1" if (width, is_whole) == (4, False) else "cifar-resnet18-other-v1"

    def build(self, seed: int) -> nn.Module:
        """Make the network, float32 on the CPU."""
        return build_seeded(lambda: _network(self._width), seed)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give images ``[N, 3, 32, 32]`` float32 and classes ``[N]`` int64."""
        return _splits(self._is_whole)[split]

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Give the mean cross-entropy, ``[]`` nats."""
        return classification.cross_entropy(model, batch)

    def score(self, model: Model, batch: Batch) -> Tensor:
        """Give the accuracy, ``[]`` in 0..1."""
        return classification.accuracy(model, batch)


def first_of_each(images: Images, count: int) -> Images:
    """Give the first images of each class, in their order.

    Args:
        images: pixels and classes.
        count: of each class.

    Returns:
        Those pixels and classes.
    """
    pixels, classes = images
    rank = np.zeros(len(classes), np.int64)
    for name in np.unique(classes):
        rank[classes == name] = np.arange(np.count_nonzero(classes == name))
    return pixels[rank < count], classes[rank < count]


def _network(width: int) -> nn.Module:
    """Images ``[n, 3, 32, 32]`` to logits ``[n, 10]``."""
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    blocks = [
        _Block(before if place == 0 else after, after, 2 if place == 0 and after != before else 1)
        for before, after in pairwise(widths)
        for place in (0, 1)
    ]
    network = nn.Sequential(
        nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return network


@final
class _Block(nn.Module):
    """Two convolutions beside a short cut; ``[n, a, s, s]`` to ``[n, b, s / stride, s / stride]``."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.short = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.path(x) + self.short(x)).relu()  # type: ignore[no-any-return]


@cache
def _splits(is_whole: bool) -> dict[Split, tuple[Tensor, Tensor]]:
    """Read, standardise and split."""
    (x, y), test = (_tensors(_images(part, is_whole)) for part in ("train", "test"))
    deviation, mean = torch.std_mean(x, (0, 2, 3), keepdim=True)
    x, test_x = ((part - mean) / deviation for part in (x, test[0]))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    count = round(HELD_OUT * len(x))
    val, train = order[:count], order[count:]
    return {"train": (x[train], y[train]), "val": (x[val], y[val]), "test": (test_x, test[1])}


def _tensors(images: Images) -> tuple[Tensor, Tensor]:
    """Give ``[N, 3, 32, 32]`` float32 in 0..1 and ``[N]`` int64."""
    pixels, classes = (torch.from_numpy(part) for part in images)
    return pixels.permute(0, 3, 1, 2).float().div_(255).contiguous(), classes.long()


def _images(part: str, is_whole: bool) -> Images:
    """Read pixels ``[N, 32, 32, 3]`` and classes ``[N]``."""
    path = None if is_whole else given(*SUBSETS[part])
    if path is not None:
        with np.load(path) as arrays:
            return arrays["images"], arrays["labels"]
    with tarfile.open(fetch(WHOLE)) as archive:
        members = (archive.extractfile(f"cifar-10-batches-py/{name}") for name in BATCHES[part])
        read = [pickle.load(member, encoding="bytes") for member in members if member is not None]
    pixels = np.concatenate([one[b"data"] for one in read]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    whole = np.ascontiguousarray(pixels), np.concatenate([np.array(one[b"labels"], np.uint8) for one in read])
    return whole if is_whole else first_of_each(whole, EACH[part])
