"""Networks of exercises: perceptrons, convolutions with batch norm, recurrent nets, attention, all small.

Those that read images or sequences take a row of 64 numbers as 8 by 8; the transformer reads symbols. Everything runs
under ``torch.func.vmap``.

Letters: ``n`` examples, ``D`` inputs, ``C`` outputs, ``h`` units, ``L`` places of a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, final

import torch
from torch import Tensor, nn

Family = Literal["mlp", "cnn", "gru", "attention", "transformer"]
FAMILIES: dict[Family, float] = {"mlp": 0.8, "cnn": 0.08, "gru": 0.06, "attention": 0.06}  # of usual exercises
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
SIDE = 8  # of an image; also how many rows a sequence has, and how wide they are


def network(
    family: Family, inputs: int, outputs: int, widths: tuple[int, ...], activation: str, gain: float, has_norm: bool
) -> nn.Module:
    """Make a network; torch's global generator draws its weights.

    Args:
        family: which kind.
        inputs: ``D``; :data:`SIDE` squared for all but "mlp"; ``L`` for "transformer".
        outputs: ``C``.
        widths: units (or channels) of the hidden layers; the first one alone for "gru" and "attention"; of
            "transformer" as many layers of the first one.
        activation: a name in :data:`ACTIVATIONS`.
        gain: factor on the first weights.
        has_norm: whether batch norm stands before a perceptron's activations; convolutions always have it.

    Returns:
        A network from ``[n, D]`` to ``[n, C]``; "transformer" from ``[n, L]`` symbols to ``[n, L, C]``.
    """
    made: nn.Module
    if family == "mlp":
        made = _perceptron(inputs, outputs, widths, activation, has_norm)
    elif family == "cnn":
        made = _convolutional(outputs, widths, activation)
    elif family == "transformer":
        made = Transformer(inputs, outputs, widths[0], len(widths), activation)
    else:
        made = Recurrent(widths[0], outputs) if family == "gru" else Attention(widths[0], outputs, activation)
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.mul_(gain)
    return made


def _perceptron(inputs: int, outputs: int, widths: tuple[int, ...], activation: str, has_norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    wide = inputs
    for width in widths:
        layers.append(nn.Linear(wide, width))
        if has_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(ACTIVATIONS[activation]())
        wide = width
    return nn.Sequential(*layers, nn.Linear(wide, outputs))


def _convolutional(outputs: int, widths: tuple[int, ...], activation: str) -> nn.Module:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, SIDE, SIDE))]
    channels, side = 1, SIDE
    for width in widths[:2]:
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), ACTIVATIONS[activation]()]
        channels, side = width, side // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side**2, outputs))


@final
class Recurrent(nn.Module):
    """A gated recurrent unit over an image's rows, and a linear layer on its last state.

    As ``torch.nn.GRU``, written out: that one does not run under vmap.

    Args:
        width: ``h``.
        outputs: ``C``.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.seen, self.kept = nn.Linear(SIDE, 3 * width), nn.Linear(width, 3 * width)
        self.out, self._width = nn.Linear(width, outputs), width

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 64]`` to ``[n, C]``."""
        rows = self.seen(x.reshape(-1, SIDE, SIDE))
        memory = x.new_zeros(x.shape[0], self._width)
        for row in rows.unbind(1):
            reset, keep, new = row.chunk(3, -1)
            kept_reset, kept_keep, kept_new = self.kept(memory).chunk(3, -1)
            keep = torch.sigmoid(keep + kept_keep)
            fresh = torch.tanh(new + torch.sigmoid(reset + kept_reset) * kept_new)
            memory = fresh + keep * (memory - fresh)
        logits: Tensor = self.out(memory)
        return logits


class Block(nn.Module):
    """Pre-norm attention of a single head, then a layer on each place: ``[n, L, h]`` to the same.

    Args:
        width: ``h``.
        activation: a name in :data:`ACTIVATIONS`.
    """

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), ACTIVATIONS[activation](), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, unseen: Tensor | None = None) -> Tensor:
        """``[n, L, h]`` to the same; `unseen` ``[L, L]`` is minus infinity where a place must not look."""
        query, key, value = self.heads(self.before(tokens)).chunk(3, -1)
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        weights = torch.softmax(scores if unseen is None else scores + unseen, -1)
        tokens = tokens + self.merge(weights @ value)
        return tokens + self.mix(self.between(tokens))  # type: ignore[no-any-return]


@final
class Attention(nn.Module):
    """One block of attention over an image's rows, their mean, and a linear layer.

    Args:
        width: ``h``.
        outputs: ``C``.
        activation: a name in :data:`ACTIVATIONS`.
    """

    def __init__(self, width: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(SIDE, width), nn.Parameter(0.1 * torch.randn(SIDE, width))
        self.block, self.out = Block(width, activation), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 64]`` to ``[n, C]``."""
        tokens = self.block(self.embed(x.reshape(-1, SIDE, SIDE)) + self.place)
        logits: Tensor = self.out(tokens.mean(1))
        return logits


@final
class Transformer(nn.Module):
    """Foretells each next symbol: causal blocks of attention, a norm, and a linear layer.

    Args:
        length: ``L``.
        symbols: ``C``.
        width: ``h``.
        depth: blocks.
        activation: a name in :data:`ACTIVATIONS`.
    """

    def __init__(self, length: int, symbols: int, width: int, depth: int, activation: str) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(symbols, width), nn.Parameter(0.1 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, activation) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, symbols)
        nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, L]`` int64 to ``[n, L, C]``."""
        tokens, length = self.embed(x) + self.place, x.shape[-1]
        future = torch.full((length, length), -torch.inf, device=tokens.device, dtype=tokens.dtype).triu(1)
        for block in self.blocks:
            tokens = block(tokens, future)
        logits: Tensor = self.out(self.norm(tokens))
        return logits
