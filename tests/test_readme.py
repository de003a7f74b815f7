"""Contract: every figure of the README's tables is a committed row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WHOLE = (ROOT / "README.md").read_text()
README = WHOLE.replace(
    WHOLE.partition("## Any learning rate")[2].partition("\n## ")[0], ""
)  # that one has its own test


def rows(name: str) -> list[dict[str, Any]]:
    """Read a file of results."""
    return [json.loads(line) for line in (ROOT / "results" / name).read_text().splitlines()]


def line(start: str) -> str:
    """Find the table's line that starts so."""
    (found,) = [text for text in README.splitlines() if text.startswith(f"| {start}")]
    return found


def test_the_race_is_its_rows() -> None:
    """Each contender's interval, regret, share and divergences are those of `results/race.jsonl`."""
    for row in rows("race.jsonl"):
        low, high = row["val_interval"]
        text = line(f"{row['contender']} ")
        assert f"{row['val_iqm']:.4f} [{low:.4f}, {high:.4f}]" in text
        assert f"{row['regret_median']:.2f}×" in text
        assert f"{row['reached']:.0%}" in text
        assert f"{row['diverged']} of {row['runs']}" in text


def test_the_speed_is_its_rows() -> None:
    """The plant's ratios are those of `results/plant.jsonl`."""
    found = rows("plant.jsonl")
    for threads, plural in ((1, ""), (2, "s")):
        of = sorted((row for row in found if row["threads"] == threads), key=lambda row: row["members"])
        for kind, words in (
            ("eager", "step,"),
            ("compiled", "step, compiled,"),
            ("rollout", "whole rollout, compiled"),
        ):
            (text,) = [
                text
                for text in README.splitlines()
                if text.startswith(f"| {words}") and f" {threads} thread{plural} |" in text
                and (kind != "eager" or "compiled" not in text)
            ]  # fmt: skip
            assert [f"{row[f'{kind}_ratio']:.1f}×" for row in of] == re.findall(r"[\d.]+×", text)


def test_the_overhead_is_its_rows() -> None:
    """The pilot's cost is that of `results/overhead.jsonl`."""
    for row in rows("overhead.jsonl"):
        if row["model"] == "growth":
            continue
        text = line(f"{row['model']} | {row['parameters'] / 1e6:.1f} M | {row['adamw']} ")
        assert f"{row['step_ms']:.1f} ms" in text
        assert f"{100 * (row['median_ratio'] - 1):+.1f} %" in text
        assert f"{100 * row['own_share']:.2f} %" in text
