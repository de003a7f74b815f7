"""The command line: one sentence for bad input, a page and a table for good."""

import json
import subprocess
import sys

import pytest

from trimtab.cli import main

SMALL = [
    "--lr",
    "0.01,0.1",
    "--controllers",
    "constant,plain-constant",
    "--seeds",
    "1",
    "--budget",
    "10",
    "--jobs",
    "1",
]


def fails(capsys, *arguments: str) -> str:
    """Run a command that must fail; give its one sentence."""
    assert main(list(arguments)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    return told.err.strip()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["race", "digits-mpl-v1"], "'digits-mlp-v1'"),
        (["race", "quadratic-v1", "--controllers", "cosin"], "did you mean 'cosine'"),
        (["race", "quadratic-v1", "--controllers", "cosine@neuron"], "'@layer' or '@block'"),
        (["race", "quadratic-v1", "--controllers", ","], "must name at least one"),
        (["race", "quadratic-v1", "--lr", "0"], "`--lr` must be a number above 0, got '0'."),
        (["race", "quadratic-v1", "--lr", "-1e-3"], "`--lr` must be a number above 0, got '-1e-3'."),
        (["race", "quadratic-v1", "--lr", "fast"], "`--lr` must be a number above 0, got 'fast'."),
        (["race", "quadratic-v1", "--lr", "nan"], "got 'nan'."),
        (["race", "quadratic-v1", "--lr", "0.1,inf"], "got 'inf'."),
        (["race", "quadratic-v1", "--seeds", "0"], "`--seeds` must be at least 1, got 0."),
        (["race", "quadratic-v1", "--seeds", "two"], "'--seeds'"),
        (["race", "quadratic-v1", "--budget", "0"], "`--budget` must be at least 1, got 0."),
        (["race", "quadratic-v1", "--jobs", "0"], "`--jobs` must be at least 1, got 0."),
        (["race"], "argument 'task'"),
        (["rase", "quadratic-v1"], "rase"),
        (["race", "quadratic-v1", "--lrs", "1"], "--lrs"),
        (["report", "nothing.jsonl"], "There is no trace at nothing.jsonl."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, sentence, capsys):
    """Whatever is wrong with a command is said in one line, with the way out, and never a traceback."""
    assert sentence in fails(capsys, *arguments)


def test_a_folder_that_cannot_be_written_is_told(tmp_path, capsys):
    """Where the race may not write, the sentence names the folder."""
    (tmp_path / "file").write_text("")
    sentence = fails(capsys, "race", "quadratic-v1", *SMALL, "--out", str(tmp_path / "file" / "race"))
    assert sentence == f"The folder {tmp_path}/file/race cannot be written (Not a directory): give another with --out."


def test_a_missing_data_set_is_told(tmp_path, capsys, monkeypatch):
    """Where the data is not there, the sentence says how to get it."""
    monkeypatch.setenv("TRIMTAB_DATA", str(tmp_path))
    from trimtab.tasks import energy_mlp

    energy_mlp._table.cache_clear()
    sentence = fails(capsys, "race", "energy-mlp-v1", "--out", str(tmp_path / "race"))
    assert "TRIMTAB_DATA" in sentence


def test_missing_charts_are_told_before_anything_is_run(tmp_path, capsys, monkeypatch):
    """Where matplotlib is missing, a race says so at once."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    sentence = fails(capsys, "race", "quadratic-v1", *SMALL, "--out", str(tmp_path / "race"))
    assert "pip install 'trimtab[report]'" in sentence
    assert not (tmp_path / "race").exists()


def test_a_damaged_trace_is_told(tmp_path, capsys):
    """A file that is no trace is named."""
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert f"{tmp_path}/a.jsonl is no trace" in fails(capsys, "report", str(tmp_path / "a.jsonl"))


@pytest.mark.slow
def test_a_race_ends_in_a_table_and_a_page(tmp_path, capsys):
    """A race prints its table and the page's place; run again, it prints the same table without a run."""
    command = ["race", "quadratic-v1", *SMALL, "--out", str(tmp_path)]
    assert main(command) == 0
    first = capsys.readouterr()
    assert main(command) == 0
    second = capsys.readouterr()
    assert "plain-constant" in first.out
    assert f"The page: {tmp_path}/race.html" in first.out
    assert first.out == second.out
    assert "4 of them finished before" in second.err
    assert "trimtab race" in (tmp_path / "race.html").read_text()


@pytest.mark.slow
def test_a_race_as_json(tmp_path, capsys):
    """With --json, stdout is one JSON document."""
    assert main(["race", "quadratic-v1", *SMALL, "--out", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"constant", "plain-constant"} == {standing["contender"] for standing in told["standings"]}


@pytest.mark.slow
def test_a_report_from_a_trace(tmp_path, capsys):
    """The trace of a race's run becomes a page, beside it by default."""
    assert main(["race", "quadratic-v1", *SMALL, "--out", str(tmp_path)]) == 0
    trace = next((tmp_path / "traces").glob("*lr0.01*.jsonl"))
    assert main(["report", str(trace)]) == 0
    assert main(["report", str(trace), "-o", str(tmp_path / "page.html")]) == 0
    assert trace.with_suffix(".html").read_text() == (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(("command", "known"), [("tasks", "digits-mlp-v1"), ("controllers", "plain-cosine")])
def test_lists(command, known, capsys):
    """Tasks and controllers are listed by the names that `race` takes."""
    assert main([command]) == 0
    assert known in capsys.readouterr().out


@pytest.mark.parametrize(("argument", "known"), [("--version", "trimtab"), ("--help", "race"), ("-h", "")])
def test_version_and_help(argument, known, capsys, monkeypatch):
    """`--version` and `--help` print and end well."""
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.0")
    code = main([argument])
    assert code == (2 if argument == "-h" else 0)
    assert known in capsys.readouterr().out


@pytest.mark.slow
def test_help_does_not_wait_for_torch_in_the_command_line_itself():
    """The modules of the command line import torch inside commands only."""
    code = "import ast, sys; from importlib.util import find_spec; print(find_spec('trimtab').origin)"
    origin = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    import ast
    from pathlib import Path

    for file in ("cli.py", "cli_bench.py", "cli_teach.py"):
        tree = ast.parse(Path(origin).with_name(file).read_text())
        names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        own = {"trimtab.cli_bench", "trimtab.cli_teach"}
        assert not any(name.startswith(("torch", "trimtab")) for name in names - own)
