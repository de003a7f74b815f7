"""Practice: PPO or SAC on one environment, whose settings say on what.

:mod:`trimtab.teach.ppo` teaches on a distribution of lessons; this is for one task, and for comparisons at equal
numbers of decisions. SAC: Haarnoja et al. 2018, arXiv:1812.05905, by Stable-Baselines3. Differs from the source:
members fill one replay together, and the actor is a policy of one hidden layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from trimtab.controllers.policy import Policy
from trimtab.env.setting import Setting
from trimtab.errors import TaskError
from trimtab.signals import is_reading
from trimtab.teach.genome import Genome

Method = Literal["ppo", "sac"]
UPDATES = 8  # of SAC, each time that every member has moved once
FIRST = 4  # moves of each member before SAC learns


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
        method: "ppo" or "sac".
        decisions: how many in all, over all members.
        members: that play side by side.
        rate: Adam's.
        seed: of instances and moves.

    Returns:
        The policy, without the noise it learned with.

    Raises:
        TaskError: there is no such method, or the policy's form is not one of its own.
    """
    from trimtab.teach.agents import PlantVecEnv, read_off, seat, seeded

    spec = genome.spec
    if method not in ("ppo", "sac") or spec["kind"] != "mlp" or (method == "sac" and spec["reach"] != 1):
        raise TaskError(
            f"PPO teaches 'mlp', SAC 'mlp' with a reach of 1; got {method!r}, {spec['kind']!r}, {spec['reach']}."
        )
    if (setting.prior, setting.leap) != (spec["prior"], spec["leap"]):
        raise TaskError(f"The setting's prior and leap must be the policy's, got {setting.prior!r}, {setting.leap}.")
    episodes, rng = setting.episodes(members), np.random.default_rng(seed)

    def begin(places: Sequence[int]) -> None:
        setting.begin(episodes, list(places), [setting.drawn(rng) for _ in places])

    with seeded(seed):
        model, actor = (_ppo if method == "ppo" else _sac)(PlantVecEnv(episodes, begin), setting, genome, rate)
        seat(actor, genome.policy(genome.untaught()))
        model.learn(decisions)
    return read_off(actor, genome)


def _ppo(env: Any, setting: Setting, genome: Genome, rate: float) -> tuple[Any, Any]:
    """Give PPO that learns after each whole episode, and its actor."""
    from stable_baselines3 import PPO

    from trimtab.teach.agents import Actor, minibatch

    turns = sum(is_reading(step, setting.every) for step in range(1, setting.steps))
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
