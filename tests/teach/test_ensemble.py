"""Laws and oracles of the Q-ensemble: its learning is torch's, its votes turn down a slope, bad members lose theirs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trimtab
from trimtab.contracts import ControllerContract
from trimtab.controller import Controller
from trimtab.errors import KnobError
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import rollout
from trimtab.rules import SGD
from trimtab.stream import Stream
from trimtab.task import Batch
from trimtab.tasks import task_named
from trimtab.teach.brains import Brain, acted, fresh, improved, valued
from trimtab.teach.ensemble import QEnsemble, simplex

F64 = torch.float64
LR = Panel.of(["lr"])
PAIR = (Brain(), Brain(actor_lr=0.01, critic_lr=0.003, discount=0.5, blend=0.2))


class TestEnsembleController(ControllerContract):
    """The contract of controllers, learning from the third reading on."""

    @pytest.fixture
    def controller(self) -> Controller:
        """Give one that learns at once."""
        return QEnsemble(PAIR, batch=2, kept=4, updates=1)

    def alone(self, controller: Any, member: int) -> Controller:
        """Member b learns as a run of seed + b."""
        return replace(controller, seed=controller.seed + member)


def nets(members: int = 2) -> dict[str, Any]:
    """Draw networks of two brains, five features and two knobs."""
    drawn = [fresh(2, 5, 2, torch.Generator().manual_seed(seed)) for seed in range(members)]
    return {name: {key: torch.stack([d[name][key] for d in drawn]) for key in drawn[0][name]} for name in drawn[0]}


def moments(members: int = 2, count: int = 7) -> dict[str, Tensor]:
    """Draw moments."""
    rng = torch.Generator().manual_seed(5)
    shapes = {"seen": (5,), "next": (5,), "action": (2,), "reward": ()}
    return {name: torch.randn(members, count, *shape, generator=rng, dtype=F64) for name, shape in shapes.items()}


def module(net: dict[str, Tensor], member: int, brain: int) -> nn.Sequential:
    """Give one network as a module of torch's."""
    made = nn.Sequential(
        nn.Linear(net["in_weight"].shape[-1], net["in_weight"].shape[-2]),
        nn.Tanh(),
        nn.Linear(net["out_weight"].shape[-1], net["out_weight"].shape[-2]),
    ).double()
    with torch.no_grad():
        for p, key in zip(made.parameters(), ("in_weight", "in_bias", "out_weight", "out_bias"), strict=True):
            p.copy_(net[key][member, brain])
    return made


def test_learning_is_what_torch_would_do() -> None:
    """Three updates of each of four actor-critics equal a plain loop of modules and torch.optim.Adam."""
    state, batch = nets(), moments()
    after = state
    for number in range(3):
        after = improved(after, PAIR, batch, torch.full((2,), number))
    for b in range(2):
        for m, brain in enumerate(PAIR):
            actor, critic, slow_actor, slow_critic = (
                module(state[name], b, m) for name in ("actor", "critic", "actor_target", "critic_target")
            )
            steps = [
                torch.optim.Adam(actor.parameters(), brain.actor_lr),
                torch.optim.Adam(critic.parameters(), brain.critic_lr),
            ]
            seen, following, action, reward = (batch[name][b] for name in ("seen", "next", "action", "reward"))
            for _ in range(3):
                with torch.no_grad():
                    ahead = torch.tanh(slow_actor(following))
                    wanted = reward + brain.discount * slow_critic(torch.cat([following, ahead], -1))[:, 0]
                worth = -critic(torch.cat([seen, torch.tanh(actor(seen))], -1)).mean()
                actor_slopes = torch.autograd.grad(worth, list(actor.parameters()))
                loss = (critic(torch.cat([seen, action], -1))[:, 0] - wanted).square().mean()
                critic_slopes = torch.autograd.grad(loss, list(critic.parameters()))
                pairs = ((actor, slow_actor, actor_slopes), (critic, slow_critic, critic_slopes))
                for optimizer, (fast, slow, slopes) in zip(steps, pairs, strict=True):
                    for p, slope in zip(fast.parameters(), slopes, strict=True):
                        p.grad = slope
                    optimizer.step()
                    with torch.no_grad():
                        for p, q in zip(slow.parameters(), fast.parameters(), strict=True):
                            p.add_(brain.blend * (q - p))
            for name, twin in (("actor", actor), ("critic", critic), ("critic_target", slow_critic)):
                for p, key in zip(twin.parameters(), ("in_weight", "in_bias", "out_weight", "out_bias"), strict=True):
                    torch.testing.assert_close(after[name][key][b, m], p.detach(), rtol=1e-9, atol=1e-12)


def test_networks_are_their_modules() -> None:
    """Actions and values, of shared moments and of each brain's own, are what the modules give."""
    state, batch = nets(), moments()
    actions = acted(state["actor"], batch["seen"])
    values = valued(state["critic"], batch["seen"], actions[:, 1])
    expected = torch.tanh(module(state["actor"], 1, 0)(batch["seen"][1]))
    torch.testing.assert_close(actions[1, 0], expected, rtol=1e-12, atol=1e-12)
    pair = torch.cat([batch["seen"][1], actions[1, 1]], -1)
    torch.testing.assert_close(values[1, 0], module(state["critic"], 1, 0)(pair)[:, 0], rtol=1e-12, atol=1e-12)


def test_votes_turn_down_the_slope_of_the_squared_difference() -> None:
    """A small step of the votes is along the finite differences of mean delta squared, at the same action ahead."""
    ensemble = QEnsemble(PAIR, rate=1e-6, discount=0.7)
    state, batch, votes = nets(), moments(), torch.tensor([[0.4, 0.6], [0.7, 0.3]], dtype=F64)
    ahead = ensemble._chosen(state, votes, batch["next"])

    def squared(w: Tensor) -> Tensor:
        values = valued(state["critic"], batch["seen"], batch["action"])
        future = valued(state["critic_target"], batch["next"], ahead)
        delta = batch["reward"] + (w[..., None] * (0.7 * future - values)).sum(1)
        return delta.square().mean(-1)

    nudges = torch.eye(2, dtype=F64) * 1e-6
    slope = torch.stack([(squared(votes + n) - squared(votes - n)) / 2e-6 for n in nudges], -1)
    step = ensemble._weighed(state, votes, batch) - votes
    expected = -1e-6 * slope / slope.norm(dim=1, keepdim=True)
    expected = expected - expected.mean(1, keepdim=True)  # inside the simplex the nearest point takes the mean off
    torch.testing.assert_close(step, expected, rtol=1e-5, atol=1e-13)


def test_the_simplex_is_met_at_its_nearest_point() -> None:
    """What lies in it stays; else the point is nearer than any of many others; far out it is a corner."""
    inside = torch.tensor([[0.2, 0.3, 0.5]], dtype=F64)
    torch.testing.assert_close(simplex(inside), inside, rtol=1e-12, atol=1e-12)
    assert [[0.0, 1.0, 0.0]] == simplex(torch.tensor([[0.0, 9.0, 0.0]], dtype=F64)).tolist()
    rng = torch.Generator().manual_seed(0)
    outside = torch.randn(20, 3, generator=rng, dtype=F64)
    found = simplex(outside)
    torch.testing.assert_close(found.sum(1), torch.ones(20, dtype=F64), rtol=1e-12, atol=1e-12)
    others = torch.rand(5000, 3, generator=rng, dtype=F64)
    others = others / others.sum(1, keepdim=True)
    nearest = (others - outside[:, None]).norm(dim=-1).min(1).values
    assert bool(((found - outside).norm(dim=1) <= nearest).all())
    assert bool((found >= 0).all())


def test_the_vote_is_the_weighed_sum_of_softmaxes() -> None:
    """With one vote alone its own favourite wins; a critic that is no number leaves the choice to the others."""
    ensemble, state, batch = QEnsemble(PAIR), nets(1), moments(1)
    candidates = acted(state["actor"], batch["seen"])
    for brain in range(2):
        votes = torch.eye(2, dtype=F64)[brain][None]
        each = torch.stack([valued(state["critic"], batch["seen"], candidates[:, j])[:, brain] for j in range(2)], -1)
        favourite = candidates[0, each[0].argmax(-1), torch.arange(7)]
        assert torch.equal(favourite, ensemble._chosen(state, votes, batch["seen"])[0])
    sick = {**state, "critic": {key: value.clone() for key, value in state["critic"].items()}}
    sick["critic"]["out_bias"][:, 0] = torch.nan
    half = torch.full((1, 2), 0.5, dtype=F64)
    other = torch.tensor([[0.0, 1.0]], dtype=F64)
    assert torch.equal(ensemble._chosen(sick, half, batch["seen"]), ensemble._chosen(state, other, batch["seen"]))


def test_a_live_run_learns_what_a_simulated_one_learns() -> None:
    """Attached to torch.optim it moves the rate as in the plant, networks and votes included (float64)."""
    task, ensemble = task_named("digits-mlp-v1"), QEnsemble(PAIR, "constant", batch=4, kept=16)
    plant = Plant(task, SGD(), LR, dtype=F64)
    start = torch.full((1, 1, 1), 0.05, dtype=F64)
    done = rollout(plant, ensemble, start, seeds=[3], steps=100, horizon=100)
    model = task.build(3).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    pilot = trimtab.attach(optimizer, ensemble, horizon=100, guard=False)
    stream = Stream(task, [3], dtype=F64)
    for _ in range(100):
        batch = stream.next()
        loss = task.loss(model, Batch(batch.x[0], batch.y[0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    mind = pilot.state_dict()["helm"]["mind"]
    assert int(mind["updates"]) > 0
    torch.testing.assert_close(mind["votes"], done.state["mind"]["votes"], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(done.state["values"][0, 0, 0].item(), pilot.get_last_lr()[0], rtol=1e-7, atol=1e-12)


def test_what_was_learned_goes_on_in_the_next_run() -> None:
    """The next run begins with networks, votes and replay, and does not take the gap between runs for a moment."""
    plant, ensemble = Plant(task_named("quadratic-v1"), SGD(), LR), QEnsemble(PAIR, batch=4)
    start = torch.full((2, 1, 1), 0.002, dtype=F64)
    one = rollout(plant, ensemble, start, seeds=[3, 4], steps=60, horizon=60).state["mind"]
    following = ensemble.after(one)
    two = rollout(plant, following, start, seeds=[5, 6], steps=60, horizon=60).state["mind"]
    per_run = len([1, 2, 4, 7, 10, 20, 30, 40, 50, 60]) - 1
    assert [per_run] * 2 == one["moments"].tolist()
    assert [2 * per_run] * 2 == two["moments"].tolist()
    assert bool((two["updates"] > one["updates"]).all())
    still = ensemble.after(two, noise=0.0, updates=0)
    three = rollout(plant, still, start, seeds=[5, 6], steps=60, horizon=60).state["mind"]
    assert torch.equal(two["votes"], three["votes"])
    with pytest.raises(KnobError, match="learned in 2 runs, not in 1"):
        rollout(plant, still, start[:1], seeds=[5], steps=10, horizon=10)


@pytest.mark.slow
def test_members_whose_values_are_wrong_lose_their_votes() -> None:
    """Beside critics that explode, never learn or follow no target, the good one's vote grows to be the largest."""
    bad = (Brain(critic_lr=3.0), Brain(critic_lr=0.0, actor_lr=1.0), Brain(critic_lr=1.0, actor_lr=1.0, blend=1.0))
    plant, controller = Plant(task_named("quadratic-v1"), SGD(momentum=0.9), LR), QEnsemble((*bad, Brain()))
    state: Any = None
    for run in range(12):
        start = torch.logspace(-3, -1, 4, dtype=F64)[:, None, None]
        seeds = [10 * run + b for b in range(4)]
        state = rollout(plant, controller, start, seeds=seeds, steps=100, horizon=100, guard=trimtab.Guard()).state[
            "mind"
        ]
        controller = controller.after(state)
    assert int(state["votes"].mean(0).argmax()) == 3
    assert float(state["votes"].mean(0)[3]) > 0.5


def test_settings_that_do_not_hold_are_refused() -> None:
    """No brain, rates below 0, unknown schedules."""
    with pytest.raises(KnobError, match="needs a brain"):
        QEnsemble(())
    with pytest.raises(KnobError, match="prior_name"):
        QEnsemble(PAIR, prior_name="cosin")
    with pytest.raises(KnobError, match="finite rates"):
        Brain(actor_lr=-1.0)
