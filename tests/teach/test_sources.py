"""Laws of the sources of examples: what teach-v1 draws from, what only on request, and what never."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.contracts import TaskContract
from trimtab.datasets import fetch
from trimtab.errors import DataError, TaskError
from trimtab.knobs import Panel
from trimtab.tasks.fashion_mlp import FashionMLP
from trimtab.teach import Distribution, Exercise, read_course
from trimtab.teach.draw import Draw
from trimtab.teach.examination import Grids
from trimtab.teach.fitness import Grid
from trimtab.teach.networks import FAMILIES
from trimtab.teach.sketch import NEEDED, Sketch, sketch
from trimtab.teach.sources import FILES, FLAT, INVENTED, SIZES, SOURCES, SQUARE, Source, among, examples

ASKED: tuple[Source, ...] = ("fashion", "concrete", "power-plant", "yacht")
TABLES: tuple[Source, ...] = ("concrete", "power-plant", "yacht")
# Of the first 200 sketches, each number rounded to six digits. What this changes with is no longer teach-v1.
GOLDEN = "e26f985869454acc57fac1fe87d49d4475458e5b24e55e78805427ea6b7a54c9"


CASES = {
    (kind, source): next(number for number in range(400) if sketch(number, (source,)).family == kind)
    for kind, source in [("mlp", source) for source in ASKED] + [(family, "fashion") for family in FAMILIES]
}


def digest(drawn: Sketch) -> str:
    """Write a sketch so that the last digits of a logarithm do not matter."""
    values = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in vars(drawn).values()]
    return " ".join(values)


def test_a_lessons_number_means_the_same_everywhere() -> None:
    """The first 200 sketches are those that teach-v1 has always had."""
    text = "\n".join(digest(sketch(number)) for number in range(200))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN


@pytest.fixture(scope="module", params=range(0, 200, 10))
def ten(request: pytest.FixtureRequest) -> list[Exercise]:
    """Ten of two hundred exercises."""
    return [Exercise(number) for number in range(request.param, request.param + 10)]


def test_splits_are_of_the_sizes_on_the_page(ten: list[Exercise]) -> None:
    """A fifth of the rows scores, or 400 rows of their own; a fifth of the others, at most 300, validates."""
    for task in ten:
        train, val, test = (len(task.data(split)[1]) for split in ("train", "val", "test"))
        drawn = task.sketch
        others = drawn.rows if drawn.source in INVENTED else drawn.rows - drawn.rows // 5
        assert (400 if drawn.source in INVENTED else drawn.rows // 5) == test
        assert min(others // 5, 300) == val
        assert others - val == train >= task.batch_size


def test_splits_share_no_example(ten: list[Exercise]) -> None:
    """No row of inputs comes twice, within a split or in two."""
    for task in ten:
        every = torch.cat([task.data(split)[0] for split in ("train", "val", "test")])
        distinct = len(torch.unique(every, dim=0))
        assert task.sketch.rows + 400 * (task.sketch.source in INVENTED) == len(every) == distinct


def test_every_class_can_be_learned(ten: list[Exercise]) -> None:
    """Training has all the classes there are, and the other splits two at least."""
    for task in ten:
        if task.sketch.classes > 1:
            found = [set(task.data(split)[1].tolist()) for split in ("train", "val", "test")]
            assert found[0] == set(range(task.sketch.classes)) >= found[1] | found[2]
            assert 2 <= min(map(len, found))


@pytest.mark.parametrize("source", NEEDED)
def test_a_teachers_rule_is_the_same_in_all_rows(source: Source) -> None:
    """Without noise, least squares on random tanh units finds nearly all of what the scored rows say."""
    x, y = examples(source, Draw(5), rows=3000, inputs=3, classes=1 if source == "numbers" else 3, noise=0.0)
    target = y.double() if source == "numbers" else torch.nn.functional.one_hot(y).double()
    units = torch.cat([torch.tanh(x @ Draw(6).normal(3, 300) + Draw(7).normal(300)), torch.ones(len(x), 1)], 1)
    found = units[3000:] @ torch.linalg.lstsq(units[:3000], target[:3000].reshape(3000, -1)).solution
    if source == "numbers":
        assert 0.05 > float((found[:, 0] - target[3000:]).square().mean())
    else:
        assert 0.85 < float((found.argmax(1) == y[3000:]).double().mean())


def test_noise_spoils_its_share() -> None:
    """Of labels drawn with noise 0.5 among four classes 0.5 * 3 / 4 differ; numbers' deviations are the noise."""
    clean, spoilt = (examples("classes", Draw(1), rows=6000, inputs=9, classes=4, noise=n)[1] for n in (0.0, 0.5))
    assert float((clean != spoilt).double().mean()) == pytest.approx(0.375, abs=4 * math.sqrt(0.375 * 0.625 / 6400))
    clean, spoilt = (examples("numbers", Draw(1), rows=6000, inputs=9, classes=1, noise=n)[1] for n in (0.0, 0.3))
    assert float((clean - spoilt).std()) == pytest.approx(0.3, rel=4 / math.sqrt(2 * 6400))


def test_shares_sum_to_one() -> None:
    """What is asked for keeps its proportions; a source that nobody asked for is out."""
    assert among(FLAT, SOURCES) == {source: FLAT[source] for source in SOURCES}
    assert among(SQUARE, SOURCES) == {source: SQUARE[source] for source in SQUARE if source in SOURCES}
    assert among(FLAT, ("classes", "digits")) == {"digits": pytest.approx(0.25), "classes": pytest.approx(0.75)}
    assert among(SQUARE, TABLES) == {}


def test_sources_are_those_asked_for() -> None:
    """Two sources out of five come alone; where none of them is 8 by 8, all networks are perceptrons."""
    drawn = [sketch(number, ("wine", "cancer")) for number in range(100)]
    assert {"wine", "cancer"} == {one.source for one in drawn}
    assert {"mlp"} == {one.family for one in drawn}
    assert set(FAMILIES) == {sketch(number, ("numbers",)).family for number in range(100)}


def test_others_sources_are_another_exercise() -> None:
    """Its name says them, in one order; so does its copy's through pickle, and static runs are kept apart."""
    usual, other = Exercise(3), Exercise(3, ("classes", "wine"))
    assert usual.name == Exercise(3, reversed(SOURCES)).name == "teach-3-v1"
    assert other.name == Exercise(3, ("wine", "classes")).name == "teach-3-wine-classes-v1"
    assert other.name == pickle.loads(pickle.dumps(other)).name
    grids, made = Grids(Panel.of(["lr"])), []

    def spread(_: object, problems: Iterable[object]) -> list[Grid]:
        made.extend(problems)
        return [Grid(0.0, 0.0, "constant", 1.0)] * len(made[-1:])

    for some in (SOURCES, ("classes", "wine"), ("wine",)):
        grids.prepare([replace(Distribution().examined(4)[3], task=Exercise(3, some))], spread)
    assert 3 == len(made)


def test_a_file_names_sources(tmp_path: Path) -> None:
    """`[distribution] sources` is what lessons draw from; one that there is not is refused with those that are."""
    path = tmp_path / "wine.toml"
    path.write_text('[distribution]\nsources = ["wine"]\n')
    assert ("wine",) == read_course(path).distribution().sources
    path.write_text('[distribution]\nsources = ["mnist"]\n')
    with pytest.raises(TaskError, match=r"`sources` out of digits, .*, got \['mnist'\]"):
        read_course(path)
    with pytest.raises(TaskError, match="`sources` out of"):
        Distribution(sources=())


@pytest.mark.parametrize("source", ASKED)
def test_absent_data_is_told_at_once(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution over a source whose file is not there is refused, with where to get it; others stand."""
    monkeypatch.setenv("TRIMTAB_DATA", str(tmp_path))
    assert SOURCES == Distribution().sources
    with pytest.raises(DataError, match=FILES[source][0].path):
        Distribution(sources=("digits", source))


class TestAskedFor(TaskContract):
    """An exercise of each source that is drawn from on request only, and of each family on images."""

    @pytest.fixture(
        params=[pytest.param(case, marks=pytest.mark.slow if "fashion" in case else ()) for case in CASES],
        ids=["-".join(case) for case in CASES],
    )
    def task(self, request: pytest.FixtureRequest) -> Exercise:
        """One after the other."""
        return Exercise(CASES[request.param], (request.param[1],))

    def test_is_standardised(self, task: Exercise) -> None:
        """Training inputs have mean 0 and deviation 1, or 0 where they are constant; numbers' variance is near 1."""
        x, _ = task.data("train")
        deviation, mean = torch.std_mean(x.double(), 0)
        assert 1e-4 > float(mean.abs().max())
        assert bool((((deviation - 1).abs() < 1e-4) | (deviation < 1.0)).all())
        if task.sketch.classes == 1:
            assert 0.6 < task.chance - task.sketch.noise**2 < 1.5


@pytest.mark.parametrize("source", TABLES)
def test_a_tables_rows_are_the_files(source: Source) -> None:
    """Inputs and targets are the file's columns, the last one the target, standardised, in the order drawn."""
    table = np.loadtxt(fetch(FILES[source][0]))
    most, inputs, classes = SIZES[source]
    assert (inputs + 1, 1) == (table.shape[1], classes)
    assert most <= len(table)
    chosen = table[Draw(4).order(len(table)).numpy()[:most]]
    x, y = examples(source, Draw(4), rows=most, inputs=inputs, classes=1, noise=0.0)
    target = (chosen[:, -1] - chosen[:, -1].mean()) / chosen[:, -1].std(ddof=1)
    np.testing.assert_array_equal(x.numpy(), chosen[:, :-1])
    np.testing.assert_allclose(y.numpy(), target, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_shipped_fashion_is_not_taught_on(seed: int) -> None:
    """An exercise's images are one window of fashion-mlp-v1's training images, averaged in squares of 2 or 3 pixels."""
    x, y = examples("fashion", Draw(seed), rows=40, inputs=64, classes=10, noise=0.0)
    photos, classes = FashionMLP().data("train")
    draw = Draw(seed)
    rows, scale = draw.order(len(photos))[:40], draw.whole(2, 3)
    top, left = draw.whole(0, 28 - 8 * scale), draw.whole(0, 28 - 8 * scale)
    window = photos[rows].double().reshape(40, 1, 28, 28)[..., top : top + 8 * scale, left : left + 8 * scale]
    torch.testing.assert_close(x, torch.nn.functional.avg_pool2d(window, scale).flatten(1))
    assert torch.equal(y, classes[rows])
