"""Laws of episodes: they are rollouts whose moves come from outside, whoever is beside them."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.controllers import Policy
from trimtab.env.episodes import Episodes, Turn
from trimtab.env.reward import Reward
from trimtab.errors import KnobError, OrderError, SignalError, StateError, TaskError
from trimtab.guard import Guard
from trimtab.knobs import EARLY_STEPS, Panel
from trimtab.plant import Plant
from trimtab.rollout import rollout
from trimtab.rules import SGD, AdamW, Rule
from trimtab.signals import Observation
from trimtab.sites import sites_of
from trimtab.tasks import task_named

LR = Panel.of(["lr"])
SEEDS = (3, 4, 5)
HORIZON, LONG = 60, 120
F64 = torch.float64


def plant(rule: Rule | None = None, by: str = "run", every: int = 10) -> Plant:
    """Plant digits, float64."""
    task = task_named("digits-mlp-v1")
    sites = None if by == "run" else sites_of(task.build(0), by)
    return Plant(task, rule or AdamW(), LR, sites=sites, dtype=F64, every=every)


def values(of: Plant, *lrs: float) -> Tensor:
    """Give ``[B, S, 1]`` learning rates."""
    return torch.tensor(lrs, dtype=F64)[:, None, None].expand(-1, len(of.sites), -1).clone()


def wilful(leap: float) -> Policy:
    """Make a policy that moves a lot."""
    policy = Policy.for_panel(LR, hidden=8, prior="hold", leap=leap, rng=torch.Generator().manual_seed(1))
    with torch.no_grad():
        policy.out_weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))  # type: ignore[operator]
    return policy


def asked(policy: Policy, episodes: Episodes, leap: float) -> Tensor:
    """Give the actions that a policy without memory would take."""
    seen = {place: (squad, pause, n) for squad, pause in episodes._waiting for n, place in enumerate(squad.places)}
    actions = torch.zeros(episodes.members, len(episodes.plant.sites), 1, dtype=F64)
    for place, (_, pause, n) in seen.items():
        whole: Observation = pause.seen
        move = policy.act(whole, {})[0][n].detach()
        actions[place] = move / (leap if int(whole.signals.step[n]) <= EARLY_STEPS else 1.0)
    return actions


def played(episodes: Episodes, policy: Policy, leap: float, turns: int) -> list[Turn]:
    """Let a policy play."""
    return [episodes.step(asked(policy, episodes, leap)) for _ in range(turns)]


@pytest.mark.parametrize("rule", [SGD(momentum=0.9), AdamW()], ids=["sgd", "adamw"])
@pytest.mark.parametrize("by", ["run", "layer"])
@pytest.mark.parametrize(("leap", "tolerance"), [(1.0, 0.0), (3.0, 1e-12)])
def test_an_episode_by_a_controllers_moves_is_its_rollout(rule: Rule, by: str, leap: float, tolerance: float) -> None:
    """Steered by a policy's own moves, members end where `rollout` ends, restored on the way as they are there."""
    here = plant(rule, by)
    start, policy = values(here, 1e-3, 1e-1, 10.0), wilful(leap)
    with torch.no_grad():
        whole = rollout(
            here, policy, start, seeds=SEEDS, steps=HORIZON, horizon=HORIZON, guard=Guard(), validate_every=20
        )
    episodes = Episodes(
        here, 3, horizon=HORIZON, prior="hold", guard=Guard(), validate_every=20, leap=leap, reward=Reward("terminal")
    )
    episodes.begin(range(3), start, SEEDS)
    seen = [episodes.features]
    turns = played(episodes, policy, leap, len(whole.decisions) - 1)
    seen += [turn.features for turn in turns]
    assert int(whole.state["guard"]["restores"].sum()) > 0
    for decision, features in zip(whole.decisions, seen, strict=True):
        torch.testing.assert_close(features, decision.seen.features, rtol=tolerance, atol=tolerance)
    assert bool(turns[-1].at_end.all())
    x, y = here.split("val")
    loss = here.evaluate(whole.copies, (x[:256], y[:256]))[0]
    torch.testing.assert_close(turns[-1].loss, loss, rtol=tolerance, atol=tolerance)


def hopeless(members: int = 2) -> Episodes:
    """Make episodes whose first member's guard gives up soon, at the highest rate, and whose others train."""
    episodes = Episodes(plant(SGD()), members, horizon=LONG, guard=Guard(tries=1))
    episodes.begin(range(members), values(episodes.plant, 10.0, *[0.1] * (members - 1)), SEEDS[:members])
    return episodes


def pushed(members: int) -> Tensor:
    """Push the first member's rate up and leave the others alone."""
    return torch.tensor([1.0] + [0.0] * (members - 1), dtype=F64)[:, None, None]


def until_given_up(episodes: Episodes) -> Turn:
    """Play until the first member is over."""
    for _ in range(10):
        turn = episodes.step(pushed(episodes.members))
        if bool(turn.gave_up[0]):
            return turn
    raise AssertionError("The guard did not give up.")


def test_an_episode_ends_where_the_guard_gives_up() -> None:
    """It is over for that reason alone, its reward finite; what is asked of it later changes nothing."""
    episodes = hopeless()
    turn = until_given_up(episodes)
    assert [True, False] == turn.gave_up.tolist()
    assert [False, False] == turn.at_end.tolist()
    assert bool(turn.reward.isfinite().all())
    after = episodes.step(pushed(2))
    assert (0, 0.0) == (int(after.step[0]), float(after.reward[0]))
    assert torch.equal(turn.features[0], after.features[0])


def test_one_that_begins_anew_beside_others_is_one_alone() -> None:
    """A member that begins later catches up into the others' program, and each still does what it does alone."""
    together = hopeless(3)
    count = 0
    while not bool((turn := together.step(pushed(3))).gave_up[0]):
        count += 1
    together.begin([0], values(together.plant, 0.03), [9])
    rows = [[turn.loss[1:].tolist(), together.features[1:].clone()]]
    squads, late = [], []
    for _ in range(6):
        turn = together.step(torch.zeros(3, 1, 1, dtype=F64))
        squads.append(len(together._waiting))
        late.append((turn.loss[0], turn.features[0].clone()))
        rows.append([turn.loss[1:].tolist(), turn.features[1:].clone()])
    assert squads[0] == 2
    assert squads[-1] == 1
    fresh = Episodes(together.plant, 1, horizon=LONG, guard=Guard(tries=1))
    fresh.begin([0], values(fresh.plant, 0.03), [9])
    for loss, features in late:
        turn = fresh.step(torch.zeros(1, 1, 1, dtype=F64))
        torch.testing.assert_close(loss, turn.loss[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(features, turn.features[0], rtol=1e-8, atol=1e-8)
    old = Episodes(together.plant, 2, horizon=LONG, guard=Guard(tries=1))
    old.begin(range(2), values(old.plant, 0.1, 0.1), SEEDS[1:3])
    turns = [old.step(torch.zeros(2, 1, 1, dtype=F64)) for _ in range(count + 1 + 6)]
    for (loss, features), turn in zip(rows, turns[count:], strict=True):
        torch.testing.assert_close(torch.tensor(loss, dtype=F64), turn.loss, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(features, turn.features, rtol=1e-8, atol=1e-8)


def reread(tree: dict[str, Any]) -> Any:
    """Write a tree to a file and read it, weights only."""
    file = io.BytesIO()
    torch.save(tree, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_checkpoint_goes_on_to_the_bit() -> None:
    """Through a file, in the middle of two squads, episodes go on as they would have."""
    episodes, policy = hopeless(3), wilful(1.0)
    until_given_up(episodes)
    episodes.begin([0], values(episodes.plant, 10.0), [9])
    played(episodes, policy, 1.0, 1)
    assert len(episodes._waiting) == 2
    other = Episodes(episodes.plant, 3, horizon=LONG, guard=Guard(tries=1))
    other.load(reread(episodes.tree()))
    assert torch.equal(episodes.features, other.features)
    for one, two in zip(played(episodes, policy, 1.0, 4), played(other, policy, 1.0, 4), strict=True):
        assert torch.equal(one.features, two.features)
        assert torch.equal(one.reward, two.reward)


def test_branches_are_true_counterfactuals() -> None:
    """The branch that takes the action taken ends where the run went, others elsewhere; the run is not touched."""
    episodes = hopeless()
    untouched = hopeless()
    for each in (episodes, untouched):
        for _ in range(3):
            each.step(torch.full((2, 1, 1), 0.1, dtype=F64))
    branches = episodes.branched(1, 5)
    actions = torch.linspace(-1, 1, 5, dtype=F64)[:, None, None]
    tried = [branches.step(actions) for _ in range(2)]
    assert 5 == len(set(tried[0].loss.tolist()))
    for turn in tried:
        own = episodes.step(actions[[0, 3]])
        other = untouched.step(actions[[0, 3]])
        torch.testing.assert_close(turn.loss[3], own.loss[1], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(turn.features[3], own.features[1], rtol=1e-8, atol=1e-8)
        assert torch.equal(own.features, other.features)


def test_a_branch_of_one_leaves_the_run_alone() -> None:
    """Also where the branch is the whole squad, the two draw their examples apart."""
    one, same = (Episodes(plant(), 1, horizon=HORIZON) for _ in range(2))
    for each in (one, same):
        each.begin([0], values(each.plant, 0.01), [7])
        each.step(torch.zeros(1, 1, 1, dtype=F64))
    branch = one.branched(0, 1)
    for _ in range(3):
        branch.step(torch.zeros(1, 1, 1, dtype=F64))
    after, other = (each.step(torch.zeros(1, 1, 1, dtype=F64)) for each in (one, same))
    assert torch.equal(after.features, other.features)


def test_what_cannot_be_is_refused() -> None:
    """Shapes, horizons, states and orders that do not fit name the law and the values."""
    here = plant()
    with pytest.raises(TaskError, match="readings, got members=1, judged=256, horizon=15, every=10"):
        Episodes(here, 1, horizon=15)
    with pytest.raises(TaskError, match="`1 <= leap <= 3`"):
        Episodes(here, 1, horizon=20, leap=5.0)
    with pytest.raises(TaskError, match="`prior` must be one of"):
        Episodes(here, 1, horizon=20, prior="cosin")
    episodes = Episodes(here, 2, horizon=20)
    with pytest.raises(OrderError, match="nothing to branch from"):
        episodes.branched(0, 2)
    with pytest.raises(KnobError, match="2 places, 1 rows of values and 2 seeds"):
        episodes.begin(range(2), values(here, 0.1), (0, 1))
    episodes.begin(range(2), values(here, 0.1, 0.1), (0, 1))
    with pytest.raises(SignalError, match=r"\[B, S, K\] = \[2, 1, 1\], got \[2, 1\]"):
        episodes.step(torch.zeros(2, 1))
    with pytest.raises(StateError, match="these episodes are"):
        Episodes(here, 3, horizon=20).load(episodes.tree())
