"""Table: a standing as the words that the terminal and the page show."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trimtab.bench.score import Standing


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: its head.
        meaning: a sentence for the page.
    """

    title: str
    meaning: str


def columns(metric: str) -> tuple[Column, ...]:
    """Give the columns' heads and meanings.

    Args:
        metric: what the task's test metric is called.

    Returns:
        As many as `cells` gives.
    """
    return (
        Column("contender", "Who."),
        Column("lr", "The initial learning rate with the lowest mean final validation loss; of a schedule, its peak."),
        Column("val loss", "Final validation loss there: mean ± standard deviation over seeds."),
        Column(
            "IQM",
            "Interquartile mean over seeds and its 95 % bootstrap interval (Agarwal et al. 2021); – below 8 seeds.",
        ),
        Column(f"test {metric}", "The test split, opened once, for the runs at that learning rate only."),
        Column(
            "regret",
            "The mean final validation loss over the lowest in the race, the median over all initial learning rates: "
            "1.00× is perfect, whatever the start.",
        ),
        Column("worst", "The same ratio at the worst initial learning rate; ∞ where a run was not finite."),
        Column("reached", "Share of all runs, from every initial learning rate, that reached the target."),
        Column(
            "steps",
            "Steps to the target at the chosen learning rate, the median over seeds; – where it is never reached.",
        ),
        Column("seconds", "The same in seconds of training."),
        Column(
            "overhead", "Time of a mean step over the same without a pilot; on a tiny network the pilot weighs most."
        ),
        Column("restores", "How often the guard went back to a snapshot, over all runs."),
        Column("diverged", "Runs that ended not finite, or a tenth above the validation loss they began with."),
    )


def cells(standing: Standing) -> tuple[str, ...]:
    """Give a row of the table, as many cells as `columns` has."""
    s = standing
    return (
        s.contender,
        f"{s.lr:g}",
        _spread(s.val_loss, s.val_std),
        _iqm(s),
        "–" if math.isnan(s.test) else _spread(s.test, s.test_std),
        ratio(s.regret_median),
        ratio(s.regret_worst),
        f"{s.reached:.0%}",
        "–" if s.steps_to_target is None else f"{s.steps_to_target:.0f}",
        "–" if s.seconds_to_target is None else f"{s.seconds_to_target:.2f}",
        "–" if s.overhead is None else f"{s.overhead:+.0%}",
        f"{s.restores}",
        f"{s.diverged} of {s.runs}",
    )


def number(value: float) -> str:
    """Give four significant digits, or what is not finite as ∞.

    Args:
        value: any.

    Returns:
        The text.

    Example:
        >>> number(0.0123456), number(float("inf"))
        ('0.01235', '∞')
    """
    return f"{value:.4g}" if math.isfinite(value) else "∞"


def ratio(value: float) -> str:
    """Give a ratio: two decimals below 10, none above."""
    if not math.isfinite(value):
        return "∞"
    return f"{value:.2f}×" if value < 10 else f"{value:.0f}×"


def _spread(value: float, std: float) -> str:
    """Write a value and its deviation to the deviation's second digit."""
    if not math.isfinite(value):
        return "∞"
    if not std:
        return number(value)
    places = max(0, 1 - math.floor(math.log10(std)))
    return f"{value:.{places}f} ± {std:.{places}f}"


def _iqm(s: Standing) -> str:
    if s.val_iqm is None or s.val_interval is None:
        return "–"
    low, high = s.val_interval
    return f"{s.val_iqm:.3g} [{low:.3g}, {high:.3g}]"
