"""Laws that hold for every controller."""

import math
import pickle
from dataclasses import replace

import pytest
import torch

from trimtab.controller import Controller
from trimtab.controllers import CATALOGUE, KnobDescent, Policy, Random, Replay
from trimtab.knobs import LEAP, Panel
from trimtab.signals import Signals

F64 = torch.float64
PANEL = Panel.of(["momentum", "lr"])
MEMBERS, SITES, STEPS = 3, 2, (1, 2, 4, 7, 10, 20, 30, 40, 50)


def _policy(kind, calm=0.0):
    policy = Policy.for_panel(PANEL, 5, kind=kind, calm=calm)
    with torch.no_grad():
        policy.out_weight.normal_(generator=torch.Generator().manual_seed(2))
    return policy


ALL = {
    **CATALOGUE,
    "hypergradient-all": KnobDescent,
    "replay": lambda: Replay.of([(1, [0.2, 0.9]), (9, [0.6, 0.1])]),
    "policy-mlp": lambda: _policy("mlp"),
    "policy-gru": lambda: _policy("gru"),
    "policy-calm": lambda: _policy("mlp", 0.6),
}


@pytest.fixture(name="sights")
def _seens(reading):
    rng = torch.Generator().manual_seed(0)
    places = [torch.rand(MEMBERS, SITES, 2, generator=rng, dtype=F64) for _ in STEPS]
    return [reading(PANEL, place, step, rng=rng) for place, step in zip(places, STEPS, strict=True)]


def _run(controller, sights, state):
    moves, states = [], [state]
    for seen in sights:
        move, state = controller.act(seen, state)
        moves.append(move.detach())
        states.append(state)
    return torch.stack(moves), states


@pytest.mark.parametrize("name", sorted(ALL))
def test_it_is_a_controller(name):
    """It has the protocol's parts, and its needs are known words."""
    controller = ALL[name]()
    assert isinstance(controller, Controller)
    assert controller.needs <= {"hypergrad", "val_loss", "horizon"}
    table = controller.prior(PANEL, 30)
    assert table is None or (table.shape == (30, 2) and table.dtype == F64)


@pytest.mark.parametrize("name", sorted(ALL))
def test_moves_are_shaped_and_bounded(name, sights):
    """Moves are [B, S, K] float64 within [-1, 1], of a policy's first steps within its leap, and finite."""
    moves, _ = _run(ALL[name](), sights, ALL[name]().start(PANEL, MEMBERS, SITES))
    assert moves.shape == (len(STEPS), MEMBERS, SITES, 2)
    assert moves.dtype == F64
    assert moves.abs().max().item() <= LEAP if name.startswith("policy") else 1


@pytest.mark.parametrize("name", sorted(ALL))
def test_members_are_runs_of_their_own(name, sights, member):
    """B members move as B runs of one; a random one's seed counts on from member to member."""
    together, _ = _run(ALL[name](), sights, ALL[name]().start(PANEL, MEMBERS, SITES))
    for b in range(MEMBERS):
        controller = Random(seed=b) if name == "random" else ALL[name]()
        alone, _ = _run(controller, [member(seen, b) for seen in sights], controller.start(PANEL, 1, SITES))
        torch.testing.assert_close(together[:, b : b + 1], alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", sorted(ALL))
def test_state_is_tensors_with_a_leading_member(name, sights):
    """The state is None or a dict of [B, ...] tensors whose shapes and dtypes never change."""
    _, states = _run(ALL[name](), sights, ALL[name]().start(PANEL, MEMBERS, SITES))
    if states[0] is None:
        assert states == [None] * len(states)
        return
    first = {key: (value.shape, value.dtype) for key, value in states[0].items()}
    for shape, dtype in first.values():
        assert shape[0] == MEMBERS
        assert dtype in {F64, torch.int64, torch.bool}
    for state in states:
        assert {key: (value.shape, value.dtype) for key, value in state.items()} == first


@pytest.mark.parametrize("name", sorted(ALL))
def test_act_is_pure(name, sights):
    """The same reading and state give the same move twice, and the state handed in is left as it was."""
    controller = ALL[name]()
    _, states = _run(controller, sights[:-1], controller.start(PANEL, MEMBERS, SITES))
    before = pickle.dumps({k: v.detach() for k, v in (states[-1] or {}).items()})
    once, twice = (controller.act(sights[-1], states[-1])[0] for _ in range(2))
    assert torch.equal(once, twice)
    assert pickle.dumps({k: v.detach() for k, v in (states[-1] or {}).items()}) == before


@pytest.mark.parametrize("name", sorted(ALL))
def test_ruin_is_survived(name, sights, reading):
    """NaN in every signal and feature gives finite moves, and leaves a state that recovers."""
    controller = ALL[name]()
    ruined = []
    for seen in sights[:4]:
        given = {
            field: torch.full_like(getattr(seen.signals, field), math.nan)
            for field in Signals.__dataclass_fields__
            if field not in {"step", "val_loss"}
        }
        signals = replace(seen.signals, **given)
        ruined.append(replace(seen, signals=signals, features=torch.full_like(seen.features, math.nan)))
    moves, states = _run(controller, ruined + sights[4:], controller.start(PANEL, MEMBERS, SITES))
    assert moves.isfinite().all()
    loose = {"best", "window", "home"}  # inf, NaN until something is known
    assert all(v.isfinite().all() for k, v in (states[-1] or {}).items() if k not in loose)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"random", "greedy"} - {"policy-mlp", "policy-gru"}))
def test_the_unit_of_the_loss_does_not_matter(name, sights):
    """Losses a thousand times larger, gradients with them, give the same moves (greedy's threshold is absolute)."""
    powers = {"losses": 1, "hypergrad": 1, "grad_sq": 2, "last_grad_sq": 2, "grad_dot_last_grad": 2,
              "grad_dot_update": 1, "last_grad_dot_update": 1, "grad_dot_drift": 1}  # fmt: skip
    scaled = []
    for seen in sights:
        given = {field: getattr(seen.signals, field) * 1e3**power for field, power in powers.items()}
        scaled.append(replace(seen, signals=replace(seen.signals, **given)))
    plain, _ = _run(ALL[name](), sights, ALL[name]().start(PANEL, MEMBERS, SITES))
    other, _ = _run(ALL[name](), scaled, ALL[name]().start(PANEL, MEMBERS, SITES))
    torch.testing.assert_close(plain, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(ALL))
def test_it_can_be_pickled(name, sights):
    """A copy through pickle moves alike: controllers travel to worker processes."""
    controller = ALL[name]()
    copy = pickle.loads(pickle.dumps(controller))
    moves, _ = _run(controller, sights, controller.start(PANEL, MEMBERS, SITES))
    again, _ = _run(copy, sights, copy.start(PANEL, MEMBERS, SITES))
    assert torch.equal(moves, again)
