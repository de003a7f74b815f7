"""Batch size: batches whose size may change at any time, in the middle of an epoch too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from trimtab.errors import KnobError
from trimtab.knobs import Knob


class Indices(Protocol):
    """What gives an epoch's examples in order: a sampler of torch's, a list."""

    def __iter__(self) -> Iterator[int]:
        """Begin an epoch."""
        ...

    def __len__(self) -> int:
        """Give the number of its examples."""
        ...


class ResizableBatches(torch.utils.data.Sampler[list[int]]):
    """Goes into ``DataLoader(data, batch_sampler=...)``; an epoch has every example once, however the size changes.

    A change counts from the next batch on; workers that load ahead bring it later by the batches they have begun. The
    ranks of a distributed run, each with its own ``DistributedSampler`` inside, take the same size, as a pilot decides
    the same on all of them.

    Args:
        indices: an epoch's examples in order, such as ``RandomSampler(data)``.
        size: examples a batch, to begin with.
        drop_last: leave out an epoch's last batch where it is smaller than the rest.

    Raises:
        KnobError: the size is below 1.

    Example:
        >>> batches = ResizableBatches(range(7), 2)
        >>> epoch = iter(batches)
        >>> first = next(epoch)
        >>> batches.resize(4.4)
        >>> first, *epoch
        ([0, 1], [2, 3, 4, 5], [6])
    """

    def __init__(self, indices: Indices | Sequence[int], size: float, *, drop_last: bool = False) -> None:
        self._indices, self._drop_last = indices, drop_last
        self.resize(size)

    @property
    def size(self) -> int:
        """Examples in the next batch."""
        return max(1, round(self._exact))

    def resize(self, size: float) -> None:
        """Set the size of the batches to come.

        Args:
            size: examples a batch, rounded to a whole number.

        Raises:
            KnobError: it is below 1.
        """
        if not size >= 1:
            raise KnobError(f"A batch must have at least 1 example, got a size of {size!r}.")
        self._exact = float(size)

    def knob(self, low: int, high: int) -> Knob:
        """Give the batch size as a knob.

        Args:
            low: the smallest batch.
            high: the largest one.

        Returns:
            A knob "batch_size" on a log scale, which keeps fractions for itself.
        """
        return Knob("batch_size", float(low), float(high), "log", get=lambda: self._exact, set=self.resize)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield an epoch's batches."""
        batch: list[int] = []
        for index in self._indices:
            batch.append(index)
            if len(batch) >= self.size:
                yield batch
                batch = []
        if batch and not self._drop_last:
            yield batch

    def __len__(self) -> int:
        """Give the batches of an epoch of the present size."""
        count, rest = divmod(len(self._indices), self.size)
        return count + bool(rest and not self._drop_last)
