"""Peers: optimizers that promise to need no tuned learning rate, run live at their authors' defaults.

Each is wrapped the same way: what it is made of, what is called before a loss is measured on other data, and after.
"""

from __future__ import annotations

import copy
import importlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from trimtab.bench.anylr.heat import POINTS, Course
from trimtab.bench.anylr.suite import Entry
from trimtab.errors import TaskError
from trimtab.stream import Stream
from trimtab.task import Batch


@dataclass(frozen=True)
class Peer:
    """One way to train without a tuned learning rate.

    Attributes:
        package: what is installed for it.
        make: gives the optimizer of a model, for an entry's rule ("sgd", "adamw").
        has_cosine: whether its step size falls along half a cosine to 0.
        averages: whether the measured weights are DoG's polynomial-decay average.
    """

    package: str
    make: Callable[[Any, nn.Module, str], Any]
    has_cosine: bool = False
    averages: bool = False


def _schedule_free(package: Any, model: nn.Module, rule: str) -> Any:
    return package.AdamWScheduleFree(model.parameters())  # its SGD, at its default rate of 1, diverges here


def _prodigy(package: Any, model: nn.Module, rule: str) -> Any:
    return package.Prodigy(model.parameters())


def _dog(package: Any, model: nn.Module, rule: str) -> Any:
    return package.DoG(model.parameters())


def _dadaptation(package: Any, model: nn.Module, rule: str) -> Any:
    made = package.DAdaptSGD if rule == "sgd" else package.DAdaptAdam
    return made(model.parameters())


def _mechanic(package: Any, model: nn.Module, rule: str) -> Any:
    base = torch.optim.SGD if rule == "sgd" else torch.optim.AdamW
    options: dict[str, Any] = {"lr": 1.0, "momentum": 0.9} if rule == "sgd" else {"lr": 1e-3}
    return package.mechanize(base)(model.parameters(), **options)


PEERS: dict[str, Peer] = {
    "schedule-free": Peer("schedulefree", _schedule_free),
    "prodigy": Peer("prodigyopt", _prodigy),
    "prodigy-cosine": Peer("prodigyopt", _prodigy, has_cosine=True),
    "dog": Peer("dog", _dog, averages=True),
    "d-adaptation": Peer("dadaptation", _dadaptation),
    "mechanic": Peer("mechanic_pytorch", _mechanic),
}
"""Peers by name. DoG is measured at its average, as its authors do."""


def compete(entry: Entry, name: str, seeds: tuple[int, ...]) -> Course:
    """Train an entry with a peer, once a seed.

    Args:
        entry: what to train.
        name: one of :data:`PEERS`.
        seeds: of weights and data order.

    Returns:
        What came of it, as of one learning rate; its values are NaN.

    Raises:
        TaskError: its package is not installed; says how to.
    """
    begin, peer = time.process_time(), PEERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's packages, about yet others
        try:
            package = importlib.import_module(peer.package)
        except ImportError as error:
            raise TaskError(f"Peer {name!r} is not installed: pip install 'trimtab[peers]'.") from error
        curves = torch.stack([_run(entry, peer, package, seed) for seed in seeds], -1)[:, None]  # [P + 1, 1, N]
    return Course(
        curves[-1],
        curves.mean(-1),
        float(curves[0].mean()),
        torch.zeros(1),
        torch.full((entry.steps, 1), math.nan),
        time.process_time() - begin,
    )


def _run(entry: Entry, peer: Peer, package: Any, seed: int) -> torch.Tensor:
    """Give ``[P + 1]`` scored losses, float64, infinite where lost."""
    model = entry.task.build(seed)
    optimizer = peer.make(package, model, entry.rule)
    averager = package.PolynomialDecayAverager(model) if peer.averages else None
    schedule = CosineAnnealingLR(optimizer, entry.steps) if peer.has_cosine else None
    stream = Stream(entry.task, [seed])
    marks = {round(entry.steps * point / POINTS) for point in range(1, POINTS + 1)}
    curve = [_score(entry, model, optimizer, None)]
    for number in range(1, entry.steps + 1):
        x, y, noise = stream.next()
        loss = entry.task.loss(model, Batch(x[0], y[0], None if noise is None else noise[0]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if averager is not None:
            averager.step()
        if schedule is not None:
            schedule.step()
        if number in marks:
            curve.append(_score(entry, model, optimizer, averager))
    return torch.nan_to_num(torch.tensor(curve, dtype=torch.float64), nan=math.inf, posinf=math.inf)


@torch.no_grad()
def _score(entry: Entry, model: nn.Module, optimizer: Any, averager: Any) -> float:
    with _resting(optimizer):
        measured = model if averager is None else _averaged(model, averager)
        measured.eval()
        loss = float(entry.task.loss(measured, Batch(*entry.task.scored())))
        measured.train()
    return loss


def _averaged(model: nn.Module, averager: Any) -> nn.Module:
    """Give a copy with the average's parameters and the model's own buffers."""
    made = copy.deepcopy(model)
    made.load_state_dict({**averager.averaged_model.state_dict(), **dict(model.named_buffers())})
    return made


@contextmanager
def _resting(optimizer: Any) -> Iterator[None]:
    """Bring a Schedule-Free optimizer's weights to the point that is measured, and back."""
    switches = type(optimizer).__name__.endswith("ScheduleFree")
    if switches:
        optimizer.eval()
    yield
    if switches:
        optimizer.train()
