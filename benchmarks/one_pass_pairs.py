"""Figures of docs/one-pass.md that compare runs from the same start: ``python benchmarks/one_pass_pairs.py TABLE``.

For each method of ``results/one-pass.jsonl`` on a table: Spearman's correlation of the starting rate's logarithm and
the final error; and, with ``--beside METHOD``, how much lower that method's errors are run by run, in the mean, with a
95 % bootstrap interval. Runs that either lost are left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from trimtab.bench.onepass.suite import starts

ROWS = Path(__file__).parent.parent / "results/one-pass.jsonl"
DRAWS = 10_000


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description="Compare one-pass methods run by run.")
    parser.add_argument("table")
    parser.add_argument("--beside", default="")
    given = parser.parse_args()
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    ends = {
        row["method"]: np.array([np.nan if end is None else end for end in row["finals"]])
        for row in rows
        if row["table"] == given.table and "finals" in row
    }
    if given.beside and given.beside not in ends:
        raise SystemExit(f"No row of {given.beside!r} on {given.table!r}: there are {'; '.join(ends)}.")
    for method, found in ends.items():
        rate = np.log10(starts(len(found))[:, 0].numpy())
        kept = np.isfinite(found)
        line = f"{method}: Spearman {spearmanr(rate[kept], found[kept]).statistic:+.2f}"
        if given.beside and method != given.beside:
            line += "; higher by {:.4f} [{:.4f}, {:.4f}]".format(*apart(found, ends[given.beside]))
        print(line)


def apart(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Give the mean difference of two methods' runs from the same starts, and its 95 % bootstrap interval."""
    count = min(len(one), len(other))
    by_run = one[:count] - other[:count]
    by_run = by_run[np.isfinite(by_run)]
    rng = np.random.default_rng(0)
    means = rng.choice(by_run, (DRAWS, len(by_run))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(by_run.mean()), float(low), float(high)


if __name__ == "__main__":
    main()
