"""Practice: evolution, PPO or SAC on one environment, whose settings say on what.

:mod:`trimtab.teach.evolution` and :mod:`trimtab.teach.ppo` teach on a distribution of lessons; this is for one task,
and for comparisons at equal numbers of decisions. SAC: Haarnoja et al. 2018, arXiv:1812.05905, by Stable-Baselines3.
Differs from the source: members fill one replay together, and the actor is a policy of one hidden layer; it discounts
by 0.99 a decision, the library's default, where the others do not discount. Evolution:
antithetic pairs, each on an instance of its own (Salimans et al. 2017, arXiv:1703.03864).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from trimtab.controllers.policy import Policy
from trimtab.controllers.population import Population
from trimtab.controllers.spec import memory_of
from trimtab.env.setting import Setting
from trimtab.errors import TaskError
from trimtab.teach.ascent import Ascent, directions, falling, gradient, scaled
from trimtab.teach.genome import Genome
from trimtab.teach.offline.score import worths

Method = Literal["evolution", "ppo", "sac"]
UPDATES = 8  # of SAC, each time that every member has moved once
FIRST = 4  # moves of each member before SAC learns
SIGMA = 0.1  # deviation of evolution's directions


def practised(
    setting: Setting,
    genome: Genome,
    method: Method,
    decisions: int,
    *,
    members: int = 32,
    rate: float = 1e-3,
    seed: int = 0,
) -> Policy:
    """Teach a policy on the training instances of one environment.

    Args:
        setting: the environment; its `prior` and `leap` are the policy's.
        genome: the policy's form; "mlp" only, with a reach of 1 for SAC.
        method: "evolution", "ppo" or "sac".
        decisions: how many at most, over all members; evolution and PPO play whole runs of all members, at least once.
        members: that play side by side; of evolution, two a pair.
        rate: Adam's.
        seed: of instances and moves.

    Returns:
        The policy, without the noise it learned with.

    Raises:
        TaskError: there is no such method, or the policy's form is not one of its own.
    """
    spec, memory = genome.spec, memory_of(genome.spec)
    if (setting.prior, setting.leap) != (spec["prior"], spec["leap"]):
        raise TaskError(f"The setting's prior and leap must be the policy's, got {setting.prior!r}, {setting.leap}.")
    if method == "evolution":
        return _Evolved(genome, max(2, members // 2), seed).taught(setting, decisions, rate)
    if method not in ("ppo", "sac") or memory or (method == "sac" and spec["reach"] != 1):
        raise TaskError(
            f"PPO teaches policies without memory ('mlp', `calm = 0`), SAC those with a reach of 1; got {method!r}, "
            f"{memory or 'none'}, {spec['reach']}."
        )
    from trimtab.teach.agents import PlantVecEnv, quiet, read_off, seat, seeded

    episodes, rng = setting.episodes(members), np.random.default_rng(seed)

    def begin(places: Sequence[int]) -> None:
        setting.begin(episodes, list(places), [setting.drawn(rng) for _ in places])

    whole = members * (setting.turns if method == "ppo" else 1)
    with seeded(seed):
        model, actor = (_ppo if method == "ppo" else _sac)(PlantVecEnv(episodes, begin), setting, genome, rate)
        seat(actor, genome.policy(genome.untaught()))
        model.action_space.seed(seed)  # SAC's first moves are drawn from a generator of the space's own
        model.set_logger(quiet())
        model.learn(max(1, decisions // whole) * whole)
    return read_off(actor, genome)


@dataclass(frozen=True)
class _Evolved:
    """Evolution strategies; what :func:`trimtab.teach.ascent.directions` draws by."""

    genome: Genome
    pairs: int
    seed: int

    def taught(self, setting: Setting, decisions: int, rate: float) -> Policy:
        """Climb what runs are worth, a generation for every `pairs` instances."""
        generations = max(1, decisions // (2 * self.pairs * setting.turns))
        ascent, rng = Ascent.begin(self.genome.untaught()), np.random.default_rng(self.seed)
        for number in range(generations):
            noise = directions(self, number, 0)
            members = ascent.mean + SIGMA * torch.cat([noise, -noise])
            controller = Population(Policy(self.genome.spec), self.genome.weights(members))
            found = worths(setting, controller, [setting.drawn(rng) for _ in range(self.pairs)] * 2)
            plus, minus = found.chunk(2)
            ascent = ascent.climb(gradient(noise, scaled(plus - minus)) / SIGMA, falling(rate, number, generations))
        return self.genome.policy(ascent.mean)


def _ppo(env: Any, setting: Setting, genome: Genome, rate: float) -> tuple[Any, Any]:
    """Give PPO that learns after each whole episode, and its actor."""
    from stable_baselines3 import PPO

    from trimtab.teach.agents import Actor, minibatch

    turns = setting.turns
    size = minibatch(turns * env.num_envs)
    form = {"genome": genome}
    model = PPO(
        Actor, env, learning_rate=rate, n_steps=turns, batch_size=size, gamma=1.0, policy_kwargs=form, device="cpu"
    )
    return model, model.policy


def _sac(env: Any, setting: Setting, genome: Genome, rate: float) -> tuple[Any, Any]:
    """Give SAC, and its actor."""
    from stable_baselines3 import SAC
    from torch import nn

    from trimtab.teach.agents import CRITIC, Evened

    arch = {"pi": [genome.spec["hidden"]], "qf": list(CRITIC)}
    model = SAC(
        "MlpPolicy",
        env,
        learning_rate=rate,
        learning_starts=FIRST * env.num_envs,
        gradient_steps=UPDATES,
        policy_kwargs={
            "net_arch": arch,
            "activation_fn": nn.Tanh,
            "features_extractor_class": Evened,
            "features_extractor_kwargs": {"genome": genome},
        },
        device="cpu",
    )
    return model, model.actor
