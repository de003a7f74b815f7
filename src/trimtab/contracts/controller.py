"""What every controller keeps.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.controller import Controller
from trimtab.features import Features
from trimtab.guard import Guard
from trimtab.hypergrad import estimator_of
from trimtab.knobs import EARLY_STEPS, LEAP, Panel
from trimtab.plant import Plant
from trimtab.rollout import rollout
from trimtab.rules import SGD
from trimtab.signals import Observation, Signals

F64 = torch.float64
MEMBERS, SITES, STEPS = 3, 2, (1, 2, 4, 7, 10, 20, 30, 40)
SQUARES = ("grad_sq", "weight_sq", "update_sq", "drift_sq", "last_grad_sq")
DOTS = ("grad_dot_update", "grad_dot_last_grad", "last_grad_dot_update", "grad_dot_drift")
POWERS = dict.fromkeys(("grad_sq", "last_grad_sq", "grad_dot_last_grad"), 2)  # of the loss's unit in a signal
POWERS |= dict.fromkeys(("losses", "hypergrad", "val_loss", "grad_dot_update", "last_grad_dot_update"), 1)
POWERS |= {"grad_dot_drift": 1}


class ControllerContract:
    """What every controller keeps.

    Attributes:
        is_unit_free: set it to False for a controller that depends on the loss's unit, and say so in its docs.
    """

    is_unit_free = True

    @pytest.fixture
    def controller(self) -> Controller:
        """Give the controller; override this."""
        raise NotImplementedError("Override the fixture `controller`.")

    @pytest.fixture
    def panel(self) -> Panel:
        """Give the knobs it is tried with; override it for a controller that wants others."""
        return Panel.of(["momentum", "lr"])

    def alone(self, controller: Controller, member: int) -> Controller:
        """Give the controller of a run that is like member `member` of a batch: the same, but for a seed."""
        return controller

    def test_has_the_protocol_s_parts(self, controller: Controller, panel: Panel) -> None:
        """It has a name and known needs, and its prior is None or a table of ``[horizon, K]`` float64."""
        assert isinstance(controller, Controller)
        assert controller.name
        known = {"hypergrad", "val_hypergrad", "loss_fn", "batches", "val_loss", "horizon", "average"}
        assert controller.needs <= known
        table = controller.prior(panel, 30)
        assert table is None or (tuple(table.shape) == (30, len(panel)) and table.dtype == F64)

    def test_moves_are_bounded(self, controller: Controller, panel: Panel) -> None:
        """Moves are ``[B, S, K]``, finite, in [-1, 1], in the first ten steps within the leap."""
        sights = observations(panel)
        for seen, (move, _) in zip(sights, driven(controller, panel, sights), strict=True):
            assert tuple(move.shape) == (MEMBERS, SITES, len(panel))
            limit = torch.where(seen.signals.step <= EARLY_STEPS, LEAP, 1.0)[:, None, None]
            assert bool((move.abs() <= limit).all())

    def test_members_are_runs_of_their_own(self, controller: Controller, panel: Panel) -> None:
        """``B`` members move as ``B`` runs of one."""
        seen = observations(panel)
        together = [move for move, _ in driven(controller, panel, seen)]
        for b in range(MEMBERS):
            single = driven(self.alone(controller, b), panel, [member(s, b) for s in seen], members=1)
            for all_, (move, _) in zip(together, single, strict=True):
                torch.testing.assert_close(all_[b : b + 1], move, rtol=1e-12, atol=1e-12)

    def test_state_is_tensors_of_one_form(self, controller: Controller, panel: Panel) -> None:
        """The state is a tree of tensors with leading ``B``, whose shapes and dtypes never change."""
        first = [(t.shape, t.dtype) for t in tensors(controller.start(panel, MEMBERS, SITES))]
        assert all(shape[0] == MEMBERS for shape, _ in first)
        for _, state in driven(controller, panel, observations(panel)):
            assert [(t.shape, t.dtype) for t in tensors(state)] == first

    def test_act_is_pure(self, controller: Controller, panel: Panel) -> None:
        """The same reading and state give the same move twice, and the state handed in is left as it was."""
        *earlier, last = observations(panel)
        *_, (_, state) = driven(controller, panel, earlier)
        before = [t.detach().clone() for t in tensors(state)]
        once, twice = (controller.act(last, state)[0] for _ in range(2))
        assert torch.equal(once, twice)
        pairs = zip(before, tensors(state), strict=True)
        assert all(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in pairs)

    def test_ruin_is_survived(self, controller: Controller, panel: Panel) -> None:
        """Readings of nothing but NaN give finite moves, then and afterwards."""
        seen = observations(panel)
        ruined = [ruin(s) for s in seen[:4]]
        for move, _ in driven(controller, panel, ruined + seen[4:]):
            assert bool(move.isfinite().all())

    def test_the_loss_s_unit_does_not_matter(self, controller: Controller, panel: Panel) -> None:
        """Losses a thousand times larger, gradients with them, give the same moves."""
        if not self.is_unit_free:
            pytest.skip("It says that it depends on the loss's unit.")
        seen = observations(panel)
        plain, other = (driven(controller, panel, s) for s in (seen, [in_unit(s, 1e3) for s in seen]))
        for (a, _), (b, _) in zip(plain, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)

    def test_can_be_pickled(self, controller: Controller, panel: Panel) -> None:
        """A copy through pickle moves alike: controllers travel to worker processes."""
        seen = observations(panel)
        pair = (driven(c, panel, seen) for c in (controller, pickle.loads(pickle.dumps(controller))))
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(*pair, strict=True))

    def test_drives_a_plant(self, controller: Controller, panel: Panel) -> None:
        """Under a guard it trains two members of a small task, and what it wants is in range."""
        from trimtab.tasks import task_named

        plant = Plant(task_named("quadratic-v1"), SGD(), panel, estimator=estimator_of(controller))
        start = panel.from_unit(torch.full((2, 1, len(panel)), 0.5, dtype=F64))
        done = rollout(plant, controller, start, seeds=(0, 1), steps=20, horizon=20, guard=Guard(), validate_every=10)
        assert all(bool(((d.position >= 0) & (d.position <= 1)).all()) for d in done.decisions)


def observations(panel: Panel) -> list[Observation]:
    """Make up a run's readings of `MEMBERS` members and `SITES` sites: every number drawn, from one seed."""
    rng = torch.Generator().manual_seed(0)
    names = Features(panel).names
    made = []
    for step in STEPS:
        at = torch.rand(MEMBERS, SITES, len(panel), generator=rng, dtype=F64)
        drawn = {n: torch.randn(MEMBERS, SITES, generator=rng, dtype=F64) for n in SQUARES + DOTS}
        signals = Signals(
            step=torch.full((MEMBERS,), step),
            losses=torch.randn(MEMBERS, 2, generator=rng, dtype=F64).exp(),
            values=panel.from_unit(at),
            **{name: value.square() if name in SQUARES else value for name, value in drawn.items()},
            hypergrad=torch.randn(MEMBERS, SITES, len(panel), generator=rng, dtype=F64),
            val_loss=torch.randn(MEMBERS, generator=rng, dtype=F64).exp(),
        )
        seen = torch.randn(MEMBERS, SITES, len(names), generator=rng, dtype=F64).clamp(-10, 10)
        made.append(Observation(signals, seen, at, torch.full((MEMBERS,), step / 100, dtype=F64)))
    return made


def driven(
    controller: Controller, panel: Panel, seen: Sequence[Observation], members: int = MEMBERS
) -> list[tuple[Tensor, Any]]:
    """Show a controller readings one after the other; its moves and states."""
    state, made = controller.start(panel, members, SITES), []
    for observation in seen:
        move, state = controller.act(observation, state)
        made.append((move.detach(), state))
    return made


def member(seen: Observation, b: int) -> Observation:
    """Cut out what member `b` alone would have seen."""
    return _mapped(seen, lambda value, name: value[b : b + 1])


def in_unit(seen: Observation, unit: float) -> Observation:
    """Give the same reading with a loss of another unit."""
    signals = {n: getattr(seen.signals, n) * unit**power for n, power in POWERS.items()}
    return replace(seen, signals=replace(seen.signals, **signals))


def ruin(seen: Observation) -> Observation:
    """Put NaN in place of every floating-point number of a reading, position and progress apart."""
    kept = ("step", "position", "progress")
    return _mapped(seen, lambda value, name: value if name in kept else torch.full_like(value, math.nan))


def tensors(tree: Any) -> list[Tensor]:
    """List a state's tensors, in order."""
    if isinstance(tree, dict):
        return [t for name in sorted(tree) for t in tensors(tree[name])]
    if isinstance(tree, tuple):
        return [t for entry in tree for t in tensors(entry)]
    return [] if tree is None else [tree]


def _mapped(seen: Observation, change: Any) -> Observation:
    def all_of(record: Any) -> dict[str, Any]:
        entries = {f.name: getattr(record, f.name) for f in fields(record)}
        return {n: change(v, n) if isinstance(v, Tensor) else v for n, v in entries.items()}

    return Observation(**{**all_of(seen), "signals": Signals(**all_of(seen.signals))})
