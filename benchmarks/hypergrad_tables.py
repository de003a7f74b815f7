"""Write the tables of docs/methods.md that rows give: ``python benchmarks/hypergrad_tables.py``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"
Row = dict[str, Any]


def truth() -> str:
    """How near each estimator is to the slope through the whole run."""
    lines = [
        f"| `{r['estimator']}` | {r['cosine']:.2f} | {r['same_sign']:.0%} | {r['scale']:.2g} |"
        for r in latest("hypergrad_truth", ("estimator",))
    ]
    return headed(["estimator", "cosine with the truth", "same sign", "factor that is missing"], lines)


def cost(row: Row) -> str:
    """What one hypergradient costs in plain steps, beside the prediction."""
    return f"{row['extra_steps']:.1f} ({row['predicted_steps']:.1f})"


CARRIED = {  # copies of the weights from step to step, for K knobs at h knobs x sites, SGD with momentum, look-back 5
    "one-step": lambda knobs, h: knobs,
    "forward": lambda knobs, h: 2 * h,  # a column of weights and one of slots
    "distilled": lambda knobs, h: 2,
    "unroll": lambda knobs, h: 5 * 4,  # weights, slots, gradient and new weights of each step
}


def memory(row: Row) -> str:
    """What an estimator needs at its peak beyond plain training, beside what it carries from step to step: MiB."""
    count = row["hyperparameters"]
    copies = CARRIED.get(row["estimator"], lambda knobs, h: 0)(3 if count > 1 else 1, count)
    return f"{row['extra_mib']:.0f} ({copies * 4 * row['parameters'] / 2**20:.0f})"


def swept(sweep: str, cell: Callable[[Row], str], corner: str = "") -> str:
    """Put a sweep's cells in a table, a line an estimator."""
    by = "parameters" if sweep == "parameters" else "hyperparameters"
    found = latest("hypergrad", ("sweep", "estimator", "parameters", "hyperparameters"))
    rows = [r for r in found if r["sweep"] == sweep]
    places = sorted({r[by] for r in rows})
    cells = {(r["estimator"], r[by]): cell(r) for r in rows}
    names = list(dict.fromkeys(r["estimator"] for r in rows))
    lines = [f"| `{n}` | " + " | ".join(cells.get((n, place), "–") for place in places) + " |" for n in names]
    what = {"parameters": "parameters", "hyperparameters": "knobs × sites", "rates": "rates of their own"}[sweep]
    return headed([corner, *(f"{place:,} {what}" for place in places)], lines)


def live() -> str:
    """What following one costs a live run, over the plain run."""
    rows = latest("hypergrad_live", ("net", "who"))
    nets = list(dict.fromkeys(r["net"] for r in rows))
    plain = {net: [r["plain_ms"] for r in rows if r["net"] == net] for net in nets}
    cells = {(r["who"], r["net"]): f"{r['ratio']:.2f}" for r in rows}
    lines = [
        f"| {who} | " + " | ".join(cells.get((who, net), "–") for net in nets) + " |"
        for who in dict.fromkeys(r["who"] for r in rows)
    ]
    return headed(["", *(f"{net} ({sorted(plain[net])[len(plain[net]) // 2]:.1f} ms)" for net in nets)], lines)


def latest(name: str, keys: Sequence[str]) -> list[Row]:
    """Read a file's rows; of those with the same keys the last one."""
    rows = [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def headed(head: Sequence[str], lines: Sequence[str]) -> str:
    """Put a head on a table."""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


TABLES = {
    "truth": truth,
    "parameters": lambda: swept("parameters", cost),
    "hyperparameters": lambda: swept("hyperparameters", cost),
    "rates": lambda: swept("rates", cost),
    "memory by parameters": lambda: swept("parameters", memory, "MiB"),
    "memory by hyperparameters": lambda: swept("hyperparameters", memory, "MiB"),
    "live": live,
}

if __name__ == "__main__":
    for table in TABLES.values():
        print(table(), end="\n\n")
