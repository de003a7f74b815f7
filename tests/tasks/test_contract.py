"""Every task of the catalogue keeps the contract of `trimtab.task.Task`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from trimtab.errors import DataError, TaskError
from trimtab.task import Batch, Split, Task
from trimtab.tasks import CATALOGUE, task_named
from trimtab.tasks.digits_mlp import DigitsMLP

SPLITS: tuple[Split, ...] = ("train", "val", "test")
MEMBERS, EXAMPLES = 3, 6


@pytest.fixture(scope="module")
def offline() -> Iterator[None]:
    """What is not on this machine is not downloaded."""

    def refuse(*_: object) -> None:
        raise ConnectionError("the tests use no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trimtab.datasets._download", refuse)
        yield


@pytest.fixture(scope="module", params=[*CATALOGUE, "dropout"])
def task(request: pytest.FixtureRequest, offline: None) -> Task:
    """One task after the other, and one with dropout."""
    task = DigitsMLP(dropout=0.2) if request.param == "dropout" else task_named(request.param)
    try:
        task.data("train")
    except DataError as missing:
        pytest.skip(str(missing))
    return task


def test_name_is_catalogued_and_versioned(task: Task) -> None:
    """A task is listed under its own name, which carries a version."""
    assert task.name.rpartition("-v")[2].isdigit()
    assert task.name in CATALOGUE or "dropout" in task.name


def test_describes_itself(task: Task) -> None:
    """Horizon, batch, metric, card and reference are filled in."""
    assert task.horizon > 0
    assert 0 < task.batch_size <= len(task.data("train")[0])
    assert task.optimizer in {"sgd", "adamw"}
    assert task.metric
    assert len(task.card) > 100
    assert "licence" in task.card.lower()
    reference = task.reference
    assert reference.val_loss < reference.target < 1.2 * reference.val_loss
    assert "seeds" in reference.how


@pytest.mark.parametrize("split", SPLITS)
def test_split_has_shapes_and_dtypes(task: Task, split: Split) -> None:
    """A split is as many inputs as targets, on the CPU, float32 or int64, finite, and cached."""
    x, y = task.data(split)
    assert len(x) == len(y) > 0
    assert {x.dtype, y.dtype} <= {torch.float32, torch.int64}
    assert x.device.type == y.device.type == "cpu"
    assert bool(x.isfinite().all())
    assert bool(y.isfinite().all())
    assert task.data(split)[0].data_ptr() == x.data_ptr()


def test_splits_share_no_example(task: Task) -> None:
    """No example of one split is in another, but for the few (1 %) that the source itself holds twice.

    Python's documentation repeats itself, in some versions (3.11.2) in up to a tenth of the windows.
    """
    most = 0.1 if task.name.startswith("chars") else 0.01
    train, val, test = ({hash((x.tobytes(), y.tobytes())) for x, y in _rows(task, split)} for split in SPLITS)
    for one, other in ((train, val), (train, test), (val, test)):
        assert len(one & other) <= most * len(other)


def test_build_is_a_function_of_the_seed(task: Task) -> None:
    """The same seed gives the same weights, another seed gives others; float32, on the CPU, training."""
    one, same, other = (task.build(seed) for seed in (3, 3, 4))
    assert one.training
    assert {p.dtype for p in one.parameters()} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_global_generator_is_untouched(task: Task) -> None:
    """Neither building, nor data, loss and score draw from the global generator."""
    before = torch.get_rng_state()
    model, batch = task.build(0), _batch(task, 0, torch.float32)
    task.loss(model, batch)
    task.score(model, batch)
    assert torch.equal(before, torch.get_rng_state())


def test_loss_and_score_are_finite_scalars(task: Task) -> None:
    """Loss and score of a fresh network are finite and without axes."""
    model, batch = task.build(0), _batch(task, 0, torch.float32)
    for value in (task.loss(model, batch), task.score(model, batch)):
        assert value.shape == ()
        assert bool(value.isfinite())


@pytest.mark.parametrize("is_training", [True, False])
def test_vmap_equals_one_at_a_time(task: Task, is_training: bool) -> None:
    """Loss, gradients and buffers of vmapped members equal those of the modules run alone (float64, 1e-10)."""
    models = [task.build(seed).double().train(is_training) for seed in range(MEMBERS)]
    batches = [_batch(task, seed, torch.float64) for seed in range(MEMBERS)]
    if not is_training:
        batches = [Batch(batch.x, batch.y) for batch in batches]
    for shift, model in enumerate(models):  # so that no two members' running statistics agree
        for buffer in model.buffers():
            buffer.add_(shift)
    params, buffers = stack_module_state(models)
    skeleton = task.build(0).double().train(is_training)
    together = vmap(
        lambda p, b, batch: task.loss(lambda *x: functional_call(skeleton, (p, b), x), batch), _axes(batches)
    )
    losses = together(params, buffers, _stack(batches))
    losses.sum().backward()
    for member, (model, batch) in enumerate(zip(models, batches, strict=True)):
        loss = task.loss(model, batch)
        loss.backward()
        _assert_close(losses[member], loss)
        for name, param in model.named_parameters():
            _assert_close(params[name].grad[member], param.grad)
        for name, buffer in model.named_buffers():
            _assert_close(buffers[name][member], buffer)


def test_score_runs_under_vmap(task: Task) -> None:
    """The score of vmapped members equals that of the modules run alone."""
    models = [task.build(seed).eval() for seed in range(MEMBERS)]
    batches = [Batch(*_batch(task, seed, torch.float32)[:2]) for seed in range(MEMBERS)]
    params, buffers = stack_module_state(models)
    together = vmap(
        lambda p, b, batch: task.score(lambda *x: functional_call(models[0], (p, b), x), batch), _axes(batches)
    )
    alone = torch.stack([task.score(model, batch) for model, batch in zip(models, batches, strict=True)])
    torch.testing.assert_close(together(params, buffers, _stack(batches)), alone, rtol=1e-4, atol=1e-5)


def test_is_learnable(task: Task) -> None:
    """Thirty steps of Adam lower the loss of a batch."""
    model, batch = task.build(0), _batch(task, 0, torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = float(task.loss(model, batch).detach())
    for _ in range(30):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    assert float(task.loss(model, batch).detach()) < 0.9 * first


def test_unknown_task_names_close_ones() -> None:
    """A name misspelt is answered with the right one."""
    with pytest.raises(TaskError, match="Did you mean 'digits-mlp-v1'"):
        task_named("digit-mlp")


def test_catalogue_is_sorted() -> None:
    """The catalogue is in the order of names."""
    assert list(CATALOGUE) == sorted(CATALOGUE)


def _batch(task: Task, seed: int, dtype: torch.dtype) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x, y = task.data("train")
    chosen = torch.randint(len(x), (EXAMPLES,), generator=rng)
    noise = None if task.noise_shape is None else torch.rand(EXAMPLES, *task.noise_shape, generator=rng)
    return Batch(*(_cast(t, dtype) for t in (x[chosen], y[chosen])), None if noise is None else noise.to(dtype))


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _stack(batches: list[Batch]) -> Batch:
    x, y = (torch.stack([batch[field] for batch in batches]) for field in (0, 1))
    noise = None if batches[0].noise is None else torch.stack([batch.noise for batch in batches])
    return Batch(x, y, noise)


def _axes(batches: list[Batch]) -> tuple[object, ...]:
    return 0, 0, Batch(0, 0, None if batches[0].noise is None else 0)


def _rows(task: Task, split: Split) -> Iterator[tuple[object, object]]:
    x, y = task.data(split)
    return zip(x.numpy(), y.numpy(), strict=True)


def _assert_close(actual: Tensor, expected: Tensor | None) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
