"""Unroll: the gradient is that of finite differences, pieces end where they should, and a kill costs nothing."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.controller import Controller
from trimtab.controllers import Policy, Population
from trimtab.errors import TaskError
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import Voyage
from trimtab.rules import SGD, AdamW, Rule
from trimtab.teach import Distribution, Exercise, Genome, Lesson, Unroll
from trimtab.teach.draw import Draw
from trimtab.teach.journey import Journeys
from trimtab.teach.sketch import sketch
from trimtab.teach.unroll import clipped, slopes_of

LR = Panel.of(["lr"])
CLOCK = ("progress", "age")  # the features that no weight of the base model bears on
GENOME = Genome(Policy.for_panel(LR, hidden=3).spec, CLOCK)
LESSONS = Distribution(horizons=(20, 30))


def smooth(seed: int) -> Exercise:
    """Give the first exercise from a seed on that is a tanh perceptron without batch norm."""
    while (s := sketch(seed)).family != "mlp" or s.activation != "tanh" or s.has_norm or s.rows > 500:
        seed += 1
    return Exercise(seed)


def final_loss(lesson: Lesson, plant: Plant, controller: Controller, starts: Tensor) -> Tensor:
    """Train without guard; give ``[B]`` losses on the whole training split."""
    voyage = Voyage(plant, controller, horizon=lesson.horizon)
    passage, _ = voyage.advance(voyage.begin(starts[:, None], [5] * len(starts)), lesson.horizon)
    return plant.evaluate(passage.copies, plant.split("train"))[0]


@pytest.mark.parametrize(
    ("rule", "lr"), [(SGD(momentum=0.9), 1e-2), (SGD(momentum=0.9, nesterov=True), 1e-2), (AdamW(), 1e-2)]
)
@pytest.mark.parametrize("knobs", [("lr",), ("lr", "momentum", "weight_decay")])
def test_the_gradient_is_that_of_central_differences(rule: Rule, lr: float, knobs: tuple[str, ...]) -> None:
    """Over 15 steps with 5 decisions, for every weight of the policy, in float64: to 1e-6 of the gradient's norm."""
    lesson = Lesson(1, smooth(3), rule, 15, None)
    panel = lesson.panel(Panel.of(knobs))
    genome = Genome(Policy.for_panel(panel, hidden=3).spec, CLOCK)
    mean = 0.3 * Draw(1).normal(genome.size)
    start = torch.tensor([[{"lr": lr, "weight_decay": 1e-2}.get(name, 0.9) for name in knobs]], dtype=torch.float64)
    step = 1e-5
    rows = mean + step * torch.cat([torch.eye(genome.size), -torch.eye(genome.size)]).double()
    plant = lesson.plant(panel, dtype=torch.float64)
    crew = Population(genome.policy(mean), genome.weights(rows))
    plus, minus = final_loss(lesson, plant, crew, start.repeat(len(rows), 1)).chunk(2)

    plant = lesson.plant(panel, dtype=torch.float64, differentiable=True)
    slopes, _ = slopes_of(genome, mean, lambda controller: final_loss(lesson, plant, controller, start), 1)
    expected = (plus - minus) / (2 * step)
    assert float(expected.norm()) > 1e-4
    assert float((slopes[0] - expected).norm() / expected.norm()) < 1e-6


def test_members_are_differentiated_alone() -> None:
    """Two members give together what each gives by itself, and the same costs as without a graph."""
    lesson = Lesson(1, smooth(3), AdamW(), 12, None)
    mean = Draw(2).normal(GENOME.size)
    starts = torch.tensor([[1e-2], [1e-4]], dtype=torch.float64)

    def found(starts: Tensor) -> tuple[Tensor, Tensor]:
        plant = lesson.plant(LR, dtype=torch.float64, differentiable=True)
        return slopes_of(GENOME, mean, lambda c: final_loss(lesson, plant, c, starts), len(starts))

    slopes, costs = found(starts)
    torch.testing.assert_close(slopes, torch.cat([found(starts[:1])[0], found(starts[1:])[0]]), rtol=1e-9, atol=1e-12)
    plain = final_loss(lesson, lesson.plant(LR, dtype=torch.float64), GENOME.policy(mean), starts)
    torch.testing.assert_close(costs, plain, rtol=1e-6, atol=0.0)  # a policy's own weights are float32


@pytest.mark.parametrize("family", ["cnn", "gru", "attention", "mlp"])
def test_every_family_can_be_differentiated_twice(family: str) -> None:
    """A piece of each gives finite slopes that are not all zero, batch norm included."""
    seed = next(s for s in range(1, 2000) if sketch(s).family == family and (family != "mlp" or sketch(s).has_norm))
    lesson = Lesson(1, Exercise(seed), AdamW(), 10, None)
    mean = Draw(4).normal(GENOME.size)
    plant = lesson.plant(LR, differentiable=True)
    starts = torch.full((2, 1), 1e-2, dtype=torch.float64)
    slopes, _ = slopes_of(GENOME, mean, lambda c: final_loss(lesson, plant, c, starts), 2)
    assert bool(slopes.isfinite().all())
    assert float(slopes.abs().max()) > 0


@pytest.mark.parametrize("calm", [0.0, 0.6])
def test_an_untaught_policy_has_slopes(calm: float) -> None:
    """Moves of exactly zero leave knobs as they are, bit for bit, but not without a slope; calm ones too."""
    genome = Genome(Policy.for_panel(LR, hidden=3, calm=calm).spec, ("trend_*", *CLOCK))
    lesson = Lesson(1, smooth(3), SGD(), 12, None)
    plant = lesson.plant(LR, dtype=torch.float64, differentiable=True)
    start = torch.tensor([[1e-2]], dtype=torch.float64)
    slopes, _ = slopes_of(genome, genome.untaught(), lambda c: final_loss(lesson, plant, c, start), 1)
    assert 0 < float(slopes.abs().max()) < math.inf


def test_gradients_are_cut() -> None:
    """To the norm asked for; a member whose gradient is no number counts as zero, and as cut."""
    slopes = torch.tensor([[3.0, 4.0], [0.3, 0.4], [math.nan, 1.0], [math.inf, 0.0], [0.0, 0.0]])
    cut, was_cut = clipped(slopes, 1.0)
    torch.testing.assert_close(cut, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    assert [True, False, True, True, False] == was_cut.tolist()


def teacher(**settings: Any) -> Unroll:
    """Make a teacher of a tiny policy, in pieces of 12 steps."""
    return Unroll(GENOME, LR, **{"members": 3, "tasks": 2, "generations": 8, "unroll": 12, **settings})


def taught(school: Unroll, generations: int, state: Journeys | None = None) -> Journeys:
    """Teach some generations."""
    state = school.start(GENOME.untaught()) if state is None else state
    for _ in range(generations):
        state, record = school.generation(state, LESSONS.taught)
        assert all(math.isfinite(value) for value in record.values())
    return state


def test_lessons_end_and_others_begin_and_no_graph_is_kept() -> None:
    """Lessons of 20 to 30 steps take two or three pieces of 12; what is under way carries no graph."""
    first = taught(teacher(), 1)
    underway = [u for u in first.underway if u is not None]
    assert [12, 12] == [u.passage.step for u in underway]
    assert not any(u.passage.copies.weights.requires_grad or u.held.requires_grad for u in underway)
    assert not any(u.passage.state["saved"]["position"].requires_grad for u in underway)
    assert taught(teacher(), 5, first).begun >= 4


def test_teaching_goes_on_from_a_file() -> None:
    """Three generations, a file, and three more make six, bit for bit."""
    whole, half = taught(teacher(), 6), taught(teacher(), 3)
    file = io.BytesIO()
    torch.save(teacher().tree(half), file)
    file.seek(0)
    resumed = taught(teacher(), 3, teacher().of_tree(torch.load(file, weights_only=True)))
    assert torch.equal(whole.ascent.mean, resumed.ascent.mean)
    assert torch.equal(whole.ascent.second, resumed.ascent.second)


def test_a_piece_without_a_decision_teaches_nothing() -> None:
    """Between two readings no weight of the policy bears on anything."""
    school = teacher(unroll=3, tasks=1)
    state = taught(school, 5)  # 15 steps: after the reading at 10, before that at 20
    _, record = school.generation(replace(state), lambda count: replace(LESSONS.taught(count), horizon=30))
    assert 0.0 == record["gradient"]


@pytest.mark.slow
def test_it_teaches() -> None:
    """On one lesson again and again, from five rates over seven decades, the held-out loss falls to less than half.

    The lesson is long beside the guard's trial: no slope goes past a return to the first weights. The way is chaotic
    (the last bit of a sum changes it), so the best end of three beginnings is judged: of fifteen beginnings thirteen
    end as low, of five taught with random slopes of the same length none.
    """
    lesson = Lesson(1, smooth(3), SGD(), 96, None)
    genome = Genome(GENOME.spec, ("progress", "position_*"))
    school = Unroll(genome, LR, members=5, tasks=1, generations=40, unroll=96, rate=0.02)
    falls = []
    for seed in range(3):
        state, costs = school.start(genome.untaught() + 1e-6 * Draw(seed).normal(genome.size)), []
        for _ in range(40):
            state, record = school.generation(state, lambda count: lesson)
            costs.append(record["cost"])
        falls.append(costs[0] - sum(costs[-5:]) / 5)
    assert max(falls) > 1.65 * math.log(2)  # the end counts 1.5, the mean over the run 0.15


def test_what_does_not_hold_is_told() -> None:
    """Settings out of range, and a plant that could not keep a graph."""
    with pytest.raises(TaskError, match=r"at least 1.*'unroll': 0"):
        teacher(unroll=0)
    with pytest.raises(TaskError, match=r"clip=0\.0"):
        teacher(clip=0.0)
    with pytest.raises(TaskError, match="either `fast` or `differentiable`"):
        LESSONS.taught(0).plant(LR, fast=True, differentiable=True)
