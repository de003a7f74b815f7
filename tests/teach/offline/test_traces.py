"""Laws of traces that one can be taught from: an environment's episode, read back from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import trimtab
from trimtab.controllers import Random, WarmupCosine
from trimtab.env.episodes import Episodes
from trimtab.env.reward import Reward
from trimtab.env.setting import Setting
from trimtab.errors import TaskError, TraceError
from trimtab.features import Features
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.tasks import task_named
from trimtab.teach.offline.episode import read_episodes
from trimtab.teach.offline.played import play
from trimtab.trace import FullTrace, Header, Trace, read_trace

F64 = torch.float64
LRS = (1e-3, 0.1, 3e3)  # the last one is beyond rescue
SEEDS = [3, 4, 5]


def setting(**changes: Any) -> Setting:
    """Describe short runs of a noisy bowl, in float64, with a knob that may go far too high."""
    lr = replace(Panel.of(["lr"])[0], high=1e4)
    given = {"task": task_named("quadratic-v1"), "knobs": (lr,), "horizon": 40, "dtype": "float64", "starts": (1, 1)}
    return Setting(**(given | changes))


def values(lrs: Any = LRS) -> torch.Tensor:
    """Give ``[B, 1, 1]``."""
    return torch.tensor(lrs, dtype=F64)[:, None, None]


def played(folder: Path, controller: Any, **options: Any) -> list[Path]:
    """Write the traces of a controller's runs."""
    guard = Guard(tries=1)
    return play(setting().plant(), controller, values(), folder, seeds=SEEDS, horizon=40, guard=guard, **options)


@pytest.mark.parametrize("kind", ["progress", "terminal"])
def test_an_episode_is_the_environments(tmp_path: Path, kind: Any) -> None:
    """Features, rewards and ends are those of an environment that was given the recorded moves, given-up runs too."""
    played(tmp_path, Random())
    found = read_episodes(tmp_path, reward=Reward(kind))
    episodes = Episodes(
        setting().plant(), 3, horizon=40, guard=Guard(tries=1), leap=trimtab.knobs.LEAP, reward=Reward(kind)
    )
    episodes.begin(range(3), values(), SEEDS)
    seen, turns = [episodes.features], []
    for turn in range(max(len(episode.moves) for episode in found)):
        actions = torch.zeros(3, 1, 1, dtype=F64)
        for member, episode in enumerate(found):
            if turn < len(episode.moves):
                early = episode.steps[turn] <= 10
                actions[member] = episode.moves[turn] / (trimtab.knobs.LEAP if early else 1)
        turns.append(episodes.step(actions))
        seen.append(turns[-1].features)
    assert {"gave up", "horizon"} == {episode.end for episode in found}
    for member, episode in enumerate(found):
        count = len(episode.moves)
        rewards = torch.stack([turn.reward[member] for turn in turns[:count]])
        torch.testing.assert_close(episode.rewards, rewards, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            episode.features, torch.stack([row[member] for row in seen[: count + 1]]), rtol=0, atol=1e-9
        )
        ended = turns[count - 1]
        assert (episode.end == "gave up", episode.end == "horizon") == (
            bool(ended.gave_up[member]),
            bool(ended.at_end[member]),
        )


def test_a_schedules_course_becomes_moves(tmp_path: Path) -> None:
    """What a cosine did, by a policy on the constant 1: moves bring the knob to its values, as far as they go."""
    play(setting().plant(), WarmupCosine(), values([0.1]), tmp_path, seeds=[3], horizon=40)
    header, rows = read_trace(next(tmp_path.iterdir()))
    assert {0.0} == {row["move_lr"] for row in rows}
    (episode,) = read_episodes(tmp_path)
    panel = setting().plant().panel
    place = panel.to_unit(torch.tensor([[[rows[0]["lr"]]]], dtype=F64))
    assert [-1.0, -1.0] == episode.moves[-2:].flatten().tolist()  # at its end the cosine falls faster than that
    for step, move, row in zip(episode.steps[:4], episode.moves, rows[1:], strict=False):
        place = panel.turn(place, move[None], step[None])
        assert row["lr"] == pytest.approx(float(panel.from_unit(place)), rel=1e-9)
    names = list(header.features)
    at = panel.standing(panel.to_unit(torch.tensor([[rows[3]["lr"]]], dtype=F64)))
    assert float(episode.features[3, 0, names.index("position_lr")]) == pytest.approx(2 * float(at) - 1)
    assert float(episode.features[3, 0, names.index("move_lr")]) == float(episode.moves[2])


def test_on_its_own_schedule_a_course_has_no_moves(tmp_path: Path) -> None:
    """The same run for a policy on the cosine: it did nothing, and features are as they were seen."""
    play(setting().plant(), WarmupCosine(), values([0.1]), tmp_path, seeds=[3], horizon=40)
    _, rows = read_trace(next(tmp_path.iterdir()))
    (episode,) = read_episodes(tmp_path, prior="cosine")
    assert {0.0} == set(episode.moves.flatten().tolist())
    assert [row["features"] for row in rows] == episode.features[:, 0].tolist()


def live(path: Path, steps: int = 30, **options: Any) -> None:
    """Train a line live."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    trace = FullTrace(path, {"task": "line", "seed": 7})
    pilot = trimtab.attach(optimizer, "random", horizon=30, trace=trace, **options)
    for number in range(steps):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    pilot.trace._file.close()


def test_a_live_run_is_an_episode(tmp_path: Path) -> None:
    """Features are those that the controller saw; rewards the fall of the training loss where nothing else is known."""
    live(tmp_path / "a.jsonl")
    header, rows = read_trace(tmp_path / "a.jsonl")
    assert ("line", 7, 30, 10) == tuple(header.note[name] for name in ("task", "seed", "horizon", "every"))
    assert Features(Panel.of(["lr"])).names == header.features
    (episode,) = read_episodes(tmp_path)
    assert ("horizon", [1, 2, 4, 7, 10, 20, 30]) == (episode.end, episode.steps.tolist())
    losses = torch.tensor([row["loss"] for row in rows], dtype=F64)
    torch.testing.assert_close(episode.rewards, -losses.log().diff(), rtol=0, atol=1e-12)
    assert [row["move_lr"] for row in rows[:-1]] == episode.moves.flatten().tolist()


def test_a_validation_loss_counts_before_the_training_loss(tmp_path: Path) -> None:
    """Where it was not measured, nothing is rewarded until it is."""
    measured = iter([4.0, 2.0, 1.0])
    live(tmp_path / "a.jsonl", validate=lambda: next(measured), validate_every=10)
    (episode,) = read_episodes(tmp_path)
    assert [0, 0, 0, 0, *[pytest.approx(0.6931471805599453)] * 2] == episode.rewards.tolist()


def test_what_a_kill_left_is_an_episode_cut_off(tmp_path: Path) -> None:
    """The whole readings before it count."""
    live(tmp_path / "a.jsonl", 25)
    content = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(content[:-9])
    (episode,) = read_episodes(tmp_path)
    assert ("cut", [1, 2, 4, 7, 10]) == (episode.end, episode.steps.tolist())


def test_runs_one_after_the_other_in_a_file_are_episodes(tmp_path: Path) -> None:
    """A file that was appended to by a second run holds two; steps taken again after a resume count once."""
    live(tmp_path / "a.jsonl")
    live(tmp_path / "a.jsonl")
    assert [30, 30] == [int(episode.steps[-1]) for episode in read_episodes(tmp_path)]
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_bytes(b"".join([*lines[:7], *lines[6:8]]))
    (episode,) = read_episodes(tmp_path)
    assert [1, 2, 4, 7, 10, 20, 30] == episode.steps.tolist()


def test_traces_that_cannot_be_learned_from_are_refused(tmp_path: Path) -> None:
    """Without features, of other knobs, of other ranges, or none at all: each is told, with the way out."""
    with pytest.raises(TraceError, match=r"There are no traces in .*record some with attach"):
        read_episodes(tmp_path)
    header = Header(("lr",), ("run",), "random", {})
    Trace(header, tmp_path / "a.jsonl")
    with pytest.raises(TraceError, match=r"a.jsonl holds no features, .*FullTrace"):
        read_episodes(tmp_path)
    (tmp_path / "a.jsonl").unlink()
    names = [("a", ["lr"]), ("b", ["lr", "momentum"])]
    for name, knobs in names:
        panel = Panel.of(knobs)
        Trace(Header(panel.names, ("run",), "random", {}).full(["age"], panel), tmp_path / f"{name}.jsonl")
    with pytest.raises(TraceError, match=r"b.jsonl has other knobs than the first trace .*\['momentum'\]"):
        read_episodes(tmp_path)
    (tmp_path / "b.jsonl").unlink()
    panel = Panel([replace(Panel.of(["lr"])[0], low=1e-3)])
    Trace(Header(panel.names, ("run",), "random", {}).full(["age"], panel), tmp_path / "c.jsonl")
    with pytest.raises(TraceError, match=r"c.jsonl has other ranges"):
        read_episodes(tmp_path)


def test_a_full_trace_is_not_mixed_with_a_plain_one(tmp_path: Path) -> None:
    """Rows with features are not appended to a file without, nor the other way round."""
    header = Header(("lr",), ("run",), "random", {})
    Trace(header, tmp_path / "a.jsonl")
    with pytest.raises(TraceError, match="and 0 features, or in other ranges, not this run"):
        Trace(header.full(["age"], Panel.of(["lr"])), tmp_path / "a.jsonl")


@pytest.mark.parametrize(("horizon", "seeds"), [(45, SEEDS), (40, [1, 1, 2])])
def test_runs_that_make_no_traces_are_refused(tmp_path: Path, horizon: int, seeds: list[int]) -> None:
    """A horizon that is no reading, or two runs of one name."""
    with pytest.raises(TaskError, match="multiple of every=10 and seeds that differ"):
        play(setting().plant(), Random(), values(), tmp_path, seeds=seeds, horizon=horizon)


def test_a_full_trace_has_a_report(tmp_path: Path) -> None:
    """The page of one run is made of it as of any trace."""
    pytest.importorskip("matplotlib")
    from trimtab.cli import main

    live(tmp_path / "a.jsonl", 12)
    assert 0 == main(["report", str(tmp_path / "a.jsonl")])
    assert "Run under the controller random" in (tmp_path / "a.html").read_text()
