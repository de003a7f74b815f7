"""The any-lr bench: what is seen is not scored, replays are runs, and scores are what they say."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.bench.anylr.bout import bout, heats_of, read_rows
from trimtab.bench.anylr.field import STATIC, Heat, contenders, field, run_heat
from trimtab.bench.anylr.heat import drive, panel_for, replay, starts
from trimtab.bench.anylr.page import as_json, as_markdown, score
from trimtab.bench.anylr.peers import PEERS, compete
from trimtab.bench.anylr.scores import bars, interquartile_mean, interval, percentile, standings, steps_to, unseen
from trimtab.bench.anylr.suite import LRS, SUITES, Entry, Halved, entries
from trimtab.cli import main
from trimtab.controllers import Constant, Policy
from trimtab.errors import TaskError
from trimtab.knobs import Panel
from trimtab.tasks.digits_mlp import DigitsMLP
from trimtab.tasks.quadratic import Quadratic

SHORT = Entry("short", DigitsMLP, 40, 2, "adamw")


def row(contender: str, lr: float | None, finals: list[float | None], curve: list[float], task: str = "t") -> Any:
    """Make a row with what scores read."""
    return {"task": task, "contender": contender, "lr": lr, "finals": finals, "curve": curve, "steps": 100}


def test_what_is_seen_is_not_scored() -> None:
    """The halves of the validation split share no example, and training and test splits are as they were."""
    whole, halved = DigitsMLP(), Halved(DigitsMLP())
    seen, scored = halved.data("val")[0], halved.scored()[0]
    assert len(seen) == len(scored) == 150
    assert torch.equal(torch.cat([seen, scored]), whole.data("val")[0])
    assert torch.equal(halved.data("train")[0], whole.data("train")[0])


def test_learning_rates_are_thirteen_over_six_decades() -> None:
    """From 1e-5 to 10 in half decades."""
    assert len(LRS) == 13
    assert [1e-5, 10.0] == pytest.approx([LRS[0], LRS[-1]])
    assert {0.5} == {round(math.log10(b / a), 6) for a, b in itertools.pairwise(LRS)}


@pytest.mark.parametrize("suite", SUITES)
def test_entries_are_found_by_name(suite: str) -> None:
    """Some of a suite, in its order; an unknown name is told."""
    names = [entry.name for entry in SUITES[suite]]
    assert names == [entry.name for entry in entries(suite)]
    assert [names[1]] == [entry.name for entry in entries(suite, (names[1],))]
    with pytest.raises(TaskError, match="has no task 'x'"):
        entries(suite, ("x",))
    with pytest.raises(TaskError, match="No suite"):
        entries("x")


def test_width_is_a_parameter_of_the_task() -> None:
    """Sixteen times the width is 512 hidden units, under a name of its own."""
    wide = next(entry for entry in SUITES["generalize-v1"] if entry.name == "width-x16").task
    assert wide.name == "digits-mlp-width512-v1"
    assert 512 == len(wide.build(0).get_parameter("hidden.bias"))
    with pytest.raises(TaskError, match="width=0"):
        DigitsMLP(width=0)


@pytest.mark.slow
def test_a_replay_of_what_was_driven_is_the_same_run() -> None:
    """Constant rates, driven without a guard and replayed, give the same losses to the bit."""
    driven = drive(SHORT, Constant(), (1e-3, 1e-2), (0, 1), has_guard=False)
    again = replay(SHORT, driven.values, (0, 1))
    torch.testing.assert_close(driven.finals, again.finals, rtol=1e-5, atol=0)
    torch.testing.assert_close(driven.curve, again.curve, rtol=1e-5, atol=0)
    torch.testing.assert_close(driven.values[-1], torch.tensor([1e-3, 1e-2], dtype=torch.float64))


def test_a_policy_brings_its_knobs_by_the_rules_names() -> None:
    """Momentum is beta1 where the entry has AdamW; knobs other than the rate begin at the rule's defaults."""
    policy = Policy.for_panel(Panel.of(["lr", "momentum", "weight_decay"]), 4)
    panel = panel_for(SHORT, policy)
    assert ("lr", "beta1", "weight_decay") == panel.names
    first = starts(SHORT, panel, (0.1, 1.0), 2, 1)
    assert [0.1, 0.1, 1.0, 1.0] == first[:, 0, 0].tolist()
    assert [0.9, 0.01] == pytest.approx(first[0, 0, 1:].tolist())


def test_interquartile_means_are_of_the_middle_half() -> None:
    """Of eight the middle four count; of six the second and fifth count half; infinite ends do not matter."""
    assert float(interquartile_mean(torch.tensor([8.0, 1, 2, 3, 4, 5, 6, math.inf]))) == 4.5
    assert float(interquartile_mean(torch.tensor([0.0, 1, 2, 4, 8, 99]))) == pytest.approx((0.5 + 2 + 4 + 4) / 3)


def test_an_interval_is_stratified() -> None:
    """Strata that do not vary give no width; one that varies gives some, around the mean."""
    rng = torch.Generator().manual_seed(0)
    still = [torch.full((5,), 1.0), torch.full((5,), 3.0)]
    assert interval(still, rng) == (2.0, 2.0)
    low, high = interval([torch.arange(20.0)], rng)
    assert low < 9.5 < high
    assert 4 < high - low < 12


def test_steps_to_a_target_are_log_linear_between_points() -> None:
    """An exponential course reaches a tenth of its start when it should; one that never does, never."""
    curve = [math.exp(-0.3 * point) for point in range(21)]
    assert steps_to(row("x", 1.0, [], curve), 0.1) == pytest.approx(math.log(10) / 0.3 * 5)
    assert steps_to(row("x", 1.0, [], curve), 1e-9) == math.inf
    assert steps_to(row("x", 1.0, [], curve), 2.0) == 0.0


def test_a_bar_is_the_best_of_the_tuned_schedules() -> None:
    """The lowest mean final loss wins; the target is 1.10 times the best cosine's."""
    down = [1.0, 0.6, 0.2]
    rows = [row("constant", 0.1, [0.3, 0.1], down), row("cosine", 0.1, [0.5, 0.3], down),
            row("cosine", 1.0, [0.4, 0.2], down), row("wsd", 1.0, [None, 0.01], down),
            row("prodigy", None, [0.01, 0.01], down)]  # fmt: skip
    bar = bars(rows)["t"]
    assert bar.best == pytest.approx(0.2)
    assert bar.winner == "constant from 0.1"
    assert bar.target == pytest.approx(0.33)


def test_a_bar_on_unseen_seeds_is_of_who_is_best_on_the_others() -> None:
    """Two alike but for luck: each seed is scored by who is lucky elsewhere. One clearly best is what it is."""
    down = [1.0, 0.5, 0.1]
    lucky = [
        row("wsd", 0.1, [0.1, 0.3, 0.3], down),
        row("cosine", 0.1, [0.3, 0.1, 0.3], down),
        row("wsd", 1.0, [0.3, 0.3, None], down),
    ]
    assert unseen(lucky) == pytest.approx((0.3 + 0.3 + 0.3) / 3)
    assert unseen([*lucky, row("cosine", 1.0, [0.05, 0.05, 0.11], down)]) == pytest.approx(0.07)
    assert unseen([row("wsd", 0.1, [0.2], down), row("wsd", 1.0, [0.4], down)]) == pytest.approx(0.2)
    four = [row("wsd", 0.1, [0.1, 0.1, 0.4, 0.4], down), row("cosine", 0.1, [0.3, 0.3, 0.3, 0.1], down)]
    # chosen on (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4): wsd, wsd, cosine, wsd, cosine, cosine
    expected = (0.4 + (0.1 + 0.4) / 2 + (0.3 + 0.3) / 2 + (0.1 + 0.4) / 2 + (0.3 + 0.3) / 2 + (0.3 + 0.3) / 2) / 6
    assert unseen(four) == pytest.approx(expected)
    found = standings([*lucky, row("mine", 0.1, [0.3, 0.3, 0.3], down)], torch.Generator().manual_seed(0))
    mine = next(one for one in found if one.contender == "mine")
    assert mine.unseen_median == mine.unseen_ninety == pytest.approx(1.0)
    assert mine.regret_median == pytest.approx(0.9 / 0.7)


def test_a_standing_counts_what_was_lost() -> None:
    """Regrets over learning rates and their percentiles, runs that diverged, and who is best first."""
    down, up = [1.0, 0.5, 0.1], [1.0, 2.0, 3.0]
    rows = [row("cosine", lr, [0.1, 0.1], down) for lr in (0.1, 1.0)]
    rows += [row("mine", 0.1, [0.05, 0.15], down), row("mine", 1.0, [3.0, None], up)]
    found = standings(rows, torch.Generator().manual_seed(0))
    assert ["cosine", "cosine", "mine", "mine"] == [standing.contender for standing in found]
    mine = found[2]
    assert (mine.diverged, mine.runs, mine.reached) == (2, 4, 0.5)
    assert mine.regret_worst == math.inf
    assert found[0].iqm == pytest.approx(1.0)
    assert found[0].steps_ratio == pytest.approx(1.0)
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.9) == 4.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0


def test_who_missed_a_task_says_so() -> None:
    """In the table over all tasks the name of one that was not run on all tells on how many it was."""
    rows = [
        row(name, 0.1, [1.0, 1.2], [2.0, 1.1], task)
        for name, tasks in {"constant": "ab", "cosine": "ab", "random": "b"}.items()
        for task in tasks
    ]
    lines = as_markdown(rows).split("\n\n")[0].splitlines()[2:]
    assert {"constant", "cosine", "random (1 of 2 tasks)"} == {line.split("|")[1].strip() for line in lines}


@pytest.mark.slow
def test_a_card_is_followed_by_its_replays() -> None:
    """A heat of a card of the learning rate gives its own rows, one mean course, and one course a start."""
    heat = Heat("any-lr-v1", "short", "trimtab-v1", None, (1e-4, 1.0), (0, 1))
    made = run_heat(heat, SHORT)
    assert [("trimtab-v1", 1e-4), ("trimtab-v1", 1.0), ("trimtab-v1+replay", None), ("trimtab-v1+paths", 1e-4),
            ("trimtab-v1+paths", 1.0)] == [(row["contender"], row["lr"]) for row in made]  # fmt: skip
    assert {2} == {len(row["finals"]) for row in made}
    assert {21} == {len(row["curve"]) for row in made}


@pytest.mark.parametrize("is_taught", [False, True])
def test_averages_are_driven_replayed_and_scored(is_taught: bool) -> None:
    """A run that is read at its average, asked for or needed by a policy, is scored there, and so is its replay."""
    controller = Policy.for_panel(Panel.of(["lr"]), 4, prior="constant", average=True) if is_taught else Constant()
    asked = None if is_taught else True
    driven = drive(SHORT, controller, (1e-3, 1e-2), (0, 1), has_guard=False, averages=asked)
    again = replay(SHORT, driven.values, (0, 1), averages=True)
    last = replay(SHORT, driven.values, (0, 1))
    torch.testing.assert_close(driven.curve, again.curve, rtol=1e-5, atol=0)
    assert bool((driven.curve[1:] != last.curve[1:]).all())
    heat = Heat("any-lr-v1", "short", "constant+average", None, (1e-3, 1e-2), (0, 1))
    assert [row["finals"] for row in run_heat(heat, SHORT)] == [
        [pytest.approx(float(loss), rel=1e-4) for loss in losses] for losses in again.finals
    ]


def test_everyone_takes_part() -> None:
    """Tuned schedules, at averages too, rules, peers, and each card with and without validation."""
    names = [name for name, _ in contenders((Path("mine.safetensors"),))]
    peers = {"hypergradient", "greedy", "random", "prodigy", "schedule-free", "dog", "d-adaptation", "mechanic"}
    cards = {"trimtab-v1", "trimtab-v1+val", "mine", "mine+val"}
    assert {*STATIC, *(f"{name}+average" for name in STATIC)} | peers | cards <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_trains(name: str) -> None:
    """At its defaults it lowers the loss within 40 steps, from the same first weights as everyone."""
    pytest.importorskip(PEERS[name].package)
    done = compete(SHORT, name, (0, 1))
    others = drive(SHORT, Constant(), (1e-3,), (0, 1), has_guard=False)
    assert (1, 2) == tuple(done.finals.shape)
    assert done.chance == pytest.approx(others.chance, rel=1e-5)
    assert float(done.curve[-1]) < float(done.curve[0])


def test_a_missing_peer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its package is not installed the error names the extra."""
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(TaskError, match=r"trimtab\[peers\]"):
        compete(SHORT, "prodigy", (0,))


@pytest.mark.slow
def test_what_is_finished_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second bout runs nothing and gives the same rows; a line that a kill left unfinished is run again."""
    quadratic = Entry("quadratic-v1", Quadratic, 20, 2, "sgd")
    monkeypatch.setitem(SUITES, "tiny", (quadratic,))
    heats = [heat for heat in field("tiny", (quadratic,), (), seeds=2, lrs=(0.1, 1.0)) if heat.contender in STATIC]
    told: list[str] = []
    first = bout(heats, tmp_path, jobs=1, tell=lambda done, due, heat: told.append(heat.contender))
    assert list(STATIC) == told
    assert first == bout(heats, tmp_path, jobs=1, tell=lambda done, due, heat: told.append("again"))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    assert 7 == len(read_rows(path))
    assert [("quadratic-v1", name) for name in STATIC] == [(task, name) for task, name, _ in heats_of(first)]
    assert {"bars", "standings"} == set(json.loads(as_json(first)))
    assert score(first)[0].iqm >= 1 - 1e-9


@pytest.mark.slow
def test_the_command_runs_a_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`trimtab bench any-lr --quick` prints a table and writes rows and a page; bad input is one sentence."""
    words = ["bench", "any-lr", "--quick", "--tasks", "diabetes-mlp-v1", "--jobs", "1", "--out", str(tmp_path)]
    pytest.importorskip("schedulefree")
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "trimtab-v1+val" in printed
    page = (tmp_path / "any-lr.html").read_text()
    assert "Regret against the initial learning rate" in page
    assert page.count("<svg") == 2
    assert main([*words, "--card", "nowhere"]) == 2
    assert "no card at 'nowhere'" in capsys.readouterr().err
