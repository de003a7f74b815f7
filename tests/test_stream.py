"""Laws of streams: what a member sees depends on its seed alone."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from trimtab.errors import TaskError
from trimtab.stream import Stream
from trimtab.task import Batch


@dataclass
class Numbered:
    """The data of a task whose inputs are 0..N-1 and whose targets are their negatives."""

    examples: int = 23
    batch_size: int = 5
    noise_shape: tuple[int, ...] | None = (2,)
    name: str = "numbered-v1"

    def data(self, split: str) -> tuple[Tensor, Tensor]:
        """Give ``[N, 1]`` float32 inputs and ``[N]`` int64 targets."""
        x = torch.arange(self.examples, dtype=torch.float32)[:, None]
        return x, -torch.arange(self.examples)


def drawn(stream: Stream, times: int) -> list[Batch]:
    """Draw some batches."""
    return [stream.next() for _ in range(times)]


def test_members_are_streams_of_one() -> None:
    """B members draw what B streams of one draw, order and noise alike, over several epochs."""
    seeds = [0, 7, 3]
    together = drawn(Stream(Numbered(), seeds), 13)
    for b, seed in enumerate(seeds):
        for all_, one in zip(together, drawn(Stream(Numbered(), [seed]), 13), strict=True):
            assert all(torch.equal(a[b : b + 1], o) for a, o in zip(all_, one, strict=True))


def test_an_epoch_is_without_replacement() -> None:
    """Within an epoch no example comes twice; the incomplete batch is dropped; each epoch is in another order."""
    one = stream()
    epochs = [torch.cat([batch.x[0, :, 0] for batch in drawn(one, 4)]) for _ in range(2)]
    for epoch in epochs:
        assert 20 == len(set(epoch.tolist()))
        assert set(epoch.tolist()) <= set(range(23))
    assert not torch.equal(*epochs)


def stream() -> Stream:
    """Make a stream of one member."""
    return Stream(Numbered(), [5])


def test_targets_belong_to_their_inputs() -> None:
    """Inputs and targets are drawn together."""
    for batch in drawn(Stream(Numbered(), [1, 2]), 9):
        assert torch.equal(batch.x[..., 0].long(), -batch.y)


def test_seeds_differ() -> None:
    """Other seeds see other orders and other noise; the same seed sees the same."""
    batch = Stream(Numbered(), [1, 2, 1]).next()
    for part in batch:
        assert part is not None
        assert torch.equal(part[0], part[2])
        assert not torch.equal(part[0], part[1])


def test_noise_leaves_the_order_alone() -> None:
    """A task with noise sees its examples in the order of one without; without, there is none."""
    with_noise, without = (Stream(Numbered(noise_shape=shape), [4]) for shape in ((2,), None))
    for a, b in zip(drawn(with_noise, 9), drawn(without, 9), strict=True):
        assert torch.equal(a.x, b.x)
        assert a.noise is not None
        assert (1, 5, 2) == tuple(a.noise.shape)
        assert 0 <= float(a.noise.min()) <= float(a.noise.max()) < 1
        assert b.noise is None


@pytest.mark.parametrize("before", [0, 2, 4, 6])
def test_a_saved_stream_goes_on_exactly(before: int) -> None:
    """A state taken anywhere, in the middle of an epoch or at its end, and sent through a file, goes on bit for bit."""
    one = Stream(Numbered(), [3, 9])
    drawn(one, before)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    expected = drawn(one, 7)
    other = Stream(Numbered(), [100, 101])
    drawn(other, 3)
    other.load_state_dict(torch.load(file, weights_only=True))
    for a, b in zip(expected, drawn(other, 7), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_floats_have_the_dtype_asked_for() -> None:
    """Inputs and noise are cast, classes are not; the noise is float32's, so that it is the same in every dtype."""
    wide, narrow = (Stream(Numbered(), [3], dtype=dtype).next() for dtype in (torch.float64, torch.float32))
    assert (torch.float64, torch.int64, torch.float64) == tuple(part.dtype for part in wide if part is not None)
    assert wide.noise is not None
    assert narrow.noise is not None
    assert torch.equal(wide.noise, narrow.noise.double())


def test_the_global_generator_is_left_alone() -> None:
    """Streams draw from generators of their own."""
    before = torch.get_rng_state()
    drawn(stream(), 9)
    assert torch.equal(before, torch.get_rng_state())


def test_less_than_one_batch_is_refused() -> None:
    """A split smaller than a batch could never be drawn from."""
    with pytest.raises(TaskError, match="numbered-v1 has 4 training examples, less than one batch of 5"):
        Stream(Numbered(examples=4), [0])
