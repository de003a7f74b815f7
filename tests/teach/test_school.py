"""Laws of a school: a stopped teaching goes on bit for bit, and what does not hold is said in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trimtab.bench.contender import contender_named
from trimtab.cli import main
from trimtab.controllers import Policy
from trimtab.errors import StateError, TaskError
from trimtab.teach import School, read_course

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
    with pytest.raises(StateError, match=r"another course .*seed was 0, is 1"):
        School(read_course(course(tmp_path, TINY.replace("[dist", "seed = 1\n[dist"))), tmp_path / "parts")


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
        ("[teacher]\nunroll = 10", "is for the method 'persistent'"),
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
