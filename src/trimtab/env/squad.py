"""Squad: members of several episodes that train in one program, because their readings come together.

Letters: ``n`` members of a squad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from trimtab.copies import join, pick
from trimtab.passage import Passage, Pause
from trimtab.rollout import Voyage
from trimtab.signals import EARLY
from trimtab.stream import Stream


@dataclass(frozen=True)
class Squad:
    """Members whose readings come together.

    Attributes:
        places: which members they are.
        passage: where they stand; its `order` is that of the last seal.
        voyage: what they are on.
        score: ``first``, the validation loss before the first step, and ``worth`` so far, ``[n]`` each.
        stream: gives their examples.
    """

    places: tuple[int, ...]
    passage: Passage
    voyage: Voyage
    score: dict[str, Tensor]
    stream: Stream

    @classmethod
    def of(cls, voyage: Voyage, places: tuple[int, ...], passage: Passage, score: dict[str, Tensor]) -> Squad:
        """Make one that stands at a sealed passage, with a stream of its own."""
        return cls(places, passage, voyage, score, voyage.stream(passage))

    def sealed(self) -> Passage:
        """Give the passage with the stream's state in it."""
        return replace(self.passage, order=self.stream.state_dict())


def picked(squad: Squad, pause: Pause, chosen: Sequence[int]) -> tuple[Squad, Pause]:
    """Give a part of a squad and of its reading; all of it as it is, else with a stream of its own.

    Args:
        squad: whose.
        pause: the reading.
        chosen: which members, any of them several times.

    Returns:
        The two.
    """
    if list(chosen) == list(range(len(squad.places))):
        return squad, pause
    places = tuple(squad.places[n] for n in chosen)
    part = Squad.of(squad.voyage, places, squad.sealed().picked(chosen), pick(squad.score, chosen))
    return part, pause.picked(chosen)


def mustered(squads: Sequence[Squad], every: int) -> list[Squad]:
    """Join those whose next readings come together.

    Args:
        squads: each between a decision and the next step.
        every: steps between readings once the early ones are over.

    Returns:
        The fewer.
    """
    groups: dict[int, list[Squad]] = {}
    for squad in squads:
        age = squad.passage.step
        groups.setdefault(age if age < EARLY[-1] else EARLY[-1] + age % every, []).append(squad)
    return [group[0] if len(group) == 1 else _joined(group) for group in groups.values()]


def _joined(squads: Sequence[Squad]) -> Squad:
    passage = Passage.joined([squad.sealed() for squad in squads])
    places = tuple(place for squad in squads for place in squad.places)
    return Squad.of(squads[0].voyage, places, passage, join([squad.score for squad in squads]))
