"""Persistent evolution strategies: unbiased where evolution over pieces is not, and exact over a kill."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.controllers import Policy
from trimtab.errors import TaskError
from trimtab.knobs import Panel
from trimtab.teach import Distribution, Genome, PersistentEvolution
from trimtab.teach.ascent import gradient
from trimtab.teach.draw import Draw
from trimtab.teach.fitness import outcome, relative
from trimtab.teach.journey import Journeys, piece

F64 = torch.float64
LR = Panel.of(["lr"])
GENOME = Genome(Policy.for_panel(LR, hidden=2, kind="gru").spec, ("trend_*", "position_*"))
LESSONS = Distribution(horizons=(20, 30))
DIMENSIONS, PLUS, STEPS = 23, 10, 100


def influence(state: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step of influence balancing (Tallec & Ollivier 2017, arXiv:1705.08209, sec. 5.1): state and loss.

    A small positive influence at once stands against a larger negative one that takes some steps to arrive, so that
    the gradient over pieces points the wrong way.
    """
    transition = 0.5 * torch.eye(DIMENSIONS, dtype=F64) + torch.diag(torch.full((DIMENSIONS - 1,), 0.5).double(), 1)
    signs = torch.where(torch.arange(DIMENSIONS) < PLUS, 1.0, -1.0).double()
    state = state @ transition.T + theta[:, None] * signs
    return state, 0.5 * (state[:, 0] - 1).square()


def exact(theta: float) -> float:
    """Give the derivative of the losses' sum by theta, by automatic differentiation."""
    point = torch.tensor([theta], dtype=F64, requires_grad=True)
    state, total = torch.ones(1, DIMENSIONS, dtype=F64), torch.zeros(1, dtype=F64)
    for _ in range(STEPS):
        state, loss = influence(state, point)
        total = total + loss
    return float(torch.autograd.grad(total.sum(), point)[0])


def estimate(theta: float, *, is_persistent: bool, pairs: int, sigma: float, seed: int) -> Tensor:
    """Sum the estimates of all pieces of one step: ``[N]``, one a pair."""
    states = [torch.ones(pairs, DIMENSIONS, dtype=F64) for _ in range(2)]
    drift, total = torch.zeros(pairs, dtype=F64), torch.zeros(pairs, dtype=F64)
    for step in range(STEPS):
        noise = sigma * Draw(seed, step).normal(pairs)
        drift = drift + noise if is_persistent else noise
        ends = [influence(state, theta + sign * noise) for state, sign in zip(states, (1, -1), strict=True)]
        states = [state for state, _ in ends]
        # one call a pair, so that the estimate's own error can be told
        total += drift / sigma**2 * (ends[0][1] - ends[1][1]) / 2
    return total


def test_it_is_unbiased_where_evolution_over_pieces_points_the_wrong_way() -> None:
    """On influence balancing it meets the exact gradient within 4 standard errors; pieces alone have the other sign."""
    true = exact(0.5)
    persistent = estimate(0.5, is_persistent=True, pairs=4_000, sigma=0.1, seed=1)
    truncated = estimate(0.5, is_persistent=False, pairs=4_000, sigma=0.1, seed=1)
    assert abs(float(persistent.mean()) - true) < 4 * float(persistent.std()) / 4_000**0.5 < abs(true) / 5
    assert float(truncated.mean()) * true < 0
    assert abs(float(truncated.mean()) - true) > 20 * float(truncated.std()) / 4_000**0.5


def test_the_library_estimates_as_the_toy_does() -> None:
    """`gradient` of perturbations over the variance is the mean of the toy's estimates."""
    noise, differences = Draw(3).normal(40, 1), Draw(4).normal(40)
    expected = (noise[:, 0] / 0.01 * differences / 2).mean()
    torch.testing.assert_close(gradient(noise / 0.01, differences)[0], expected)


def test_pieces_add_up_to_the_whole_lessons_cost() -> None:
    """A lesson's pieces add up to its cost, just before the end taken at the end, less what it began with."""
    lesson = replace(LESSONS.taught(0), horizon=24)
    losses = lesson.task.chance * Draw(5).uniforms(24, 3).exp()
    held = [Draw(6, cut).normal(3) for cut in range(4)]
    cuts = [(0, 10), (10, 20), (20, 24)]
    parts = [
        piece(lesson, losses[a:b], held[i], held[i + 1]) for i, (a, b) in enumerate(cuts)
    ]  # fmt: skip
    whole = outcome(lesson, losses, held[3], held[3]).cost()
    torch.testing.assert_close(sum(parts) + 1.5 * held[0], whole)
    assert bool(relative(losses, lesson).isfinite().all())


def teacher(**settings: Any) -> PersistentEvolution:
    """Make a teacher of a tiny recurrent policy, in pieces of 12 steps."""
    return PersistentEvolution(GENOME, LR, **{"pairs": 2, "tasks": 2, "generations": 8, "unroll": 12, **settings})


def taught(school: PersistentEvolution, generations: int, state: Journeys | None = None) -> Journeys:
    """Teach some generations."""
    state = school.start(GENOME.untaught()) if state is None else state
    for _ in range(generations):
        state, record = school.generation(state, LESSONS.taught)
        assert all(torch.tensor(list(record.values())).isfinite())
    return state


def test_lessons_end_and_others_begin() -> None:
    """Lessons of 20 to 30 steps take two or three pieces of 12; perturbations add up, and begin anew with a lesson."""
    school = teacher()
    first = taught(school, 1)
    assert [12, 12] == [u.passage.step for u in first.underway if u is not None]
    second = taught(school, 1, first)
    for before, after in zip(first.underway, second.underway, strict=True):
        assert before is not None
        if after is not None:
            assert not torch.equal(before.drift, after.drift)
            assert (24, before.count) == (after.passage.step, after.count)
    last = taught(school, 4, second)
    assert last.begun >= 4
    assert 6 == last.ascent.number
    assert float(last.size) > 0


def test_teaching_goes_on_from_a_file() -> None:
    """Three generations, a file, and three more make six, bit for bit, lessons under way included."""
    whole = taught(teacher(), 6)
    half = taught(teacher(), 3)
    file = io.BytesIO()
    torch.save(teacher().tree(half), file)
    file.seek(0)
    resumed = taught(teacher(), 3, teacher().of_tree(torch.load(file, weights_only=True)))
    assert torch.equal(whole.ascent.mean, resumed.ascent.mean)
    assert torch.equal(whole.ascent.second, resumed.ascent.second)
    assert whole.begun == resumed.begun
    for one, two in zip(whole.underway, resumed.underway, strict=True):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            assert torch.equal(one.passage.copies.weights, two.passage.copies.weights)


def test_one_piece_of_a_whole_lesson_is_taught_in_one_generation() -> None:
    """With pieces longer than the lesson each generation begins two new ones."""
    state = taught(teacher(unroll=100), 2)
    assert (None, None) == state.underway
    assert 4 == state.begun


def test_what_does_not_hold_is_told() -> None:
    """A piece has at least one step."""
    with pytest.raises(TaskError, match="`unroll >= 1`, got 0"):
        teacher(unroll=0)
