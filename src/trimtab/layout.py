"""Layout: how a member's parameters lie in one row of the plant's buffer, site by site.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trimtab.errors import TaskError


class Layout:
    """Where each parameter and each site begins and ends in a row of ``n``.

    Args:
        shapes: the network's parameters by name.
        sites: for each site its parameters' names.
        device: where the buffer lives.

    Raises:
        TaskError: the sites do not hold every parameter once.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], sites: Sequence[Sequence[str]], device: torch.device) -> None:
        self.names = [name for site in sites for name in site]
        if sorted(self.names) != sorted(shapes):
            raise TaskError(f"Sites must hold each parameter once; got {self.names}, the network has {list(shapes)}.")
        self.shapes = [shapes[name] for name in self.names]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.per_site = [[shapes[name].numel() for name in site] for site in sites]
        lengths = torch.tensor([sum(site) for site in self.per_site])
        ends = lengths.cumsum(0)
        self.bounds = [(int(e - n), int(e)) for e, n in zip(ends, lengths, strict=True)]
        self._site_of = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(device)  # [n]

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

    def spread(self, values: Tensor) -> list[Tensor]:
        """Bring ``[B, S, K]`` values to one ``[B, 1]`` a knob, or ``[B, n]`` where there are several sites."""
        columns = list(values.unbind(-1))
        return columns if len(self.per_site) == 1 else [column[:, self._site_of] for column in columns]

    def of_parameter(self, spread: Tensor, number: int) -> Tensor:
        """Take one parameter's value out of what `spread` gave, shaped ``[B, 1, ...]`` like its leaf."""
        begin = sum(self.sizes[:number]) if len(self.per_site) > 1 else 0
        return spread[:, begin].reshape(-1, *[1] * len(self.shapes[number]))

    def per_site_sums(self, rows: Tensor) -> Tensor:
        """Sum ``[..., n]`` over each site: ``[..., S]``."""
        return torch.stack([rows[..., a:b].sum(-1) for a, b in self.bounds], -1)
