"""Laws of Minari's data sets: what goes there comes back, and what was collected there can teach."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.controllers import Random
from trimtab.env import environment
from trimtab.env.setting import Setting
from trimtab.errors import TraceError
from trimtab.guard import Guard
from trimtab.knobs import LEAP, Panel
from trimtab.tasks import task_named
from trimtab.teach.offline.episode import Episode, read_episodes
from trimtab.teach.offline.exchange import from_minari, header_of, to_minari
from trimtab.teach.offline.played import play

pytest.importorskip("minari")
pytest.importorskip("h5py")
KNOB = replace(Panel.of(["lr"])[0], high=1e4)
SETTING = Setting(task_named("quadratic-v1"), knobs=(KNOB,), horizon=40)


pytestmark = pytest.mark.filterwarnings("ignore:.*None:UserWarning:minari")  # what a stranger left out


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def recorded(folder: Path, setting: Setting = SETTING, lrs: tuple[float, ...] = (0.01, 3e3)) -> list[Episode]:
    """Record runs, one of them beyond rescue."""
    plant = setting.plant()
    values = torch.tensor(lrs, dtype=torch.float64)[:, None, None].expand(-1, len(plant.sites), -1)
    play(plant, Random(1.0), values, folder, seeds=range(100, 100 + len(lrs)), horizon=40, guard=Guard(tries=1))
    return read_episodes(folder)


def same(one: Episode, other: Episode) -> None:
    """Compare; features and moves to float32, as an environment gives them."""
    assert (one.end, one.header, one.steps.tolist()) == (other.end, other.header, other.steps.tolist())
    assert torch.equal(one.features.float(), other.features.float())
    torch.testing.assert_close(one.moves, other.moves, rtol=0, atol=LEAP * 2**-23)
    assert torch.equal(one.rewards, other.rewards)


def test_what_goes_there_comes_back(tmp_path: Path) -> None:
    """Written and read again by its name, every episode is the same, given-up and cut-off ones too."""
    episodes = recorded(tmp_path / "traces")
    last = episodes[0]
    cut = replace(
        last, features=last.features[:5], moves=last.moves[:4], rewards=last.rewards[:4], steps=last.steps[:5]
    )
    episodes.append(replace(cut, end="cut"))
    assert {"horizon", "gave up", "cut"} == {episode.end for episode in episodes}
    made = to_minari(episodes, "trimtab/bowl-v0")
    assert (3, 65) == (made.total_episodes, made.observation_space.shape[0])
    for episode, data in zip(episodes, made.iterate_episodes(), strict=True):
        ends = bool(data.terminations[-1]), bool(data.truncations[-1])
        assert (episode.end == "gave up", episode.end != "gave up") == ends
        assert 0 == data.terminations[:-1].sum() + data.truncations[:-1].sum()
        assert made.action_space.contains(data.actions[0])
    for found in (from_minari(made), from_minari("trimtab/bowl-v0")):
        for one, other in zip(episodes, found, strict=True):
            same(one, other)


def test_sites_come_back(tmp_path: Path) -> None:
    """Of several sites, observations are ``[S, F]`` as an environment's."""
    setting = Setting(task_named("digits-mlp-v1"), by="layer", horizon=20)
    episodes = recorded_layers(tmp_path / "traces", setting)
    made = to_minari(episodes, "trimtab/layers-v0")
    assert (2, 65) == made.observation_space.shape
    same(episodes[0], from_minari(made)[0])


def recorded_layers(folder: Path, setting: Setting) -> list[Episode]:
    """Record one run of two layers."""
    plant = setting.plant()
    play(plant, Random(), torch.full((1, 2, 1), 0.01, dtype=torch.float64), folder, seeds=[100], horizon=20)
    return read_episodes(folder)


def test_what_an_environment_gave_is_an_episode(tmp_path: Path) -> None:
    """A data set collected from an environment says nothing of knobs: with the setting's header it is the same run."""
    episodes = recorded(tmp_path / "traces", lrs=(0.01,))
    lr = episodes[0].header
    env = environment("quadratic-v1", knobs=(KNOB,), horizon=40, starts=(0.01, 0.01))
    seen, told = env.reset(options={"instance": 100})
    rows: dict[str, list[Any]] = {"observations": [seen], "step": [told["step"]], "actions": [], "rewards": []}
    for move, step in zip(episodes[0].moves[:, 0], episodes[0].steps, strict=False):
        action = (move / (LEAP if step <= 10 else 1.0)).numpy()
        seen, reward, terminated, truncated, told = env.step(action)
        for name, value in (("observations", seen), ("step", told["step"]), ("actions", action), ("rewards", reward)):
            rows[name].append(value)
    assert (False, True) == (terminated, truncated)
    dataset = collected(rows, env)
    with pytest.raises(TraceError, match=r"does not say what its episodes are of: give `header=header_of"):
        from_minari(dataset)
    (found,) = from_minari(dataset, header_of(SETTING))
    assert ("horizon", "unknown") == (found.end, found.header.controller)
    assert (lr.knobs, lr.ranges, lr.features, lr.sites) == (
        found.header.knobs,
        found.header.ranges,
        found.header.features,
        found.header.sites,
    )
    torch.testing.assert_close(found.features, episodes[0].features, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.rewards, episodes[0].rewards, rtol=1e-4, atol=1e-5)
    with pytest.raises(TraceError, match="to be of 1 sites, 2 knobs"):
        from_minari(dataset, header_of(replace(SETTING, knobs=("lr", "momentum"))))


def collected(rows: dict[str, list[Any]], env: Any) -> Any:
    """Write a data set as a stranger's collector would."""
    import minari
    import numpy as np
    from minari.data_collector import EpisodeBuffer

    count = len(rows["rewards"])
    ends = np.arange(count) == count - 1
    buffer = EpisodeBuffer(
        observations=np.stack(rows["observations"]),
        actions=np.stack(rows["actions"]).astype(np.float32),
        rewards=rows["rewards"],
        terminations=np.zeros(count, np.bool_),
        truncations=ends,
        infos={"step": np.array(rows["step"])},
    )
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    return minari.create_dataset_from_buffers("stranger-v0", [buffer], **spaces)


def test_episodes_of_two_forms_are_no_data_set(tmp_path: Path) -> None:
    """Nor is none at all."""
    with pytest.raises(TraceError, match="episodes of one form"):
        to_minari([], "trimtab/none-v0")


def test_without_minari_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the extra."""
    from trimtab.teach.offline import exchange

    monkeypatch.setattr(exchange, "NEEDED", ("minari", "no_such_package"))
    with pytest.raises(ImportError, match=r"no_such_package.*pip install 'trimtab\[minari\]'"):
        from_minari("none-v0")


@pytest.mark.slow
def test_teaching_from_traces_does_not_load_minari() -> None:
    """It is imported where it is used."""
    import subprocess

    code = "import sys, trimtab.teach.offline; sys.exit('minari' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
