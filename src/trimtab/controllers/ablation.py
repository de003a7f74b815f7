"""The two ablations of every comparison: moves without reason, and the recorded moves without eyes.

A controller that does not beat :class:`Random` has learned nothing; one that does not beat the :class:`Replay` of its
own mean course has no use for feedback.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``N`` recorded places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.controller import State
from trimtab.errors import KnobError
from trimtab.knobs import EARLY_STEPS, Panel
from trimtab.signals import Observation

REACHED = 1e-12  # closer than this in the unit interval is there: rounding must not move a knob


@dataclass(frozen=True)
class Random:
    """Moves every knob at every site uniformly at random.

    Member ``b`` draws from the stream of seed ``seed + b``, so it is a run of its own with ``Random(seed=seed + b)``.
    The numbers come from a hash of (seed, count of calls, site, knob), so `act` is pure, the same on every device, and
    a resumed run goes on where it stopped. Differs from the source: there is none.

    Args:
        reach: moves are in [-reach, reach], in (0, 1].
        seed: member 0's seed.

    Raises:
        KnobError: `reach` is outside (0, 1].

    Example:
        >>> Random(seed=5).start(Panel.of(["lr"]), members=3, sites=1)["seed"].tolist()
        [5, 6, 7]
    """

    reach: float = 0.5
    seed: int = 0
    name = "random"
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        """Check the reach."""
        if not 0 < self.reach <= 1:
            raise KnobError(f"Controller 'random' needs `reach` in (0, 1], got {self.reach}.")

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give None: the constant 1."""
        return None

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give the memory to begin with: ``seed`` and ``count`` of calls, ``[B]`` int64."""
        return {
            "seed": self.seed + torch.arange(members, dtype=torch.int64),
            "count": torch.zeros(members, dtype=torch.int64),
        }

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Draw; see :class:`trimtab.controller.Controller`."""
        sites, knobs = seen.position.shape[1:]
        cell = torch.arange(sites * knobs, device=seen.position.device).reshape(1, sites, knobs)
        stream = _splitmix(_splitmix(state["seed"]) + state["count"])
        bits = _shift(_splitmix(stream[:, None, None] + cell), 11)  # 53 bits, as many as a float64 holds
        share = bits.to(torch.float64) * 2.0**-53
        return self.reach * (2 * share - 1), {**state, "count": state["count"] + 1}


@dataclass(frozen=True, eq=False)
class Replay:
    """Plays back recorded positions, whatever the run does; use :meth:`of` to make one.

    At each reading it moves towards the latest place recorded for this step or an earlier one, at every site alike, as
    far as one move goes; before the first it leaves the knobs alone. Differs from the source: there is none.

    Args:
        steps: ``[N]`` int64, rising: the step from which each place holds.
        places: ``[N, K]`` float64 in the unit cube.

    Raises:
        KnobError: the shapes do not belong together, the steps do not rise, or a place is outside the unit cube.

    Example:
        >>> Replay.of([(1, [0.5]), (10, [0.4])]).steps.tolist()
        [1, 10]
    """

    steps: Tensor
    places: Tensor
    name = "replay"
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        """Check the record."""
        steps, places = self.steps, self.places
        if steps.ndim != 1 or places.ndim != 2 or len(steps) != len(places) or len(steps) == 0:
            raise KnobError(
                f"A replay needs steps [N] and places [N, K] with N >= 1, got {list(steps.shape)} and "
                f"{list(places.shape)}."
            )
        if not bool((steps[1:] > steps[:-1]).all()):
            raise KnobError("A replay's steps must rise.")
        if not bool(((places >= 0) & (places <= 1)).all()):
            raise KnobError("A replay's places must be in the unit cube, [0, 1].")

    @classmethod
    def of(cls, record: Tensor | Sequence[tuple[int, Sequence[float]]]) -> Replay:
        """Make one of a record.

        Args:
            record: ``[T, K]`` places, row ``t - 1`` for step ``t``; or pairs of a step and its ``K`` places.

        Returns:
            The controller.
        """
        if isinstance(record, Tensor):
            return cls(torch.arange(1, len(record) + 1), record.to(torch.float64))
        steps = torch.tensor([step for step, _ in record], dtype=torch.int64)
        return cls(steps, torch.tensor([list(place) for _, place in record], dtype=torch.float64))

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give None: the constant 1."""
        return None

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give what the panel tells.

        Args:
            panel: the knobs, as many as were recorded.
            members: ``B``.
            sites: ``S``.

        Returns:
            ``rates`` ``[B, K]``: the largest move's length in the unit cube.

        Raises:
            KnobError: the record has another number of knobs.
        """
        if self.places.shape[1] != len(panel):
            raise KnobError(
                f"A replay of {self.places.shape[1]} knobs cannot turn the {len(panel)} of this panel "
                f"({', '.join(panel.names)})."
            )
        return {"rates": panel.rates().expand(members, -1).clone()}

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Move towards this step's place; see :class:`trimtab.controller.Controller`."""
        step = seen.signals.step
        latest = torch.searchsorted(self.steps.to(step.device), step, right=True) - 1
        target = self.places.to(seen.position)[latest.clamp_min(0)][:, None]
        gap = target - seen.position
        is_still = (gap.abs() <= REACHED) | (latest < 0)[:, None, None]
        limit = state["rates"] * torch.where(step <= EARLY_STEPS, 2.0, 1.0)[:, None]
        return torch.where(is_still, 0.0, (gap / limit[:, None]).clamp(-1, 1)), state


def _splitmix(x: Tensor) -> Tensor:
    """Hash int64 to int64; SplitMix64, Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195, modulo 2**64."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right as an unsigned number: torch's shift of an int64 repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64)
