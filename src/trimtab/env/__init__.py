"""Environments: a training run whose hyperparameters an agent of anyone's turns, by Gymnasium's interface.

::

    import gymnasium
    import trimtab.env  # registers "trimtab/<task>" for every shipped task

    env = gymnasium.make("trimtab/digits-mlp-v1", reward="terminal")
    many = gymnasium.make_vec("trimtab/digits-mlp-v1", num_envs=64)  # 64 runs in one program
    mine = trimtab.env.environment(MyTask())

What is between two actions is the same code as in live and simulated runs; `docs/environments.md` says what an agent
sees and is rewarded for. Needs gymnasium (``pip install 'trimtab[rl]'``), which ``import trimtab`` does not load.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

if find_spec("gymnasium") is None:
    raise ImportError("Environments need Gymnasium, which is not installed: pip install 'trimtab[rl]'.")

import gymnasium

from trimtab.env.episodes import Episodes, Turn
from trimtab.env.reward import Curve, Reward
from trimtab.env.setting import HELD_OUT, Setting
from trimtab.env.single import Environment
from trimtab.env.vector import VectorEnvironment
from trimtab.task import Task
from trimtab.tasks import CATALOGUE, task_named

NAMESPACE = "trimtab"

__all__ = [
    "HELD_OUT",
    "Curve",
    "Environment",
    "Episodes",
    "Reward",
    "Setting",
    "Turn",
    "VectorEnvironment",
    "environment",
    "ids",
    "vector_environment",
]


def environment(task: Task | str, **settings: Any) -> Environment:
    """Make an environment of a task, shipped or a stranger's own.

    Args:
        task: the task, or a shipped one's name.
        settings: the others of :class:`Setting`.

    Returns:
        The environment.
    """
    render_mode = settings.pop("render_mode", None)  # Gymnasium passes it on
    return Environment(Setting(_task(task), **settings), render_mode)


def vector_environment(task: Task | str, num_envs: int, **settings: Any) -> VectorEnvironment:
    """Make an environment of ``num_envs`` runs in one program; else as :func:`environment`."""
    return VectorEnvironment(Setting(_task(task), **settings), num_envs)


def ids() -> tuple[str, ...]:
    """Give the names that ``gymnasium.make`` knows, one a shipped task."""
    return tuple(f"{NAMESPACE}/{name}" for name in CATALOGUE)


def _task(task: Task | str) -> Task:
    return task_named(task) if isinstance(task, str) else task


for _name in CATALOGUE:
    gymnasium.register(
        f"{NAMESPACE}/{_name}",
        entry_point=partial(environment, _name),
        vector_entry_point=partial(vector_environment, _name),
        disable_env_checker=True,  # it is checked in our tests, and would double the first steps' cost
    )
