"""Sources: where an exercise's examples come from, and how often each is drawn.

Random tanh networks name classes or give numbers, random Markov chains write texts; scikit-learn carries digits, breast
cancer and wine. Fashion-MNIST and three UCI tables are drawn from only where they are asked for, because a machine may
not have them. What the shipped tasks validate or test on is nowhere among them: of digits and Fashion-MNIST only the
training rows are read.

Letters: ``N`` examples, ``D`` inputs, ``C`` classes or symbols, ``L`` places of a text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trimtab.datasets import DataFile, fetch
from trimtab.errors import DataError
from trimtab.tasks.digits import digits
from trimtab.tasks.fashion_mlp import FILES as FASHION
from trimtab.tasks.fashion_mlp import FashionMLP
from trimtab.tasks.uci import SITE
from trimtab.teach.draw import Draw
from trimtab.teach.networks import SIDE

Source = Literal[
    "digits", "cancer", "wine", "classes", "numbers", "fashion", "concrete", "power-plant", "yacht", "text"
]
SOURCES: tuple[Source, ...] = ("digits", "cancer", "wine", "classes", "numbers")  # what every machine has
INVENTED: tuple[Source, ...] = ("classes", "numbers", "text")
FLAT: dict[Source, float] = {"digits": 0.15, "cancer": 0.1, "wine": 0.05, "classes": 0.45, "numbers": 0.25}
FLAT |= {"fashion": 0.15, "concrete": 0.05, "power-plant": 0.05, "yacht": 0.05}
SQUARE: dict[Source, float] = {"digits": 0.4, "classes": 0.4, "numbers": 0.2}  # of networks that read 8 by 8
SQUARE |= {"fashion": 0.4}
SIZES: dict[Source, tuple[int, int, int]] = {  # most rows, inputs, classes; 1 class: a number
    "digits": (1197, 64, 10),
    "cancer": (569, 30, 2),
    "wine": (178, 13, 3),
    "fashion": (6000, 64, 10),
    "concrete": (1030, 8, 1),
    "power-plant": (6000, 4, 1),
    "yacht": (308, 6, 1),
}
TABLES: dict[Source, tuple[str, int]] = {  # checksum and bytes of UCI's; the last column is the target
    "concrete": ("43d290fd2c2a399ad7e62c45cab5337ba94ece69ebdcf5875aa668cb886243de", 57_858),
    "power-plant": ("daebd20c408dfc5c4979604f240e891be162c3a5d00d662380aa669044a1fb31", 308_680),
    "yacht": ("00dfecc0fc01ddd4c90b558a3ac11b246df8ebcfea130724223475a9a67f0ea1", 11_487),
}
FILES: dict[Source, tuple[DataFile, ...]] = {
    name: (DataFile(f"uci/{name}/data.txt", f"{SITE}{name}/data/data.txt", *known),) for name, known in TABLES.items()
}
FILES |= {"fashion": (FASHION["train-images-idx3"], FASHION["train-labels-idx1"])}
SCORED = 400  # examples of a random teacher's test split: many, for they are free and steady the fitness
LENGTH = 16  # of a text
TEACHER = 16  # hidden units of a random teacher
PHOTO = 28  # pixels of a side of Fashion-MNIST's images


def among(shares: Mapping[Source, float], sources: Iterable[str]) -> dict[Source, float]:
    """Give the shares of those sources that are asked for, made to sum to 1; empty where none is."""
    asked = set(sources)
    kept = {source: share for source, share in shares.items() if source in asked}
    total = math.fsum(kept.values())
    return {source: share / total for source, share in kept.items()}


def require(sources: Iterable[Source]) -> None:
    """See to it that the files of those sources that have any are on this machine, downloaded if need be.

    Args:
        sources: which.

    Raises:
        DataError: a file is missing, or is another one; says how to get it.
    """
    for source in sources:
        for file in FILES.get(source, ()):
            fetch(file)


def examples(
    source: Source, draw: Draw, *, rows: int, inputs: int, classes: int, noise: float
) -> tuple[Tensor, Tensor]:
    """Draw examples, in an order of their own.

    Args:
        source: where from.
        draw: decides.
        rows: how many; what is invented adds :data:`SCORED`, which are to be the test split.
        inputs: ``D`` of a random teacher.
        classes: ``C``; 1 for a number.
        noise: share of labels replaced by a random one; for numbers the deviation of the noise added.

    Returns:
        ``[N, D]`` float64, and ``[N]`` int64 classes or float32 numbers of deviation 1 before the noise; of "text"
        ``[N, L]`` int64 symbols and, for each, the next.

    Raises:
        DataError: the data is not there; says how to get it.
    """
    if source == "text":
        return _written(draw, rows + SCORED, classes)
    if source in INVENTED:
        x, answer = _invented(draw, rows + SCORED, inputs, classes)
    else:
        x, answer = _taken(source, draw, rows)
    if classes == 1:
        return x, (answer + noise * draw.normal(len(answer))).float()
    random = (draw.uniforms(len(answer)) * classes).long()
    return x, torch.where(draw.uniforms(len(answer)) < noise, random, answer)


def _invented(draw: Draw, count: int, inputs: int, classes: int) -> tuple[Tensor, Tensor]:
    """Let a random tanh network answer random inputs: ``[N, D]`` float64, and ``[N]`` int64 or float64."""
    x = draw.normal(count, inputs)
    first = draw.normal(inputs, TEACHER) * draw.log_uniform(0.5, 3.0) / math.sqrt(inputs)
    answer = torch.tanh(x @ first) @ draw.normal(TEACHER, classes)
    answer = (answer - answer.mean(0)) / answer.std(0)
    return x, answer[:, 0] if classes == 1 else answer.argmax(1)


def _written(draw: Draw, count: int, symbols: int) -> tuple[Tensor, Tensor]:
    """Let a random Markov chain write that looks two symbols back: ``[N, L]`` int64, and each one's next."""
    sharpness = draw.log_uniform(1.0, 4.0)
    last, one_before = draw.normal(1, symbols, symbols), draw.normal(symbols, 1, symbols)
    table = torch.softmax(sharpness * (last + one_before), -1).cumsum(-1)  # [one before, last, next]
    text = [(draw.uniforms(count) * symbols).long() for _ in range(2)]
    for dice in draw.uniforms(LENGTH - 1, count):
        text.append((dice[:, None] > table[text[-2], text[-1]]).sum(-1).clamp(max=symbols - 1))
    written = torch.stack(text, 1)
    return written[:, :-1], written[:, 1:]


def _taken(source: Source, draw: Draw, count: int) -> tuple[Tensor, Tensor]:
    """Take some rows of a real set: ``[N, D]`` float64, and ``[N]`` int64 or float64."""
    if source == "digits":
        x, y = digits("train")
    elif source == "fashion":
        x, y = FashionMLP().data("train")
    elif source in TABLES:
        x, y = _numbers(source)
    else:
        x, y = _classes(source)
    rows = draw.order(len(x))[:count]
    x, y = x[rows].double(), y[rows]
    if y.is_floating_point():
        y = (y - y.mean()) / y.std()
    return (_cropped(x, draw) if source == "fashion" else x), y


def _cropped(x: Tensor, draw: Draw) -> Tensor:
    """Cut the same window out of all images, two or three times 8 by 8, and average it down to that: ``[N, 64]``."""
    scale = draw.whole(2, 3)
    top, left = (draw.whole(0, PHOTO - scale * SIDE) for _ in range(2))
    window = x.reshape(-1, PHOTO, PHOTO)[:, top : top + scale * SIDE, left : left + scale * SIDE]
    return window.reshape(-1, SIDE, scale, SIDE, scale).mean((2, 4)).flatten(1)


@cache
def _numbers(source: Source) -> tuple[Tensor, Tensor]:
    """Read a UCI table: ``[N, D]`` and ``[N]`` float64."""
    table = torch.from_numpy(np.loadtxt(fetch(FILES[source][0])))
    return table[:, :-1], table[:, -1]


@cache
def _classes(source: Source) -> tuple[Tensor, Tensor]:
    """Read one of scikit-learn's: ``[N, D]`` float64 and ``[N]`` int64."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            "The exercises' real data comes inside scikit-learn, which is not installed: pip install 'trimtab[tasks]'."
        ) from error
    read: dict[str, Any] = {"cancer": datasets.load_breast_cancer, "wine": datasets.load_wine}
    x, y = read[source](return_X_y=True)
    return torch.from_numpy(x), torch.from_numpy(y).long()
