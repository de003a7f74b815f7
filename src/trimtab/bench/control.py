"""Control: the tables of `docs/control.md`, made from rows in results/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def environments(rows: Sequence[Row]) -> str:
    """Give environment steps a second, and their ratio to the peer's, as a Markdown table.

    Args:
        rows: of `benchmarks/env.py`, the peer among them.

    Returns:
        A line a case.
    """
    head = ("case", "environment steps a second", "over DACBench's", "optimizer steps a second", "over DACBench's")
    lines = [
        (
            row["case"],
            f"{row['env_steps_per_s']:.0f}",
            f"{row['env_steps_ratio']:.2f}×",
            f"{row['optimizer_steps_per_s']:.0f}",
            f"{row['optimizer_steps_ratio']:.1f}×",
        )
        for row in rows
    ]
    return _table(head, lines)


def ensemble(rows: Sequence[Row]) -> str:
    """Give what each contender of `benchmarks/ensemble.py` ends at, as a Markdown table."""
    head = ("contender", "log validation loss, mean of ten seeds", "95 %", "votes, the good member's first")
    lines = [
        (
            row["contender"],
            f"{row['log_loss']:.3f}",
            f"± {row['interval']:.3f}",
            ", ".join(f"{vote:.2f}" for vote in row["votes"]) if len(row["votes"]) > 1 else "–",
        )
        for row in rows
    ]
    return _table(head, lines)


def surrogate(rows: Sequence[Row], ahead: Sequence[int] = (1, 4, 8)) -> str:
    """Give the errors of learned models on runs that they have not seen, as a Markdown table.

    Args:
        rows: of `benchmarks/surrogate.py`.
        ahead: moves ahead.

    Returns:
        A line a task and number of moves.
    """
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
        for row in rows
        for moves in ahead
    ]
    return _table(head, lines)


def offline(rows: Sequence[Row]) -> str:
    """Give what policies taught from the same logs are worth on held-out runs, as a Markdown table.

    Args:
        rows: of `benchmarks/offline_control.py`, a row a method and seed.

    Returns:
        A line a method.
    """
    lines = []
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        worths = [row["worth"] for row in mine]
        mean = sum(worths) / len(worths)
        seconds = sum(row["seconds"] for row in mine) / len(mine)
        cells = (f"{mean:.2f}", f"{min(worths):.2f} to {max(worths):.2f}", f"{min(row['worst'] for row in mine):.2f}")
        lines.append((name, *cells, str(len(mine)), f"{seconds:.0f}"))
    head = ("taught by", "worth, mean over seeds", "least and most", "worst run", "seeds", "seconds of teaching")
    return _table(head, lines)


def regrets(rows: Sequence[Row]) -> str:
    """Give Exp3's regret by rounds, beside the bound, as a Markdown table."""
    lines = [
        (str(row["rounds"]), f"{row['regret']:.1f} ± {1.96 * row['error']:.1f}", f"{row['bound']:.1f}")
        for row in rows
        if "rounds" in row
    ]
    return _table(("rounds", "regret, mean of 200 bandits and 95 %", "bound"), lines)


def power(rows: Sequence[Row]) -> float:
    """Give the power of the rounds that Exp3's regret grows as, by least squares in the logarithms."""
    return float(next(row["power"] for row in rows if "power" in row))


def digits(rows: Sequence[Row]) -> str:
    """Give the accuracies on split-digits-v1 by who chose, as a Markdown table."""
    lines = [
        (
            row["chooser"],
            f"{row['accuracy']:.4f} ± {row['interval']:.4f}",
            f"{row['last_phase']:.4f}" if "last_phase" in row else "–",
        )
        for row in rows
        if "chooser" in row
    ]
    return _table(("chosen by", "accuracy, mean of five phases and ten seeds, 95 %", "after the last phase"), lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
