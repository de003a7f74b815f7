"""Vector: ``B`` runs in one program as a Gymnasium vector environment.

Letters: ``B`` members.
"""

from __future__ import annotations

from typing import Any, final

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from trimtab.env.setting import Setting
from trimtab.env.single import Array, spaces

Flags = NDArray[np.bool_]


@final
class VectorEnvironment(gymnasium.vector.VectorEnv[Array, Array, NDArray[Any]]):
    """Members that train together, each with its own instances.

    A member whose episode is over begins another at the next step, whose action for it is ignored and whose reward is 0
    (Gymnasium's NEXT_STEP). Member ``b`` of a reset with seed ``s`` draws the instances of a single environment's reset
    with seed ``s + b``.

    Args:
        setting: what it is of.
        num_envs: ``B``.
    """

    def __init__(self, setting: Setting, num_envs: int) -> None:
        self.setting, self.num_envs = setting, num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.episodes = setting.episodes(num_envs)
        self.single_observation_space, self.single_action_space = spaces(setting, self.episodes)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._over = np.zeros(num_envs, np.bool_)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode of every member.

        Args:
            seed: of the first member's draws.
            options: ``{"instances": [...]}`` begins those, one a member.

        Returns:
            The first readings' features, and which instances they are.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._rngs = [seeding.np_random(seed + member)[0] for member in range(self.num_envs)]
        chosen = (options or {}).get("instances")
        numbers = [self.setting.drawn(rng) for rng in self._rngs] if chosen is None else [int(n) for n in chosen]
        self.setting.begin(self.episodes, range(self.num_envs), numbers)
        self._over = np.zeros(self.num_envs, np.bool_)
        return self._seen(), {"instance": np.array(numbers)}

    def step(self, actions: Any) -> tuple[Array, NDArray[Any], Flags, Flags, dict[str, Any]]:
        """Turn every member's knobs and train up to its next reading.

        Args:
            actions: the moves, members first.

        Returns:
            Features, rewards, terminations, truncations, and ``step`` and ``val_loss`` (NaN where not measured).
        """
        shape = (self.num_envs, len(self.episodes.plant.sites), len(self.episodes.plant.panel))
        turn = self.episodes.step(torch.as_tensor(np.asarray(actions, np.float64)).reshape(shape))
        again = np.flatnonzero(self._over).tolist()
        if again:
            self.setting.begin(self.episodes, again, [self.setting.drawn(self._rngs[place]) for place in again])
        self._over = turn.is_over.numpy()
        told = {"step": turn.step.numpy(), "val_loss": turn.loss.numpy()}
        return self._seen(), turn.reward.numpy(), turn.gave_up.numpy(), turn.at_end.numpy(), told

    def _seen(self) -> Array:
        seen: Array = self.episodes.features.float().numpy()
        return seen[:, 0] if self.setting.by == "run" else seen
