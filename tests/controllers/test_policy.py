"""A policy is its prior until taught, takes weights per member, and survives a file."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from trimtab.controllers import Policy, Population, controller_named
from trimtab.controllers.schedule import SCHEDULES
from trimtab.errors import KnobError, SignalError, StateError
from trimtab.features import RUN, SITE, Features
from trimtab.knobs import Panel

F64 = torch.float64
PANEL = Panel.of(["lr", "weight_decay"])
KINDS = ("mlp", "gru")


def _taught(kind, seed=0, reach=1.0, leap=1.0):
    rng = torch.Generator().manual_seed(seed)
    policy = Policy.for_panel(PANEL, 6, kind=kind, reach=reach, leap=leap, rng=rng)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=rng))
    return policy


def _readings(reading, members=3, sites=2, count=4):
    rng = torch.Generator().manual_seed(1)
    position = torch.rand(members, sites, 2, generator=rng, dtype=F64)
    return [reading(PANEL, position, 1 + n, rng=rng) for n in range(count)]


def _moves(policy, sights, weights=None):
    members, sites = sights[0].position.shape[:2]
    state, moves = policy.start(PANEL, members, sites), []
    for seen in sights:
        move, state = policy.act(seen, state) if weights is None else policy.act_with(weights, seen, state)
        moves.append(move)
    return torch.stack(moves)


@pytest.mark.parametrize("kind", KINDS)
def test_untaught_it_is_exactly_its_prior(reading, kind):
    """A new policy's moves are zero to the bit and its factors those of the schedule it names."""
    policy = Policy.for_panel(PANEL, kind=kind, prior="cosine")
    moves = _moves(policy, _readings(reading))
    assert torch.equal(moves, torch.zeros(4, 3, 2, 2, dtype=F64))
    assert torch.equal(policy.prior(PANEL, 50), controller_named("cosine").prior(PANEL, 50))
    assert torch.equal(Policy.for_panel(PANEL).prior(PANEL, 50), SCHEDULES["hold"]().prior(PANEL, 50))
    assert policy.prior(PANEL, None) is None


@pytest.mark.parametrize("kind", KINDS)
def test_moves_are_bounded_by_reach(reading, kind):
    """However large the weights, moves stay within reach, up to step 10 within reach times leap, in float64."""
    policy = _taught(kind, reach=0.5, leap=2.0)
    with torch.no_grad():
        policy.out_weight.mul_(1e3)
    moves = _moves(policy, _readings(reading))
    assert moves.dtype == F64
    assert 0.9 < moves.abs().max().item() <= 1.0
    late = _moves(policy, [reading(PANEL, torch.rand(3, 2, 2, dtype=F64), 20)])
    assert 0.4 < late.abs().max().item() <= 0.5


def test_momentum_and_beta1_are_one_knob(reading):
    """A policy taught on lr and momentum turns lr and beta1 by the same moves, and refuses other knobs."""
    sgd, adam = Panel.of(["lr", "momentum"]), Panel.of(["lr", "beta1"])
    policy = Policy.for_panel(sgd, 4)
    with torch.no_grad():
        policy.out_bias.copy_(torch.tensor([0.3, -0.2]))
    place = torch.rand(2, 1, 2, dtype=F64)
    moves = [policy.act(reading(panel, place, 2), policy.start(panel, 2, 1))[0] for panel in (sgd, adam)]
    assert torch.equal(*moves)
    with pytest.raises(KnobError, match="lr, momentum"):
        policy.start(Panel.of(["lr", "beta2"]), 2, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_per_member_are_policies_per_member(reading, member, kind):
    """With a leading B on its weights, member b moves as the policy that has those weights alone."""
    policies = [_taught(kind, seed) for seed in range(3)]
    stacked = {name: torch.stack([dict(p.named_parameters())[name] for p in policies]) for name, _ in
               policies[0].named_parameters()}  # fmt: skip
    sights = _readings(reading)
    together = _moves(policies[0], sights, stacked)
    for b, policy in enumerate(policies):
        alone = _moves(policy, [member(seen, b) for seen in sights])
        torch.testing.assert_close(together[:, b : b + 1], alone, rtol=0, atol=1e-13)
        assert alone.abs().max().item() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_weights_may_carry_a_gradient_under_func(reading, kind):
    """torch.func differentiates and vmaps through act_with; autograd reaches the parameters through act."""
    policy, sights = _taught(kind), _readings(reading, count=2)
    weights = {name: weight.detach() for name, weight in policy.named_parameters()}

    def total(w):
        return _moves(policy, sights, w).sum()

    grads = torch.func.grad(total)(weights)
    _moves(policy, sights).sum().backward()
    for name, weight in policy.named_parameters():
        torch.testing.assert_close(grads[name], weight.grad, rtol=1e-4, atol=1e-5)
    many = {name: torch.stack([w, 2 * w]) for name, w in weights.items()}
    totals = torch.func.vmap(total)(many)
    torch.testing.assert_close(totals[0], total(weights))


def test_a_calm_policy_reads_moving_means(reading):
    """After step 10 it decides on m = c m + (1 - c) f; clock, places and early steps are as they are."""
    policy, calm = _taught("mlp"), 0.75
    calmed = Policy({**policy.spec, "calm": calm})
    calmed.load_state_dict(policy.state_dict())
    rng = torch.Generator().manual_seed(1)
    place = torch.rand(3, 2, 2, generator=rng, dtype=F64)
    sights = [reading(PANEL, place, step, rng=rng) for step in (1, 7, 10, 20, 30, 40)]
    tells = torch.tensor([name.removeprefix("mean_") in RUN + SITE for name in policy.spec["features"]])
    assert 0 < tells.sum() < len(tells)
    read, expected = [], sights[0].features
    for n, seen in enumerate(sights):
        mean = seen.features if n < 3 else calm * expected + (1 - calm) * seen.features
        expected = torch.where(tells, mean, seen.features)
        read.append(replace(seen, features=expected))
    torch.testing.assert_close(_moves(calmed, sights), _moves(policy, read), rtol=0, atol=1e-14)
    assert not torch.allclose(_moves(calmed, sights)[-1], _moves(policy, sights)[-1])


def test_a_gru_is_torchs_cell(reading):
    """The recurrent kind is torch.nn.GRUCell and a linear layer, step after step."""
    policy, sights = _taught("gru"), _readings(reading)
    cell = torch.nn.GRUCell(len(policy.spec["features"]), 6, dtype=F64)
    names = {"weight_ih": "input_weight", "weight_hh": "memory_weight", "bias_ih": "input_bias",
             "bias_hh": "memory_bias"}  # fmt: skip
    with torch.no_grad():
        for theirs, ours in names.items():
            getattr(cell, theirs).copy_(getattr(policy, ours))
    memory, moves = torch.zeros(6, 6, dtype=F64), _moves(policy, sights)
    for n, seen in enumerate(sights):
        center, size = (torch.tensor(policy.spec[key], dtype=F64) for key in ("center", "size"))
        even = torch.asinh((seen.features - center) / size)
        memory = cell(even.reshape(6, -1), memory)
        expected = torch.tanh(memory @ policy.out_weight.double().T + policy.out_bias.double())
        torch.testing.assert_close(moves[n].reshape(6, 2), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_back_the_same_policy(reading, tmp_path, kind):
    """Saved and loaded, spec and weights are the same to the bit, and no other file is left behind."""
    policy, path = _taught(kind, reach=0.75), tmp_path / "policy.safetensors"
    policy.save(path)
    policy.save(path)
    loaded = Policy.load(path, features=Features(PANEL).names)
    assert loaded.spec == policy.spec == json.loads(json.dumps(policy.spec))
    for (name, weight), (other, read) in zip(policy.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(weight, read)
        assert read.requires_grad
    sights = _readings(reading)
    assert torch.equal(_moves(policy, sights), _moves(loaded, sights))
    assert [file.name for file in tmp_path.iterdir()] == ["policy.safetensors"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    """When the disk fails half way, the last policy is still whole and nothing else is left."""
    path = tmp_path / "policy.safetensors"
    _taught("mlp").save(path)
    before = path.read_bytes()

    def fail(_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        _taught("mlp", 1).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_told(tmp_path, share):
    """A file cut anywhere is a StateError that names it."""
    path = tmp_path / "policy.safetensors"
    _taught("mlp").save(path)
    blob = path.read_bytes()
    path.write_bytes(blob[: int(share * len(blob))])
    with pytest.raises(StateError, match=r"policy\.safetensors.* is damaged"):
        Policy.load(path)


def test_a_foreign_file_is_told(tmp_path):
    """Weights of something else, a broken spec and shapes that do not fit are StateErrors; no file is none."""
    path, policy = tmp_path / "other.safetensors", _taught("mlp")
    weights = {name: weight.detach() for name, weight in policy.named_parameters()}
    spec, hidden = policy.spec, json.dumps({**policy.spec, "hidden": 7})
    head = "trimtab-policy-2"
    cases = [
        ({"w": torch.zeros(2)}, None, "is no policy"),
        (weights, {"trimtab-policy-1": "{}"}, "is no policy of this version"),
        (weights, {head: "{"}, "no readable spec"),
        (weights, {head: "[]"}, "spec that does not hold"),
        (weights, {head: json.dumps({**spec, "kind": "oracle"})}, "spec that does not hold"),
        (weights, {head: hidden}, "its spec asks for"),
    ]
    for tensors, metadata, message in cases:
        save_file(tensors, path, metadata)
        with pytest.raises(StateError, match=message):
            Policy.load(path)
    with pytest.raises(FileNotFoundError):
        Policy.load(tmp_path / "none.safetensors")


def test_other_features_are_told(tmp_path, reading):
    """A policy of other features is refused by name at load and at start, one of another width when it acts."""
    policy = _taught("mlp")
    policy.save(tmp_path / "p")
    names = [*policy.spec["features"][1:], "moon_phase"]
    with pytest.raises(StateError, match=r"missing now: trend_fast; unknown to it: moon_phase"):
        Policy.load(tmp_path / "p", features=names)
    odd = Policy({**policy.spec, "features": names})
    with pytest.raises(StateError, match="moon_phase"):
        odd.start(PANEL, 1, 1)
    small = Policy({**policy.spec, "features": names[:3], "center": [0.0] * 3, "size": [1.0] * 3})
    with pytest.raises(SignalError, match="reads 3 features"):
        small.act(_readings(reading, count=1)[0], {})
    with pytest.raises(KnobError, match="lr, weight_decay"):
        policy.start(Panel.of(["lr"]), 1, 1)


def test_a_policy_for_averaged_runs_says_so(tmp_path):
    """It needs an average, by itself and with weights per member, and its file keeps that; other policies need none."""
    policy = Policy.for_panel(PANEL, 4, average=True)
    policy.save(tmp_path / "policy.safetensors")
    again = Policy.load(tmp_path / "policy.safetensors")
    stacked = {name: weight.detach()[None] for name, weight in again.named_parameters()}
    assert {"average"} == again.needs == Population(again, stacked).needs
    assert set() == Policy.for_panel(PANEL, 4).needs


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "lstm"}, "kind"), ({"hidden": 0}, "hidden"), ({"prior": "moon"}, "prior"), ({"reach": 1.5}, "reach"),
     ({"leap": 4.0}, "leap"), ({"calm": 1.0}, "calm"), ({"average": 1}, "average"), ({"size": [0.0]}, "size"),
     ({"knobs": []}, "knob"), ({"features": []}, "feature")],
)  # fmt: skip
def test_a_spec_that_does_not_hold_is_refused(change, message):
    """A spec outside its range is a KnobError that names the field."""
    with pytest.raises(KnobError, match=message):
        Policy({**_taught("mlp").spec, **change})
