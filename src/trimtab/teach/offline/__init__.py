"""Offline: teaching from what runs have recorded, without another one; `docs/offline.md`."""

from __future__ import annotations

from trimtab.teach.offline.cloning import cloned
from trimtab.teach.offline.episode import Episode, read_episodes
from trimtab.teach.offline.exchange import from_minari, header_of, to_minari
from trimtab.teach.offline.iql import ImplicitQLearning
from trimtab.teach.offline.played import play
from trimtab.teach.offline.score import fit, worths
from trimtab.teach.offline.transitions import Transitions, log_of

__all__ = [
    "Episode",
    "ImplicitQLearning",
    "Transitions",
    "cloned",
    "fit",
    "from_minari",
    "header_of",
    "log_of",
    "play",
    "read_episodes",
    "to_minari",
    "worths",
]
