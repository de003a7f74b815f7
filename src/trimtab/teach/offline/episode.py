"""Episode: what a recorded run was, as observations, moves and rewards.

Rewards are an environment's (`docs/environments.md`), from what the trace holds: losses judged for it, else validation
losses, else the training losses' means since the last reading. A loss that was not measured at a reading leaves the
worth as it was: the sum over the run is the same.

Letters: ``T`` decisions, ``S`` sites, ``K`` knobs, ``F`` features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from trimtab.controllers.schedule import SCHEDULES
from trimtab.env.reward import Reward
from trimtab.errors import TaskError, TraceError
from trimtab.teach.offline.readings import Readings
from trimtab.trace import Header, Row, read_trace

End = Literal["gave up", "horizon", "cut"]


@dataclass(frozen=True)
class Episode:
    """One recorded run.

    Attributes:
        features: ``[T + 1, S, F]`` float64, the last row what was seen at the end.
        moves: ``[T, S, K]`` float64, as :meth:`trimtab.controller.Controller.act` gives them.
        rewards: ``[T]`` float64.
        steps: ``[T + 1]`` int64 optimizer steps.
        end: "gave up" by the guard, at the "horizon", or "cut" off before.
        header: the trace's.
    """

    features: Tensor
    moves: Tensor
    rewards: Tensor
    steps: Tensor
    end: End
    header: Header

    @property
    def worth(self) -> float:
        """The sum of its rewards."""
        return float(self.rewards.sum())


def read_episodes(folder: Path, *, prior: str = "constant", reward: Reward | None = None) -> list[Episode]:
    """Read a folder's traces.

    Args:
        folder: of ``.jsonl``, ``.parquet`` and ``.npz`` files; of those with the same stem one is read.
        prior: the schedule of the policy to be taught, a name in :data:`trimtab.controllers.schedule.SCHEDULES`.
        reward: what is given for what; "progress" by default.

    Returns:
        The episodes in the order of their files' names; runs that ended before their second reading are left out.

    Raises:
        TraceError: there is no trace, or one without features or of other knobs or features than the first; says what
            to do.
        TaskError: there is no such schedule.
    """
    if prior not in SCHEDULES:
        raise TaskError(f"`prior` must be one of {', '.join(SCHEDULES)}, got {prior!r}.")
    found = {path.stem: path for kind in ("jsonl", "npz", "parquet") for path in sorted(folder.glob(f"*.{kind}"))}
    if not found:
        raise TraceError(f"There are no traces in {folder}: record some with attach(..., trace=FullTrace(path)).")
    episodes: list[Episode] = []
    first: Header | None = None
    for path in (found[stem] for stem in sorted(found)):
        header, rows = read_trace(path)
        _check(header, first or header, path)
        first = first or header
        for run in _runs(header, rows):
            if len(run) > 1:
                episodes.append(episode_of(header, run, prior, reward or Reward()))
    return episodes


def episode_of(header: Header, readings: Sequence[Sequence[Row]], prior: str, reward: Reward) -> Episode:
    """Make one run's episode.

    Args:
        header: of its trace.
        readings: its rows, those of a reading together, at least two readings.
        prior: the policy's schedule.
        reward: what is given for what.

    Returns:
        The episode.
    """
    own = Readings.of(header, readings).on(prior, header.note.get("horizon"))
    steps, features, moves = own.steps, own.features, own.moves
    gave_up = readings[-1][0]["event"] == "gave up"
    is_whole = int(steps[-1]) >= (header.note.get("horizon") or math.inf)
    end: End = "gave up" if gave_up else "horizon" if is_whole else "cut"
    if gave_up:  # as in an environment: what the last move led to is the end, seen from where it was made
        features, steps = torch.cat([features, features[-1:]]), torch.cat([steps, steps[-1:]])
    else:
        moves = moves[:-1]
    return Episode(features, moves, _rewards(header, readings, reward, len(moves)), steps, end, header)


def _rewards(header: Header, readings: Sequence[Sequence[Row]], reward: Reward, count: int) -> Tensor:
    """``[T]``: how the worth changes from one reading to the next, and with what is left at the end."""
    rows = [reading[0] for reading in readings]
    kind = next((kind for kind in ("judged", "val_loss") if any(row[kind] is not None for row in rows)), "loss")
    found = [row[kind] for row in rows]
    last = rows[-1]["left"] if kind == "judged" else None
    found.append(found[-1] if last is None else last)
    first = header.note.get("first") if kind == "judged" else next((loss for loss in found if loss is not None), None)
    losses, begun = (
        torch.tensor([math.nan if x is None else x for x in row], dtype=torch.float64) for row in (found, [first])
    )
    worth = [0.0, *reward.worth(losses, begun, int(rows[-1]["step"])).tolist()[1:]]
    for place in range(1, len(worth)):
        is_unknown = kind == "val_loss" and found[place] is None
        if is_unknown or (reward.is_late and place < len(worth) - 1):
            worth[place] = worth[place - 1]
    if count < len(rows):  # the last move led to the last reading, and so to what is left after it
        worth[-2:] = worth[-1:] * 2
    return torch.tensor(worth, dtype=torch.float64).diff()[:count]


def _check(header: Header, first: Header, path: Path) -> None:
    if not header.features:
        raise TraceError(
            f"{path} holds no features, so nothing can be taught from it: record with attach(..., "
            "trace=FullTrace(path))."
        )
    for name in ("knobs", "ranges", "features"):
        here, there = getattr(header, name), getattr(first, name)
        if here != there:
            apart = [entry for entry in here if entry not in there] or [entry for entry in there if entry not in here]
            raise TraceError(
                f"{path} has other {name} than the first trace of its folder ({apart or 'in another order'}): teach "
                "from traces of one kind, each kind in a folder of its own."
            )


def _runs(header: Header, rows: Sequence[Row]) -> list[list[list[Row]]]:
    """Part a trace's rows into runs and readings; of steps that a resumed run took again, the later ones count."""
    runs: list[list[list[Row]]] = [[]]
    count = len(header.sites)
    for place in range(len(rows)):
        reading = list(rows[place : place + count])
        if [row["site"] for row in reading] != list(header.sites) or len({row["step"] for row in reading}) > 1:
            continue  # the rest of a reading that a kill cut short
        step, run = reading[0]["step"], runs[-1]
        if run and step == 1:
            runs.append([reading])
        elif not run or run[-1][0]["event"] != "gave up":
            run[:] = [*(before for before in run if before[0]["step"] < step), reading]
    return runs
