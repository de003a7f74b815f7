"""The next character of Python's own documentation, foretold by a small transformer.

Letters: ``n`` windows of a batch, ``N`` of a split, ``L`` = 64 characters of a window, ``V`` = 70 characters known.
"""

from __future__ import annotations

import math
from functools import cache
from typing import final

import torch
from torch import Tensor, nn

from trimtab.task import Batch, Model, Reference, Split
from trimtab.tasks import classification
from trimtab.tasks.seeded import build_seeded

CONTEXT, WIDTH, LAYERS, HEADS = 64, 64, 2, 4
VOCABULARY = "\n" + "".join(chr(code) for code in range(32, 127) if not chr(code).isupper())
"""Every printable ASCII character but the capitals; fixed, whatever the text holds."""
TYPOGRAPHY = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."})
SHARES: dict[Split, tuple[float, float]] = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}
STRIDE: dict[Split, int] = {"train": 16, "val": CONTEXT, "test": CONTEXT}


@final
class CharsTransformer:
    """A character model of English prose about Python: two pre-norm transformer layers of width 64.

    Example:
        >>> x, y = CharsTransformer().data("train")
        >>> torch.equal(x[0, 1:], y[0, :-1])
        True
    """

    name: str = "chars-transformer-v1"
    horizon: int = 600
    batch_size: int = 8
    optimizer: str = "adamw"
    metric: str = "bits_per_character"
    noise_shape: tuple[int, ...] | None = None
    card: str = """\
The reference documentation that every CPython carries for `help("for")`: the texts of `pydoc_data.topics`, in the order
of their keys, about 465,000 characters of English with Python in it. Licence: PSF-2.0, documentation also 0BSD. In
lower case and ASCII (70 characters known, others become "?"). Splits: the first 80 % of the characters for training,
10 % for validation, the last 10 % for the test; windows of 64 characters, one every 16 in training, not overlapping
otherwise.
The text differs a little between Python versions, and scores with it: compare runs of one Python version only.
"""
    reference: Reference = Reference(
        val_loss=2.171,
        test_metric=2.906,
        target=2.388,
        how="AdamW with its defaults, warm-up over 5 %, then cosine to 0; peak 0.00316, the best of 8 from 0.0001 to "
        "0.316 by 3 seeds. Means of 10 other seeds (validation loss ± 0.032), Python 3.11. Target: 1.10 × the "
        "validation loss.",
    )

    def build(self, seed: int) -> nn.Module:
        """Make the network, float32 on the CPU."""
        return build_seeded(_Transformer, seed)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give windows ``[N, 64]`` int64 and the same one character later, ``[N, 64]`` int64."""
        return _windows(split)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Give the mean cross-entropy of a character, ``[]`` nats."""
        return classification.cross_entropy(model, batch)

    def score(self, model: Model, batch: Batch) -> Tensor:
        """Give the cross-entropy in bits of a character, ``[]``; lower is better."""
        return classification.cross_entropy(model, batch) / math.log(2)


def encode(text: str) -> list[int]:
    """Reduce a text to the vocabulary.

    Args:
        text: any.

    Returns:
        A place in :data:`VOCABULARY` for each character of the text in lower case, with plain quotes and dashes.

    Example:
        >>> [VOCABULARY[place] for place in encode("Aß…")]
        ['a', '?', '.', '.', '.']
    """
    place = {character: index for index, character in enumerate(VOCABULARY)}
    return [place.get(character, place["?"]) for character in text.lower().translate(TYPOGRAPHY)]


class _Transformer(nn.Module):
    """Characters ``[n, L]`` to logits ``[n, L, V]``."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(VOCABULARY), WIDTH)
        self.places = nn.Parameter(0.1 * torch.randn(CONTEXT, WIDTH))
        self.layers = nn.Sequential(*(_Layer() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, len(VOCABULARY))
        nn.init.normal_(self.characters.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.characters(x) + self.places[: x.shape[-1]]
        return self.output(self.norm(self.layers(stream)))  # type: ignore[no-any-return]


class _Layer(nn.Module):
    """Causal attention, then a network on each place: ``[n, L, 64]`` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(WIDTH)
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.norm_mlp = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.project(self._attend(self.queries_keys_values(self.norm_attention(x))))
        return x + self.mlp(self.norm_mlp(x))  # type: ignore[no-any-return]

    def _attend(self, mixed: Tensor) -> Tensor:
        """Mix the places' values, ``[n, L, 192]`` to ``[n, L, 64]``; plain products, which vmap turns into bmm."""
        n, length = mixed.shape[:2]
        heads = mixed.view(n, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = heads[0] / math.sqrt(WIDTH // HEADS), heads[1], heads[2]  # [n, heads, L, 16]
        future = torch.full((length, length), -torch.inf, device=mixed.device, dtype=mixed.dtype).triu(1)
        weight = (query @ key.transpose(-1, -2) + future).softmax(-1)
        return (weight @ value).transpose(1, 2).reshape(n, length, WIDTH)


@cache
def _windows(split: Split) -> tuple[Tensor, Tensor]:
    """Cut a split into inputs and targets, each ``[N, L]``."""
    text = _text()
    begin, end = (round(share * len(text)) for share in SHARES[split])
    windows = text[begin:end].unfold(0, CONTEXT + 1, STRIDE[split])
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def _text() -> Tensor:
    """Read the documentation, ``[characters]`` int64 places in the vocabulary."""
    from pydoc_data.topics import topics

    return torch.tensor(encode("\n".join(topics[key] for key in sorted(topics))))
