"""Contract: every environment is one by Gymnasium's and Stable-Baselines3's own checkers, peeks at no test, repeats."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from torch import Tensor

from trimtab.env import HELD_OUT, Environment, environment, ids, vector_environment
from trimtab.errors import DataError, OrderError, TaskError
from trimtab.features import Features
from trimtab.knobs import Panel
from trimtab.rules import SGD
from trimtab.task import Split
from trimtab.tasks import CATALOGUE, task_named

DIGITS = "digits-mlp-v1"
UP = np.array([0.2], np.float32)


def ready(name: str) -> str:
    """Give an id, or skip the test where its data is not there."""
    try:
        task_named(name.removeprefix("trimtab/")).data("train")
    except DataError as error:
        pytest.skip(str(error))
    return name


def test_there_is_one_for_every_task() -> None:
    """Gymnasium knows the name of every shipped task: the toy problem and images among them."""
    assert {f"trimtab/{name}" for name in CATALOGUE} == set(ids())
    assert {"trimtab/quadratic-v1", "trimtab/digits-cnn-v1", "trimtab/fashion-mlp-v1"} <= set(ids())
    assert all(name in gymnasium.registry for name in ids())


@pytest.mark.slow
@pytest.mark.parametrize("name", ids())
def test_both_checkers_pass(name: str) -> None:
    """Gymnasium's checker and Stable-Baselines3's find nothing, warnings included."""
    from stable_baselines3.common.env_checker import check_env as check_for_sb3

    env = gymnasium.make(ready(name), horizon=20).unwrapped
    check_env(env, skip_render_check=True)
    check_for_sb3(env)


def test_an_observation_is_what_a_policy_sees() -> None:
    """Features in the order of `Features.names`; per layer with sites first, and a move for each."""
    env = environment(DIGITS, knobs=("lr", "weight_decay"))
    assert env.feature_names == Features(Panel.of(["lr", "weight_decay"])).names
    assert (len(env.feature_names),) == env.observation_space.shape
    assert (2,) == env.action_space.shape
    layered = environment(DIGITS, by="layer")
    assert layered.action_space.shape == (2, 1)
    first, _ = layered.reset(seed=0)
    assert first.shape == (2, 65)
    assert layered.observation_space.contains(layered.step(layered.action_space.sample())[0])


def played(env: Environment, turns: int = 7, **reset: Any) -> tuple[np.ndarray[Any, Any], list[float]]:
    """Play some turns; all observations in one array, and the rewards."""
    seen, _ = env.reset(**({"seed": 0} | reset))
    rows, rewards = [seen], []
    for _ in range(turns):
        seen, reward, terminated, truncated, _ = env.step(UP)
        rows.append(seen)
        rewards.append(float(reward))
        if terminated or truncated:
            break
    return np.stack(rows), rewards


@dataclass
class Poisoned:
    """A task whose test split must not be opened."""

    inner: Any = field(default_factory=lambda: task_named(DIGITS))

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give a split; of the test split, NaN."""
        x, y = self.inner.data(split)
        return (torch.full_like(x, torch.nan), y) if split == "test" else (x, y)

    def __getattr__(self, name: str) -> Any:
        """Be the task in all else."""
        return getattr(self.inner, name)


@pytest.mark.parametrize("reward", ["progress", "terminal", "speed-up"])
def test_nothing_peeks_at_the_test_split(reward: str) -> None:
    """With a poisoned test split every observation and reward is what it is without."""
    settings: dict[str, Any] = {"horizon": 40, "reward": reward, "validate_every": 10}
    seen, rewards = played(environment(DIGITS, **settings), turns=9)
    other, same = played(environment(Poisoned(), **settings), turns=9)
    assert np.array_equal(seen, other)
    assert rewards == same
    assert np.isfinite(seen).all()
    assert any(rewards)


def test_a_poisoned_validation_split_is_seen() -> None:
    """The test above could fail: validation data does decide rewards."""

    class Spoilt(Poisoned):
        def data(self, split: Split) -> tuple[Tensor, Tensor]:
            x, y = self.inner.data(split)
            return (x, y.flip(0)) if split == "val" else (x, y)

    assert played(environment(DIGITS, horizon=40))[1] != played(environment(Spoilt(), horizon=40))[1]


@pytest.mark.parametrize(
    "setting",
    [
        {"rule": SGD(momentum=0.5)},
        {"horizon": 60},
        {"every": 5},
        {"prior": "cosine"},
        {"reward": "terminal"},
        {"starts": (1e-3, 1e-2)},
        {"leap": 1.0},
        {"judged": 32},
        {"validate_every": 10},
        {"instances": "held-out"},
        {"dtype": "float64"},
        {"has_guard": False, "starts": (10.0, 10.0)},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_every_setting_has_an_effect(setting: dict[str, Any]) -> None:
    """No flag is ignored: observations or rewards differ."""
    usual = {"horizon": 40, **({"starts": (10.0, 10.0)} if "has_guard" in setting else {})}
    (seen, rewards), (other, others) = (
        played(environment(DIGITS, **usual)),
        played(environment(DIGITS, **usual | setting)),
    )
    assert rewards != others or not np.array_equal(seen, other)


def test_rewards_of_progress_sum_to_the_terminal_one() -> None:
    """Both are the fall of the log validation loss over the episode; the terminal one comes with the truncation."""
    _, small = played(environment(DIGITS, horizon=40), turns=9)
    _, late = played(environment(DIGITS, horizon=40, reward="terminal"), turns=9)
    assert [0.0] * 6 == late[:-1]
    assert pytest.approx(sum(small), abs=1e-9) == late[-1]


def test_a_lost_run_is_numbers() -> None:
    """Without a guard at the highest rate, observations stay in their space and rewards finite."""
    env = environment("quadratic-v1", rule=SGD(), has_guard=False, starts=(10.0, 10.0))
    seen, rewards = played(env, turns=13)
    assert np.isfinite(seen).all()
    assert np.abs(seen).max() <= 10
    assert np.isfinite(rewards).all()
    assert -4.0 == pytest.approx(sum(rewards), abs=1e-9)


def test_held_out_instances_are_apart() -> None:
    """Training never draws one of the held-out instances, which begin where their number says."""
    env = environment(DIGITS, horizon=10)
    train = [env.setting.drawn(rng) for rng in [np.random.default_rng(0)] for _ in range(1000)]
    assert min(train) >= HELD_OUT
    held = environment(DIGITS, horizon=10, instances="held-out")
    assert {held.reset(seed=seed)[1]["instance"] < HELD_OUT for seed in range(20)} == {True}
    one, _ = played(held, turns=2, options={"instance": 5})
    two, _ = played(env, turns=2, options={"instance": 5})
    other, _ = played(env, turns=2, options={"instance": 6})
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


PRINTED = """
import hashlib, sys
import gymnasium, numpy as np, torch, trimtab.env
torch.set_num_threads(1)
for name in sys.argv[1:]:
    env, digest = gymnasium.make(name, validate_every=10), hashlib.sha256()
    seen, _ = env.reset(seed=3)
    env.action_space.seed(4)
    for _ in range(6):
        digest.update(np.ascontiguousarray(seen).tobytes())
        seen, reward, *_ = env.step(env.action_space.sample())
        digest.update(np.float64(reward).tobytes())
    print(name, digest.hexdigest())
"""


@pytest.mark.slow
def test_two_processes_give_the_same_episodes_to_the_bit() -> None:
    """For every id whose data is there: same seed, same observations and rewards, in two fresh interpreters."""
    there = [name for name in ids() if has_data(name)]
    one, two = (
        subprocess.run([sys.executable, "-c", PRINTED, *there], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    )
    assert one == two
    assert there == [line.split()[0] for line in one.splitlines()]
    assert len(there) == len({line.split()[1] for line in one.splitlines()})


def has_data(name: str) -> bool:
    """Whether a task's data is on this machine."""
    try:
        task_named(name.removeprefix("trimtab/")).data("train")
    except DataError:
        return False
    return True


def test_a_checkpoint_in_the_middle_goes_on_to_the_bit() -> None:
    """Another environment that restores it gives the same episode, and draws the same instance after it."""
    env, other = (environment(DIGITS, horizon=20) for _ in range(2))
    env.reset(seed=1)
    env.step(UP)
    saved = env.checkpoint()
    other.reset(seed=2)
    other.restore(saved)
    for _ in range(3):
        (seen, reward, *_, told), (same, again, *_, also) = env.step(UP), other.step(UP)
        assert np.array_equal(seen, same)
        assert (reward, told) == (again, also)
    assert env.reset()[1] == other.reset()[1]


def test_calls_out_of_order_are_refused() -> None:
    """A step before the first reset, or after the end, says what to call; settings that do not hold say why."""
    env = environment("quadratic-v1", horizon=10)
    with pytest.raises(OrderError, match="call `reset` first"):
        env.step(UP)
    played(env, turns=4)
    with pytest.raises(OrderError, match="call `reset` first"):
        env.step(UP)
    for setting in ({"instances": "test"}, {"starts": (1.0, 0.1)}, {"dtype": "float16"}, {"by": "neuron"}):
        with pytest.raises(TaskError, match="An environment needs"):
            environment("quadratic-v1", **setting)


@pytest.fixture
def vector() -> Iterator[Any]:
    """Make three runs of digits."""
    made = gymnasium.make_vec(f"trimtab/{DIGITS}", num_envs=3, horizon=20, dtype="float64")
    yield made
    made.close()


def test_a_vector_environment_is_that_many_single_ones(vector: Any) -> None:
    """Member b of seed s is the single environment of seed s + b, over two episodes, the step between them ignored."""
    assert AutoresetMode.NEXT_STEP == vector.metadata["autoreset_mode"]
    singles = [environment(DIGITS, horizon=20, dtype="float64") for _ in range(3)]
    actions = np.array([[0.1], [-0.3], [0.5]], np.float32)
    seen, told = vector.reset(seed=5)
    begun = [env.reset(seed=5 + b) for b, env in enumerate(singles)]
    assert [entry["instance"] for _, entry in begun] == told["instance"].tolist()
    np.testing.assert_allclose(seen, np.stack([first for first, _ in begun]), rtol=1e-5, atol=1e-5)
    for _ in range(2):
        for turn in range(5):
            seen, reward, terminated, truncated, _ = vector.step(actions)
            alone = [env.step(action) for env, action in zip(singles, actions, strict=True)]
            np.testing.assert_allclose(seen, np.stack([each[0] for each in alone]), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(reward, [each[1] for each in alone], rtol=1e-6, atol=1e-9)
            assert truncated.tolist() == [each[3] for each in alone] == [turn == 4] * 3
            assert not terminated.any()
        seen, reward, _, truncated, _ = vector.step(actions)
        np.testing.assert_allclose(seen, np.stack([env.reset()[0] for env in singles]), rtol=1e-5, atol=1e-5)
        assert [0.0] * 3 == reward.tolist()
        assert not truncated.any()


def test_a_vector_environment_takes_chosen_instances() -> None:
    """`options={"instances": [...]}` begins those."""
    made = vector_environment(DIGITS, 2, horizon=20)
    one, told = made.reset(options={"instances": [7, 7]})
    assert [7, 7] == told["instance"].tolist()
    assert np.array_equal(one[0], one[1])
