"""Single: one run as a Gymnasium environment.

Letters: ``N`` branches, ``S`` sites, ``K`` knobs, ``F`` features.
"""

from __future__ import annotations

import json
from typing import Any, SupportsFloat, final

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from trimtab.env.episodes import Episodes, Turn
from trimtab.env.setting import Setting
from trimtab.errors import OrderError

Array = NDArray[np.float32]


def spaces(setting: Setting, episodes: Episodes) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]]:
    """Give the observations' and the actions' spaces: ``[F]``, ``[K]``; of several sites ``[S, F]``, ``[S, K]``."""
    sites = () if setting.by == "run" else (len(episodes.plant.sites),)
    seen = gymnasium.spaces.Box(-10.0, 10.0, (*sites, episodes.features.shape[-1]), np.float32)
    return seen, gymnasium.spaces.Box(-1.0, 1.0, (*sites, len(episodes.plant.panel)), np.float32)


@final
class Environment(gymnasium.Env[Array, Array]):
    """A training run whose hyperparameters are turned from outside.

    Observations are the features of a reading, as a :class:`trimtab.Policy` sees them; actions are moves, as shares of
    the longest one. An episode is truncated at its horizon, and terminated where the guard gives up.

    Args:
        setting: what it is of.
        render_mode: None; there is nothing to see.
    """

    def __init__(self, setting: Setting, render_mode: None = None) -> None:
        self.setting, self.render_mode = setting, render_mode
        self.episodes = setting.episodes(1)
        self.observation_space, self.action_space = spaces(setting, self.episodes)
        self._number: int | None = None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What the last axis of an observation is."""
        return self.episodes.plant.features().names

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: of the draw of instances.
            options: ``{"instance": n}`` begins that instance.

        Returns:
            The first reading's features, and which instance it is.
        """
        super().reset(seed=seed)
        chosen = (options or {}).get("instance")
        self._number = self.setting.drawn(self.np_random) if chosen is None else int(chosen)
        self.setting.begin(self.episodes, [0], [self._number])
        return self._seen(), {"instance": self._number, "step": 1}

    def step(self, action: Any) -> tuple[Array, SupportsFloat, bool, bool, dict[str, Any]]:
        """Turn the knobs and train up to the next reading.

        Args:
            action: the move.

        Returns:
            Features, reward, terminated, truncated, and ``step`` and, where measured, ``val_loss``.

        Raises:
            OrderError: there is no episode under way.
        """
        if self._number is None:
            raise OrderError("No episode is under way: call `reset` first.")
        shape = (1, len(self.episodes.plant.sites), len(self.episodes.plant.panel))
        turn = self.episodes.step(torch.as_tensor(np.asarray(action, np.float64)).reshape(shape))
        if bool(turn.is_over[0]):
            self._number = None
        return self._seen(), float(turn.reward[0]), bool(turn.gave_up[0]), bool(turn.at_end[0]), told(turn, 0)

    def branch(self, count: int) -> Episodes:
        """Let as many episodes stand where this one stands, to try as many moves from here: true counterfactuals.

        Args:
            count: ``N``.

        Returns:
            The episodes; ``step`` takes their ``[N, S, K]`` actions. This environment stays as it is.
        """
        return self.episodes.branched(0, count)

    def checkpoint(self) -> dict[str, Any]:
        """Give all that is needed to go on exactly, for ``torch.save``."""
        rng = json.dumps(self.np_random.bit_generator.state)
        return {"episodes": self.episodes.tree(), "instance": self._number, "rng": rng}

    def restore(self, checkpoint: dict[str, Any]) -> Array:
        """Go on where `checkpoint` was taken, in this or in another process.

        Args:
            checkpoint: of an environment of the same setting.

        Returns:
            The features that wait for an action.
        """
        self.episodes.load(checkpoint["episodes"])
        self._number = checkpoint["instance"]
        self.np_random.bit_generator.state = json.loads(checkpoint["rng"])
        return self._seen()

    def _seen(self) -> Array:
        seen: Array = self.episodes.features[0].float().numpy()
        return seen[0] if self.setting.by == "run" else seen


def told(turn: Turn, place: int) -> dict[str, Any]:
    """Give what a step tells beside its reward."""
    known = {} if bool(turn.loss[place].isnan()) else {"val_loss": float(turn.loss[place])}
    return {"step": int(turn.step[place]), **known}
