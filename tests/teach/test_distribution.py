"""Laws of teach-v1: everything follows from numbers, and stays within what the page says."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from trimtab.contracts import TaskContract
from trimtab.controllers import Constant
from trimtab.errors import TaskError
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import rollout
from trimtab.rules import SGD, AdamW
from trimtab.stream import Stream
from trimtab.teach import Distribution, Exercise
from trimtab.teach.distribution import LR_RANGE, RESERVED, Lesson
from trimtab.teach.draw import Draw, mixed
from trimtab.teach.networks import ACTIVATIONS, FAMILIES
from trimtab.teach.sketch import LARGE, sketch
from trimtab.teach.sources import FLAT, SIZES, SOURCES, SQUARE, among

LR = Panel.of(["lr"])
SKETCHES = {seed: sketch(seed) for seed in range(400)}
CASES = {  # one of each source, and one with batch norm
    source: next(seed for seed, drawn in SKETCHES.items() if drawn.source == source and drawn.family == "mlp")
    for source in SOURCES
}
CASES |= {"norm": next(seed for seed, drawn in SKETCHES.items() if drawn.has_norm and drawn.family == "mlp")}
CASES |= {family: next(seed for seed, drawn in SKETCHES.items() if drawn.family == family) for family in FAMILIES}


class TestExercise(TaskContract):
    """An exercise of each kind."""

    @pytest.fixture(params=CASES)
    def task(self, request: pytest.FixtureRequest) -> Exercise:
        """One after the other."""
        return Exercise(CASES[request.param])


@pytest.mark.parametrize("kind", CASES)
def test_an_exercise_is_pickled_as_what_it_is_drawn_from(kind: str) -> None:
    """A copy through pickle is small, and has the same data and weights."""
    here = Exercise(CASES[kind])
    text = pickle.dumps(here)
    there = pickle.loads(text)
    assert len(text) < 150
    assert all(torch.equal(a, b) for a, b in zip(here.data("val"), there.data("val"), strict=True))
    weights = [torch.cat([p.detach().flatten() for p in task.build(5).parameters()]) for task in (here, there)]
    assert torch.equal(*weights)


@pytest.mark.parametrize("kind", CASES)
def test_chance_is_the_best_constant_answers_loss(kind: str) -> None:
    """No constant does better on the training split, and an answer that is it does as well."""
    task = Exercise(CASES[kind])
    _, y = task.data("train")
    if y.is_floating_point():
        expected = float((y - y.mean()).square().mean())
    else:
        share = torch.bincount(y, minlength=task.sketch.classes) / len(y)
        expected = float(torch.nn.functional.cross_entropy(share.log().expand(len(y), -1), y))
    assert expected == pytest.approx(task.chance, rel=1e-5)


def test_sketches_keep_to_the_page() -> None:
    """Four hundred sketches lie within the ranges of the page, and sources come in their shares."""
    drawn = list(SKETCHES.values())
    for sketched in drawn:
        assert 1 <= len(sketched.widths) <= 3
        low, high = {"mlp": (8, 64), "cnn": (4, 12), "gru": (8, 24), "attention": (8, 16)}[sketched.family]
        assert low <= min(sketched.widths) <= max(sketched.widths) <= high
        assert sketched.activation in ACTIVATIONS
        assert sketched.gain in {0.25, 0.5, 1.0, 2.0, 4.0}
        assert sketched.batch_size in ({16, 32, 64, 128} if sketched.family == "mlp" else {8, 16, 32})
        most = SIZES[sketched.source][0] if sketched.source in SIZES else 6000
        assert max(150, most // 2 if sketched.source in SIZES else 0) <= sketched.rows <= most
        assert sketched.batch_size <= 0.6 * sketched.rows
        assert sketched.noise == 0 or 0.02 <= sketched.noise <= 0.5
        assert sketched.family == "mlp" or sketched.inputs == 64
    made = [sketched for sketched in drawn if sketched.source in {"classes", "numbers"}]
    close([sketched.rows >= 3000 for sketched in made], LARGE)
    for family, share in FAMILIES.items():
        close([sketched.family == family for sketched in drawn], share)
    for shares, mine in ((FLAT, {"mlp"}), (SQUARE, {"cnn", "gru", "attention"})):
        some = [sketched for sketched in drawn if sketched.family in mine]
        for source, share in among(shares, SOURCES).items():
            close([sketched.source == source for sketched in some], share)
    assert {1} == {sketched.classes for sketched in drawn if sketched.source == "numbers"}


def close(found: list[bool], share: float) -> None:
    """Check a share within four standard errors."""
    assert abs(sum(found) / len(found) - share) < 4 * math.sqrt(share * (1 - share) / len(found))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_as_copies(family: str) -> None:
    """Twenty steps of AdamW at 1e-2 on the plant lower the loss of a family's members, each its own."""
    lesson = next(lesson for lesson in map(Distribution().taught, range(999)) if lesson.task.sketch.family == family)
    plant, seeds = Plant(lesson.task, AdamW(), LR), (1, 2, 3)
    done = rollout(plant, Constant(), torch.full((3, 1, 1), 1e-2), seeds=seeds, steps=20)
    assert bool((done.losses[-5:].mean(0) < done.losses[:5].mean(0)).all())
    assert 3 == len({float(loss) for loss in done.losses[-1]})


@pytest.mark.parametrize("first", range(0, 200, 10))
def test_every_lesson_takes_a_step(first: int) -> None:
    """Each lesson builds, and one step of its own optimizer at 1e-3 moves two members' weights to a finite loss."""
    lessons = Distribution(horizons=(50, 5000))
    for lesson in [*lessons.examined(200)[first : first + 5], *map(lessons.taught, range(first, first + 5))]:
        plant, seeds = lesson.plant(LR), lesson.seeds(2)
        stream, before = Stream(lesson.task, seeds), plant.start(seeds)
        values = torch.full((2, 1, 1), 1e-3, dtype=torch.float64)
        after, losses, _, _ = plant.step(before, values, stream.next(), 1, None)
        _, again, _, _ = plant.step(after, values, stream.next(), 2, None)
        assert bool(torch.cat([losses, again]).isfinite().all()), lesson
        assert 50 <= lesson.horizon <= 5000
        assert float(losses[0]) != float(losses[1])


def test_momentum_is_beta1_where_the_rule_calls_it_so() -> None:
    """A panel of lr and momentum is lr and beta1 on an Adam lesson, with starts in its range."""
    lessons = [Distribution().taught(count) for count in range(30)]
    for lesson in lessons:
        names = lesson.panel(Panel.of(["lr", "momentum"])).names
        assert names == (("lr", "momentum") if lesson.rule.name == "sgd" else ("lr", "beta1"))
        assert 0 <= float(lesson.starts(Panel.of(["lr", "momentum"]), 8)[:, 1].min())


def test_shipped_digits_are_not_taught_on() -> None:
    """No example of an exercise on digits is in the shipped task's validation or test split."""
    from trimtab.tasks.digits import digits

    task = Exercise(CASES["digits"])
    rows = sum(len(task.data(split)[0]) for split in ("train", "val", "test"))
    assert rows == task.sketch.rows <= len(digits("train")[0])


def test_lessons_follow_from_their_numbers() -> None:
    """The same count gives the same lesson; another seed others; those examined are the same for all, and apart."""
    one, same, other = Distribution(), Distribution(), Distribution(seed=1)
    assert one.taught(3).number == same.taught(3).number
    assert one.taught(3).horizon == same.taught(3).horizon
    numbers = {lessons.taught(count).number for lessons in (one, other) for count in range(500)}
    assert 1000 == len(numbers)
    assert min(numbers) >= RESERVED
    assert [lesson.number for lesson in one.examined(4)] == [0, 1, 2, 3]
    assert [lesson.rule for lesson in one.examined(8)] == [lesson.rule for lesson in other.examined(8)]


def test_a_pool_comes_round() -> None:
    """With a pool of three lessons the fourth is the first."""
    pool = Distribution(pool=3)
    assert pool.taught(0).number == pool.taught(3).number
    assert 3 == len({pool.taught(count).number for count in range(9)})


def test_horizons_and_rules_are_those_asked_for() -> None:
    """Horizons are log-uniform in their range, rules in their list; half of the lessons show validation losses."""
    lessons = [Distribution(horizons=(100, 1600), rules=("sgd",)).taught(count) for count in range(200)]
    assert 100 <= min(lesson.horizon for lesson in lessons) <= max(lesson.horizon for lesson in lessons) <= 1600
    assert 0.35 < sum(lesson.horizon < 400 for lesson in lessons) / 200 < 0.65
    assert {SGD} == {type(lesson.rule) for lesson in lessons}
    assert 0.35 < sum(lesson.validate_every is None for lesson in lessons) / 200 < 0.65
    assert all(lesson.validate_every % 10 == 0 for lesson in lessons if lesson.validate_every)


def decayed(distribution: Distribution) -> Lesson:
    """Give the first taught lesson whose rule decays weights."""
    lessons = map(distribution.taught, range(99))
    return next(lesson for lesson in lessons if lesson.rule.defaults.get("weight_decay"))


@pytest.mark.parametrize(("name", "share"), [("teach-v1", 0.5), ("teach-v4", 0.5), ("teach-v5", 0.9)])
def test_starts_cover_seven_decades_evenly(name: str, share: float) -> None:
    """Of 21 learning rates three lie in each decade; another knob is at its default in its share of the cases."""
    lesson, both = decayed(Distribution(name=name)), Panel.of(["lr", "weight_decay"])
    starts = lesson.starts(both, 21)
    decades = torch.floor(starts[:, 0].log10()).int()
    assert [3] * 7 == torch.bincount(decades + 6, minlength=7).tolist()
    assert LR_RANGE[0] <= float(starts[:, 0].min()) <= float(starts[:, 0].max()) <= LR_RANGE[1]
    usual = (lesson.starts(both, 1000)[:, 1] - lesson.rule.defaults["weight_decay"]).abs() < 1e-12
    assert abs(float(usual.double().mean()) - share) < 4 * (share * (1 - share) / 1000) ** 0.5
    assert 21 == len(set(lesson.seeds(21)))


@pytest.mark.parametrize("by", ["run", "layer"])
def test_a_lesson_builds_its_plant(by: str) -> None:
    """Sites are the run, or the layers."""
    lesson = Distribution().taught(0)
    sites = lesson.plant(LR, by).sites
    layers = len(lesson.task.sketch.widths) * (1 + lesson.task.sketch.has_norm) + 1
    assert (1 if by == "run" else layers) == len(sites)


@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ({"horizons": (60, 50)}, "shortest <= longest"),
        ({"horizons": (5, 50)}, "10 <= shortest"),
        ({"horizons": (50,)}, "two whole numbers"),
        ({"rules": ("muon",)}, "`rules` out of sgd, adam, adamw"),
        ({"rules": ()}, "`rules` out of"),
        ({"seed": -1}, "`seed >= 0`"),
        ({"pool": -1}, "`pool >= 0`"),
    ],
)
def test_what_does_not_hold_is_told(settings: dict, law: str) -> None:
    """A setting out of range is refused with the law."""
    with pytest.raises(TaskError, match=law):
        Distribution(**settings)


def test_draws_are_apart_by_purpose() -> None:
    """Other numbers, or the same in another order, draw other numbers."""
    seeds = {mixed(a, b) for a in range(30) for b in range(30)}
    assert 900 == len(seeds)
    assert Draw(1, 2).uniform() != Draw(2, 1).uniform()
    assert all(low <= Draw(seed).log_whole(150, 3000) <= 3000 for seed, low in enumerate([150] * 50))
    assert {3, 4, 5} == {Draw(seed).whole(3, 5) for seed in range(40)}
    assert {"a", "b"} == {Draw(seed).weighted({"a": 0.5, "b": 0.5}) for seed in range(40)}
