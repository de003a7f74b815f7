"""Evolution: its gradient is the true one where that is known, and a state is all that it remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.controllers import Policy
from trimtab.errors import StateError, TaskError
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import rollout
from trimtab.rules import AdamW
from trimtab.tasks.quadratic import Quadratic
from trimtab.teach import Distribution, Evolution, Genome
from trimtab.teach.ascent import Ascent, directions, falling, gradient, scaled
from trimtab.teach.draw import Draw
from trimtab.teach.evolution import Lives

F64 = torch.float64
LR = Panel.of(["lr"])
GENOME = Genome(Policy.for_panel(LR, hidden=2).spec, ("trend_*", "position_*", "progress"))
LESSONS = Distribution(horizons=(20, 30))


def teacher(**settings: Any) -> Evolution:
    """Make a teacher of a tiny policy."""
    return Evolution(GENOME, LR, **{"pairs": 2, "tasks": 2, "generations": 4, **settings})


def bowl(dimensions: int) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """Give a quadratic of rows ``[N, P]``, a point, and its exact gradient there."""
    draw = Draw(0)
    root, target, point = draw.normal(dimensions, dimensions), draw.normal(dimensions), draw.normal(dimensions)

    def value(rows: Tensor) -> Tensor:
        return -0.5 * ((rows - target) @ root).square().sum(-1)

    return value, point, -(root @ root.T) @ (point - target)


def test_the_gradient_of_a_quadratic_is_met_within_the_expected_error() -> None:
    """With N antithetic pairs the error's mean square is (P + 1) |g|^2 / N: exact in expectation, at any sigma."""
    value, point, exact = bowl(8)
    pairs, sigma = 4000, 0.7
    errors = []
    for repeat in range(10):
        noise = Draw(1, repeat).normal(pairs, 8)
        estimate = gradient(noise / sigma, value(point + sigma * noise) - value(point - sigma * noise))
        errors.append((estimate - exact).square().sum() / exact.square().sum())
    assert 9 / pairs == pytest.approx(float(torch.stack(errors).mean()), rel=0.5)


def test_antithetic_pairs_do_not_see_what_is_even() -> None:
    """A constant and a curvature, however large, drop out of the estimate."""
    noise = Draw(2).normal(50, 3)
    value, slope = 1e3 + 1e3 * noise.square().sum(1), noise @ torch.ones(3, dtype=F64)
    torch.testing.assert_close(gradient(noise, (value + slope) - (value - slope)), gradient(noise, 2 * slope))


def test_differences_are_scaled_and_cut() -> None:
    """Scaled differences have root mean square 1 before the cut at 2, whatever their unit; zeros stay zeros."""
    differences = Draw(3).normal(1000)
    assert 1.0 == pytest.approx(float(scaled(differences).square().mean().sqrt()), abs=0.05)
    torch.testing.assert_close(scaled(differences), scaled(1e-6 * differences))
    assert 2.0 == float(scaled(torch.cat([differences, differences[:1] + 1e6])).max())
    assert torch.equal(torch.zeros(5), scaled(torch.zeros(5)))
    torch.testing.assert_close(scaled(differences, torch.tensor(100.0, dtype=F64)), differences / 100)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_climb_is_a_step_of_adamw(decay: float) -> None:
    """Three steps equal torch.optim.AdamW's on the negative gradient."""
    param = torch.nn.Parameter(Draw(4).normal(5))
    ascent = Ascent.begin(param.detach().clone())
    adam = torch.optim.AdamW([param], lr=0.03, weight_decay=decay, maximize=True)
    for step in range(3):
        param.grad = Draw(5, step).normal(5)
        ascent = ascent.climb(param.grad.clone(), 0.03, decay)
        adam.step()
    torch.testing.assert_close(ascent.mean, param.detach(), rtol=1e-12, atol=1e-12)
    assert [0.04, 0.02, 0.0] == [falling(0.04, number, 10) for number in (0, 5, 10)]


def test_evolution_climbs_a_bowl() -> None:
    """Estimate and climb, repeated, come to the top."""
    value, point, _ = bowl(4)
    ascent = Ascent.begin(point)
    for number in range(300):
        noise = Draw(6, number).normal(16, 4)
        better = value(ascent.mean + 0.1 * noise) - value(ascent.mean - 0.1 * noise)
        ascent = ascent.climb(gradient(noise, scaled(better)), falling(0.1, number, 300))
    assert float(value(point[None])) < -1 < -0.02 < float(value(ascent.mean[None]))


def test_a_generation_is_pure() -> None:
    """A state gives the same state twice, and is not changed; the order in which lessons are tried is no matter."""

    def backwards(function: Callable[[Any], Any], inputs: Iterable[Any]) -> Iterable[Any]:
        return list(map(function, list(inputs)[::-1]))[::-1]

    school = teacher()
    begin = school.start(GENOME.untaught())
    mean = begin.ascent.mean.clone()
    (one, record), (two, _) = (school.generation(begin, LESSONS.taught, way) for way in (map, backwards))
    assert torch.equal(mean, begin.ascent.mean)
    assert torch.equal(one.ascent.mean, two.ascent.mean)
    assert not torch.equal(mean, one.ascent.mean)
    assert 1 == one.ascent.number
    assert {"cost", "difference", "gradient"} == set(record)
    assert all(torch.tensor(list(record.values())).isfinite())


def test_teaching_goes_on_from_a_tree() -> None:
    """Two generations, a state through its tree, and a third, make the third generation of an unbroken teaching."""
    school = teacher(tasks=1)
    state = school.start(GENOME.untaught())
    for _ in range(2):
        state, _ = school.generation(state, LESSONS.taught)
    whole, _ = school.generation(state, LESSONS.taught)
    resumed, _ = teacher(tasks=1).generation(school.of_tree(school.tree(state)), LESSONS.taught)
    for name in ("mean", "first", "second"):
        assert torch.equal(getattr(whole.ascent, name), getattr(resumed.ascent, name))


def test_regret_is_taken_of_each_lessons_own_baseline() -> None:
    """With a baseline each lesson asks for its own, once."""
    asked = []

    def baseline(lesson: Any) -> float:
        asked.append(lesson.number)
        return -1.0

    school = teacher(baseline=baseline)
    school.generation(school.start(GENOME.untaught()), LESSONS.taught)
    assert [LESSONS.taught(0).number, LESSONS.taught(1).number] == asked


def test_directions_differ_by_generation_lesson_and_seed() -> None:
    """No two of them are alike, and each can be drawn again."""
    drawn = [directions(teacher(seed=s), g, t) for s in (0, 1) for g in (0, 1) for t in (0, 1)]
    assert (2, GENOME.size) == tuple(drawn[0].shape)
    assert 8 == len({float(d[0, 0]) for d in drawn})
    assert torch.equal(drawn[0], directions(teacher(), 0, 0))


def test_a_state_of_another_policy_is_refused() -> None:
    """Weights of another number, or no state at all, are told."""
    school = teacher()
    tree = school.tree(Lives(Ascent.begin(torch.zeros(3, dtype=F64))))
    with pytest.raises(StateError, match="3 taught weights"):
        school.of_tree(tree)
    with pytest.raises(StateError, match="no state of a teacher"):
        school.of_tree({})


@pytest.mark.parametrize(
    "setting", [{"pairs": 1}, {"tasks": 0}, {"sigma": 0.0}, {"rate": -1.0}, {"generations": -1}, {"decay": -0.1}]
)
def test_what_does_not_hold_is_told(setting: dict) -> None:
    """A setting out of range is refused."""
    with pytest.raises(TaskError, match="A teacher needs"):
        teacher(**setting)


def test_a_genome_is_the_policys_taught_weights() -> None:
    """A vector becomes a policy and a population of the same weights; features left out have weight 0."""
    spec = Policy.for_panel(LR, hidden=3, kind="gru").spec
    genome = Genome(spec, ("*", "!rank_*"))
    vector = Draw(7).normal(genome.size)
    policy, rows = genome.policy(vector), genome.weights(torch.stack([vector, -vector]))
    for name, weight in policy.named_parameters():
        torch.testing.assert_close(rows[name][0].float(), weight.detach())
        torch.testing.assert_close(rows[name][1].float(), -weight.detach())
    left_out = torch.tensor([name not in genome.read for name in spec["features"]])
    assert left_out.sum() == 22
    assert not policy.get_parameter("input_weight")[:, left_out].any()
    assert policy.get_parameter("input_weight")[:, ~left_out].all()
    fresh = genome.policy(genome.untaught())
    assert not fresh.get_parameter("out_weight").any()
    with pytest.raises(TaskError, match="'rang_\\*' matches no feature"):
        Genome(spec, ("rang_*",))
    with pytest.raises(TaskError, match="at least one feature"):
        Genome(spec, ("trend_*", "!trend_*"))


def test_a_teaching_starts_from_a_policy_of_fewer_knobs() -> None:
    """Started from a policy of lr alone, one of three knobs drives the same run and leaves the others be."""
    one, three = Panel.of(["lr"]), Panel.of(["lr", "beta1", "weight_decay"])
    old, rng = Policy.for_panel(one, 4), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in old.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=rng))
    genome = Genome(Policy.for_panel(three, 4).spec)
    new = genome.policy(genome.started(old))
    runs = []
    for panel, policy, start in ((one, old, [0.01]), (three, new, [0.01, 0.9, 0.01])):
        values = torch.tensor([[start]], dtype=F64)
        with torch.no_grad():
            runs.append(rollout(Plant(Quadratic(), AdamW(), panel), policy, values, seeds=(0,), steps=40))
    torch.testing.assert_close(runs[0].values[..., 0], runs[1].values[..., 0])
    torch.testing.assert_close(runs[1].values[..., 1:], torch.tensor([0.9, 0.01], dtype=F64).expand(40, 1, 1, 2))
    assert float(runs[0].values.std()) > 0
    with pytest.raises(TaskError, match=r"4 hidden units .* got mlp with 5"):
        genome.started(Policy.for_panel(one, 5))
    with pytest.raises(TaskError, match="leaves out"):
        Genome(Policy.for_panel(three, 4).spec, ("trend_*",)).started(old)


def test_a_teaching_starts_from_a_policy_of_fewer_hidden_units() -> None:
    """The wider policy plays what the narrower one does, and its new units are there to be listened to."""
    one, patterns = Panel.of(["lr"]), ("*", "!mean_*", "!rank_*")
    old, rng = Policy.for_panel(one, 4), torch.Generator().manual_seed(0)
    genome = Genome(Policy.for_panel(one, 7).spec, patterns)
    with torch.no_grad():
        for name, weight in old.named_parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=rng))
            if name == "hidden_weight":
                weight[:, ~genome.is_read] = 0.0
    new = genome.policy(genome.started(old))
    features = torch.randn(9, 1, len(old.spec["features"]), generator=rng, dtype=F64)
    moves = [policy.shares(dict(policy.named_parameters()), features, {})[0] for policy in (old, new)]
    torch.testing.assert_close(moves[0], moves[1], rtol=0, atol=1e-15)
    assert float(moves[0].detach().std()) > 0.01
    assert bool(new.get_parameter("hidden_weight")[4:, genome.is_read].all())
    assert not bool(new.get_parameter("out_weight")[:, 4:].any())
    with pytest.raises(TaskError, match=r"7 hidden units .* got gru with 4"):
        genome.started(Policy.for_panel(one, 4, kind="gru"))
