"""Laws of teach-v2 to -v4: kinds come in their shares and keep to the page; lessons of teach-v1 are as they were."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pytest
import torch

from trimtab.contracts import TaskContract
from trimtab.controllers.cards import page as shipped_page
from trimtab.errors import TaskError
from trimtab.knobs import Panel
from trimtab.stream import Stream
from trimtab.teach import Distribution, Exercise, read_course
from trimtab.teach.card import page
from trimtab.teach.distribution import LONG, PACE
from trimtab.teach.examination import Grids, Mark
from trimtab.teach.fitness import Grid, outcome
from trimtab.teach.sketch import CHANGES, KINDS, Kind, sketch
from trimtab.teach.sources import FLAT

LR = Panel.of(["lr"])
ALL = tuple(source for source in FLAT if source != "fashion")
OTHER: tuple[Kind, ...] = ("clean", "image", "few", "text")


class TestKinds(TaskContract):
    """Exercises of every kind keep the promises of any task."""

    @pytest.fixture(params=OTHER)
    def task(self, request: pytest.FixtureRequest) -> Exercise:
        """One of each kind."""
        return Exercise(4, kind=request.param)


def test_an_examination_may_have_lessons_of_each_kind() -> None:
    """As many of each as asked for, however rare the kind; the first of them that there are."""
    distribution = Distribution(name="teach-v2")
    lessons = distribution.examined(3, of_each_kind=True)
    assert [3] * len(KINDS["teach-v2"]) == [sum(one.task.kind == kind for one in lessons) for kind in KINDS["teach-v2"]]
    few = [one.number for one in distribution.examined(200) if one.task.kind == "few"]
    assert few[:3] == [one.number for one in lessons if one.task.kind == "few"]


@pytest.mark.parametrize("name", ["teach-v2", "teach-v3", "teach-v4", "teach-v5"])
def test_kinds_come_in_their_shares(name: str) -> None:
    """Of six hundred lessons each kind has its share within four standard errors; clean ones alone are long."""
    lessons = [Distribution((60, 100), name=name).taught(count) for count in range(600)]
    for kind, share in KINDS[name].items():
        mine = [lesson for lesson in lessons if lesson.task.kind == kind]
        assert abs(len(mine) / 600 - share) < 4 * math.sqrt(share * (1 - share) / 600)
        low, high = LONG if kind == "clean" else (60, 100)
        assert all(low <= lesson.horizon <= high for lesson in mine)
    assert {"usual"} == {Distribution().taught(count).task.kind for count in range(50)}


@pytest.mark.parametrize("kind", OTHER)
def test_kinds_keep_to_the_page(kind: Kind) -> None:
    """Two hundred sketches of a kind lie within the ranges of the page."""
    drawn = [sketch(number, ALL, kind) for number in range(200)]
    noise = {"clean": (0.0, 0.05), "few": (0.2, 1.5)}.get(kind, (0.0, 0.0))
    rows = {"clean": (308, 3000), "image": (598, 3000), "few": (150, 500), "text": (300, 3000)}[kind]
    batches = {"clean": (32, 256), "image": (16, 64), "few": (16, 64), "text": (8, 16)}[kind]
    assert {{"image": "cnn", "text": "transformer"}.get(kind, "mlp")} == {one.family for one in drawn}
    for one in drawn:
        assert noise[0] <= one.noise <= noise[1]
        assert rows[0] <= one.rows <= rows[1]
        assert batches[0] <= one.batch_size <= batches[1]
        assert one.batch_size <= one.rows // 2
        assert (kind == "image") == (one.inputs == 64)
        assert kind != "clean" or one.classes == 1
    expected = {
        "clean": {"numbers", "concrete", "power-plant", "yacht"},
        "image": {"digits", "classes"},
        "text": {"text"},
    }
    assert expected.get(kind, {"numbers", "classes"}) == {one.source for one in drawn}


def test_every_kind_takes_a_step() -> None:
    """The first forty lessons build, and a step at 1e-3 moves two members' weights to finite losses of their own."""
    for lesson in Distribution(name="teach-v4").examined(40):
        plant, seeds = lesson.plant(LR), lesson.seeds(2)
        values = torch.full((2, 1, 1), 1e-3, dtype=torch.float64)
        _, losses, _, _ = plant.step(plant.start(seeds), values, Stream(lesson.task, seeds).next(), 1, None)
        assert bool(losses.isfinite().all()), lesson
        assert float(losses[0]) != float(losses[1])


def test_a_kind_has_a_name_and_grids_of_its_own() -> None:
    """An exercise of another kind is another task, through pickle too, and its static runs are kept apart."""
    names = {Exercise(4, kind=kind).name for kind in ("usual", *OTHER)}
    assert 5 == len(names)
    copy = pickle.loads(pickle.dumps(Exercise(4, kind="few")))
    assert copy.name == "teach-4-few-v1"
    assert set(CHANGES) == set(OTHER)
    one = next(lesson for lesson in Distribution(name="teach-v2").examined(40) if lesson.task.kind == "image")
    plain = Distribution().examined(40)[one.number]
    assert plain.horizon == one.horizon
    made: list[str] = []
    grids = Grids(LR)

    def told(call: object, problems: list) -> list[Grid]:
        made.extend(lesson.task.name for lesson, _, _ in problems)
        return [Grid(0.0, 0.0, "constant", 1.0) for _ in problems]

    grids.prepare([one], told)
    grids.prepare([plain], told)
    assert [one.task.name, plain.task.name] == made


def test_only_small_noisy_sets_are_unhurried_from_teach_v3_on() -> None:
    """Their cost is the held-out losses' alone; all other lessons, and those of teach-v2, count training losses too."""
    paces = {
        (name, lesson.task.kind): lesson.pace
        for name in ("teach-v2", "teach-v3", "teach-v4")
        for lesson in Distribution(name=name).examined(1, of_each_kind=True)
    }
    unhurried = {key: pace for key, pace in paces.items() if pace != PACE}
    assert {("teach-v3", "few"): 0.0, ("teach-v4", "few"): 0.0} == unhurried
    assert 13 == len(paces)
    lesson = next(one for one in Distribution(name="teach-v3").examined(40) if one.task.kind == "few")
    held = torch.tensor([-1.0, -2.0])
    assert torch.equal(1.5 * held, outcome(lesson, torch.rand(5, 2), held, held).cost())


def test_a_text_is_written_by_a_chain_that_looks_two_symbols_back() -> None:
    """Each next symbol is the text's own; two symbols together tell far more of it than one, and one than none."""
    task = Exercise(7, kind="text")
    x, y = task.data("train")
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert x.dtype == y.dtype == torch.int64
    symbols = task.sketch.classes
    assert symbols > int(x.max())
    first, last, after = x[:, :-1].flatten(), x[:, 1:].flatten(), y[:, 1:].flatten()

    def entropy(known: torch.Tensor, kinds: int) -> float:
        """The conditional entropy of the next symbol, in nats, by counts."""
        counts = torch.bincount(known * symbols + after, minlength=kinds * symbols).reshape(kinds, symbols).double()
        shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
        return float(-(counts * shares.clamp_min(1e-12).log()).sum() / counts.sum())

    none, one, two = entropy(0 * last, 1), entropy(last, symbols), entropy(first * symbols + last, symbols**2)
    assert two < 0.9 * one < 0.9 * none
    assert task.chance == pytest.approx(none, rel=0.05)


def test_a_foreteller_does_not_see_what_it_foretells() -> None:
    """A later symbol changes no earlier answer, and each changes its own place's."""
    task = Exercise(7, kind="text")
    net, x = task.build(0), task.data("val")[0][:1].clone()
    before = net(x)
    x[0, 9] = (x[0, 9] + 1) % task.sketch.classes
    apart = (net(x) - before).detach().abs().amax(-1)[0]
    assert float(apart[:9].max()) == 0.0
    assert bool((apart[9:] > 0).all())


def test_what_does_not_hold_is_told() -> None:
    """Another name is refused, and sources without the random teachers that the kinds need."""
    with pytest.raises(TaskError, match=r"`name` out of teach-v1, .* teach-v5, got 'teach-v6'"):
        Distribution(name="teach-v6")
    with pytest.raises(TaskError, match="classes and numbers among the `sources` of teach-v2"):
        Distribution(name="teach-v2", sources=("digits",))


def test_the_shipped_course_reads() -> None:
    """`examples/trimtab-v2.toml` teaches on teach-v2, from the card that its page names."""
    made = read_course(Path(__file__).parents[2] / "examples/trimtab-v2.toml")
    assert "teach-v2" == made.distribution().name
    names = ("generation", "core_minutes", *Mark.__dataclass_fields__)
    assert "- **Begun from** trimtab-v1." in page(made, [dict.fromkeys(names, 1.0)], cpu=60.0, origin={})
    assert "**Begun from** trimtab-v1" in shipped_page("trimtab-v2")
