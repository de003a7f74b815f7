"""Behaviour cloning: a policy that does what was done.

Least squares on moves as shares of the longest one, which is the likelihood under Gaussian noise about the policy's.
With a temperature, runs count by ``exp(standard score of what they were worth / temperature)``, so that good ones are
what is cloned: reward-weighted regression, Peters & Schaal 2007, doi:10.1145/1273496.1273590. Differs from the source:
worths are in standard deviations, and weights are not fitted anew.

Letters: ``N`` rows, ``P`` taught weights, ``F`` features, ``K`` knobs.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from trimtab.controllers.policy import Policy
from trimtab.controllers.spec import memory_of
from trimtab.errors import TaskError
from trimtab.teach.genome import Genome
from trimtab.teach.offline.transitions import Transitions

BATCH = 256
MOST = 20.0  # times that one row counts as another at most


class Actor:
    """A policy under teaching, and Adam, whose rate falls linearly to 0.

    Args:
        genome: the policy's form; "mlp" only.
        rate: Adam's at the start.
        steps: how many there will be.

    Raises:
        TaskError: the policy has a memory, or a setting is out of range.
    """

    def __init__(self, genome: Genome, rate: float, steps: int) -> None:
        if memory := memory_of(genome.spec):
            raise TaskError(f"Offline teaching is for policies without memory ('mlp', `calm = 0`), got {memory}.")
        if not (0 < rate < math.inf and steps >= 1):
            raise TaskError(f"Teaching needs `rate > 0` and `steps >= 1`, got rate={rate}, steps={steps}.")
        self._policy = genome.policy(genome.untaught())
        is_read = torch.tensor([float(name in set(genome.read)) for name in genome.spec["features"]])
        self._policy.get_parameter("hidden_weight").register_hook(lambda slope: slope * is_read)  # type: ignore[no-untyped-call]
        self._adam = torch.optim.Adam(self._policy.parameters(), rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.LinearLR(self._adam, 1.0, 0.0, steps)

    def shares(self, seen: Tensor) -> Tensor:
        """``[N, F]`` features to ``[N, K]`` moves, as shares of the longest."""
        shares, _ = self._policy.shares(dict(self._policy.named_parameters()), seen[None], {})
        return shares[0]

    def learn(self, rows: Transitions, weights: Tensor) -> float:
        """Take a step towards the moves of some rows, each by its ``[N]`` weight; give the loss before it."""
        loss = (weights * (self.shares(rows.seen) - rows.shares).square().sum(-1)).mean()
        self._adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's is untyped
        self._adam.step()
        self._schedule.step()
        return float(loss.detach())

    def policy(self) -> Policy:
        """Give the policy as it is now."""
        return copy.deepcopy(self._policy)


def cloned(
    genome: Genome,
    rows: Transitions,
    *,
    temperature: float = math.inf,
    steps: int = 3000,
    rate: float = 3e-3,
    seed: int = 0,
) -> Policy:
    """Teach a policy to do what was done.

    Args:
        genome: the policy's form; "mlp" only.
        rows: what was done.
        temperature: how much more good runs count, in standard deviations of their worths; infinite: all alike.
        steps: of Adam.
        rate: Adam's at the start; it falls linearly to 0.
        seed: of the batches.

    Returns:
        The policy.

    Raises:
        TaskError: a setting is out of range, or the policy has a memory.
    """
    if not temperature > 0:
        raise TaskError(f"`temperature > 0` must hold, got {temperature}.")
    actor, rng = Actor(genome, rate, steps), torch.Generator().manual_seed(seed)
    spread = rows.worth.std().clamp_min(1e-12)
    center = rows.worth.mean()
    for _ in range(steps):
        batch = rows.drawn(BATCH, rng)
        score = (batch.worth - center) / spread
        actor.learn(batch, (score / temperature).clamp(max=math.log(MOST)).exp())
    return actor.policy()
