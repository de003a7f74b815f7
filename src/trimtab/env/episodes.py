"""Episodes: ``B`` runs side by side whose moves come from outside, one reading at a time.

What happens between two moves is :class:`trimtab.rollout.Voyage`'s; here is only who is where. Members whose readings
come together train in one program, a :class:`trimtab.env.squad.Squad`: all, but for those that have just begun anew.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``F`` features, ``n`` some of the members.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from trimtab.copies import Copies
from trimtab.env.outside import Outside
from trimtab.env.reward import Reward
from trimtab.env.squad import Squad, mustered, picked
from trimtab.errors import KnobError, OrderError, SignalError, StateError, TaskError
from trimtab.guard import Guard
from trimtab.knobs import EARLY_STEPS, LEAP
from trimtab.passage import Passage, Pause
from trimtab.plant import Plant
from trimtab.rollout import Voyage
from trimtab.signals import Signals

JUDGED = 256  # validation examples at most that a reward is measured on, where nothing else is said


@dataclass(frozen=True)
class Turn:
    """What came of one move of every member.

    Attributes:
        features: ``[B, S, F]`` at the new reading; of an episode that is over, at its last.
        reward: ``[B]``.
        gave_up: ``[B]`` bool, over because the guard gave up.
        at_end: ``[B]`` bool, over because the horizon is reached.
        loss: ``[B]`` the validation loss behind the reward; NaN where it was not measured.
        step: ``[B]`` int64 optimizer steps taken.
    """

    features: Tensor
    reward: Tensor
    gave_up: Tensor
    at_end: Tensor
    loss: Tensor
    step: Tensor

    @property
    def is_over(self) -> Tensor:
        """``[B]`` bool, over for either reason."""
        return self.gave_up | self.at_end


@final
class Episodes:
    """Runs ``B`` episodes.

    An episode begins at a run's first reading and is over at its horizon, or where the guard gives up. At the horizon
    the guard judges once more, so that what is left is what a whole rollout leaves.

    Args:
        plant: task, rule and panel.
        members: ``B``.
        horizon: optimizer steps of an episode; a multiple of the plant's `every`.
        prior: the schedule under the moves.
        guard: brings members back that go off the rails; None: nobody does.
        validate_every: show the validation loss at readings that are multiples of it; None: never.
        leap: what an action of 1 is as a move in the first ten steps; 1 afterwards.
        reward: what is given for what.
        judged: validation examples, the first ones, that it is measured on.

    Raises:
        TaskError: a setting does not hold.
    """

    def __init__(
        self,
        plant: Plant,
        members: int,
        *,
        horizon: int,
        prior: str = "constant",
        guard: Guard | None = None,
        validate_every: int | None = None,
        leap: float = LEAP,
        reward: Reward | None = None,
        judged: int = JUDGED,
    ) -> None:
        if min(members, horizon, judged) < 1 or horizon % plant.every:
            raise TaskError(
                "Episodes need `members >= 1`, `judged >= 1` and a horizon that is a multiple of the steps between "
                f"readings, got members={members}, judged={judged}, horizon={horizon}, every={plant.every}."
            )
        if not 1 <= leap <= LEAP:
            raise TaskError(f"`1 <= leap <= {LEAP:g}` must hold, got {leap}.")
        self.plant, self.members, self.horizon, self.leap = plant, members, horizon, leap
        self.reward = reward or Reward()
        self._voyage = Voyage(plant, Outside(prior), horizon=horizon, guard=guard, validate_every=validate_every)
        x, y = plant.split("val")
        self._val = x[:judged], y[:judged]
        self._waiting: list[tuple[Squad, Pause]] = []
        features = len(plant.features().names)
        self.features = torch.zeros(members, len(plant.sites), features, dtype=torch.float64)

    def begin(self, places: Sequence[int], values: Tensor, seeds: Sequence[int]) -> None:
        """Begin new episodes, in place of those that were there.

        Args:
            places: which members.
            values: ``[n, S, K]`` knob values to begin with.
            seeds: one each, for first weights, order of examples and noise.

        Raises:
            KnobError: there are not as many values or seeds as places.
        """
        if not len(places) == len(values) == len(seeds):
            raise KnobError(f"Got {len(places)} places, {len(values)} rows of values and {len(seeds)} seeds.")
        gone, kept = set(places), []
        for squad, pause in self._waiting:
            stay = [n for n, place in enumerate(squad.places) if place not in gone]
            kept += [picked(squad, pause, stay)] if stay else []
        passage = self._voyage.begin(values, seeds)
        first = self._loss(passage)
        score = {"first": first, "worth": torch.zeros_like(first)}
        self._waiting = [*kept, self._sailed(Squad.of(self._voyage, tuple(places), passage, score))]

    @torch.no_grad()
    def step(self, actions: Tensor) -> Turn:
        """Carry out a move of every member and go on to its next reading; members that are over are left alone.

        Args:
            actions: ``[B, S, K]`` in [-1, 1], shares of the longest move.

        Returns:
            What came of it.

        Raises:
            SignalError: `actions` is not ``[B, S, K]``.
        """
        wanted = (self.members, len(self.plant.sites), len(self.plant.panel))
        if tuple(actions.shape) != wanted:
            raise SignalError(f"Actions must be [B, S, K] = {list(wanted)}, got {list(actions.shape)}.")
        found = {name: torch.zeros(self.members, dtype=torch.float64) for name in ("reward", "loss")}
        found |= {name: torch.zeros(self.members, dtype=torch.bool) for name in ("gave_up", "at_end")}
        found |= {"step": torch.zeros(self.members, dtype=torch.int64)}
        found["loss"] += torch.nan
        going = [part for squad, pause in self._waiting for part in self._decided(squad, pause, actions, found)]
        self._waiting = []
        for squad in mustered(going, self.plant.every):
            self._waiting += self._arrived(*self._sailed(squad), found)
        return Turn(self.features, **found)

    def branched(self, place: int, count: int) -> Episodes:
        """Give `count` episodes that all stand where one stands now, to try as many moves from there.

        Args:
            place: the member to branch from; it stays as it is.
            count: how many.

        Returns:
            The episodes, which see the same examples from here on.

        Raises:
            OrderError: the member's episode is over, or has not begun.
        """
        squad, pause = next((both for both in self._waiting if place in both[0].places), (None, None))
        if squad is None or pause is None:
            raise OrderError(f"Member {place} is over, or has not begun: there is nothing to branch from.")
        made = copy(self)
        made.members = count
        branch, waiting = picked(squad, pause, [squad.places.index(place)] * count)
        places, passage = tuple(range(count)), branch.sealed()
        made._waiting = [(Squad.of(self._voyage, places, passage, branch.score), waiting)]
        made.features = self.features[[place] * count]
        return made

    def tree(self) -> dict[str, Any]:
        """Give all that is needed to go on exactly, as :func:`torch.load` reads it with ``weights_only=True``."""
        waiting = [
            {
                "places": squad.places,
                "passage": squad.sealed().tree(),
                "score": squad.score,
                "signals": dict(vars(pause.seen.signals)),
                "before": dict(vars(pause.before)),
            }
            for squad, pause in self._waiting
        ]
        return {"features": self.features, "waiting": waiting}

    def load(self, tree: dict[str, Any]) -> None:
        """Go on where `tree` was taken.

        Args:
            tree: of as many episodes of the same setting.

        Raises:
            StateError: it is of another number of members, sites or features.
        """
        if tree["features"].shape != self.features.shape:
            found, ours = list(tree["features"].shape), list(self.features.shape)
            raise StateError(f"The state is of [B, S, F] = {found}, these episodes are {ours}.")
        self.features = tree["features"]
        self._waiting = []
        for entry in tree["waiting"]:
            passage = Passage.of_tree(entry["passage"])
            seen, memory = self._voyage.helm.see(Signals(**entry["signals"]), passage.state)
            squad = Squad.of(self._voyage, tuple(entry["places"]), passage, entry["score"])
            self._waiting.append((squad, Pause(seen, memory, Copies(**entry["before"]))))

    def _decided(self, squad: Squad, pause: Pause, actions: Tensor, found: dict[str, Tensor]) -> list[Squad]:
        """Carry out a squad's moves; give those who go on."""
        early = pause.seen.signals.step <= EARLY_STEPS
        move = actions[list(squad.places)].to(early.device, torch.float64)
        move = move * torch.where(early, self.leap, 1.0)[:, None, None]
        decision, passage = self._voyage.decide(squad.passage, pause, move, None)
        squad = replace(squad, passage=passage)
        if decision.verdict is None or not bool(decision.verdict.gave_up.any()):
            return [squad]
        gave_up = decision.verdict.gave_up.tolist()
        over, stay = ([n for n, is_over in enumerate(gave_up) if is_over == wanted] for wanted in (True, False))
        found["gave_up"][[squad.places[n] for n in over]] = True
        self._scored(picked(squad, pause, over)[0], found, is_over=True)
        return [picked(squad, pause, stay)[0]] if stay else []

    def _sailed(self, squad: Squad) -> tuple[Squad, Pause]:
        """Take a squad to its next reading."""
        with torch.no_grad():
            passage, leg = self._voyage.sail(squad.passage, self.horizon, squad.stream)
        assert leg.pause is not None  # the horizon is a reading
        self.features = self.features.index_copy(0, torch.tensor(squad.places), leg.pause.seen.features.cpu())
        return replace(squad, passage=passage), leg.pause

    def _arrived(self, squad: Squad, pause: Pause, found: dict[str, Tensor]) -> list[tuple[Squad, Pause]]:
        """Give those of a squad whose episodes go on; the others are judged once more, and are over."""
        at_end = (squad.passage.clock >= self.horizon).tolist()
        over, stay = ([n for n, is_over in enumerate(at_end) if is_over == wanted] for wanted in (True, False))
        if over:
            found["at_end"][[squad.places[n] for n in over]] = True
            part, waiting = picked(squad, pause, over)
            _, passage = self._voyage.decide(part.passage, waiting, torch.zeros_like(waiting.seen.position), None)
            self._scored(replace(part, passage=passage), found, is_over=True)
        if not stay:
            return []
        squad, pause = picked(squad, pause, stay)
        return [(self._scored(squad, found, is_over=False), pause)]

    def _scored(self, squad: Squad, found: dict[str, Tensor], *, is_over: bool) -> Squad:
        """Reward a squad where something is due."""
        places = list(squad.places)
        found["step"][places] = squad.passage.clock
        if self.reward.is_late and not is_over:
            return squad
        loss = self._loss(squad.passage)
        worth = self.reward.worth(loss, squad.score["first"], self.horizon)
        found["loss"][places], found["reward"][places] = loss, worth - squad.score["worth"]
        return replace(squad, score={**squad.score, "worth": worth})

    def _loss(self, passage: Passage) -> Tensor:
        with torch.no_grad():
            return self.plant.loss_on(passage.copies, self._val).double().cpu()
