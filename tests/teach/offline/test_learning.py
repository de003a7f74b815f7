"""Oracles of offline teaching: problems whose answers are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from trimtab.controllers.policy import Policy
from trimtab.controllers.spec import Spec
from trimtab.errors import TaskError, TraceError
from trimtab.teach.genome import Genome
from trimtab.teach.offline.cloning import cloned
from trimtab.teach.offline.episode import Episode
from trimtab.teach.offline.iql import ImplicitQLearning, expectile_loss
from trimtab.teach.offline.transitions import Transitions
from trimtab.trace import Header

pytestmark = pytest.mark.slow
HEADER = Header(("lr",), ("run",), "made up", {})


def genome(wide: int, hidden: int = 16, **changes: Any) -> Genome:
    """Give the form of a policy that reads so many numbers as they are (asinh of a hundredth is linear)."""
    spec = Spec(
        features=[f"number{n}" for n in range(wide)],
        center=[0.0] * wide,
        size=[1.0] * wide,
        knobs=["lr"],
        hidden=hidden,
        kind="mlp",
        prior="constant",
        reach=1.0,
        leap=1.0,
        calm=0.0,
        average=False,
    )
    return Genome(Spec(**(spec | changes)))


def rows(seen: torch.Tensor, shares: torch.Tensor, rewards: torch.Tensor, then: Any = None, on: Any = None) -> Any:
    """Make transitions; without a next state, each is an episode of its own."""
    count = len(seen)
    then, on = (seen, torch.zeros(count)) if then is None else (then, on)
    return Transitions(seen.float(), shares.float()[:, None], rewards.float(), then.float(), on.float(), rewards)


def answers(policy: Policy, seen: torch.Tensor) -> torch.Tensor:
    """Give a policy's shares, ``[N]``."""
    with torch.no_grad():
        return policy.shares(dict(policy.named_parameters()), seen.float()[None], {})[0][0, :, 0]


def test_cloning_recovers_a_linear_policy() -> None:
    """On states it was not taught on, moves are the linear policy's, to three hundredths."""
    rng = torch.Generator().manual_seed(0)
    seen, fresh = (torch.rand(count, 3, generator=rng) - 0.5 for count in (2000, 500))
    law = torch.tensor([0.6, -0.3, 0.1])
    policy = cloned(genome(3), rows(seen, seen @ law, torch.zeros(2000)), steps=1000, rate=1e-2)
    assert float((answers(policy, fresh) - fresh @ law).abs().max()) < 0.03
    assert float((fresh @ law).abs().max()) > 0.4


@pytest.mark.parametrize("temperature", [math.inf, 0.5])
def test_cloning_weighs_runs_by_what_they_were_worth(temperature: float) -> None:
    """Where two runs moved differently in the same place, the policy's move is their weighted mean."""
    shares, worth = torch.tensor([0.5, -0.5]).repeat(100), torch.tensor([1.0, 0.0]).repeat(100)
    policy = cloned(genome(1), rows(torch.zeros(200, 1), shares, worth), temperature=temperature, steps=500, rate=1e-2)
    score = (worth[:2] - worth.mean()) / worth.std()
    weights = (score / temperature).exp()
    expected = float((weights * shares[:2]).sum() / weights.sum())
    assert expected == pytest.approx(float(answers(policy, torch.zeros(1, 1))), abs=0.03)


def test_an_expectile_is_what_makes_its_loss_least() -> None:
    """Of 0 and 1 it is the expectile itself: ``τ (1 - v) = (1 - τ) v``."""
    for expectile in (0.125, 0.5, 0.875):
        v = torch.tensor(expectile, dtype=torch.float64, requires_grad=True)
        expectile_loss(torch.tensor([0.0, 1.0], dtype=torch.float64) - v, expectile).backward()
        assert v.grad is not None
        assert float(v.grad) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_the_value_of_a_single_choice_is_the_expectile_of_its_rewards(expectile: float) -> None:
    """One state, three moves worth 0, 1 and 3, as often each: ``Σ |τ - 1(r < v)| (r - v) = 0``."""
    shares, rewards = torch.tensor([-0.5, 0.0, 0.5]).repeat(100), torch.tensor([0.0, 1.0, 3.0]).repeat(100)
    _, critics = ImplicitQLearning(expectile, steps=800, hidden=32, rate=3e-3, follows=0.02).taught(
        genome(1), rows(torch.zeros(300, 1), shares, rewards)
    )
    low, high = 0.0, 3.0
    for _ in range(60):  # the sum falls as v rises
        v = (low + high) / 2
        total = sum((expectile if r > v else 1 - expectile) * (r - v) for r in (0.0, 1.0, 3.0))
        low, high = (v, high) if total > 0 else (low, v)
    with torch.no_grad():
        assert v == pytest.approx(float(critics.v(torch.zeros(1, 1))), abs=0.05)


def chain(count: int = 4000) -> tuple[Any, torch.Tensor]:
    """Give moves of a walker on four places and the values of walking on so, ``[4, 2]``, by solving a linear system.

    A move of 0.5 goes right, -0.5 stays; right from the last place is the end and earns 1, every other move costs 0.1;
    what comes counts nine tenths. The walker goes right three times in four.
    """
    rng = torch.Generator().manual_seed(1)
    place = torch.randint(4, (count,), generator=rng)
    right = torch.rand(count, generator=rng) < 0.75
    is_end = right & (place == 3)
    after = torch.where(right, place + 1, place).clamp(max=3)
    eye = torch.eye(4)
    reward = torch.where(is_end, 1.0, -0.1)
    made = rows(eye[place], torch.where(right, 0.5, -0.5), reward, eye[after], (~is_end).float())
    # v = 0.75 (r + 0.9 v_next) + 0.25 (r + 0.9 v)
    walk = torch.zeros(4, 4)
    for n in range(4):
        walk[n, n] += 0.25
        if n < 3:
            walk[n, n + 1] += 0.75
    gain = torch.tensor([-0.1, -0.1, -0.1, 0.75 - 0.025])
    v = torch.linalg.solve(eye - 0.9 * walk, gain)
    stay, go = -0.1 + 0.9 * v, torch.cat([-0.1 + 0.9 * v[1:], torch.ones(1)])
    return made, torch.stack([stay, go], -1)


def test_at_the_mean_the_q_is_bellmans_of_what_was_done() -> None:
    """With an expectile of a half, Q is the value of going on as before, by a linear system, on each place and move."""
    made, expected = chain()
    _, critics = ImplicitQLearning(0.5, discount=0.9, steps=1500, rate=3e-3, follows=0.02).taught(genome(4), made)
    with torch.no_grad():
        found = torch.stack([critics.q(torch.eye(4), torch.full((4, 1), a)).mean(-1) for a in (-0.5, 0.5)], -1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
    assert float((expected[:, 1] - expected[:, 0]).min()) > 0.15


def test_implicit_q_learning_beats_what_was_done() -> None:
    """A place on a line that moves push, ``s' = s + a / 2``, rewarded ``-s'²``: the best goes to 0, the data roam."""
    rng = torch.Generator().manual_seed(2)
    place, push = (2 * torch.rand(6000, generator=rng) - 1 for _ in range(2))
    after = place + 0.5 * push
    made = rows(place[:, None], push, -after.square(), after[:, None], torch.zeros(6000))
    policy, _ = ImplicitQLearning(0.8, beta=4.0, steps=1000, rate=3e-3).taught(genome(1), made)
    test = torch.linspace(-0.9, 0.9, 50)[:, None]
    left = (test[:, 0] + 0.5 * answers(policy, test)).square().mean()
    assert float(left) < 0.09
    assert float(after.square().mean()) > 0.35  # what was done; no move: 0.27; the best within reach: 0.013


def test_without_advantages_it_is_cloning() -> None:
    """``β = 0`` weighs all alike: moves are the mean of what was done."""
    shares = torch.tensor([0.6, -0.2]).repeat(100)
    made = rows(torch.zeros(200, 1), shares, shares)
    policy, _ = ImplicitQLearning(beta=0.0, steps=500, rate=3e-3).taught(genome(1), made)
    assert float(answers(policy, torch.zeros(1, 1))) == pytest.approx(0.2, abs=0.03)


def test_the_same_seed_teaches_the_same_policy() -> None:
    """To the bit, whatever the global generator; another seed another one."""
    made, _ = chain(200)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(found))
        policy, _ = ImplicitQLearning(steps=20, seed=seed).taught(genome(4), made)
        found.append(torch.cat([weight.flatten() for weight in policy.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_features_that_are_left_out_weigh_nothing() -> None:
    """A policy's weights on them stay 0, and its others can go on learning."""
    made, _ = chain(100)
    form = Genome(genome(4).spec, ("number0", "number1"))
    for policy in (cloned(form, made, steps=20), ImplicitQLearning(steps=20).taught(form, made)[0]):
        weight = policy.get_parameter("hidden_weight")
        assert weight.requires_grad
        assert 0 == int(weight[:, 2:].count_nonzero())
        assert 0 < int(weight[:, :2].count_nonzero())
        assert not torch.equal(policy.get_parameter("out_weight"), Policy(form.spec).get_parameter("out_weight"))


def episode(count: int, end: Any, sites: int = 1) -> Episode:
    """Make an episode of random moves; early ones may leap."""
    rng = torch.Generator().manual_seed(count)
    features, moves = (
        torch.randn(count + n, sites, size, generator=rng, dtype=torch.float64) for n, size in ((1, 3), (0, 1))
    )
    steps = torch.tensor([1, 2, 4, 7, *range(10, 10 * count, 10)])[: count + 1]
    return Episode(features, moves, torch.arange(count, dtype=torch.float64), steps, end, HEADER)


def test_rows_are_decisions_and_sites() -> None:
    """Moves as shares of the longest then, features before and after, one reward at all sites, what has a future."""
    runs = [episode(20, "horizon", 2), episode(15, "cut"), episode(10, "gave up")]
    made = Transitions.of(runs, genome(3, reach=0.5, leap=2.0).spec)
    assert 65 == len(made)
    assert torch.equal(made.seen[:40].double(), runs[0].features[:-1].flatten(0, 1).float().double())
    assert torch.equal(made.then[40:55], runs[1].features[1:, 0].float())
    assert torch.equal(made.rewards[:40], torch.arange(20.0).repeat_interleave(2))
    assert [0, 0, 1, 0] == [int(made.goes_on[n]) for n in (38, 39, 54, 64)]
    assert {190.0, 105.0, 45.0} == set(made.worth.tolist())
    longest = torch.tensor([1.0] * 5 + [0.5] * 10, dtype=torch.float64)  # steps 1, 2, 4, 7 and 10 are early
    expected = (runs[1].moves[:, 0, 0] / longest).clamp(-1, 1).float()
    assert torch.equal(made.shares[40:55, 0], expected)


def test_too_few_rows_are_refused() -> None:
    """What a handful of moves teaches is noise."""
    with pytest.raises(TraceError, match=r"2 recorded runs hold 20 moves in all, too few .* at least 32"):
        Transitions.of([episode(10, "cut")] * 2, genome(3).spec)


def test_settings_that_cannot_teach_are_refused() -> None:
    """Each names its law and what was given."""
    made, _ = chain(40)
    for settings in ({"expectile": 1.0}, {"beta": -1.0}, {"discount": 1.1}, {"hidden": 0}, {"follows": 0.0}):
        with pytest.raises(TaskError, match="needs `0 < expectile < 1`"):
            ImplicitQLearning(**settings)
    with pytest.raises(TaskError, match="temperature > 0"):
        cloned(genome(4), made, temperature=0.0)
    with pytest.raises(TaskError, match="rate > 0` and `steps >= 1"):
        cloned(genome(4), made, steps=0)
    for form, memory in (({"kind": "gru"}, "kind 'gru'"), ({"calm": 0.5}, "calm 0.5")):
        with pytest.raises(TaskError, match=f"without memory .*got {memory}"):
            cloned(genome(4, **form), made)
