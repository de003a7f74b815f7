"""Contract of ``trimtab teach offline``: from traces to a card that attaches to a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import trimtab
from trimtab.cli import main
from trimtab.columns import write_columns
from trimtab.controllers import HypergradientDescent, Random
from trimtab.env.setting import Setting
from trimtab.errors import TaskError, TraceError
from trimtab.tasks import task_named
from trimtab.teach.offline.command import ROLLOUTS, Study, teach_offline
from trimtab.teach.offline.episode import read_episodes
from trimtab.teach.offline.played import play
from trimtab.teach.offline.score import worths
from trimtab.teach.offline.transitions import Transitions, log_of
from trimtab.trace import FULL

pytestmark = pytest.mark.slow
SETTING = Setting(task_named("quadratic-v1"), horizon=60, starts=(1e-4, 1e-1))


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traces")
    for number, controller in enumerate((Random(), HypergradientDescent())):
        seeds, plant = list(range(100 + 10 * number, 110 + 10 * number)), SETTING.plant()
        play(plant, controller, SETTING.values(plant, seeds), folder, seeds=seeds, horizon=60)
    return folder


@pytest.mark.parametrize("method", ["bc", "iql", "svg"])
def test_a_folder_becomes_a_card(folder: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes weights and a page, says the scores, and gives the same card again."""
    cards = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path in cards:
        words = ["teach", "offline", str(folder), "--method", method, "--steps", "60", "-o", str(path)]
        assert 0 == main(words)
    assert cards[0].read_bytes() == cards[1].read_bytes()
    said = capsys.readouterr().out
    for name in ("runs: 16", "held out runs: 4", "held out fit: ", "driving quadratic-v1, worth: policy "):
        assert name in said
    written = cards[0].with_suffix(".md").read_text()
    assert "hypergradient 10, random 10" in written
    assert f"worth {float(said.split('policy ')[1].split(',')[0]):.3f} on {ROLLOUTS} held-out instances" in written
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    assert "policy" == trimtab.attach(optimizer, trimtab.Policy.load(cards[0]), horizon=60).trace.header.controller


def test_a_log_of_episodes_is_their_transitions(folder: Path) -> None:
    """Row by row what other methods learn from; features that are not read apart."""
    episodes, study = read_episodes(folder, prior="hold"), Study()
    genome = study.genome(episodes)
    one, two = Transitions.of(episodes, genome.spec), Transitions.of_log(log_of(episodes, genome), genome)
    read = [name in genome.read for name in genome.spec["features"]]
    for name in ("shares", "rewards", "worth", "goes_on"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name))
    for name in ("seen", "then"):
        torch.testing.assert_close(getattr(one, name)[:, read], getattr(two, name)[:, read], rtol=1e-5, atol=1e-5)
        assert not bool(getattr(two, name)[:, [not r for r in read]].any())


def test_a_model_learned_from_traces_teaches(tmp_path: Path) -> None:
    """Value gradients from random moves alone drive held-out bowls lower than no move does."""
    setting = Setting(task_named("quadratic-v1"), horizon=60, starts=(1e-5, 1.0))
    seeds, plant = list(range(100, 164)), setting.plant()
    play(plant, Random(), setting.values(plant, seeds), tmp_path / "traces", seeds=seeds, horizon=60)
    summary = teach_offline(tmp_path / "traces", tmp_path / "card", Study("svg", hidden=8, steps=1500), {})
    found = summary["rollouts"]["quadratic-v1"]
    assert found["policy"] > found["still"] + 0.2


def test_scores_are_of_runs_that_were_not_taught_from(folder: Path, tmp_path: Path) -> None:
    """Another seed keeps other runs; the score of driving is that of the held-out instances."""
    study = Study(steps=40)
    summary = teach_offline(folder, tmp_path / "a", study, {})
    other = teach_offline(folder, tmp_path / "b", replace(study, seed=1), {})
    assert summary["recorded_worth"] != other["recorded_worth"]
    setting = replace(SETTING, starts=Setting.starts, instances="held-out")
    expected = float(worths(setting, trimtab.Policy.load(tmp_path / "a.safetensors"), range(ROLLOUTS)).mean())
    assert expected == pytest.approx(summary["rollouts"]["quadratic-v1"]["policy"], abs=1e-6)


def test_a_driven_instance_is_worth_its_episode(folder: Path) -> None:
    """The worth of a rollout is the sum of the rewards of the same run's trace."""
    episodes = [e for e in read_episodes(folder) if e.header.controller == "hypergradient"]
    numbers = [episode.header.note["seed"] for episode in episodes]
    setting = replace(SETTING, has_guard=False)
    expected = torch.tensor([episode.worth for episode in episodes], dtype=torch.float64)
    torch.testing.assert_close(worths(setting, HypergradientDescent(), numbers), expected, rtol=0, atol=1e-6)


def test_a_task_of_ones_own_has_no_rollouts(folder: Path, tmp_path: Path) -> None:
    """Traces that name no shipped task are scored by the fit alone."""
    for file in sorted(folder.glob("random-*")):
        header, rows = trimtab.read_trace(file)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        plain = json.dumps({"schema": FULL, **vars(replace(header, note={"horizon": 60}))})
        write_columns(tmp_path / file.name, plain, columns)
    assert {} == teach_offline(tmp_path, tmp_path / "a", Study(steps=20), {})["rollouts"]


def test_what_cannot_be_taught_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run, an unknown method, shares out of range: each names its law."""
    (tmp_path / "one").mkdir()
    file = sorted(folder.iterdir())[0]
    (tmp_path / "one" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(TraceError, match="holds 1 run that can be used"):
        teach_offline(tmp_path / "one", tmp_path / "a", Study(), {})
    with pytest.raises(TaskError, match="`0 < held_out < 1`"):
        Study(held_out=1.0)
    assert 2 == main(["teach", "offline", str(folder), "--method", "magic"])
    assert "needs a method of bc, iql, svg" in capsys.readouterr().err
    assert 2 == main(["teach", "offline", str(tmp_path / "none")])
    assert "There are no traces in" in capsys.readouterr().err
    assert 2 == main(["teach", "offline", str(folder), "--prior", "bogus"])
    assert "`prior` must be one of constant" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match=r"cannot be written .*--out"):
        teach_offline(folder, tmp_path / "file" / "a", Study(steps=20), {})


def test_a_course_need_not_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    """``teach FILE`` is ``teach course FILE``, options before the file too; `--help` lists both ways."""
    for words in (["none.toml"], ["course", "none.toml"], ["--minutes", "1", "none.toml"]):
        assert 2 == main(["teach", *words])
        assert "There is no course at none.toml" in capsys.readouterr().err
    assert 0 == main(["teach", "--help"])
    said = capsys.readouterr().out
    assert "offline" in said
    assert "course" in said
