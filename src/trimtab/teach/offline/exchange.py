"""Exchange: episodes to and from Minari's data sets, in an environment's terms.

Observations and actions are those of :mod:`trimtab.env`: float32, ``[F]`` and ``[K]`` for one site, else with leading
``S``; an action of 1 is the longest move, :data:`trimtab.knobs.LEAP` times as long in the first ten steps. What an
episode is of goes along as its reset's options. Needs minari, h5py and pillow (``pip install 'trimtab[minari]'``).

Letters: ``T`` decisions, ``S`` sites, ``K`` knobs, ``F`` features.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trimtab.errors import TraceError
from trimtab.features import LIMIT
from trimtab.knobs import EARLY_STEPS, LEAP
from trimtab.teach.offline.episode import End, Episode
from trimtab.trace import Header

if TYPE_CHECKING:
    from trimtab.env.setting import Setting

OPTION = "trimtab"
NEEDED = ("minari", "h5py", "PIL")


def header_of(setting: Setting) -> Header:
    """Say what the episodes of an environment are of, for data sets that Minari collected from it."""
    plant = setting.plant()
    sites = ("run",) if setting.by == "run" else tuple(f"site{number}" for number in range(len(plant.sites)))
    note = {"task": setting.task.name, "horizon": setting.steps, "every": setting.every}
    return Header(plant.panel.names, sites, "unknown", note).full(plant.features().names, plant.panel)


def to_minari(episodes: Sequence[Episode], name: str) -> Any:
    """Write episodes as a data set of Minari's, where ``MINARI_DATASETS_PATH`` says.

    Args:
        episodes: of as many sites, knobs and features; of moves on the schedule that they were read for.
        name: the data set's, such as ``"trimtab/digits-v0"``.

    Returns:
        The ``minari.MinariDataset``.

    Raises:
        TraceError: there is no episode, or they are of different numbers of sites.
        ImportError: Minari or what it needs is not installed.
    """
    minari = _minari()
    shapes = {tuple(episode.features.shape[1:]) for episode in episodes}
    if len(shapes) != 1:
        raise TraceError(f"A data set needs episodes of one form, got observations [S, F] of {sorted(shapes)}.")
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    buffers = []
    for episode in episodes:
        count = len(episode.moves)
        ends = {"terminations": np.zeros(count, np.bool_), "truncations": np.zeros(count, np.bool_)}
        ends["terminations" if episode.end == "gave up" else "truncations"][-1] = True
        buffers.append(
            EpisodeBuffer(
                options={OPTION: json.dumps(asdict(episode.header))},
                observations=_array(episode.features),
                actions=_array(episode.moves / _longest(episode.steps)),
                rewards=episode.rewards.numpy(),
                infos={"step": episode.steps.numpy()},
                **ends,
            )
        )
    seen, done = buffers[0].observations.shape[1:], buffers[0].actions.shape[1:]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")  # no author, no address
        return minari.create_dataset_from_buffers(
            name,
            buffers,
            observation_space=Box(-LIMIT, LIMIT, seen, np.float32),
            action_space=Box(-1.0, 1.0, done, np.float32),
            description="Training runs recorded by trimtab: features, moves, falls of the log loss.",
        )


def from_minari(dataset: Any, header: Header | None = None) -> list[Episode]:
    """Read a data set of Minari's.

    Args:
        dataset: a ``minari.MinariDataset``, or the name of one that is here.
        header: what the episodes are of, where the data set does not say: one that Minari collected from an
            environment (:func:`header_of`).

    Returns:
        The episodes.

    Raises:
        TraceError: an episode does not say what it is of, or is of other shapes than it says.
        ImportError: Minari or what it needs is not installed.
    """
    minari = _minari()
    dataset = minari.load_dataset(dataset) if isinstance(dataset, str) else dataset
    places = [int(place) for place in dataset.episode_indices]
    known: Iterable[Any] = dataset.storage.get_episode_metadata(places)
    return [
        _episode(data, _header(facts.get("options", {}).get(OPTION), header))
        for data, facts in zip(dataset.iterate_episodes(), known, strict=True)
    ]


def _episode(data: Any, header: Header) -> Episode:
    count, sites = len(data.rewards), len(header.sites)
    seen, done = (torch.as_tensor(np.asarray(part)).double() for part in (data.observations, data.actions))
    sizes = (count + 1) * sites * len(header.features), count * sites * len(header.knobs)
    if (seen.numel(), done.numel()) != sizes or "step" not in (data.infos or {}):
        raise TraceError(
            f"Episode {data.id} must have `step` among its infos, observations of {sizes[0]} numbers and actions of "
            f"{sizes[1]} to be of {sites} sites, {len(header.knobs)} knobs and {len(header.features)} features; got "
            f"{seen.numel()} and {done.numel()}."
        )
    steps = torch.as_tensor(np.asarray(data.infos["step"])).long()
    at_end = int(steps[-1]) >= (header.note.get("horizon") or math.inf)
    end: End = "gave up" if bool(data.terminations[-1]) else "horizon" if at_end else "cut"
    moves = done.reshape(count, sites, -1) * _longest(steps)
    rewards = torch.as_tensor(np.asarray(data.rewards)).double()
    return Episode(seen.reshape(count + 1, sites, -1), moves, rewards, steps, end, header)


def _header(text: str | None, given: Header | None) -> Header:
    if text is None and given is None:
        raise TraceError("The data set does not say what its episodes are of: give `header=header_of(setting)`.")
    return given if text is None and given is not None else Header.read(json.loads(text or "{}"))


def _longest(steps: Tensor) -> Tensor:
    """``[T, 1, 1]``: the longest move at each decision."""
    return torch.where(steps[:-1] <= EARLY_STEPS, LEAP, 1.0)[:, None, None]


def _array(values: Tensor) -> Any:
    """Float32, without the sites' axis where there is one site."""
    return (values[:, 0] if values.shape[1] == 1 else values).float().numpy()


def _minari() -> Any:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ImportError(
            f"Minari's data sets need {', '.join(missing)}, not installed: pip install 'trimtab[minari]'."
        )
    import minari

    return minari
