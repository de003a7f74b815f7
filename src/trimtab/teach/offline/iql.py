"""Implicit Q-learning: the best of what was done, from recorded runs alone.

A value that is an upper expectile of what was done there, ``V = argmin E |τ - 1(Q - V < 0)| (Q - V)²``; a Q that is
the reward and the value after, ``Q = r + γ V'``; and a policy by regression on moves that were better than the value,
weighted ``exp(β (Q - V))``. No move is ever valued that was not made. Kostrikov, Nair & Levine 2021, arXiv:2110.06169,
Eqs. (5) to (7). Differs from the source: advantages count in units of their batch's root mean square, so that β does
not depend on the reward's unit; nothing is discounted by default, for episodes end and their rewards telescope.

Letters: ``N`` rows, ``F`` features, ``K`` knobs.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from trimtab.controllers.policy import Policy
from trimtab.controllers.typical import evened
from trimtab.errors import TaskError
from trimtab.tasks.seeded import build_seeded
from trimtab.teach.genome import Genome
from trimtab.teach.offline.cloning import BATCH, Actor
from trimtab.teach.offline.transitions import Transitions

MOST = 100.0  # times that an advantage counts at most, the source's


@dataclass(frozen=True)
class ImplicitQLearning:
    """Implicit Q-learning's settings.

    Args:
        expectile: ``τ``; 0.5: the mean of what was done, towards 1: the best.
        beta: ``β``; 0: behaviour cloning.
        discount: ``γ``.
        hidden: units of each of the critics' two layers.
        steps: of Adam.
        rate: Adam's; the actor's falls linearly to 0.
        follows: share by which the weights of the Q that judges follow those of the Q that learns, at each step.
        seed: of the critics' first weights and the batches.

    Raises:
        TaskError: a setting is out of range.
    """

    expectile: float = 0.7
    beta: float = 1.0
    discount: float = 1.0
    hidden: int = 64
    steps: int = 4000
    rate: float = 1e-3
    follows: float = 0.005
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        shares = 0 < self.expectile < 1 and 0 <= self.discount <= 1 and 0 < self.follows <= 1
        if not (shares and 0 <= self.beta < math.inf and self.hidden >= 1):
            raise TaskError(
                "Implicit Q-learning needs `0 < expectile < 1`, `beta >= 0`, `0 <= discount <= 1`, `0 < follows <= 1` "
                f"and `hidden >= 1`, got {self}."
            )

    def taught(self, genome: Genome, rows: Transitions) -> tuple[Policy, Critics]:
        """Teach.

        Args:
            genome: the policy's form; "mlp" only.
            rows: what was done.

        Returns:
            The policy, and the critics that judged for it.

        Raises:
            TaskError: a setting is out of range, or the policy has a memory.
        """
        actor, rng = Actor(genome, self.rate, self.steps), torch.Generator().manual_seed(self.seed)
        critics = cast("Critics", build_seeded(lambda: Critics(genome, self.hidden), self.seed))
        target = copy.deepcopy(critics)
        adam = torch.optim.Adam(critics.parameters(), self.rate, fused=True)
        mine, its = ([weight.data for weight in each.parameters()] for each in (critics, target))
        for _ in range(self.steps):
            batch = rows.drawn(BATCH, rng)
            with torch.no_grad():
                best = target.q(batch.seen, batch.shares).amin(-1)
                after = batch.rewards + self.discount * batch.goes_on * critics.v(batch.then)
            value = critics.v(batch.seen)
            gap = best - value
            loss = expectile_loss(gap, self.expectile)
            loss = loss + (critics.q(batch.seen, batch.shares) - after[:, None]).square().mean(0).sum()
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's is untyped
            adam.step()
            with torch.no_grad():
                torch._foreach_lerp_(its, mine, self.follows)
                gap = gap / gap.square().mean().sqrt().clamp_min(1e-12)
            actor.learn(batch, (self.beta * gap).clamp(max=math.log(MOST)).exp())
        return actor.policy(), critics


class Critics(nn.Module):
    """Two Qs and a value, networks of two layers on the features that the policy reads, brought to one scale.

    Args:
        genome: the policy's form.
        hidden: units of each layer.
    """

    _center: Tensor
    _size: Tensor
    _is_read: Tensor

    def __init__(self, genome: Genome, hidden: int) -> None:
        super().__init__()
        spec, read = genome.spec, set(genome.read)
        wide, knobs = len(spec["features"]), len(spec["knobs"])
        rows = {"center": spec["center"], "size": spec["size"], "is_read": [float(n in read) for n in spec["features"]]}
        for name, row in rows.items():
            self.register_buffer(f"_{name}", torch.tensor(row))
        self._qs = nn.ModuleList([_perceptron(wide + knobs, hidden) for _ in range(2)])
        self._value = _perceptron(wide, hidden)

    def q(self, seen: Tensor, shares: Tensor) -> Tensor:
        """``[N, F]`` features and ``[N, K]`` shares to ``[N, 2]``, one a Q."""
        both = torch.cat([self._evened(seen), shares], -1)
        return torch.cat([q(both) for q in self._qs], -1)

    def v(self, seen: Tensor) -> Tensor:
        """``[N, F]`` features to ``[N]``."""
        value: Tensor = self._value(self._evened(seen))
        return value[:, 0]

    def _evened(self, seen: Tensor) -> Tensor:
        return evened(seen, self._center, self._size) * self._is_read


def expectile_loss(gap: Tensor, expectile: float) -> Tensor:
    """Give the mean of ``|τ - 1(gap < 0)| gap²``; the shift that makes it least is the gaps' ``τ``-expectile.

    Args:
        gap: any shape.
        expectile: ``τ``.

    Returns:
        ``[]``.

    Example:
        >>> float(expectile_loss(torch.tensor([1.0, -1.0]), 0.9))
        0.5
    """
    return (torch.where(gap < 0, 1 - expectile, expectile) * gap.square()).mean()


def _perceptron(wide: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(wide, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))
