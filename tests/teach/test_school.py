"""Laws of a school: a stopped teaching goes on bit for bit, and what does not hold is said in one sentence."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from trimtab.bench.contender import Contender, contender_named
from trimtab.bench.machine import Provenance
from trimtab.bench.run import Cell, run_cell
from trimtab.cli import main
from trimtab.controllers import Policy
from trimtab.controllers.cards import card as shipped
from trimtab.errors import StateError, TaskError, TraceError
from trimtab.knobs import Panel
from trimtab.teach import School, read_course
from trimtab.teach.card import page
from trimtab.teach.command import teach
from trimtab.workers import cluster, crew

TINY = """
name = "tiny"
[distribution]
horizons = [20, 30]
[policy]
hidden = 4
[teacher]
generations = 4
pairs = 3
tasks = 1
[examination]
every = 100
lessons = 1
"""


def course(folder: Path, text: str = TINY) -> Path:
    """Write a course to a file."""
    path = folder / "course.toml"
    path.write_text(text)
    return path


class Stopped(Exception):
    """What a spectator raises to stop a teaching."""


@pytest.mark.slow
def test_a_stopped_teaching_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Stopped after two generations and begun again, it ends at the weights that one without a stop ends at."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = read_course(course(tmp_path))
    whole = School(made, tmp_path / "whole")
    whole.teach()

    def stop(news: object) -> None:
        if news.number == 2:  # type: ignore[attr-defined]
            raise Stopped

    with pytest.raises(Stopped):
        School(made, tmp_path / "parts", stop).teach()
    parts = School(made, tmp_path / "parts")
    assert 2 == parts.state.ascent.number
    card = parts.teach(origin={"command": "trimtab teach course.toml"})
    assert torch.equal(whole.state.ascent.mean, parts.state.ascent.mean)
    assert bool((parts.state.ascent.mean != made.genome().untaught()).any())
    policy = Policy.load(card)
    assert ["lr"] == policy.spec["knobs"]
    page = card.with_suffix(".md").read_text()
    assert "4 of 4 generations done" in page
    assert "trimtab teach course.toml" in page
    assert "card-tiny" == contender_named(f"card:{card}").name
    board = EventAccumulator(str(tmp_path / "whole/tensorboard")).Reload()
    assert [1, 2, 3, 4] == [entry.step for entry in board.Scalars("generation/cost")]
    assert [0, 4] == [entry.step for entry in board.Scalars("examination/median")]
    with pytest.raises(StateError, match=r"another course .*seed was 0, is 1"):
        School(read_course(course(tmp_path, TINY.replace("[dist", "seed = 1\n[dist"))), tmp_path / "parts")
    older = torch.load(tmp_path / "parts/state.pt", weights_only=True)
    tables = json.loads(older["course"])
    for key in ("calm", "average"):  # as a version wrote it that did not know the keys
        del tables["policy"][key]
    torch.save(older | {"course": json.dumps(tables)}, tmp_path / "parts/state.pt")
    assert torch.equal(School(made, tmp_path / "parts").state.ascent.mean, whole.state.ascent.mean)


def test_a_course_of_no_generations_makes_a_card_of_its_beginning(tmp_path: Path) -> None:
    """Nothing is taught: weights are to the bit those of the start, form and page those of the course."""
    text = TINY.replace(
        "hidden = 4", 'hidden = 24\nprior = "constant"\naverage = true\nstart = "trimtab-v6"\ncalm = 0.6'
    )
    path = School(read_course(course(tmp_path, text.replace("generations = 4", "generations = 0"))), tmp_path).teach()
    made, begun = Policy.load(path), shipped("trimtab-v6")
    assert all(map(torch.equal, made.parameters(), begun.parameters()))
    assert {**begun.spec, "prior": "constant", "average": True, "reach": 1.0} == made.spec
    assert "0 of 0 generations done" in path.with_suffix(".md").read_text()


def test_a_cards_limits_are_those_of_its_lessons(tmp_path: Path) -> None:
    """Texts and long clean lessons stand among the limits where the distribution has them, and only there."""
    marks = ("generation", "core_minutes", "median", "ninety", "worst", "mean", "lost", "restores")
    told = {}
    for name in ("teach-v1", "teach-v2", "teach-v4"):
        read = read_course(course(tmp_path, TINY.replace("horizons", f'name = "{name}"\nhorizons')))
        told[name] = page(read, [dict.fromkeys(marks, 1.0)], cpu=60.0, origin={}).split("## Limits")[1]
        assert "average" not in told[name]
    averaged = read_course(course(tmp_path, TINY.replace("hidden", "average = true\nhidden")))
    assert {"average"} == averaged.genome().policy(averaged.beginning()).needs
    assert "read at an average" in page(averaged, [dict.fromkeys(marks, 1.0)], cpu=60.0, origin={})
    assert ["teach-v4"] == [name for name, text in told.items() if "causal transformers" in text]
    far = "beyond 3000, in lessons that are not clean 30:"
    assert ["teach-v2", "teach-v4"] == [name for name, text in told.items() if far in text]
    assert "beyond 30:" in told["teach-v1"]


UNDER_WAY = """
import sys
from pathlib import Path
import torch
from trimtab.teach import School, read_course
torch.set_num_threads(1)
tell = lambda news: print(news.number, flush=True)
School(read_course(Path(sys.argv[1])), Path(sys.argv[2]), tell, save_every=0.0).teach()
"""
PERSISTENT = TINY.replace("generations = 4", "method = 'persistent'\nunroll = 8\ngenerations = 6")


@pytest.mark.slow
@pytest.mark.parametrize("text", [TINY.replace("generations = 4", "generations = 6"), PERSISTENT], ids=["es", "pes"])
def test_a_killed_teaching_goes_on_bit_for_bit(tmp_path: Path, text: str) -> None:
    """Killed with SIGKILL after three generations and begun again, it ends where one without a kill ends."""
    file, folder = course(tmp_path, text), tmp_path / "killed"
    with subprocess.Popen(
        [sys.executable, "-c", UNDER_WAY, str(file), str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any(line == "3\n" for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert -signal.SIGKILL == process.returncode
    whole, killed = School(read_course(file), tmp_path / "whole"), School(read_course(file), folder)
    assert 3 <= killed.state.ascent.number < 6
    assert whole.teach().read_bytes() == killed.teach().read_bytes()
    for name in ("mean", "first", "second"):
        assert torch.equal(getattr(whole.state.ascent, name), getattr(killed.state.ascent, name))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["processes", "ray"])
@pytest.mark.parametrize("text", [TINY, PERSISTENT], ids=["es", "pes"])
def test_two_processes_teach_what_one_does(tmp_path: Path, text: str, where: str) -> None:
    """Spread over two processes, or a local Ray cluster, the card is the same to the bit, and the cost counts both."""
    if where == "ray" and find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'trimtab[ray]'")
    made = read_course(course(tmp_path, text))
    with crew(2) if where == "processes" else cluster("local") as spread:
        two = School(made, tmp_path / "two", spread=spread)
        card = two.teach()
    one = School(made, tmp_path / "one")
    assert one.teach().read_bytes() == card.read_bytes()
    assert two.log.cpu > 0.3 * one.log.cpu


@pytest.mark.slow
def test_a_teaching_that_is_over_is_not_taught_again(tmp_path: Path) -> None:
    """The same command after the end leaves state, curve and card as they are; time that is over ends it early."""
    made = read_course(course(tmp_path))
    early = School(made, tmp_path)
    early.teach(minutes=1e-6)
    assert 0 == early.state.ascent.number
    assert "0 of 4 generations done" in (tmp_path / "tiny.md").read_text()
    School(made, tmp_path).teach()
    curve = (tmp_path / "curve.jsonl").read_text()
    card = (tmp_path / "tiny.safetensors").read_bytes()
    heard = []
    again = School(made, tmp_path, heard.append)
    again.teach()
    assert [4] == [news.number for news in heard]
    assert curve == (tmp_path / "curve.jsonl").read_text()
    assert card == (tmp_path / "tiny.safetensors").read_bytes()
    assert [0, 4] == [point["generation"] for point in again.log.curve]


@pytest.mark.slow
def test_fitness_as_regret_keeps_each_lessons_grid(tmp_path: Path) -> None:
    """With `regret` and a pool of two lessons, four generations make two grids, and keep them."""
    made = read_course(course(tmp_path, TINY.replace("tasks = 1", "tasks = 1\nregret = true") + "\n"))
    pooled = read_course(course(tmp_path, TINY.replace("tasks = 1", "tasks = 1\nregret = true").replace(
        "[policy]", "pool = 2\n[policy]")))  # fmt: skip
    School(pooled, tmp_path / "pool").teach()
    assert 2 == (tmp_path / "pool" / "grids-taught.json").read_text().count('"cost"')
    plain = School(read_course(course(tmp_path)), tmp_path / "plain")
    regret = School(made, tmp_path / "regret")
    plain.teach()
    regret.teach()
    assert not torch.equal(plain.state.ascent.mean, regret.state.ascent.mean)


@pytest.mark.slow
def test_several_knobs_are_taught_by_layer(tmp_path: Path) -> None:
    """Learning rate and weight decay, layer by layer: the policy turns both."""
    text = TINY.replace("hidden = 4", "hidden = 4\nknobs = ['lr', 'weight_decay']\nsites = 'layer'\nfeatures = ['*']")
    card = School(read_course(course(tmp_path, text)), tmp_path).teach()
    policy = Policy.load(card)
    assert ["lr", "weight_decay"] == policy.spec["knobs"]
    assert bool(policy.get_parameter("out_weight").any(1).all())


def test_a_card_takes_part_in_a_race(tmp_path: Path) -> None:
    """A card is a contender under its file's name, for the run or by layer, and drives a live run."""
    policy = Policy.for_panel(Panel.of(["lr"]), hidden=4)
    policy.save(tmp_path / "mine.safetensors")
    contender = contender_named(f"card:{tmp_path}/mine.safetensors")
    layered = contender_named(f"card:{tmp_path}/mine.safetensors@layer")
    assert ("card-mine", "run") == (contender.name, contender.by)
    assert ("card-mine@layer", "layer") == (layered.name, layered.by)
    cell = Cell("quadratic-v1", contender, 1e-2, 0, 12)
    row = run_cell(cell, tmp_path, Provenance("none", "none", "none", "none"))
    prior = run_cell(
        Cell("quadratic-v1", Contender("policy", "policy"), 1e-2, 0, 12), tmp_path, Provenance("", "", "", "")
    )
    assert row.contender == "card-mine"
    assert row.val_loss == prior.val_loss  # untaught, it is its prior


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.slow
def test_progress_is_one_line(tmp_path: Path) -> None:
    """On a terminal the line is rewritten in place; elsewhere each examination has a line of its own."""
    live, piped = Terminal(), io.StringIO()
    teach(course(tmp_path), tmp_path / "a", None, {}, stream=live)
    teach(course(tmp_path), tmp_path / "b", None, {}, stream=piped)
    assert 1 == live.getvalue().count("\n")
    assert 5 == live.getvalue().count("\r")
    assert ["generation 0 of 4", "generation 4 of 4"] == [
        line.partition(",")[0] for line in piped.getvalue().splitlines()
    ]
    assert "median regret" in piped.getvalue()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """Where a file stands in the folder's place, the sentence says so."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="cannot be made"):
        School(read_course(course(tmp_path)), tmp_path / "file" / "folder")


def test_a_damaged_checkpoint_is_said_to_be(tmp_path: Path) -> None:
    """A checkpoint that is cut off is refused with the way out, and stays where it is."""
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(StateError, match=r"damaged .*delete it to begin anew"):
        School(read_course(course(tmp_path)), tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[teacher]\npair = 3", r"`\[teacher\] pair` is no setting of a teaching: did you mean 'pairs'"),
        ("[teacher]\npairs = 'many'", r"`\[teacher\] pairs` must be a whole number"),
        ("[teacher]\nmethod = 'evolve'", "method` must be one of evolution, persistent"),
        ("[teacher]\nunroll = 10", "is for the method persistent or unroll"),
        ("[examination]\nevery = 0", "needs `every >= 1`"),
        ("teacher = 3", r"must be a table, `\[teacher\]`"),
        ("name = ", "is no TOML file"),
    ],
)
def test_a_wrong_course_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    """Unknown keys, other types and settings that do not hold are told by name."""
    with pytest.raises(TaskError, match=sentence):
        read_course(course(tmp_path, text))


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, a wrong time and a missing card are one sentence each, and exit code 2."""
    for words, sentence in (
        (["teach", str(tmp_path / "none.toml")], "There is no course"),
        (["teach", str(course(tmp_path)), "--minutes", "0"], "must be above 0"),
        (["race", "digits-mlp-v1", "--controllers", "card:none"], "There is no card"),
    ):
        assert 2 == main(words)
        said = capsys.readouterr().err.strip()
        assert sentence in said
        assert "Traceback" not in said


def test_the_example_is_a_course() -> None:
    """`examples/teach.toml` reads, and says ten minutes' worth."""
    made = read_course(Path(__file__).parents[2] / "examples/teach.toml")
    assert ("lr-small", 450) == (made.name, made.tables["teacher"]["generations"])
