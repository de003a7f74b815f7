"""Probe: a fixed sample of each site's coordinates, and the statistics taken on it.

Inner products between two moments need a copy of the earlier one. A copy of the whole model would cost what a
momentum buffer costs; a fixed random sample of at most :data:`SAMPLE` coordinates a site costs next to nothing and
estimates every norm and cosine to about one part in a hundred. Both ends, live and simulated, use the same sample.

Letters: ``B`` members, ``S`` sites, ``P`` parameters, ``m`` sampled coordinates of all sites together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.errors import SignalError

SAMPLE = 8_192  # cosines to +-0.011, squared norms to a few per cent; a quarter MiB a site with its index
STATISTICS = (
    "grad_sq",
    "weight_sq",
    "update_sq",
    "drift_sq",
    "grad_dot_update",
    "grad_dot_last_grad",
    "last_grad_dot_update",
    "last_grad_sq",
    "grad_dot_drift",
)
# the statistics as entries of the Gram matrix of (gradient, weight, update, drift, last gradient)
_LEFT = (0, 1, 2, 3, 0, 0, 4, 4, 0)
_RIGHT = (0, 1, 2, 3, 2, 4, 2, 4, 3)


class Probe:
    """Samples parameters' coordinates and measures them site by site.

    Args:
        sizes: for each site the sizes of its parameters, in order.
        device: where the tensors to be sampled live.
        sample: the most coordinates taken of a site; a site of no more is measured whole.

    Raises:
        SignalError: a site has no parameters.
    """

    def __init__(
        self, sizes: Sequence[Sequence[int]], device: torch.device | str = "cpu", sample: int = SAMPLE
    ) -> None:
        if any(sum(site) == 0 for site in sizes) or not sizes:
            raise SignalError(f"Every site needs at least one parameter, got sizes {[list(site) for site in sizes]}.")
        self._index: list[Tensor | None] = []  # one per parameter; None: all of it
        self._bounds: list[tuple[int, int]] = []
        roots = []
        end = 0
        for number, site in enumerate(sizes):
            begin = end
            for size, (index, taken) in zip(site, _choose(site, sample, number, device), strict=True):
                self._index.append(index)
                roots.append(torch.full((taken,), (size / max(1, taken)) ** 0.5, dtype=torch.float64))
                end += taken
            self._bounds.append((begin, end))
        self.width = end  # m
        # each coordinate stands for as many as its own parameter has to one sampled: small ones are seen more densely
        self._wide = torch.float32 if torch.device(device).type == "mps" else torch.float64
        is_whole = all(index is None for index in self._index)
        self._roots = None if is_whole else torch.cat(roots).to(device, self._wide)  # [m]

    def sample(self, tensors: Sequence[Tensor]) -> Tensor:
        """Take the sampled coordinates.

        Args:
            tensors: one a parameter, in the sites' order, each ``[B, size]``.

        Returns:
            ``[B, m]``, a copy.
        """
        parts = [t if i is None else t.index_select(1, i) for t, i in zip(tensors, self._index, strict=True)]
        return torch.cat(parts, 1)

    def measure(self, weight: Tensor, grad: Tensor, last_weight: Tensor, last_grad: Tensor, first: Tensor) -> Tensor:
        """Measure the nine statistics of :class:`trimtab.signals.Signals`, in the order of :data:`STATISTICS`.

        Args:
            weight: ``[B, m]`` sampled weights now.
            grad: ``[B, m]`` sampled gradient now.
            last_weight: ``[B, m]`` weights one step earlier.
            last_grad: ``[B, m]`` gradient one step earlier.
            first: ``[B, m]`` weights before the first step.

        Returns:
            ``[B, 9, S]`` float64 (float32 where the device has no float64), scaled up to the whole site.
        """
        rows = torch.empty(len(weight), 5, self.width, dtype=self._wide, device=weight.device)
        parts = (grad, weight, last_weight, first, last_grad)
        for row, part in enumerate(parts):
            rows[:, row] = part
        rows[:, 2:4] -= rows[:, 1:2]
        if self._roots is not None:
            rows *= self._roots
        sites = [rows[:, :, a:b] for a, b in self._bounds]
        grams = torch.stack([site @ site.transpose(1, 2) for site in sites], -1)  # [B, 5, 5, S]
        return grams[:, _LEFT, _RIGHT]


def _choose(
    sizes: Sequence[int], sample: int, number: int, device: torch.device | str
) -> list[tuple[Tensor | None, int]]:
    """Spread a site's sample over its parameters by size, at least one coordinate each."""
    total = sum(sizes)
    if total <= sample:
        return [(None, size) for size in sizes]
    rng = torch.Generator().manual_seed(number)
    chosen: list[tuple[Tensor | None, int]] = []
    for size in sizes:
        take = min(size, max(1, round(sample * size / total)))
        index = torch.randint(max(1, size), (take,), generator=rng).sort().values.to(device)
        chosen.append((None, size) if take == size else (index, take))
    return chosen
