"""Write the tables of docs/control.md that rows give: ``python benchmarks/control_tables.py``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.bench.control.page import tables

RESULTS = Path(__file__).parent.parent / "results"
Row = dict[str, Any]


def environments() -> str:
    """Environment steps a second, and their ratio to the peer's."""
    head = ("case", "environment steps a second", "over DACBench's", "optimizer steps a second", "over DACBench's")
    lines = [
        (
            row["case"],
            f"{row['env_steps_per_s']:.0f}",
            f"{row['env_steps_ratio']:.2f}×",
            f"{row['optimizer_steps_per_s']:.0f}",
            f"{row['optimizer_steps_ratio']:.1f}×",
        )
        for row in read("env")
    ]
    return headed(head, lines)


def ensemble() -> str:
    """What each contender ends at."""
    head = ("contender", "log validation loss, mean of ten seeds", "95 %", "votes, the good member's first")
    lines = [
        (
            row["contender"],
            f"{row['log_loss']:.3f}",
            f"± {row['interval']:.3f}",
            ", ".join(f"{vote:.2f}" for vote in row["votes"]) if len(row["votes"]) > 1 else "–",
        )
        for row in read("ensemble")
    ]
    return headed(head, lines)


def surrogate() -> str:
    """The errors of learned models on runs that they have not seen, moves ahead."""
    head = ("task", "moves ahead", "features", "no change", "reward", "within one deviation, one move ahead")
    lines = [
        (
            row["task"],
            str(moves),
            f"{row[f'features_{moves}']:.2f}",
            f"{row[f'still_{moves}']:.2f}",
            f"{row[f'reward_{moves}']:.2f}",
            f"{row['inside']:.0%}" if moves == 1 else "–",
        )
        for row in read("surrogate")
        for moves in (1, 4, 8)
    ]
    return headed(head, lines)


def offline() -> str:
    """What policies taught from the same logs are worth on held-out runs."""
    rows, lines = read("offline_control"), []
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        worths = [row["worth"] for row in mine]
        mean = sum(worths) / len(worths)
        seconds = sum(row["seconds"] for row in mine) / len(mine)
        cells = (f"{mean:.2f}", f"{min(worths):.2f} to {max(worths):.2f}", f"{min(row['worst'] for row in mine):.2f}")
        lines.append((name, *cells, str(len(mine)), f"{seconds:.0f}"))
    head = ("taught by", "worth, mean over seeds", "least and most", "worst run", "seeds", "seconds of teaching")
    return headed(head, lines)


def regrets() -> str:
    """Exp3's regret by rounds, beside the bound."""
    lines = [
        (str(row["rounds"]), f"{row['regret']:.1f} ± {1.96 * row['error']:.1f}", f"{row['bound']:.1f}")
        for row in read("bandit")
        if "rounds" in row
    ]
    return headed(("rounds", "regret, mean of 200 bandits and 95 %", "bound"), lines)


def power() -> float:
    """The power of the rounds that Exp3's regret grows as, by least squares in the logarithms."""
    return float(next(row["power"] for row in read("bandit") if "power" in row))


def courses(task: str) -> str:
    """The accuracies on a class-incremental task by who chose."""
    lines = [
        (
            row["chooser"],
            f"{row['accuracy']:.4f} ± {row['interval']:.4f}",
            f"{row['last_phase']:.4f}" if "last_phase" in row else "–",
        )
        for row in read("bandit")
        if "chooser" in row and row.get("task", "split-digits-v1") == task
    ]
    return headed(("chosen by", "accuracy, mean of five phases and of seeds, 95 %", "after the last phase"), lines)


def bench(task: str, mode: str) -> str:
    """Who steers best within a budget."""
    return tables(read("control"))[task, mode]


def read(name: str) -> list[Row]:
    """Read a file's rows."""
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]


def headed(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Put a head on a table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines])


TABLES = {
    "environments": environments,
    "ensemble": ensemble,
    "surrogate": surrogate,
    "offline": offline,
    "regrets": regrets,
    "quadratic, decisions": lambda: bench("quadratic-v1", "decisions"),
    "quadratic, seconds": lambda: bench("quadratic-v1", "seconds"),
    "digits, decisions": lambda: bench("digits-mlp-v1", "decisions"),
    "digits, seconds": lambda: bench("digits-mlp-v1", "seconds"),
    "digits": lambda: courses("split-digits-v1"),
}

if __name__ == "__main__":
    for table in TABLES.values():
        print(table(), end="\n\n")
