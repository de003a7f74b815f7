"""Judge: what instances of an environment end at under somebody's hand.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.controller import Controller
from trimtab.env import Setting
from trimtab.guard import Guard
from trimtab.hypergrad import estimator_of
from trimtab.rollout import Voyage
from trimtab.task import Split

AT_ONCE = 64


@dataclass(frozen=True)
class Player:
    """Who steers, and from where.

    Attributes:
        controller: decides.
        lr: the learning rate that every run begins with; None: the instance's own.
    """

    controller: Controller
    lr: float | None = None


def ends(setting: Setting, player: Player, numbers: Sequence[int], splits: Sequence[Split]) -> dict[str, Tensor]:
    """Train instances to their horizon under the guard.

    Args:
        setting: the environment; its schedule is not used, for a controller has its own.
        player: steers.
        numbers: the instances.
        splits: whose losses are measured.

    Returns:
        ``[B]`` each: final losses by split, infinite where there is no number; and under "first" the validation loss
        before the first step.
    """
    plant = setting.plant(estimator=estimator_of(player.controller))
    voyage = Voyage(plant, player.controller, horizon=setting.steps, guard=Guard())
    found: dict[str, list[Tensor]] = {name: [] for name in ("first", *splits)}
    for first in range(0, len(numbers), AT_ONCE):
        some = list(numbers[first : first + AT_ONCE])
        values = setting.values(plant, some)
        if player.lr is not None:
            values[..., plant.panel.names.index("lr")] = player.lr
        passage = voyage.begin(values, some)
        found["first"].append(plant.loss_on(passage.copies, plant.split("val")))
        passage, _ = voyage.advance(passage, setting.steps)
        for split in splits:
            found[split].append(plant.loss_on(passage.copies, plant.split(split)))
    return {name: torch.nan_to_num(torch.cat(each).double(), nan=torch.inf) for name, each in found.items()}
