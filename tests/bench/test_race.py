"""A race is run once, whatever happens to it."""

import json

import pytest

from trimtab.bench.contender import contender_named
from trimtab.bench.machine import Provenance
from trimtab.bench.page import as_json, page
from trimtab.bench.race import Plan, Spectator, race
from trimtab.bench.rows import RowFile
from trimtab.errors import TraceError

PROVENANCE = Provenance("abc", "a machine", "2", "trimtab race quadratic-v1 --lr 1e-2")


class Counter(Spectator):
    """Counts what is run, and breaks off where it is told to."""

    def __init__(self, most: int = 10**9) -> None:
        self.runs = 0
        self.kept = -1
        self._most = most

    def begin(self, plan, kept):
        """Keep how many were there."""
        self.kept = kept

    def finish(self, row):
        """Count, and break off."""
        self.runs += 1
        if self.runs == self._most:
            raise KeyboardInterrupt


def plan(*names: str, lrs=(1e-2, 1e-1), seeds=(1, 2), steps: int = 20) -> Plan:
    """Plan a small race."""
    return Plan("quadratic-v1", tuple(map(contender_named, names)), lrs, seeds, steps)


def run(the_plan, folder, counter=None, **options):
    """Race in this process."""
    return race(the_plan, folder, jobs=1, provenance=PROVENANCE, spectator=counter, **options)


def facts(result):
    """Give what does not depend on the clock."""
    return [(row.key, row.train_loss, row.val_loss, row.curve, row.restores) for row in result.rows]


def test_a_killed_race_goes_on_where_it_was(tmp_path):
    """After a kill in the middle of a line, the same command runs only what is missing and ends the same."""
    the_plan = plan("constant", "hypergradient")
    whole = run(the_plan, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(the_plan, tmp_path / "killed", Counter(most=5))
    rows = tmp_path / "killed" / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-25])  # the fifth line is torn
    counter = Counter()
    again = run(the_plan, tmp_path / "killed", counter)
    assert (4, 4) == (counter.kept, counter.runs)
    assert facts(whole) == facts(again)
    assert whole.tests == again.tests
    assert len(rows.read_text().splitlines()) == 8


def test_a_finished_race_runs_nothing(tmp_path):
    """The same command once more reads its rows, and does not open the test split again."""
    first = run(plan("constant"), tmp_path)
    opened = (tmp_path / "tests.jsonl").read_text()
    counter = Counter()
    second = run(plan("constant"), tmp_path, counter)
    assert (counter.runs, second.rows, second.standings) == (0, first.rows, first.standings)
    assert opened == (tmp_path / "tests.jsonl").read_text()


def test_the_test_split_is_opened_at_the_chosen_learning_rate_only(tmp_path):
    """The test split is scored for one learning rate a contender, the one that its validation loss chose."""
    result = run(plan("constant", "cosine"), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "tests.jsonl").read_text().splitlines()]
    chosen = {standing.contender: standing.lr for standing in result.standings}
    expected = {row.key for row in result.rows if row.lr == chosen[row.contender]}
    assert expected == {line["key"] for line in lines}
    assert len(expected) == 4


def test_a_larger_race_keeps_what_is_there(tmp_path):
    """More seeds run only the new ones; a fresh race runs all."""
    run(plan("constant", seeds=(1,)), tmp_path)
    more, all_again = Counter(), Counter()
    run(plan("constant"), tmp_path, more)
    run(plan("constant"), tmp_path, all_again, is_fresh=True)
    assert (2, 2) == (more.kept, more.runs)
    assert (0, 4) == (all_again.kept, all_again.runs)


@pytest.mark.slow
def test_processes_give_the_same_rows(tmp_path):
    """Two processes give what one gives, bit for bit."""
    the_plan = plan("constant", "hypergradient", seeds=(0,))
    alone = run(the_plan, tmp_path / "alone")
    pair = race(the_plan, tmp_path / "pair", jobs=2, provenance=PROVENANCE)
    assert facts(alone) == facts(pair)


@pytest.mark.slow
def test_diverged_runs_are_shown(tmp_path):
    """A contender that diverges from one learning rate is in the table, its worst regret infinite."""
    result = run(plan("plain-constant", "cosine", lrs=(1e-2, 1e6), steps=150), tmp_path)
    standing = next(s for s in result.standings if s.contender == "plain-constant")
    assert (standing.diverged, standing.runs) == (2, 4)
    text = page(result, PROVENANCE)
    assert "2 of 4" in text
    assert "a run diverged" in text


@pytest.mark.slow
def test_a_page_needs_no_other_file_and_no_script(tmp_path):
    """The page loads nothing: no address in src, href or url, no script; and no two ids are the same."""
    import re

    text = page(run(plan("constant", "hypergradient", "plain-constant"), tmp_path), PROVENANCE)
    assert [] == re.findall(r'(?:src|href)="(?!#)[^"]*"', text)
    assert [] == re.findall(r"url\((?!#)", text)
    assert "<script" not in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for known in (PROVENANCE.command, "abc", "a machine", "plain-constant", "How to read this"):
        assert known in text


@pytest.mark.slow
def test_rows_of_other_code_are_told_on_the_page(tmp_path):
    """A page over rows of another commit says so."""
    result = run(plan("constant"), tmp_path)
    text = page(result, Provenance("def", "a machine", "2", "trimtab race"))
    assert "Rows come from other code than this page" in text


def test_the_result_as_json(tmp_path):
    """The JSON holds the ranking, and null where a number is not finite."""
    result = run(plan("plain-constant", lrs=(1e-2, 1e9), steps=200), tmp_path)
    told = json.loads(as_json(result))
    assert told["standings"][0]["contender"] == "plain-constant"
    assert told["standings"][0]["regret_worst"] is None


def test_a_line_that_is_no_row_is_told(tmp_path):
    """A whole line of something else is an error with a way out, not a traceback."""
    (tmp_path / "rows.jsonl").write_text('{"key": 1}\n')
    with pytest.raises(TraceError, match="--fresh"):
        RowFile(tmp_path / "rows.jsonl").read()
