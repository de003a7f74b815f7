"""PPO: teaching by proximal policy optimization, model-free, on the same lessons as the other teachers.

A generation takes `tasks` lessons: the actor plays a whole episode of each with every member, from weights, order of
examples and starts of its own, in this process or spread over several; then PPO updates actor and critic, lesson by
lesson. Stable-Baselines3 does PPO's own arithmetic; what it teaches is a :class:`trimtab.controllers.Policy`
(:mod:`trimtab.teach.agents`).

Schulman et al. 2017, arXiv:1707.06347, with generalized advantages (Schulman et al. 2016, arXiv:1506.02438). Differs
from the sources: episodes are finite and their reward telescopes to the fall of the log validation loss, so that
nothing is discounted; the noise is about ``tanh`` of the mean; where `tasks` are several, the later ones are learned
from by an actor that the earlier have moved since it played, which the clipped ratio is for.

Randomness is counted, not carried: generation and lesson seed it, so that teaching goes on bit for bit after a kill.

Letters: ``P`` taught weights, ``B`` members.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trimtab.controllers.spec import memory_of
from trimtab.errors import StateError, TaskError
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.teach.ascent import Ascent, falling
from trimtab.teach.distribution import Lesson
from trimtab.teach.draw import mixed
from trimtab.teach.evolution import Lessons, Record
from trimtab.teach.genome import Genome
from trimtab.workers import Spread

if TYPE_CHECKING:
    from trimtab.env.episodes import Episodes

EVERY = 10  # steps between decisions, the plant's own
GAE, CLIP, MAX_GRAD = 0.95, 0.2, 0.5  # the library's and the source's usual values
ACTING, LEARNING = 31, 32  # what a generation's draws are for


@dataclass(frozen=True)
class Practice:
    """The state of :class:`Proximal`.

    Attributes:
        ascent: where the policy stands; its moments are not used.
        agent: actor, critic and their optimizer, as bytes; empty at the beginning.
    """

    ascent: Ascent
    agent: bytes


@dataclass(frozen=True)
class Proximal:
    """Proximal policy optimization.

    Args:
        genome: what is taught; "mlp" only, for the library's actor has no memory.
        panel: the knobs that are turned.
        by: what is a site: "run".
        members: ``B`` of each lesson, from as many starts.
        tasks: lessons a generation.
        rate: Adam's at the start; it falls linearly to 0 over the generations.
        generations: how many there will be.
        seed: of the moves tried.
        epochs: times that each batch of moves is gone through.
        noise: standard deviation of the moves tried, at the beginning; it is learned.

    Raises:
        TaskError: a setting is out of range, or the policy has a memory or several sites.
    """

    genome: Genome
    panel: Panel
    by: str = "run"
    members: int = 32
    tasks: int = 2
    rate: float = 1e-3
    generations: int = 500
    seed: int = 0
    epochs: int = 8
    noise: float = 0.4

    def __post_init__(self) -> None:
        """Check the settings."""
        counts = {name: getattr(self, name) for name in ("members", "tasks", "generations", "epochs")}
        if not (min(counts.values()) >= 1 and 0 < self.rate < math.inf and 0 < self.noise < math.inf):
            raise TaskError(
                "PPO needs `members`, `tasks`, `generations`, `epochs` of at least 1, `rate > 0` and `noise > 0`, got "
                f"{counts}, rate={self.rate}, noise={self.noise}."
            )
        if (memory := memory_of(self.genome.spec)) or self.by != "run":
            raise TaskError(
                f"PPO teaches policies without memory at one site ('mlp', `calm = 0`, sites 'run'), got "
                f"{memory or 'none'} and {self.by!r}."
            )

    def start(self, mean: Tensor) -> Practice:
        """Stand at a policy's taught weights, ``[P]``."""
        return Practice(Ascent.begin(mean.double()), b"")

    def generation(self, state: Practice, lessons: Lessons, spread: Spread = map) -> tuple[Practice, Record]:
        """Play `tasks` lessons, and learn from them; a pure function of its arguments.

        Args:
            state: what `start` or the last call handed back.
            lessons: gives them by number.
            spread: plays the lessons, one after the other or side by side; the result is the same.

        Returns:
            The new state; and the mean reward of an episode, the noise, and how far the weights went.
        """
        from trimtab.teach.agents import minibatch, read_off, seeded

        number, mean = state.ascent.number, state.ascent.mean
        chosen = [lessons(number * self.tasks + task) for task in range(self.tasks)]
        plays = [_Play(self, state, lesson, mixed(self.seed, number, k, ACTING)) for k, lesson in enumerate(chosen)]
        buffers = list(spread(_played, plays))
        with seeded(mixed(self.seed, number, 0, LEARNING)):
            model = self.model(chosen[0], state)
            for buffer in buffers:
                model.rollout_buffer, model.batch_size = buffer, minibatch(buffer.rewards.size)
                model.train()
        after = self.genome.started(read_off(model.policy, self.genome))
        record = {
            "reward": sum(float(buffer.rewards.sum(0).mean()) for buffer in buffers) / len(buffers),
            "noise": float(model.policy.log_std.detach().exp().mean()),
            "distance": float((after - mean).norm()),
        }
        return Practice(replace(state.ascent, mean=after, number=number + 1), _packed(model)), record

    def tree(self, state: Practice) -> dict[str, Any]:
        """Give a state as a dictionary of tensors, a number and bytes."""
        return {"mean": state.ascent.mean, "number": state.ascent.number, "agent": state.agent}

    def of_tree(self, tree: dict[str, Any]) -> Practice:
        """Take what `tree` gave.

        Args:
            tree: of a state.

        Returns:
            The state.

        Raises:
            StateError: it is of another teacher, or of another policy.
        """
        if "agent" not in tree or tuple(tree["mean"].shape) != (self.genome.size,):
            raise StateError(f"This is no state of PPO with {self.genome.size} taught weights.")
        return Practice(replace(Ascent.begin(tree["mean"]), number=tree["number"]), tree["agent"])

    def model(self, lesson: Lesson, state: Practice) -> Any:
        """Give the library's PPO on a lesson, actor and critic as they stand."""
        from stable_baselines3 import PPO

        from trimtab.teach.agents import Actor, PlantVecEnv, minibatch, quiet, seat

        episodes, turns = self._episodes(lesson)
        starts, seeds = lesson.starts(self.panel, self.members), lesson.seeds(self.members)

        def begin(places: Sequence[int]) -> None:
            chosen = list(places)
            episodes.begin(chosen, starts[chosen, None], [seeds[place] for place in chosen])

        model: Any = PPO(
            Actor,
            PlantVecEnv(episodes, begin),
            learning_rate=falling(self.rate, state.ascent.number, self.generations),
            n_steps=turns,
            batch_size=minibatch(turns * self.members),
            n_epochs=self.epochs,
            gamma=1.0,
            gae_lambda=GAE,
            clip_range=CLIP,
            max_grad_norm=MAX_GRAD,
            policy_kwargs={"genome": self.genome, "log_std_init": math.log(self.noise)},
            device="cpu",
        )
        model.set_logger(quiet())
        if state.agent:
            _unpack(state.agent, model)
        else:
            seat(model.policy, self.genome.policy(state.ascent.mean))
        return model

    def _episodes(self, lesson: Lesson) -> tuple[Episodes, int]:
        """Make a lesson's episodes, cut to whole readings, and say how many decisions one has."""
        from trimtab.env.episodes import Episodes

        horizon = max(EVERY, lesson.horizon // EVERY * EVERY)
        episodes = Episodes(
            lesson.plant(self.panel, self.by),
            self.members,
            horizon=horizon,
            prior=self.genome.spec["prior"],
            guard=Guard(),
            validate_every=lesson.validate_every,
            leap=self.genome.spec["leap"],
        )
        return episodes, 3 + horizon // EVERY


@dataclass(frozen=True)
class _Play:
    """A lesson to be played, with all that it depends on."""

    teacher: Proximal
    state: Practice
    lesson: Lesson
    seed: int


def _played(play: _Play) -> Any:
    """Give the library's buffer with an episode of every member, advantages and all."""
    from stable_baselines3.common.callbacks import CallbackList

    from trimtab.teach.agents import seeded

    with seeded(play.seed):
        model = play.teacher.model(play.lesson, play.state)
        model._last_obs, model._last_episode_starts = model.env.reset(), [True] * play.teacher.members
        callback = CallbackList([])
        callback.init_callback(model)
        model.ep_info_buffer, model.ep_success_buffer = [], []
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer


def _packed(model: Any) -> bytes:
    blob = io.BytesIO()
    torch.save({"policy": model.policy.state_dict(), "optimizer": model.policy.optimizer.state_dict()}, blob)
    return blob.getvalue()


def _unpack(agent: bytes, model: Any) -> None:
    tree = torch.load(io.BytesIO(agent), weights_only=True)
    model.policy.load_state_dict(tree["policy"])
    model.policy.optimizer.load_state_dict(tree["optimizer"])
