"""Oracles of value gradients: a linear system with Gaussian noise, whose worth, slope and best gain are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from trimtab.controllers import Policy
from trimtab.env import Setting
from trimtab.errors import SignalError, TaskError
from trimtab.knobs import Panel
from trimtab.tasks import task_named
from trimtab.teach.genome import Genome
from trimtab.teach.surrogate import Log, Surrogate, errors
from trimtab.teach.svg import Sketched, ValueGradients, collected, pieces, practised_by_model, taught_from
from trimtab.teach.value import worth

F64 = torch.float64
A, B, SIGMA, PRICE, MOVES = 0.9, 0.5, 0.3, 0.1, 6  # s' = A s + B a + SIGMA xi, reward -(s^2 + PRICE a^2)


class Linear:
    """The system itself as a model of one network; its reward is known exactly."""

    def __call__(self, seen: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Give mean and deviation."""
        reward = -(seen.square() + PRICE * action.square())
        mean = torch.cat([A * seen + B * action, reward], -1)
        return mean, torch.tensor([SIGMA, 1e-9], dtype=F64).expand_as(mean)

    def inferred(self, log: Log) -> Tensor:
        """Give the noise behind a log, the reward's none."""
        noise = (log.seen[:, 1:] - A * log.seen[:, :-1] - B * log.action) / SIGMA
        return torch.cat([noise, torch.zeros_like(noise)], -1)[None]


class Gain(nn.Module):
    """The policy ``a = k s``."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(gain, dtype=F64))

    def forward(self, seen: Tensor) -> Tensor:
        """Act."""
        return self.k * seen


def played(gain: float, runs: int, seed: int = 0, tries: float = 0.0, moves: int = MOVES) -> Log:
    """Log runs of the system from N(0, 1)."""
    rng = torch.Generator().manual_seed(seed)
    seen = [torch.randn(runs, 1, generator=rng, dtype=F64)]
    actions, rewards = [], []
    for _ in range(moves):
        action = gain * seen[-1] + tries * torch.randn(runs, 1, generator=rng, dtype=F64)
        actions.append(action)
        rewards.append(-(seen[-1].square() + PRICE * action.square())[:, 0])
        seen.append(A * seen[-1] + B * action + SIGMA * torch.randn(runs, 1, generator=rng, dtype=F64))
    known = torch.ones(runs, moves, dtype=torch.bool)
    return Log(torch.stack(seen, 1), torch.stack(actions, 1), torch.stack(rewards, 1), known)


def expected(gain: float, discount: float = 1.0) -> float:
    """Give the exact expected worth: second moments follow ``m' = (A + B k)^2 m + SIGMA^2`` from 1."""
    moment, total = 1.0, 0.0
    for move in range(MOVES):
        total -= discount**move * (1 + PRICE * gain**2) * moment
        moment = (A + B * gain) ** 2 * moment + SIGMA**2
    return total


def test_the_logged_worth_comes_back_under_the_logged_policy() -> None:
    """With inferred noise and the policy that made the log, the model gives the log's own rewards."""
    log = played(-0.4, 50)
    assert pytest.approx(float(log.reward.sum(1).mean()), abs=1e-10) == float(worth(Linear(), Gain(-0.4), log).detach())


@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_the_slope_is_the_closed_form(discount: float) -> None:
    """Through logs of *another* policy, worth and slope by the gain are those of the exact expectation."""
    log, actor = played(0.1, 200_000, tries=0.5), Gain(-0.5)
    value = worth(Linear(), actor, log, discount=discount)
    (slope,) = torch.autograd.grad(value, actor.k)
    assert pytest.approx(expected(-0.5, discount), rel=0.01) == float(value.detach())
    exact = (expected(-0.5 + 1e-5, discount) - expected(-0.5 - 1e-5, discount)) / 2e-5
    assert pytest.approx(exact, rel=0.02) == float(slope)


def test_the_slope_is_finite_differences_along_the_same_noise() -> None:
    """To rounding, on few runs, some of which end early."""
    log = played(0.1, 5)
    log.known[2:, 4:] = False
    actor = Gain(-0.3)
    (slope,) = torch.autograd.grad(worth(Linear(), actor, log), actor.k)
    high, low = (float(worth(Linear(), Gain(-0.3 + nudge), log).detach()) for nudge in (1e-6, -1e-6))
    assert pytest.approx((high - low) / 2e-6, rel=1e-7) == float(slope)


def test_what_was_not_made_earns_nothing() -> None:
    """Moves after a run's end neither earn nor change anything."""
    log = played(-0.4, 5)
    short = Log(log.seen[:, :4], log.action[:, :3], log.reward[:, :3], log.known[:, :3])
    cut = replace(log, known=log.known.clone())
    cut.known[:, 3:] = False
    torch.testing.assert_close(worth(Linear(), Gain(-0.2), cut), worth(Linear(), Gain(-0.2), short))


def test_climbing_ends_at_the_best_gain() -> None:
    """From 0, through logs of random moves, Adam comes to the gain that the exact expectation has for its best."""
    gains = torch.linspace(-2, 0, 2001, dtype=F64)
    best = float(gains[torch.tensor([expected(float(gain)) for gain in gains]).argmax()])
    actor = Gain(0.0)
    climb = ValueGradients(length=MOVES, steps=300, batch=512, rate=0.02)
    climb.improve(Linear(), actor, played(0.0, 4000, tries=0.7), torch.Generator().manual_seed(0))
    assert pytest.approx(best, abs=0.05) == float(actor.k.detach())


@pytest.fixture(scope="module")
def fitted() -> Surrogate:
    """Fit an ensemble to the system."""
    made = Surrogate(1, 1, torch.Generator().manual_seed(0), networks=3)
    made.fit(played(0.0, 1500, seed=1, tries=0.7), 1000, rate=5e-3)
    return made


@pytest.mark.slow
def test_a_fitted_surrogate_is_the_system(fitted: Surrogate) -> None:
    """It finds mean and noise of the system; its errors on other logs are near those of the best predictor."""
    grid = torch.linspace(-1, 1, 9, dtype=F64)[:, None]
    action = torch.full_like(grid, 0.3)
    with torch.no_grad():
        mean, deviation = fitted(grid, action)
    torch.testing.assert_close(mean.mean(0)[:, :1], A * grid + B * action, rtol=0, atol=0.08)
    assert pytest.approx(SIGMA, rel=0.15) == float(deviation[..., 0].mean())
    held = played(0.0, 400, seed=2, tries=0.7)
    told = errors(fitted, held, ahead=(1, 4))
    change = (held.seen[:, 1:] - held.seen[:, :-1]).std()
    assert pytest.approx(float(SIGMA / change), rel=0.08) == told["features_1"]
    assert told["features_4"] < told["still_4"]
    assert told["reward_1"] < 0.25
    assert 0.6 < told["inside"] < 0.8


@pytest.mark.slow
def test_inferred_noise_gives_the_log_back(fitted: Surrogate) -> None:
    """Rolled out under the logged moves, each network meets the logged features and rewards."""
    log = played(0.0, 20, seed=3, tries=0.7)
    moves = iter(range(MOVES))
    value = worth(fitted, lambda seen: log.action[:, next(moves)].expand(3, -1, -1), log)
    assert pytest.approx(float(log.reward.sum(1).mean()), abs=1e-9) == float(value.detach())


@pytest.mark.slow
def test_value_gradients_in_a_fitted_model_find_the_gain(fitted: Surrogate) -> None:
    """From logs alone, the model learned: the gain is near the best of the exact expectation, and better by it."""
    actor = Gain(0.0)
    log = played(0.0, 600, seed=1, tries=0.7)
    ValueGradients(length=MOVES, steps=200, batch=128, rate=0.02).improve(
        fitted, actor, log, torch.Generator().manual_seed(0)
    )
    gains = torch.linspace(-2, 0, 401, dtype=F64)
    most = max(expected(float(gain)) for gain in gains)
    assert expected(float(actor.k.detach())) > most - 0.1 * (most - expected(0.0))


def test_a_penalty_counts_where_networks_disagree() -> None:
    """Networks that agree cost nothing; untrained ones do, and more by a larger penalty."""
    log = played(0.0, 20)
    assert torch.equal(worth(Linear(), Gain(-0.1), log), worth(Linear(), Gain(-0.1), log, penalty=3.0))
    raw = Surrogate(1, 1, torch.Generator().manual_seed(1))
    values = [float(worth(raw, Gain(-0.1), log, penalty=penalty).detach()) for penalty in (0.0, 1.0, 2.0)]
    assert values[0] > values[1] > values[2]
    assert pytest.approx(values[0] - values[1], rel=1e-9) == values[1] - values[2]


def test_pieces_are_cut_out_of_runs() -> None:
    """Each is a run's own stretch, features and moves belonging together."""
    log = played(0.0, 8, tries=1.0)
    cut = pieces(log, 30, 4, torch.Generator().manual_seed(0))
    assert (30, 5, 1) == tuple(cut.seen.shape)
    noise = Linear().inferred(cut)
    whole = Linear().inferred(log)[0, ..., 0].flatten()
    assert all(bool((whole - value).abs().min() < 1e-12) for value in noise[0, ..., 0].flatten())
    assert (3, 7, 1) == tuple(pieces(log, 3, 99, torch.Generator().manual_seed(0)).seen.shape)


def genome() -> Genome:
    """Give the form of a small policy."""
    return Genome(Policy.for_panel(Panel.of(["lr"]), 8, prior="hold").spec, ("*", "!mean_*", "!rank_*"))


def test_a_sketch_is_its_policy() -> None:
    """It acts as the policy does, and gives it back."""
    form = genome()
    policy = form.policy(torch.randn(form.size, generator=torch.Generator().manual_seed(0), dtype=F64) / 4)
    sketch = Sketched(policy, form)
    setting = Setting(task_named("quadratic-v1"), prior="hold", horizon=20, dtype="float64")
    log = collected(setting, sketch, form, [101, 102], torch.Generator(), 0.0)
    pause = setting.episodes(2)
    setting.begin(pause, [0, 1], [101, 102])
    seen = pause._waiting[0][1].seen
    torch.testing.assert_close(3 * log.action[:, 0], policy.act(seen, {})[0][:, 0].detach(), rtol=1e-9, atol=1e-9)
    pairs = zip(policy.named_parameters(), sketch.policy().named_parameters(), strict=True)
    assert all(torch.equal(one, two) for (_, one), (_, two) in pairs)


@pytest.mark.slow
def test_a_policy_learns_beside_the_runs_it_controls() -> None:
    """Within 700 moves it earns more on held-out bowls than no move, and its surrogate knows more than no change."""
    form, setting = genome(), Setting(task_named("quadratic-v1"), prior="hold", horizon=40)
    policy, surrogate, log = practised_by_model(setting, form, 700, members=16, gradients=ValueGradients(length=7))

    def earned(policy: Policy) -> float:
        played = collected(setting, Sketched(policy, form), form, list(range(24)), torch.Generator(), 0.0)
        return float(played.reward.sum(1).mean())

    still = earned(form.policy(form.untaught()))
    assert earned(policy) > still + 0.2
    told = errors(surrogate, log, (1,))
    assert told["features_1"] < told["still_1"]


@pytest.mark.slow
def test_a_policy_is_taught_from_a_log_of_random_moves() -> None:
    """From 192 logged runs alone, none of them its own, it earns more on held-out bowls than no move."""
    form, setting = genome(), Setting(task_named("quadratic-v1"), prior="hold")
    still = Sketched(form.policy(form.untaught()), form)
    rng = torch.Generator().manual_seed(0)
    log = collected(setting, still, form, list(range(1000, 1192)), rng, 0.4)
    policy, _ = taught_from(log, form, ValueGradients(length=12, steps=60), fits=800)
    held = replace(setting, instances="held-out")
    earned = [
        float(collected(held, actor, form, list(range(24)), rng, 0.0).reward.sum(1).mean())
        for actor in (still, Sketched(policy, form))
    ]
    assert earned[1] > earned[0] + 0.3


def test_what_does_not_hold_is_refused() -> None:
    """Shapes that do not belong together, too few runs, settings out of range."""
    log = played(0.0, 3)
    with pytest.raises(TaskError, match=r"without memory .*calm 0\.5"):
        Sketched(calm := Policy.for_panel(Panel.of(["lr"]), 4, calm=0.5), Genome(calm.spec))
    with pytest.raises(SignalError, match="A log is"):
        Log(log.seen[:, 1:], log.action, log.reward, log.known)
    with pytest.raises(TaskError, match="at least two runs"):
        Surrogate(1, 1, torch.Generator()).fit(log.picked(torch.tensor([0])), 1)
    with pytest.raises(TaskError, match="penalty >= 0"):
        ValueGradients(penalty=-1.0)
