"""Contract: every figure of the benches' pages is a committed row."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from trimtab.bench.anylr.bout import read_rows
from trimtab.bench.anylr.page import as_markdown

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["any-lr", "generalize", "longer"])
def test_the_tables_are_the_rows(suite: str) -> None:
    """Each line of the tables that the rows give stands on the page."""
    page = (ROOT / "docs/any-lr.md").read_text()
    for line in as_markdown(read_rows(ROOT / "results" / f"{suite}.jsonl")).splitlines():
        assert line in page


@pytest.mark.slow
def test_the_readme_quotes_the_table() -> None:
    """Each line of the README's table is one of the page's."""
    known = as_markdown(read_rows(ROOT / "results/any-lr.jsonl")).splitlines()
    section = (ROOT / "README.md").read_text().partition("## Any learning rate")[2].partition("\n## ")[0]
    quoted = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(quoted) > 5
    assert set(quoted) <= set(known)


def test_the_one_pass_tables_are_their_rows() -> None:
    """Each line of the tables that the rows give stands on the page, of every table that has rows."""
    page = (ROOT / "docs/one-pass.md").read_text().splitlines()
    tables = runpy.run_path(str(ROOT / "benchmarks/one_pass_page.py"))["tables"]()
    assert {"energy", "kin8nm"} <= set(tables)
    for table in tables.values():
        assert set(table.splitlines()) <= set(page)


def test_the_hypergradients_tables_are_their_rows() -> None:
    """Each line of the tables that the benchmarks' rows give stands in docs/methods.md."""
    page = (ROOT / "docs/methods.md").read_text().splitlines()
    for table in runpy.run_path(str(ROOT / "benchmarks/hypergrad_tables.py"))["TABLES"].values():
        lines = table().splitlines()
        assert len(lines) > 3
        assert set(lines) <= set(page)


def test_the_adapters_cost_is_its_rows() -> None:
    """Each framework's step and the adapter's share of it are those of `results/adapters.jsonl`."""
    page = (ROOT / "docs/fit.md").read_text()
    for row in map(json.loads, (ROOT / "results/adapters.jsonl").read_text().splitlines()):
        took = f"{row['adapter_us_per_step'] / 1000:.2f} ms, {row['adapter_share']:.1%}"
        assert row["framework"] == "plain" or f"| {row['framework']} | {row['step_ms']:.1f} ms | {took} |" in page


def test_the_tables_of_control_are_their_rows() -> None:
    """Each line of the tables that the rows give stands on the page, and the power of Exp3's regret."""
    page = (ROOT / "docs/control.md").read_text()
    control = runpy.run_path(str(ROOT / "benchmarks/control_tables.py"))
    for table in control["TABLES"].values():
        lines = table().splitlines()
        assert len(lines) > 5
        assert set(lines) <= set(page.splitlines())
    assert f"power of {control['power']():.2f}" in page
