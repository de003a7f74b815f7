"""The page on tasks says what is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from trimtab.tasks import CATALOGUE, task_named

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/tasks.md").read_text()
ROWS = {row["task"]: row for row in map(json.loads, (ROOT / "results/reference.jsonl").read_text().splitlines())}


def test_example_runs() -> None:
    """The task written on the page trains to its own claim."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(code, "docs/tasks.md", "exec"), names)
    assert "Sine" in names


@pytest.mark.parametrize("name", CATALOGUE)
def test_reference_is_its_row_rounded(name: str) -> None:
    """A task's reference agrees with the committed row, and the page shows the same figures."""
    row, reference = ROWS[name], task_named(name).reference
    assert reference.val_loss == pytest.approx(row["val_loss"]["mean"], rel=2e-3)
    assert reference.test_metric == pytest.approx(row["test_metric"]["mean"], rel=2e-3)
    assert reference.target == pytest.approx(1.1 * reference.val_loss, rel=2e-3)
    line = next(
        line
        for line in PAGE.splitlines()
        if line.startswith(f"| `{name}`") and line.count("|") == 7 and "×" not in line
    )
    assert f"{reference.val_loss:g}" in line
    assert f"{reference.target:g}" in line
    assert f"{reference.test_metric:g}" in line


@pytest.mark.parametrize("name", CATALOGUE)
def test_page_lists_horizon_and_batch(name: str) -> None:
    """The table names every task with its steps and its batch."""
    task = task_named(name)
    assert re.search(rf"\| `{name}` .*\| {task.horizon} × {task.batch_size} \|", PAGE)
