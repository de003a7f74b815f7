"""Run: one live training run of a race, with a real optimizer, a real module and a real pilot."""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from trimtab.attach import attach
from trimtab.bench.contender import Contender
from trimtab.bench.machine import Provenance
from trimtab.bench.rows import Row
from trimtab.controller import Controller
from trimtab.errors import TaskError
from trimtab.pilot import Pilot
from trimtab.sites import groups
from trimtab.stream import Stream
from trimtab.task import Batch, Split, Task
from trimtab.tasks import task_named
from trimtab.whole import written_whole

POINTS = 20  # of a curve, step 0 apart
LOST = 1.1  # times the first validation loss: what ends above it has lost ground beyond noise
Tell = Callable[[int, float, float], None]
"""Called with the step, the validation loss there and the first group's learning rate."""


@dataclass(frozen=True)
class Cell:
    """One run to be made.

    Attributes:
        task: the task's name.
        contender: who.
        lr: the initial learning rate.
        seed: of weights and data order.
        steps: optimizer steps.
    """

    task: str
    contender: Contender
    lr: float
    seed: int
    steps: int

    @property
    def key(self) -> str:
        """Name the cell: the same for the same run, and a file's name."""
        who = self.contender
        text = f"{settings(who.make())}|{who.every}|{who.by}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:6]
        return f"{self.task}.{who.name}-{digest}.lr{self.lr:g}.seed{self.seed}.steps{self.steps}"


def run_cell(
    cell: Cell, folder: Path, provenance: Provenance, *, tell: Tell | None = None, dtype: torch.dtype = torch.float32
) -> Row:
    """Train once.

    Args:
        cell: the run.
        folder: gets ``traces/<key>.jsonl`` and ``weights/<key>.pt``.
        provenance: where and when.
        tell: hears of the run while it goes, about twenty times.
        dtype: of weights and inputs.

    Returns:
        The row; a run that diverged has one as well.
    """
    task = task_named(cell.task)
    model = task.build(cell.seed).to(dtype)
    optimizer = optimizer_of(task, model, cell.lr, by=cell.contender.by)
    pilot = _pilot(cell, model, optimizer, folder / "traces" / f"{cell.key}.jsonl")
    scheduler = cell.contender.scheduler(optimizer, cell.lr, cell.steps)
    read = model if pilot is None or pilot.average is None else pilot.average.module
    stream, clock = Stream(task, [cell.seed], dtype=dtype), _Clock(task, read, cell.steps, dtype)
    for step in range(1, cell.steps + 1):
        batch = _first(stream.next())
        begin = time.perf_counter()
        loss = task.loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if pilot is not None:
            pilot.step(loss)
        elif scheduler is not None and step < cell.steps:
            scheduler.step()
        optimizer.zero_grad()
        is_point = clock.add(step, loss.detach(), time.perf_counter() - begin)
        if is_point and tell is not None:
            tell(step, clock.curve[-1][1], float(optimizer.param_groups[0]["lr"]))
    _keep(read, folder / "weights" / f"{cell.key}.pt")
    return _row(cell, clock, 0 if pilot is None else _closed(pilot), provenance)


class _Clock:
    """Keeps what a run's row tells: losses, seconds, the validation curve, the first time at the target."""

    def __init__(self, task: Task, model: nn.Module, steps: int, dtype: torch.dtype) -> None:
        self.task, self._model, self._dtype = task, model, dtype
        self._points = {round(steps * i / POINTS) for i in range(1, POINTS + 1)}
        self.curve = [(0, loss_on(task, model, "val", dtype))]
        self.losses: list[torch.Tensor] = []
        self.spent: list[float] = []
        self.reached: tuple[int, float] | tuple[None, None] = (None, None)

    def add(self, step: int, loss: torch.Tensor, seconds: float) -> bool:
        """Take a step, and say whether the validation loss was measured after it."""
        self.losses.append(loss)
        self.spent.append(seconds)
        if step not in self._points:
            return False
        self.curve.append((step, loss_on(self.task, self._model, "val", self._dtype)))
        if self.reached[0] is None and self.curve[-1][1] <= self.task.reference.target:
            self.reached = (step, sum(self.spent))
        return True


def optimizer_of(task: Task, model: nn.Module, lr: float, *, by: str = "run") -> Optimizer:
    """Make the task's usual optimizer, everything but the learning rate at its default.

    Args:
        task: names it.
        model: what it trains.
        lr: the initial learning rate.
        by: what becomes a parameter group: "run", "layer" or "block".

    Returns:
        The optimizer.

    Raises:
        TaskError: the race does not know the task's optimizer.
    """
    params = groups(model, by=by)
    if task.optimizer == "sgd":
        return SGD(params, lr=lr, momentum=0.9)
    if task.optimizer == "adamw":
        return AdamW(params, lr=lr)
    raise TaskError(f"A race needs a task with optimizer 'sgd' or 'adamw', {task.name} has {task.optimizer!r}.")


@torch.no_grad()
def loss_on(task: Task, model: nn.Module, split: Split, dtype: torch.dtype = torch.float32) -> float:
    """Give the loss over a whole split, the model in evaluation mode; it is in training mode afterwards."""
    model.eval()
    loss = float(task.loss(model, _whole(task, split, dtype)))
    model.train()
    return loss


@torch.no_grad()
def metric_on_test(task: Task, weights: Path) -> float:
    """Open the test split for one finished run.

    Args:
        task: the problem.
        weights: what `run_cell` kept.

    Returns:
        The task's metric over the whole split.
    """
    model = task.build(0)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    return float(task.score(model, _whole(task, "test", torch.float32)))


def settings(controller: Controller | None) -> str:
    """Say in words what a controller is, so that two that differ say different things."""
    if controller is None:
        return "torch.optim.lr_scheduler, no pilot"
    if isinstance(controller, nn.Module):
        digest = hashlib.sha256()
        for name, weight in sorted(controller.state_dict().items()):
            digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
        return f"{controller.name}, weights {digest.hexdigest()[:12]}"
    return repr(controller)


def _row(cell: Cell, clock: _Clock, restores: int, provenance: Provenance) -> Row:
    last = clock.losses[-max(1, cell.steps // 20) :]
    return Row(
        key=cell.key,
        task=cell.task,
        contender=cell.contender.name,
        settings=settings(cell.contender.make()),
        lr=cell.lr,
        seed=cell.seed,
        steps=cell.steps,
        train_loss=_finite(float(torch.stack(last).mean())),
        val_loss=_finite(clock.curve[-1][1]),
        curve=tuple(clock.curve),
        target=clock.task.reference.target,
        steps_to_target=clock.reached[0],
        seconds_to_target=clock.reached[1],
        seconds=sum(clock.spent),
        step_seconds=statistics.median(clock.spent),
        restores=restores,
        is_diverged=not clock.curve[-1][1] <= LOST * clock.curve[0][1],
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        **vars(provenance),
    )


def _pilot(cell: Cell, model: nn.Module, optimizer: Optimizer, trace: Path) -> Pilot | None:
    controller = cell.contender.make()
    if controller is None:
        return None
    trace.unlink(missing_ok=True)  # of a run that was killed
    return attach(
        optimizer,
        controller,
        sites="run" if cell.contender.by == "run" else "groups",
        horizon=cell.steps,
        model=model,
        every=cell.contender.every,
        trace=trace,
    )


def _first(batch: Batch) -> Batch:
    """Give the one member's batch, unbatched."""
    return Batch(batch.x[0], batch.y[0], None if batch.noise is None else batch.noise[0])


def _closed(pilot: Pilot) -> int:
    """End the trace's file, which stays the only one, and give the guard's restores."""
    columns = pilot.trace.close()
    if columns is not None:
        columns.unlink()
    return pilot.trace.restores


def _whole(task: Task, split: Split, dtype: torch.dtype) -> Batch:
    x, y = task.data(split)
    return Batch(*(part.to(dtype) if part.is_floating_point() else part for part in (x, y)))


def _keep(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as file:
        torch.save(model.state_dict(), file)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan
