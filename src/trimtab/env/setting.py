"""Setting: everything that makes an environment out of a task.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trimtab.env.episodes import JUDGED, Episodes
from trimtab.env.reward import Curve, Kind, Reward
from trimtab.errors import TaskError
from trimtab.guard import Guard
from trimtab.hypergrad import Estimator
from trimtab.knobs import LEAP, Knob, Panel
from trimtab.plant import Plant
from trimtab.rules import CATALOGUE, Rule
from trimtab.signals import is_reading
from trimtab.sites import sites_of
from trimtab.stream import Stream
from trimtab.task import Task

Instances = Literal["train", "held-out"]
HELD_OUT = 100  # instances below are held out and never drawn for training
MOST = 2**31
PRIME = 1_000_003
PEAKS, POINTS = 9, 12  # of the reference behind "speed-up": constant rates tried, places where its loss is measured
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Setting:
    """What an environment is of; the arguments of :func:`trimtab.env.environment` and of ``gymnasium.make``.

    An *instance* is a number: from it follow first weights, order of examples and where the knobs begin. Those below
    :data:`HELD_OUT` are for tests alone.

    Args:
        task: what is trained.
        knobs: what is turned: names of standard knobs, or knobs.
        rule: the optimizer's twin; None: the task's usual one (SGD with momentum 0.9, others at their defaults).
        horizon: optimizer steps of an episode; None: the task's.
        every: steps between decisions, once the early ones (1, 2, 4, 7) are over.
        by: what is turned on its own: "run", "layer" or "block".
        prior: the schedule under the moves, a name in :data:`trimtab.controllers.schedule.SCHEDULES`.
        reward: "progress", "terminal" or "speed-up" (:class:`trimtab.env.reward.Reward`).
        judged: validation examples, the first ones, that the reward is measured on.
        starts: learning rates that instances begin with, log-uniform between; other knobs begin at their defaults.
        leap: what an action of 1 is as a move in the first ten steps.
        has_guard: whether a guard brings runs back, and ends the episode when it gives up.
        validate_every: show the validation loss at readings that are multiples of it; None: never.
        instances: "train" or "held-out".
        dtype: "float32" or "float64".
        device: where members live.

    Raises:
        TaskError: a setting does not hold.
    """

    task: Task
    knobs: Sequence[Knob | str] = ("lr",)
    rule: Rule | None = None
    horizon: int | None = None
    every: int = 10
    by: str = "run"
    prior: str = "constant"
    reward: Kind = "progress"
    judged: int = JUDGED
    starts: tuple[float, float] = (1e-5, 1.0)
    leap: float = LEAP
    has_guard: bool = True
    validate_every: int | None = None
    instances: Instances = "train"
    dtype: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check what nobody else checks."""
        low, high = self.starts
        laws = {
            f"`instances` 'train' or 'held-out', got {self.instances!r}": self.instances in ("train", "held-out"),
            f"`0 < low <= high` for `starts`, got {self.starts}": 0 < low <= high < math.inf,
            f"`dtype` one of {', '.join(DTYPES)}, got {self.dtype!r}": self.dtype in DTYPES,
            f"`by` one of 'run', 'layer', 'block', got {self.by!r}": self.by in ("run", "layer", "block"),
            f"a rule for {self.task.optimizer!r}, the task's optimizer, or `rule=`": (
                self.rule is not None or self.task.optimizer in CATALOGUE
            ),
        }
        for law, holds in laws.items():
            if not holds:
                raise TaskError(f"An environment needs {law}.")

    @property
    def steps(self) -> int:
        """Optimizer steps of an episode."""
        return self.task.horizon if self.horizon is None else self.horizon

    @property
    def turns(self) -> int:
        """Decisions of an episode that reaches its horizon, where there is none."""
        return sum(is_reading(step, self.every) for step in range(1, self.steps))

    def twin(self) -> Rule:
        """Give the optimizer's twin."""
        usual = {"momentum": 0.9} if self.task.optimizer == "sgd" else {}
        return self.rule or CATALOGUE[self.task.optimizer](**usual)

    def plant(self, panel: Panel | None = None, estimator: Estimator | None = None) -> Plant:
        """Build the simulator, of these knobs or of others; with a hypergradient where a controller needs one."""
        sites = None if self.by == "run" else sites_of(self.task.build(0), self.by)
        panel, dtype = panel or Panel.of(self.knobs), DTYPES[self.dtype]
        return Plant(
            self.task,
            self.twin(),
            panel,
            sites=sites,
            every=self.every,
            estimator=estimator,
            device=self.device,
            dtype=dtype,
        )

    def episodes(self, members: int) -> Episodes:
        """Make ``B`` episodes; for the reward "speed-up" the reference is trained now."""
        return Episodes(
            self.plant(),
            members,
            horizon=self.steps,
            prior=self.prior,
            guard=Guard() if self.has_guard else None,
            validate_every=self.validate_every,
            leap=self.leap,
            reward=Reward(self.reward, self.curve() if self.reward == "speed-up" else None),
            judged=self.judged,
        )

    def drawn(self, rng: np.random.Generator) -> int:
        """Draw an instance's number from the chosen set."""
        return int(rng.integers(HELD_OUT, MOST) if self.instances == "train" else rng.integers(HELD_OUT))

    def begin(self, episodes: Episodes, places: Sequence[int], numbers: Sequence[int]) -> None:
        """Begin instances at places."""
        episodes.begin(places, self.values(episodes.plant, numbers), list(numbers))

    def values(self, plant: Plant, numbers: Sequence[int]) -> Tensor:
        """Give ``[B, S, K]`` values that instances begin with."""
        rows = []
        for number in numbers:
            rng = torch.Generator().manual_seed((number * PRIME + 7) % 2**63)
            place = float(torch.rand((), generator=rng, dtype=torch.float64))
            lr = math.exp(math.log(self.starts[0]) + place * math.log(self.starts[1] / self.starts[0]))
            usual = [lr if knob.name == "lr" else plant.rule.defaults[knob.name] for knob in plant.panel]
            rows.append([min(max(value, knob.low), knob.high) for value, knob in zip(usual, plant.panel, strict=True)])
        values = torch.tensor(rows, dtype=torch.float64)
        return values[:, None].expand(-1, len(plant.sites), -1).clone()

    @torch.no_grad()
    def curve(self) -> Curve:
        """Train the reference behind "speed-up": the best of nine constant rates, on one training instance.

        Returns:
            A power law through its validation losses, each the lowest so far.
        """
        panel = Panel.of(["lr"])
        plant, seeds = self.plant(panel), [HELD_OUT] * PEAKS
        low, high = (math.log10(bound) for bound in self.starts)
        peaks = torch.logspace(low, high, PEAKS, dtype=torch.float64)
        values = peaks[:, None, None].expand(-1, len(plant.sites), -1)
        copies, stream = plant.start(seeds), Stream(self.task, seeds, device=plant.device, dtype=plant.dtype)
        marks = sorted({max(1, round(self.steps ** (n / (POINTS - 1)))) for n in range(POINTS)})
        val, found = plant.split("val"), []
        for number in range(1, self.steps + 1):
            copies, _, _, _ = plant.step(copies, values, stream.next(), number, None)
            if number in marks:
                found.append(torch.nan_to_num(plant.loss_on(copies, val).double(), nan=math.inf))
        losses = torch.stack(found)  # [points, peaks]
        lowest = losses[:, int(losses[-1].argmin())].cummin(0).values.tolist()
        return Curve.fitted([(mark, loss) for mark, loss in zip(marks, lowest, strict=True) if math.isfinite(loss)])
