"""Laws of the control bench: budgets are kept, nobody is made with the test split, regrets are over the tuned bar."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.bench.control.command import control
from trimtab.bench.control.judge import Player, ends
from trimtab.bench.control.page import as_json, tables, write_page
from trimtab.bench.control.run import Job, estimated, run, with_seconds
from trimtab.bench.control.scores import standings
from trimtab.bench.control.suite import BARS, CONTENDERS, FREE, Desk, contenders
from trimtab.controllers import Constant, Hypergradient
from trimtab.env import Setting
from trimtab.env.episodes import Episodes
from trimtab.errors import TaskError
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import Voyage, rollout
from trimtab.rules import SGD
from trimtab.task import Split
from trimtab.tasks import task_named
from trimtab.tasks.quadratic import Quadratic

SAME_LOG = ("value gradients, offline", "implicit Q-learning, offline")  # they see the log that cloning sees
ORIGIN = {"commit": "abc", "machine": "one", "command": "trimtab bench control"}


class Sealed(Quadratic):
    """A task whose test split must not be opened."""

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give a split, but that one."""
        assert split != "test", "The test split was opened."
        return super().data(split)


def desk(decisions: int, seed: int = 0, task: Any = None) -> Desk:
    """Give a desk for short runs on bowls."""
    return Desk(Setting(task or task_named("quadratic-v1"), prior="hold", horizon=30), decisions, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONTENDERS if name not in SAME_LOG])
def test_nobody_is_made_with_the_test_split(name: str) -> None:
    """Every contender is made, the same for the same seed, while opening the test split is an error."""
    place = desk(400, task=Sealed())
    one, two = (CONTENDERS[name](place) for _ in range(2))
    assert one.lr == two.lr
    found = [ends(place.setting, player, range(4), ("val",))["val"] for player in (one, two)]
    assert torch.equal(*found)
    assert bool(torch.isfinite(found[0]).all())


def test_ends_are_those_of_a_rollout() -> None:
    """Instances begin where they begin, or with the player's learning rate, and end as on any plant."""
    setting = desk(1).setting
    plant = Plant(setting.task, SGD(momentum=0.9), Panel.of(["lr"]))
    for lr in (None, 0.05):
        values = setting.values(plant, range(3)) if lr is None else torch.full((3, 1, 1), lr, dtype=torch.float64)
        done = rollout(plant, Constant(), values, seeds=range(3), steps=30)
        expected = plant.loss_on(done.copies, plant.split("test")).double()
        torch.testing.assert_close(ends(setting, Player(Constant(), lr), range(3), ("test",))["test"], expected)


def test_a_follower_is_judged_with_its_estimator() -> None:
    """A hypergradient of the validation loss has something to follow: runs end elsewhere than without a move."""
    still, moved = (
        ends(desk(1).setting, Player(controller), range(4), ("val",))["val"]
        for controller in (Constant(), Hypergradient("one-step-validation"))
    )
    assert not torch.allclose(still, moved)


def test_a_search_takes_the_rate_with_the_lowest_validation_loss() -> None:
    """Of the thirteen of its grid, on the instances that it may train on; a small budget has two inside it."""
    place = desk(13 * 2 * desk(1).setting.turns)
    player = CONTENDERS["constant, tuned"](place)
    numbers = place.numbers(2)

    def loss(rate: float) -> float:
        return float(ends(place.setting, Player(Constant(), rate), numbers, ("val",))["val"].log().mean())

    assert player.lr == pytest.approx(min([10 ** (-5 + 5 * n / 12) for n in range(13)], key=loss))
    assert CONTENDERS["cosine, tuned"](desk(1)).lr in [pytest.approx(10**power) for power in (-10 / 3, -5 / 3)]


def test_the_second_budget_follows_from_the_first() -> None:
    """Twice the seconds that a contender took are twice its decisions, and at least two runs."""
    job = Job("quadratic-v1", "PPO", 0, 1000, "decisions", 1000)
    again = with_seconds(job, {"decisions": 1000, "seconds": 30.0}, 60.0)
    assert (2000, "seconds", 60.0) == (again.decisions, again.mode, again.budget)
    assert 26 == with_seconds(job, {"decisions": 1000, "seconds": 1e9}, 1.0).decisions


def test_a_fixed_price_is_seen_through() -> None:
    """Twenty seconds and a hundredth a decision: the second estimate is the one that takes a minute."""
    price = [(count, 20 + 0.01 * count) for count in (1000, 2000)]
    assert 2000 == estimated(price[:1], 60.0, 26)
    assert 4000 == estimated(price, 60.0, 26)
    assert 26 == estimated(price, 1.0, 26)


@pytest.mark.parametrize(("name", "most"), [("evolution", 400), ("PPO", 400), ("value gradients, online", 200)])
def test_no_learner_spends_more_than_it_may(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole runs of all members as far as the budget goes."""
    spent: list[int] = []
    step, decide = Episodes.step, Voyage.decide

    def stepped(self: Episodes, actions: Tensor) -> Any:
        spent.append(self.members)
        return step(self, actions)

    def decided(self: Voyage, passage: Any, *rest: Any) -> Any:
        spent.append(len(passage.clock) if passage.step < 30 else 0)  # what is decided at the horizon moves nothing
        return decide(self, passage, *rest)

    if name == "evolution":
        monkeypatch.setattr(Voyage, "decide", decided)
    else:
        monkeypatch.setattr(Episodes, "step", stepped)
    CONTENDERS[name](desk(most))
    assert most / 2 < sum(spent) <= most


def row(contender: str, test: list[float | None], seed: int = 0, mode: str = "decisions") -> dict[str, Any]:
    """Make a row of final losses; validation is a tenth lower."""
    val = [None if loss is None else 0.9 * loss for loss in test]
    key = f"{contender}.{seed}.{mode}"
    made = {"key": key, "task": "bowl", "mode": mode, "contender": contender, "seed": seed, "decisions": 64}
    return {**ORIGIN, **made, "seconds": 2.0 + seed, "val": val, "test": test, "first": [5.0] * len(test)}


def test_regrets_are_over_the_better_tuned_schedule() -> None:
    """Instance by instance, over the geometric mean of its seeds; lost runs are counted and are infinite."""
    rows = [
        row(BARS[0], [1.0, 2.0, 4.0, 4.0]),
        row(BARS[0], [4.0, 2.0, 4.0, 4.0], seed=1),
        row(BARS[1], [9.0, 9.0, 9.0, 9.0]),
        row("PPO", [1.0, 1.0, 2.0, None]),
        row("no move", [2.0, 2.0, 4.0, 6.5]),
    ]
    found = {standing.contender: standing for standing in standings(rows)}
    assert (0.5, 0.5, math.inf, 1) == tuple(getattr(found["PPO"], name) for name in ("iqm", "median", "worst", "lost"))
    assert (1.0, 2.5, 8) == (found[BARS[0]].iqm, found[BARS[0]].seconds, found[BARS[0]].runs)
    assert 1 == found["no move"].lost
    nowhere = [row(BARS[0], [1.0, None, None]), row("PPO", [3.0, None, 2.0])]
    assert (3.0, 1.0) == (standings(nowhere)[1].worst, standings(nowhere)[1].median)
    assert [] == standings(rows[3:])


def test_the_page_says_what_the_rows_say(tmp_path: Path) -> None:
    """Both budgets have their table; names are escaped; JSON has no infinities."""
    rows = [
        row(name, [1.0 + n, 2.0, None if n else 3.0], mode=mode)
        for mode in ("decisions", "seconds")
        for n, name in enumerate((BARS[0], "PPO"))
    ]
    rows[0]["command"] = "trimtab bench control <script>"
    page = write_page(rows, tmp_path / "control.html").read_text()
    assert "bowl, the same decisions" in page
    assert "bowl, about the same seconds of teaching" in page
    assert "<svg" in page
    assert "<script>" not in page
    assert {("bowl", "decisions"), ("bowl", "seconds")} == set(tables(rows))
    assert None is json.loads(as_json(rows))["standings"][1]["worst"]


@pytest.mark.slow
def test_the_command_goes_on_where_it_was(tmp_path: Path) -> None:
    """Contenders that have rows are not made again; those that are taught nothing stand under both budgets."""

    def told() -> str:
        names = [BARS[0], "no move", "evolution"]
        return control(["quadratic-v1"], names, tmp_path, decisions=60, seconds=0.01, seeds=1, jobs=1)

    first = told()
    rows = (tmp_path / "rows.jsonl").read_text()
    assert told() == first
    assert rows == (tmp_path / "rows.jsonl").read_text()
    assert 5 == len(rows.splitlines())
    assert 2 == first.count("| no move |")


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    """Names and numbers, before anything is trained."""
    with pytest.raises(TaskError, match="no contender 'DQN'"):
        contenders(["DQN"])
    with pytest.raises(TaskError, match="must be at least 1"):
        control([], [], tmp_path, decisions=0)
    assert list(CONTENDERS) == contenders([])
    assert set(FREE) < set(CONTENDERS)


def test_a_row_is_what_was_made() -> None:
    """Held-out instances' losses on both splits, the rate, and no decisions where nothing was taught."""
    made = run(Job("quadratic-v1", "no move", 0, 100, "decisions", 100))
    assert (0, None, 48, 48) == (made["decisions"], made["lr"], len(made["val"]), len(made["test"]))
    assert made["val"] != made["test"]
