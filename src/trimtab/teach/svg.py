"""SVG: stochastic value gradients, teaching a policy through a learned model of how runs answer to moves.

Heess et al. 2015, arXiv:1510.09142, SVG(∞): a logged piece of ``H`` moves is rolled out again in the model under the
policy of now, with the noise that the log tells, and the sum of predicted rewards is differentiated through model and
policy. Differs from the source: the policy is deterministic (its noise is not inferred, the log's moves explain it),
pieces end without a value function, all networks of an ensemble are rolled out, and offline their disagreement costs
`penalty`.

Letters: ``E`` networks, ``N`` runs, ``H`` moves of a piece, ``F`` features, ``K`` knobs, ``D`` = F + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trimtab.controllers.policy import Policy
from trimtab.controllers.spec import memory_of
from trimtab.controllers.typical import evened
from trimtab.env.setting import Setting
from trimtab.errors import TaskError
from trimtab.teach.draw import mixed
from trimtab.teach.genome import Genome
from trimtab.teach.surrogate import Log, Surrogate
from trimtab.teach.value import Model, worth

NOISE = 0.4  # standard deviation of the moves tried online, at first; it falls to a quarter
ACTING = 61  # what the draws are for


def pieces(log: Log, count: int, length: int, rng: torch.Generator) -> Log:
    """Cut pieces at random, each of one run and begun at a move that was made."""
    places = log.known.nonzero()
    chosen = places[torch.randint(len(places), (count,), generator=rng)]
    length = min(length, log.reward.shape[1])
    start = chosen[:, 1].clamp(max=log.reward.shape[1] - length)[:, None]
    run, index = chosen[:, :1], start + torch.arange(length)
    whole = torch.cat([index, index[:, -1:] + 1], 1)
    return Log(log.seen[run, whole], log.action[run, index], log.reward[run, index], log.known[run, index])


@dataclass(frozen=True)
class ValueGradients:
    """How a policy is improved in a model.

    Args:
        length: ``H``.
        steps: of Adam at each improvement.
        batch: pieces of a step.
        rate: Adam's.
        discount: as in :func:`worth`.
        penalty: likewise; for logs that cannot be added to.

    Raises:
        TaskError: a setting is out of range.
    """

    length: int = 8
    steps: int = 40
    batch: int = 64
    rate: float = 3e-3
    discount: float = 1.0
    penalty: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings."""
        if not (min(self.length, self.batch) >= 1 and self.steps >= 0 and self.rate > 0 and self.penalty >= 0):
            raise TaskError(f"Value gradients need `length`, `batch` >= 1, `rate > 0` and `penalty >= 0`, got {self}.")

    def improve(self, model: Model, actor: nn.Module, log: Log, rng: torch.Generator) -> float:
        """Take steps of Adam uphill, gradients cut to a norm of 1.

        Args:
            model: stays as it is.
            actor: what is taught, a module from features to actions.
            log: where pieces begin.
            rng: draws them.

        Returns:
            The worth of the last batch, by the model.
        """
        optimizer, found = torch.optim.Adam(actor.parameters(), self.rate), 0.0
        for _ in range(self.steps):
            batch = pieces(log, self.batch, self.length, rng)
            with torch.enable_grad():
                gained = worth(model, actor, batch, discount=self.discount, penalty=self.penalty)
                optimizer.zero_grad()
                (-gained).backward()  # type: ignore[no-untyped-call]  # torch's is untyped
            nn.utils.clip_grad_norm_(actor.parameters(), 1.0)
            optimizer.step()
            found = float(gained.detach())
        return found


class Sketched(nn.Module):
    """A policy as a module from the features it reads, on one scale, to actions; float64.

    Args:
        policy: "mlp", not calm.
        genome: says what is read.

    Raises:
        TaskError: the policy has a memory.
    """

    def __init__(self, policy: Policy, genome: Genome) -> None:
        super().__init__()
        if memory := memory_of(policy.spec):
            raise TaskError(f"Value gradients teach policies without memory ('mlp', `calm = 0`), got {memory}.")
        self.genome, self.reach = genome, policy.spec["reach"]
        for name, weight in policy.named_parameters():
            self.register_parameter(name, nn.Parameter(weight.detach().double()))
        self.register_buffer("columns", genome.columns)

    def forward(self, seen: Tensor) -> Tensor:
        """``[..., F]`` to ``[..., K]``."""
        own = self.get_parameter
        weight = own("hidden_weight")[:, self.get_buffer("columns")]
        hidden = torch.tanh(seen @ weight.mT + own("hidden_bias"))
        return self.reach * torch.tanh(hidden @ own("out_weight").mT + own("out_bias"))

    def policy(self) -> Policy:
        """Give it as a policy; what it does not read weighs 0."""
        made, unread = Policy(self.genome.spec), torch.ones(len(self.genome.spec["features"]), dtype=torch.bool)
        unread[self.get_buffer("columns")] = False
        with torch.no_grad():
            for name, weight in made.named_parameters():
                weight.copy_(self.get_parameter(name))
            made.get_parameter("hidden_weight")[:, unread] = 0.0
        return made


@torch.no_grad()
def collected(
    setting: Setting, actor: nn.Module, genome: Genome, numbers: list[int], rng: torch.Generator, noise: float
) -> Log:
    """Let an actor play instances, each to its end, with Gaussian noise about its actions."""
    episodes = setting.episodes(len(numbers))
    if len(episodes.plant.sites) > 1:
        raise TaskError('Value gradients teach policies of one site: `by = "run"`.')
    setting.begin(episodes, range(len(numbers)), numbers)
    columns = genome.columns
    center, size = (torch.tensor(genome.spec[name], dtype=torch.float64)[columns] for name in ("center", "size"))
    seen, rows = [evened(episodes.features[:, 0, columns], center, size)], []
    is_over = torch.zeros(len(numbers), dtype=torch.bool)
    while not bool(is_over.all()):
        asked: Tensor = actor(seen[-1])
        tried = torch.randn(asked.shape, generator=rng, dtype=torch.float64)
        action = (asked + noise * tried).clamp(-1, 1)
        turn = episodes.step(action[:, None])
        rows.append((action, turn.reward, ~is_over))
        seen.append(evened(turn.features[:, 0, columns], center, size))
        is_over = is_over | turn.is_over
    action, reward, known = (torch.stack(part, 1) for part in zip(*rows, strict=True))
    return Log(torch.stack(seen, 1), action, reward, known)


def practised_by_model(
    setting: Setting,
    genome: Genome,
    decisions: int,
    *,
    members: int = 16,
    gradients: ValueGradients | None = None,
    seed: int = 0,
) -> tuple[Policy, Surrogate, Log]:
    """Teach a policy and a surrogate beside the runs that they control, from nothing.

    Args:
        setting: the environment; its `prior` and `leap` are the policy's.
        genome: the policy's form, "mlp".
        decisions: how many at most, over all members; whole runs of all members are played, at least once.
        members: that play side by side between two improvements.
        gradients: how the policy is improved.
        seed: of everything.

    Returns:
        The policy, the surrogate and all that was logged.
    """
    gradients, rng = gradients or ValueGradients(), torch.Generator().manual_seed(mixed(seed, ACTING))
    actor = Sketched(genome.policy(genome.untaught()), genome)
    surrogate = Surrogate(len(genome.read), len(genome.spec["knobs"]), rng)
    logs: list[Log] = []
    rounds = max(1, decisions // (members * setting.turns))
    for done in range(rounds):
        numbers = (torch.randint(100, 2**31, (members,), generator=rng)).tolist()
        noise = NOISE * (1 - 0.75 * done / rounds)
        logs.append(collected(setting, actor, genome, numbers, rng, noise))
        log = Log.padded(logs)
        surrogate.fit(log, 200)
        gradients.improve(surrogate, actor, log, rng)
    return actor.policy(), surrogate, Log.padded(logs)


def taught_from(
    log: Log, genome: Genome, gradients: ValueGradients, *, fits: int = 800, seed: int = 0
) -> tuple[Policy, Surrogate]:
    """Teach a policy from a log alone: fit a surrogate once, and improve in it once.

    Args:
        log: of the features that the policy reads, as `collected` gives it.
        genome: the policy's form, "mlp".
        gradients: how the policy is improved; its `penalty` is on what the surrogate's networks disagree on.
        fits: steps of the surrogate's fit, at most.
        seed: of everything.

    Returns:
        The policy and the surrogate.
    """
    rng = torch.Generator().manual_seed(mixed(seed, ACTING))
    actor = Sketched(genome.policy(genome.untaught()), genome)
    surrogate = Surrogate(len(genome.read), len(genome.spec["knobs"]), rng)
    surrogate.fit(log, fits)
    gradients.improve(surrogate, actor, log, rng)
    return actor.policy(), surrogate
