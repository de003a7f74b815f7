"""Laws of model-free teaching: actors are policies, a stopped teaching goes on, what is taught drives a live run."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trimtab
from trimtab.controllers import Policy
from trimtab.env import Setting
from trimtab.errors import StateError, TaskError
from trimtab.knobs import EARLY_STEPS, Panel
from trimtab.tasks import task_named
from trimtab.teach import Distribution, School, read_course
from trimtab.teach.agents import Actor, PlantVecEnv, minibatch, read_off, seat, seeded
from trimtab.teach.genome import Genome
from trimtab.teach.ppo import Proximal
from trimtab.teach.practice import practised
from trimtab.workers import cluster, crew

LR = Panel.of(["lr"])
READ = ("*", "!mean_*", "!rank_*")
TINY = """
name = "tiny-ppo"
[distribution]
horizons = [20, 30]
[policy]
hidden = 4
[teacher]
method = "ppo"
generations = 3
members = 4
tasks = 1
rate = 0.01
[examination]
every = 100
lessons = 1
"""


def genome(reach: float = 1.0, leap: float = 3.0) -> Genome:
    """Give the form of a small policy."""
    return Genome(Policy.for_panel(LR, 8, prior="hold", reach=reach, leap=leap).spec, READ)


def wilful(form: Genome) -> Policy:
    """Give a policy of that form with weights drawn."""
    rng = torch.Generator().manual_seed(0)
    return form.policy(torch.randn(form.size, generator=rng, dtype=torch.float64) / 4)


def vec_env(form: Genome, members: int = 3, horizon: int = 20) -> PlantVecEnv:
    """Give digits as Stable-Baselines3 wants them."""
    setting = Setting(task_named("digits-mlp-v1"), horizon=horizon, prior="hold", leap=form.spec["leap"])
    episodes = setting.episodes(members)
    counted = iter(range(100, 10_000))

    def begin(places: Sequence[int]) -> None:
        setting.begin(episodes, list(places), [next(counted) for _ in places])

    return PlantVecEnv(episodes, begin)


@pytest.mark.parametrize("reach", [1.0, 0.5])
def test_an_actor_without_its_noise_is_the_policy(reach: float) -> None:
    """PPO's actor with a policy's weights acts as the policy moves, early and late, and is read off unchanged."""
    from stable_baselines3 import PPO

    form = genome(reach)
    policy, env = wilful(form), vec_env(form, horizon=40)
    model = PPO(Actor, env, n_steps=4, batch_size=12, policy_kwargs={"genome": form}, device="cpu")
    seat(model.policy, policy)
    seen = env.reset()
    for _ in range(7):
        actions, _ = model.predict(seen, deterministic=True)
        pause = env.episodes._waiting[0][1]
        moves = policy.act(pause.seen, {})[0][:, 0].detach()
        leap = 3.0 if int(pause.seen.signals.step[0]) <= EARLY_STEPS else 1.0
        torch.testing.assert_close(torch.from_numpy(actions).double() * leap, moves, rtol=1e-4, atol=1e-5)
        assert np.abs(actions).max() <= reach
        env.step_async(actions)
        seen = env.step_wait()[0]
    for name, weight in read_off(model.policy, form).named_parameters():
        assert torch.equal(policy.get_parameter(name), weight)


def test_a_member_that_is_over_begins_anew_in_the_same_step() -> None:
    """Its last observation is told, and what is seen is a new episode's first reading."""
    env = vec_env(genome())
    first = env.reset()
    for _ in range(4):
        env.step_async(np.zeros((3, 1), np.float32))
        seen, _, over, infos = env.step_wait()
        assert not over.any()
    last = seen
    env.step_async(np.zeros((3, 1), np.float32))
    seen, _, over, infos = env.step_wait()
    assert over.all()
    assert not np.array_equal(last, seen)
    age = env.episodes.plant.features().names.index("age")
    assert np.array_equal(seen[:, age], first[:, age])
    assert all(info["terminal_observation"][age] > seen[0, age] for info in infos)


def test_a_generation_is_a_pure_function_and_its_tree_goes_on() -> None:
    """From a tree read again, the next generation is the same to the bit; global generators stay as they were."""
    teacher, lessons = (
        Proximal(genome(), LR, members=4, tasks=2, generations=4, rate=0.01),
        Distribution((20, 30)).taught,
    )
    state = teacher.start(genome().untaught())
    marks = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    one, record = teacher.generation(state, lessons)
    assert torch.equal(marks[0], torch.get_rng_state())
    assert np.array_equal(marks[1], np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    assert marks[2] == random.getstate()
    assert record["distance"] > 0
    two, _ = teacher.generation(one, lessons)
    again, _ = teacher.generation(teacher.of_tree(teacher.tree(one)), lessons)
    assert torch.equal(two.ascent.mean, again.ascent.mean)
    assert two.agent == again.agent
    assert 2 == two.ascent.number
    with pytest.raises(StateError, match="no state of PPO"):
        teacher.of_tree({"mean": torch.zeros(3), "number": 1, "agent": b""})


@pytest.mark.parametrize("method", ["ppo", "sac"])
def test_nothing_is_left_in_the_folder_for_temporary_files(
    method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library makes a folder a model for its own log; ours asks for none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    setting = Setting(task_named("quadratic-v1"), prior="hold", horizon=20)
    practised(setting, genome(), method, 20, members=2)
    assert [] == list(tmp_path.glob("SB3*"))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["processes", "ray"])
def test_episodes_collected_elsewhere_are_the_same(where: str) -> None:
    """Two processes, or a local Ray cluster, hand back what this process plays, so the taught weights are the same."""
    if where == "ray" and find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'trimtab[ray]'")
    teacher = Proximal(genome(), LR, members=4, tasks=2, generations=4, rate=0.01)
    lessons, state = Distribution((20, 30)).taught, teacher.start(genome().untaught())
    here, record = teacher.generation(state, lessons)
    with crew(2) if where == "processes" else cluster("local") as spread:
        there, other = teacher.generation(state, lessons, spread)
    assert here.agent == there.agent
    assert torch.equal(here.ascent.mean, there.ascent.mean)
    assert record == other


@pytest.mark.slow
def test_a_course_by_ppo_ends_in_a_card_that_drives_a_live_run(tmp_path: Path) -> None:
    """`method = "ppo"` goes through school like any other, and its card is a policy for `attach`."""
    path = tmp_path / "course.toml"
    path.write_text(TINY)
    card = School(read_course(path), tmp_path / "there").teach()
    policy = Policy.load(card)
    assert bool((policy.get_parameter("out_weight") != 0).any())
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    pilot = trimtab.attach(optimizer, policy, horizon=20)
    for _ in range(20):
        loss = model(torch.ones(2, 4)).square().mean()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    assert pilot.get_last_lr()[0] != 1e-3


def test_what_ppo_cannot_teach_is_refused(tmp_path: Path) -> None:
    """Memories, several sites and keys of other methods are named."""
    calm = Genome(Policy.for_panel(LR, 4, calm=0.5).spec)
    for changed in ({"by": "layer"}, {"genome": Genome(Policy.for_panel(LR, 4, kind="gru").spec)}, {"genome": calm}):
        with pytest.raises(TaskError, match="without memory at one site"):
            replace(Proximal(genome(), LR), **changed)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="`noise > 0`"):
        Proximal(genome(), LR, noise=0.0)
    path = tmp_path / "course.toml"
    path.write_text(TINY)
    read_course(path)
    path.write_text(TINY.replace("members = 4", "members = 4\nsigma = 0.2"))
    with pytest.raises(TaskError, match="sigma` is for the method evolution or persistent"):
        read_course(path)


def test_minibatches_part_evenly() -> None:
    """The largest divisor up to 256."""
    assert [208, 256, 1] == [minibatch(416), minibatch(512), minibatch(257)]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "rate"), [("evolution", 0.04), ("ppo", 3e-3), ("sac", 3e-3)])
def test_practice_makes_better(method: str, rate: float) -> None:
    """On held-out bowls the taught policy ends lower than the untaught one."""
    form, task = genome(), task_named("quadratic-v1")
    setting = Setting(task, prior="hold", horizon=40)
    taught = practised(setting, form, method, 2500, members=16, rate=rate)  # type: ignore[arg-type]
    held = replace(setting, instances="held-out")

    def worth(policy: Policy) -> float:
        env = PlantVecEnv(held.episodes(20), lambda places: held.begin(env.episodes, list(places), range(20)))
        from trimtab.teach.practice import _ppo

        model, actor = _ppo(env, held, form, 1e-3)
        seat(actor, policy)
        seen, total = env.reset(), 0.0
        for _ in range(7):
            seen, reward, _, _ = env.step(model.predict(seen, deterministic=True)[0])
            total += float(reward.mean())
        return total

    assert worth(taught) > worth(form.policy(form.untaught())) + 0.3


def test_practice_says_what_it_cannot_teach() -> None:
    """Another prior than the policy's, or a reach that SAC's actor has not, is refused."""
    setting = Setting(task_named("quadratic-v1"), prior="hold")
    with pytest.raises(TaskError, match="prior and leap must be the policy's"):
        practised(replace(setting, prior="cosine"), genome(), "ppo", 10)
    with pytest.raises(TaskError, match="SAC those with a reach of 1"):
        practised(setting, genome(reach=0.5), "sac", 10)


def test_seeded_gives_the_global_generators_back_after_an_error() -> None:
    """What is drawn inside follows from the seed; what is drawn afterwards from before."""
    torch.manual_seed(3)
    drawn: list[tuple[float, ...]] = []

    def draw() -> None:
        with seeded(5):
            drawn.append((float(torch.rand(())), random.random(), np.random.rand()))  # noqa: NPY002
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            draw()
    assert drawn[0] == drawn[1]
    after = torch.rand(())
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(()))
