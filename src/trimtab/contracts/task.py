"""What every task keeps."""

from __future__ import annotations

import pytest
import torch

from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rules import SGD
from trimtab.stream import Stream
from trimtab.task import Batch, Split, Task

F64 = torch.float64


class TaskContract:
    """What every task keeps."""

    @pytest.fixture
    def task(self) -> Task:
        """Give the task; override this."""
        raise NotImplementedError("Override the fixture `task`.")

    def test_describes_itself(self, task: Task) -> None:
        """Its name has a version, and horizon, batch, metric and card are filled in."""
        assert task.name.rpartition("-v")[2].isdigit()
        assert task.horizon > 0
        assert 0 < task.batch_size <= len(task.data("train")[0])
        assert task.metric
        assert task.card

    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_splits_are_shaped(self, task: Task, split: Split) -> None:
        """A split has as many inputs as targets, on the CPU, float32 or int64, finite."""
        x, y = task.data(split)
        assert len(x) == len(y) > 0
        assert {x.dtype, y.dtype} <= {torch.float32, torch.int64}
        assert bool(x.isfinite().all())
        assert bool(y.isfinite().all())

    def test_weights_come_from_the_seed_alone(self, task: Task) -> None:
        """The same seed gives the same float32 weights, another others, and the global generator stays as it was."""
        before = torch.get_rng_state()
        one, same, other = ([p.detach() for p in task.build(seed).parameters()] for seed in (3, 3, 4))
        assert {p.dtype for p in one} == {torch.float32}
        assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert torch.equal(before, torch.get_rng_state())

    def test_simulated_members_are_live_runs(self, task: Task) -> None:
        """Three steps of two members in the plant equal a loop of torch.optim over each one's module (float64)."""
        plant, seeds = Plant(task, SGD(lr=1e-2), Panel.of(["lr"]), dtype=F64), (3, 4)
        stream, copies, rows = Stream(task, seeds, dtype=F64), plant.start(seeds), []
        batches = [stream.next() for _ in range(3)]
        for number, batch in enumerate(batches, 1):
            copies, losses, _, _ = plant.step(copies, torch.full((2, 1, 1), 1e-2, dtype=F64), batch, number, None)
            rows.append(losses)
        for b, seed in enumerate(seeds):
            model = task.build(seed).to(F64)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
            for batch, row in zip(batches, rows, strict=True):
                optimizer.zero_grad()
                loss = task.loss(model, Batch(*(None if p is None else p[b] for p in batch)))  # type: ignore[arg-type]
                loss.backward()  # type: ignore[no-untyped-call]  # torch's is untyped
                optimizer.step()
                torch.testing.assert_close(row[b], loss.detach(), rtol=1e-10, atol=1e-10)

    def test_evaluation_is_a_number(self, task: Task) -> None:
        """Loss and metric over the validation split are finite, one for each member."""
        plant = Plant(task, SGD(), Panel.of(["lr"]))
        x, y = plant.split("val")
        losses, scores = plant.evaluate(plant.start((0, 1)), (x[:64], y[:64]))
        assert tuple(losses.shape) == tuple(scores.shape) == (2,)
        assert bool((losses + scores).isfinite().all())
