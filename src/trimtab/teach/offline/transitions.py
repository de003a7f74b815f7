"""Transitions: episodes laid out for learning, a row a decision and site.

Letters: ``N`` rows, ``F`` features, ``K`` knobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.controllers.spec import Spec
from trimtab.controllers.typical import evened
from trimtab.errors import TraceError
from trimtab.knobs import EARLY_STEPS
from trimtab.teach.genome import Genome
from trimtab.teach.offline.episode import Episode
from trimtab.teach.surrogate import Log

FEWEST = 32  # rows that a policy is taught from at least


@dataclass(frozen=True)
class Transitions:
    """What policies are taught from; float32, as the weights.

    Attributes:
        seen: ``[N, F]`` features at a decision.
        shares: ``[N, K]`` in [-1, 1]: moves as shares of the policy's longest.
        rewards: ``[N]``, of the whole run at every site.
        then: ``[N, F]`` features at the next reading.
        goes_on: ``[N]`` 1 where what comes after counts, 0 where the episode is over.
        worth: ``[N]`` the sum of the episode's rewards.
    """

    seen: Tensor
    shares: Tensor
    rewards: Tensor
    then: Tensor
    goes_on: Tensor
    worth: Tensor

    @classmethod
    def of(cls, episodes: Sequence[Episode], spec: Spec, *, fewest: int = FEWEST) -> Transitions:
        """Lay episodes out.

        A move longer than the policy's longest is the longest. A run that reached its horizon is over, as one that the
        guard gave up; one that was cut off is not.

        Args:
            episodes: of the policy's knobs and features.
            spec: the policy's.
            fewest: rows that there must be.

        Returns:
            The rows, episode by episode.

        Raises:
            TraceError: there are too few to learn from.
        """
        parts: list[list[Tensor]] = []
        for episode in episodes:
            count, sites, _ = episode.moves.shape
            goes_on = torch.ones(count)
            goes_on[-1] = float(episode.end == "cut")
            each = torch.stack([episode.rewards, goes_on, torch.full((count,), episode.worth)], -1)
            parts.append(
                [
                    episode.features[:-1].flatten(0, 1),
                    _shares(episode, spec).flatten(0, 1),
                    episode.features[1:].flatten(0, 1),
                    each.repeat_interleave(sites, 0),
                ]
            )
        count = sum(len(part[0]) for part in parts)
        if count < fewest:
            raise TraceError(
                f"{len(episodes)} recorded runs hold {count} moves in all, too few to learn from: record at least "
                f"{fewest}, and better thousands."
            )
        seen, shares, then, each = (torch.cat(column).float() for column in zip(*parts, strict=True))
        return cls(seen, shares, each[:, 0], then, each[:, 1], each[:, 2])

    @classmethod
    def of_log(cls, log: Log, genome: Genome) -> Transitions:
        """Lay out what was collected for a surrogate, a row a move that was made.

        Args:
            log: of the features that a policy reads, on one scale.
            genome: says which those are; the others become 0.

        Returns:
            The rows, features on their own scales again.
        """
        center, size = (torch.tensor(genome.spec[name], dtype=torch.float64) for name in ("center", "size"))
        columns = genome.columns
        raw = torch.zeros(*log.seen.shape[:2], len(center), dtype=torch.float64)
        raw[..., columns] = center[columns] + size[columns] * torch.sinh(log.seen)
        goes_on = torch.nn.functional.pad(log.known[:, 1:], (0, 1)).to(log.reward)
        worth = log.reward.sum(1, keepdim=True).expand_as(log.reward)
        parts = (raw[:, :-1], log.action, log.reward, raw[:, 1:], goes_on, worth)
        return cls(*(part[log.known].float() for part in parts))

    def __len__(self) -> int:
        """Give ``N``."""
        return len(self.seen)

    def drawn(self, count: int, rng: torch.Generator) -> Transitions:
        """Give so many rows at random, any of them several times."""
        rows = torch.randint(len(self), (count,), generator=rng)
        return Transitions(**{name: value[rows] for name, value in vars(self).items()})


def log_of(episodes: Sequence[Episode], genome: Genome) -> Log:
    """Lay episodes out side by side, for a surrogate.

    Args:
        episodes: of the policy's knobs and features, one site each.
        genome: says which features are read, and on which scale.

    Returns:
        The log; moves that shorter episodes have not are not known.

    Raises:
        TraceError: a run has several sites, or the runs hold too few moves to learn from.
    """
    if any(len(episode.header.sites) > 1 for episode in episodes):
        raise TraceError("A learned model is of runs with one site: record with sites='run', or teach by bc or iql.")
    count = sum(len(episode.moves) for episode in episodes)
    if count < FEWEST:
        raise TraceError(f"{len(episodes)} recorded runs hold {count} moves in all; a model needs {FEWEST} at least.")
    columns = genome.columns
    center, size = (torch.tensor(genome.spec[name], dtype=torch.float64)[columns] for name in ("center", "size"))
    return Log.padded(
        [
            Log(
                evened(episode.features[None, :, 0, columns], center, size),
                _shares(episode, genome.spec)[None, :, 0],
                episode.rewards[None],
                torch.ones(1, len(episode.moves), dtype=torch.bool),
            )
            for episode in episodes
        ]
    )


def _shares(episode: Episode, spec: Spec) -> Tensor:
    """Give moves as shares of the policy's longest, ``[T, S, K]`` in [-1, 1]."""
    early = (episode.steps[:-1] <= EARLY_STEPS)[:, None, None]
    return (episode.moves / (spec["reach"] * torch.where(early, spec["leap"], 1.0))).clamp(-1, 1)
