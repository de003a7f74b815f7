"""Score: how well a policy that was taught from traces does, on those it has not seen and on runs of its own.

Letters: ``B`` members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.controller import Controller
from trimtab.controllers.policy import Policy
from trimtab.env.reward import Reward
from trimtab.env.setting import Setting
from trimtab.guard import Guard
from trimtab.rollout import Voyage

if TYPE_CHECKING:
    from trimtab.teach.offline.transitions import Transitions


@torch.no_grad()
def fit(policy: Policy, rows: Transitions) -> float:
    """Give which share of the moves' variance a policy tells: 1 says what was done, 0 no more than its mean."""
    shares, _ = policy.shares(dict(policy.named_parameters()), rows.seen[None], {})
    spread = (rows.shares - rows.shares.mean(0)).square().sum().clamp_min(1e-12)
    return 1 - float((rows.shares - shares[0]).square().sum() / spread)


@torch.no_grad()
def worths(setting: Setting, controller: Controller, numbers: Sequence[int]) -> Tensor:
    """Let a controller drive instances of an environment to their horizon, and give what each was worth.

    Args:
        setting: the environment; its schedule is not used, for the controller has its own.
        controller: drives; it needs no hypergradient.
        numbers: the instances.

    Returns:
        ``[B]`` the fall of the log loss of the validation examples that the setting's reward is measured on.
    """
    plant = setting.plant()
    guard = Guard() if setting.has_guard else None
    voyage = Voyage(plant, controller, horizon=setting.steps, guard=guard, validate_every=setting.validate_every)
    passage = voyage.begin(setting.values(plant, numbers), list(numbers))
    x, y = plant.split("val")
    val = x[: setting.judged], y[: setting.judged]
    first = plant.loss_on(passage.copies, val).double()
    _, done = voyage.advance(passage, setting.steps)
    return Reward().worth(plant.loss_on(done.copies, val).double(), first, setting.steps).cpu()
