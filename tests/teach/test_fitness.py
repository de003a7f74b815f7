"""Fitness: finite whatever comes, free of units, and the grid is what single runs give."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from trimtab.controllers import Constant, WarmupCosine
from trimtab.knobs import Panel
from trimtab.rollout import rollout
from trimtab.teach import Distribution, Examination
from trimtab.teach.distribution import Lesson
from trimtab.teach.examination import Grids, first_values
from trimtab.teach.fitness import HIGH, LOW, attempt, fitness, held_out, outcome, relative, static_grid

LR = Panel.of(["lr"])
LESSON = replace(Distribution(horizons=(20, 30)).taught(1), horizon=20)


def test_losses_count_by_their_ratio_to_chance() -> None:
    """Chance is 0, half of it log 0.5, and what is no number, or beyond all bounds, the upper or the lower end."""
    chance = LESSON.task.chance
    losses = torch.tensor([1.0, 0.5, 0.0, 1e30, torch.inf, torch.nan], dtype=torch.float64) * chance
    expected = [0.0, math.log(0.5), LOW, HIGH, HIGH, HIGH]
    assert expected == pytest.approx(relative(losses, LESSON).tolist())


def test_a_cost_is_the_weighted_sum() -> None:
    """The end counts 1, just before 0.5, the mean of the training losses' logarithms 0.15."""
    losses = LESSON.task.chance * torch.tensor([[1.0], [1.0], [0.5], [0.25]], dtype=torch.float64).repeat(10, 2)
    losses[20:] = torch.tensor([0.1, torch.nan]).double() * LESSON.task.chance
    before, end = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, 4.0])
    cost = outcome(LESSON, losses, before, end).cost()
    mean = (torch.tensor([1.0, 1.0, 0.5, 0.25]).log().mean() + torch.tensor(0.1).log()) / 2
    expected = -1.5 + 0.5 * -1.0 + 0.15 * mean
    assert float(expected) == pytest.approx(float(cost[0]), rel=1e-5)
    assert bool(cost.isfinite().all())


def test_a_run_that_is_lost_costs_a_number() -> None:
    """From a learning rate that wrecks the net, costs are finite and the highest; the guard has been at work."""
    plant = LESSON.plant(LR)
    starts = torch.tensor([[1e-2], [10.0]], dtype=torch.float64)
    done, restores = attempt(LESSON, plant, Constant(), starts, (1, 1))
    assert bool(done.cost().isfinite().all())
    assert (2,) == tuple(restores.shape)


def test_regret_bends_what_is_lost() -> None:
    """Near the baseline a regret counts as it is; far beyond, two more count as nothing; the order stays."""
    cost = torch.tensor([0.0, 0.01, 1.0, 6.0, 8.0]).double()
    assert (-cost).tolist() == fitness(cost).tolist()
    bent = fitness(cost, 0.0)
    assert -0.01 == pytest.approx(float(bent[1]), rel=1e-3)
    assert float(bent[3] - bent[4]) < 0.01
    assert bool((bent.diff() < 0).all())


def test_the_static_grid_is_what_single_runs_give() -> None:
    """The best of the grid ends where a rollout under the same schedule from the same rate ends."""
    grid = static_grid(LESSON, LR, seeds=2)
    controllers: dict[str, Any] = {"constant": Constant(), "cosine": WarmupCosine()}
    controller = controllers.get(grid.schedule)
    if controller is None:
        from trimtab.controllers import Linear

        controller = Linear()
    values = torch.full((2, 1, 1), grid.lr, dtype=torch.float64)
    plant = LESSON.plant(LR)
    done = rollout(plant, controller, values, seeds=LESSON.seeds(2), steps=20, horizon=20)
    assert float(held_out(LESSON, plant, done.copies).mean()) == pytest.approx(grid.end, abs=1e-4)


def test_grids_are_kept_in_a_file(tmp_path) -> None:
    """A grid is made once, and read again by another process's grids; a damaged file is told."""
    path = tmp_path / "grids.json"
    grids = Grids(LR, path, seeds=1)
    first = grids.of(LESSON)
    grids.save()
    stamp = path.stat().st_mtime_ns
    again = Grids(LR, path, seeds=1)
    assert first == again.of(LESSON)
    assert first.cost == again.cost(LESSON)
    again.save()
    assert stamp == path.stat().st_mtime_ns
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        Grids(LR, path)


class Still:
    """Hands out one grid for all lessons."""

    def __init__(self, end: float) -> None:
        self.end = end

    def prepare(self, lessons: Any, spread: Any) -> None:
        """Need nothing."""

    def of(self, lesson: Lesson) -> Any:
        """Give itself."""
        return self


def test_an_examination_is_the_ratio_to_the_best_static_run() -> None:
    """Of two lessons each is started from seven rates; a controller as good as the grid has regret 1."""
    lessons = Distribution(horizons=(20, 25)).examined(2)
    grids: Any = Still(0.0)
    regrets, ends, restores = Examination(lessons, LR, grids).regrets(Constant())
    assert (2, 7) == tuple(regrets.shape)
    torch.testing.assert_close(regrets, ends.mean(2).exp())
    mark = Examination(lessons, LR, grids).mark(Constant())
    assert mark.median <= mark.ninety <= mark.worst
    assert mark.restores == pytest.approx(float(restores.mean()))


def test_knobs_other_than_the_rate_are_examined_from_their_defaults() -> None:
    """Seven learning rates over the range, each with the rule's own weight decay."""
    lesson = next(
        lesson for lesson in map(Distribution().taught, range(99)) if lesson.rule.defaults.get("weight_decay")
    )
    starts = first_values(lesson, Panel.of(["lr", "weight_decay"]))
    assert [1e-6, 10.0] == pytest.approx([float(starts[0, 0]), float(starts[-1, 0])])
    assert [lesson.rule.defaults["weight_decay"]] * 7 == pytest.approx(starts[:, 1].tolist())
