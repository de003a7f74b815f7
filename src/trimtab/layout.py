"""Layout: how a member's parameters lie in one row of the plant's buffer, site by site.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.errors import TaskError


class Part(NamedTuple):
    """What a rule updates in one call.

    Attributes:
        begin: first coordinate in a row.
        end: one past the last.
        shape: how it sees one member's coordinates: joined in a vector, or as a parameter is.
        site: whose knobs hold.
    """

    begin: int
    end: int
    shape: tuple[int, ...]
    site: int


class Layout:
    """Where each parameter and each site begins and ends in a row of ``n``.

    Args:
        shapes: the network's parameters by name.
        sites: for each site its parameters' names.
        joined: whether a rule may see a site's parameters joined in one vector; else it sees each on its own.

    Raises:
        TaskError: the sites do not hold every parameter once.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], sites: Sequence[Sequence[str]], *, joined: bool) -> None:
        self.names = [name for site in sites for name in site]
        if sorted(self.names) != sorted(shapes):
            raise TaskError(f"Sites must hold each parameter once; got {self.names}, the network has {list(shapes)}.")
        self.shapes = [shapes[name] for name in self.names]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.per_site = [[shapes[name].numel() for name in site] for site in sites]
        ends = torch.tensor([sum(site) for site in self.per_site]).cumsum(0).tolist()
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        site_of = [number for number, site in enumerate(sites) for _ in site]
        self.parts = (
            [Part(a, b, (b - a,), number) for number, (a, b) in enumerate(self.bounds)]
            if joined
            else [
                Part(end - size, end, tuple(shape), site)
                for end, size, shape, site in zip(_ends(self.sizes), self.sizes, self.shapes, site_of, strict=True)
            ]
        )

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Join one member's parameters by name to its row ``[n]``."""
        return torch.cat([tensors[name].reshape(-1) for name in self.names])

    def pieces(self, rows: Tensor) -> list[Tensor]:
        """Cut ``[B, n]`` to one ``[B, size]`` view a parameter."""
        return list(torch.split(rows, self.sizes, 1))

    def leaves(self, rows: Tensor) -> dict[str, Tensor]:
        """Cut ``[B, n]`` to one ``[B, *shape]`` view a parameter, by name."""
        cut = zip(self.names, self.pieces(rows), self.shapes, strict=True)
        return {name: piece.reshape(len(rows), *shape) for name, piece, shape in cut}

    def cut(self, rows: Tensor) -> list[Tensor]:
        """Cut ``[B, n]`` to one ``[B, *part.shape]`` a part."""
        return [rows[:, part.begin : part.end].reshape(-1, *part.shape) for part in self.parts]

    def values(self, values: Tensor, names: Sequence[str]) -> list[Mapping[str, Tensor]]:
        """Bring ``[B, S, K]`` values to each part: by knob name, ``[B, 1, ...]`` against ``[B, *part.shape]``."""
        return [
            {name: values[:, part.site, k].reshape(-1, *[1] * len(part.shape)) for k, name in enumerate(names)}
            for part in self.parts
        ]

    def spread(self, values: Tensor) -> Tensor:
        """Bring ``[B, S]`` to ``[B, n]``: each coordinate gets its site's."""
        sizes = torch.tensor([end - begin for begin, end in self.bounds], device=values.device)
        return values.repeat_interleave(sizes, 1)

    def per_site_sums(self, rows: Tensor) -> Tensor:
        """Sum ``[..., n]`` over each site: ``[..., S]``."""
        return torch.stack([rows[..., a:b].sum(-1) for a, b in self.bounds], -1)


def _ends(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[: number + 1]) for number in range(len(sizes))]
