"""Agents: Stable-Baselines3's actors and critics in the form of a policy, over episodes of a plant.

An actor has the weights of a :class:`trimtab.controllers.Policy`, in its form and its scale of features: what is
learned is read off it, attaches to a live run and ships as a card. Needs stable-baselines3, which ``import trimtab``
does not load.

Letters: ``B`` members, ``F`` features, ``K`` knobs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, final

if find_spec("stable_baselines3") is None:
    raise ImportError("PPO and SAC need Stable-Baselines3, which is not installed: pip install 'trimtab[rl]'.")

import numpy as np
import torch
from gymnasium import Space, spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from trimtab.controllers.policy import Policy
from trimtab.controllers.typical import evened
from trimtab.env.episodes import Episodes
from trimtab.errors import TaskError
from trimtab.teach.genome import Genome

CRITIC = (64, 64)  # hidden units; only the actor is kept
MINIBATCH = 256  # moves at most that PPO learns from at once


@final
class PlantVecEnv(VecEnv):
    """Episodes as Stable-Baselines3 wants them: a member that is over begins anew in the same step.

    The horizon is an end, not a cut: the reward is what has fallen until there, and features tell how near it is.

    Args:
        episodes: of one site.
        begin: begins new episodes at places.

    Raises:
        TaskError: the episodes have several sites.
    """

    def __init__(self, episodes: Episodes, begin: Callable[[Sequence[int]], None]) -> None:
        if len(episodes.plant.sites) > 1:
            raise TaskError('PPO and SAC teach policies of one site: `sites = "run"`.')
        knobs = len(episodes.plant.panel)
        seen = spaces.Box(-10.0, 10.0, (episodes.features.shape[-1],), np.float32)
        super().__init__(episodes.members, seen, spaces.Box(-1.0, 1.0, (knobs,), np.float32))
        self.episodes, self._begin = episodes, begin
        self._actions = torch.zeros(episodes.members, 1, knobs, dtype=torch.float64)

    def reset(self) -> Any:
        """Begin an episode of every member; ``[B, F]``."""
        self._begin(range(self.num_envs))
        return self._seen()

    def step_async(self, actions: Any) -> None:
        """Take ``[B, K]`` actions for the next `step_wait`."""
        self._actions = torch.as_tensor(np.asarray(actions, np.float64))[:, None]

    def step_wait(self) -> Any:
        """Give features, rewards, whether over, and infos; a member that is over has begun anew."""
        turn = self.episodes.step(self._actions)
        last = self._seen()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        over = turn.is_over.nonzero().flatten().tolist()
        for place in over:
            infos[place] = {"terminal_observation": last[place], "TimeLimit.truncated": False}
        if over:
            self._begin(over)
        return self._seen(), turn.reward.numpy().astype(np.float32), turn.is_over.numpy(), infos

    def close(self) -> None:
        """Do nothing: there is nothing open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Give the same for every member: they have no environments of their own."""
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: members have no environments of their own."""
        raise NotImplementedError("Members of a plant have no attributes of their own.")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Refuse: members have no environments of their own."""
        raise NotImplementedError("Members of a plant have no methods of their own.")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Give False for every member."""
        return [False] * self.num_envs

    def _seen(self) -> Any:
        return self.episodes.features[:, 0].float().numpy()


@final
class Evened(BaseFeaturesExtractor):
    """Features on one scale, as a policy reads them; 0 where it does not read one.

    Args:
        space: of the observations, ``[F]``.
        genome: says what is read.
    """

    def __init__(self, space: Space[Any], genome: Genome) -> None:
        names, read = genome.spec["features"], set(genome.read)
        super().__init__(space, len(names))
        is_read = torch.tensor([float(name in read) for name in names])
        for name, row in (("center", genome.spec["center"]), ("size", genome.spec["size"])):
            self.register_buffer(name, torch.tensor(row), persistent=False)
        self.register_buffer("is_read", is_read, persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        """``[B, F]`` to ``[B, F]``."""
        return evened(observations, self.get_buffer("center"), self.get_buffer("size")) * self.get_buffer("is_read")


class _Reach(nn.Module):
    """``reach * tanh``: a policy's last stage."""

    def __init__(self, reach: float) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, x: Tensor) -> Tensor:
        return self.reach * torch.tanh(x)


@final
class Actor(ActorCriticPolicy):
    """Acts about a policy's own moves with Gaussian noise; the critic beside it has weights of its own.

    Args:
        *args: spaces and schedule, as PPO passes them.
        genome: the policy's form.
        **kwargs: the rest, as PPO passes it.
    """

    def __init__(self, *args: Any, genome: Genome, **kwargs: Any) -> None:
        self._genome = genome
        hidden = genome.spec["hidden"]
        form = {"net_arch": {"pi": [hidden], "vf": list(CRITIC)}, "activation_fn": nn.Tanh, "ortho_init": False}
        extractor = {"features_extractor_class": Evened, "features_extractor_kwargs": {"genome": genome}}
        super().__init__(*args, **{**kwargs, **form, **extractor})

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Sequential(self.action_net, _Reach(self._genome.spec["reach"]))


def layers(actor: nn.Module) -> dict[str, nn.Linear]:
    """Find the two layers of a policy in PPO's or SAC's actor."""
    own: Any = actor
    if isinstance(actor, Actor):
        return {"hidden": own.mlp_extractor.policy_net[0], "out": own.action_net[0]}
    return {"hidden": own.latent_pi[0], "out": own.mu}


@torch.no_grad()
def seat(actor: nn.Module, policy: Policy) -> None:
    """Give an actor a policy's weights."""
    for name, layer in layers(actor).items():
        layer.weight.copy_(policy.get_parameter(f"{name}_weight"))
        layer.bias.copy_(policy.get_parameter(f"{name}_bias"))


@torch.no_grad()
def read_off(actor: nn.Module, genome: Genome) -> Policy:
    """Give an actor's policy; what it does not read weighs 0."""
    policy, read = Policy(genome.spec), set(genome.read)
    is_read = torch.tensor([float(name in read) for name in genome.spec["features"]])
    for name, layer in layers(actor).items():
        policy.get_parameter(f"{name}_weight").copy_(layer.weight * (is_read if name == "hidden" else 1.0))
        policy.get_parameter(f"{name}_bias").copy_(layer.bias)
    return policy


def quiet() -> Logger:
    """Give a logger that writes nothing; the library's own makes a folder for every model."""
    return Logger(folder=None, output_formats=[])


def minibatch(moves: int) -> int:
    """Give the largest size of at most :data:`MINIBATCH` that parts so many moves evenly."""
    return max(size for size in range(1, MINIBATCH + 1) if moves % size == 0)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which Stable-Baselines3 draws from; they end as they were."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global generator is what is meant
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
