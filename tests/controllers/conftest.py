"""Readings made up for tests: small, real records, so that a controller can be driven without a run.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

import math
from dataclasses import fields, replace

import pytest
import torch

from trimtab.features import Features
from trimtab.signals import Observation, Signals

F64 = torch.float64


def _reading(panel, position, step, loss=None, rng=None, **given):
    """One observation at `step` with `position` ``[B, S, K]``; what is not given is drawn from `rng`, or 0."""
    members, sites, knobs = position.shape
    draw = (
        (lambda *shape: torch.randn(*shape, generator=rng, dtype=F64))
        if rng
        else (lambda *s: torch.zeros(s, dtype=F64))
    )
    loss = draw(members).exp() if loss is None else torch.as_tensor(loss, dtype=F64).expand(members)
    squares = {
        name: draw(members, sites) ** 2 for name in ("grad_sq", "weight_sq", "update_sq", "drift_sq", "last_grad_sq")
    }
    dots = {
        name: draw(members, sites)
        for name in ("grad_dot_update", "grad_dot_last_grad", "last_grad_dot_update", "grad_dot_drift")
    }
    signals = Signals(
        step=torch.full((members,), step),
        losses=loss[:, None],
        values=panel.from_unit(position),
        **squares,
        **dots,
        hypergrad=draw(members, sites, knobs),
    )
    features = draw(members, sites, len(Features(panel).names)).clamp(-10, 10)
    return Observation(replace(signals, **given), features, position, torch.full((members,), math.nan, dtype=F64))


def _member(seen, b):
    """What member `b` alone would have seen."""

    def cut(value):
        return value[b : b + 1] if isinstance(value, torch.Tensor) else value

    signals = Signals(**{f.name: cut(getattr(seen.signals, f.name)) for f in fields(Signals)})
    return Observation(signals, cut(seen.features), cut(seen.position), cut(seen.progress))


def _drive(controller, panel, losses, value=0.1, every=1, **given):
    """The learning rates ``[N]`` of one member after each reading's move, the readings' losses being `losses`."""
    position = panel.to_unit(torch.tensor([[[value] * len(panel)]], dtype=F64))
    state = controller.start(panel, 1, 1)
    rates = []
    for n, loss in enumerate(losses):
        seen = _reading(panel, position, 1 + n * every, loss=loss, **given)
        move, state = controller.act(seen, state)
        position = panel.turn(position, move, seen.signals.step)
        rates.append(panel.from_unit(position)[0, 0, 0].item())
    return rates, state


@pytest.fixture(name="reading")
def _give_reading():
    return _reading


@pytest.fixture(name="member")
def _give_member():
    return _member


@pytest.fixture(name="drive")
def _give_drive():
    return _drive
