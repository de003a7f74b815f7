"""Surrogate: how features of a run answer to moves, learned from logs; it steers knobs and never predicts weights.

An ensemble of small networks, each a Gaussian for the change of the features and the reward: fitted by its likelihood,
on a bootstrap of its own. What a network does not explain of a logged step is its *noise*, inferred rather than drawn:
``xi = (what happened - mean) / deviation``; rolled out with it under the logged moves, the log comes back exactly.

After Crouther, *Model-based hyperparameter optimization* (MSc thesis), of which we know the abstract alone; the
networks after Chua et al. 2018, arXiv:1805.12114, sec. 4. Differs from the latter: deviations are bounded by a sigmoid,
the reward is predicted beside the features, and the likelihood is weighed as in Eq. (5) of Seitzer et al. 2022,
arXiv:2203.09168.

Letters: ``E`` networks, ``N`` runs, ``T`` moves, ``F`` features, ``K`` knobs, ``D`` = F + 1 things predicted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trimtab.errors import SignalError, TaskError

HIDDEN, NETWORKS = 64, 5
FLOOR, CEILING = math.log(1e-3), math.log(2.0)  # of a log deviation, in deviations of the change
BETA = 0.5  # without it, what is hard to fit is called noise and its mean never learned
Net = Mapping[str, Tensor]
HELD_OUT = 0.1  # share of the runs that fitting never sees, to stop by


@dataclass(frozen=True)
class Log:
    """Runs side by side, move by move.

    Attributes:
        seen: ``[N, T + 1, F]`` features, on one scale.
        action: ``[N, T, K]`` in [-1, 1].
        reward: ``[N, T]``.
        known: ``[N, T]`` bool, moves that were made.

    Raises:
        SignalError: the shapes do not belong together.
    """

    seen: Tensor
    action: Tensor
    reward: Tensor
    known: Tensor

    def __post_init__(self) -> None:
        """Check the shapes."""
        runs, moves = self.reward.shape
        fits = self.seen.shape[:2] == (runs, moves + 1) and self.action.shape[:2] == self.known.shape == (runs, moves)
        if not fits:
            shapes = {name: list(value.shape) for name, value in vars(self).items()}
            raise SignalError(f"A log is `seen` [N, T + 1, F], `action` [N, T, K], the rest [N, T]; got {shapes}.")

    @classmethod
    def joined(cls, logs: Sequence[Log]) -> Log:
        """Put logs of as many moves under each other."""
        return cls(*(torch.cat([getattr(log, name) for log in logs]) for name in ("seen", "action", "reward", "known")))

    @classmethod
    def padded(cls, logs: Sequence[Log]) -> Log:
        """Put logs of different lengths under each other; moves that are added were not made."""
        most = max(log.reward.shape[1] for log in logs)

        def longer(log: Log) -> Log:
            missing = most - log.reward.shape[1]
            return cls(
                torch.cat([log.seen, log.seen[:, -1:].expand(-1, missing, -1)], 1),
                nn.functional.pad(log.action, (0, 0, 0, missing)),
                nn.functional.pad(log.reward, (0, missing)),
                nn.functional.pad(log.known, (0, missing)),
            )

        return cls.joined([longer(log) for log in logs])

    def picked(self, runs: Tensor) -> Log:
        """Give some of the runs."""
        return Log(self.seen[runs], self.action[runs], self.reward[runs], self.known[runs])


class Surrogate(nn.Module):
    """An ensemble of Gaussian networks.

    Args:
        features: ``F``.
        knobs: ``K``.
        rng: draws first weights and bootstraps.
        networks: ``E``.
    """

    center: Tensor
    size: Tensor
    change_center: Tensor
    change_size: Tensor

    def __init__(self, features: int, knobs: int, rng: torch.Generator, networks: int = NETWORKS) -> None:
        super().__init__()
        self._rng, self.networks = rng, networks
        sizes = (features + knobs, HIDDEN, HIDDEN, 2 * (features + 1))
        for number, (wide, out) in enumerate(itertools.pairwise(sizes)):
            weight = torch.randn(networks, out, wide, generator=rng, dtype=torch.float64) / math.sqrt(wide)
            self.register_parameter(f"weight{number}", nn.Parameter(weight))
            self.register_parameter(f"bias{number}", nn.Parameter(torch.zeros(networks, 1, out, dtype=torch.float64)))
        for name, wide in (("center", sizes[0]), ("change_center", features + 1)):
            self.register_buffer(name, torch.zeros(wide, dtype=torch.float64))
            self.register_buffer(name.replace("center", "size"), torch.ones(wide, dtype=torch.float64))

    def forward(self, seen: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            seen: ``[..., n, F]``, with leading ``E`` or without.
            action: ``[..., n, K]``, likewise.

        Returns:
            Mean and deviation of the features that follow and of the reward, ``[E, n, D]`` each.
        """
        return told(dict(self.named_parameters()), dict(self.named_buffers()), seen, action)

    def inferred(self, log: Log) -> Tensor:
        """Give the noise behind every move of a log, ``[E, N, T, D]``; 0 where none was made."""
        return noise_behind(self, self.networks, log)

    def fit(self, log: Log, steps: int = 500, *, rate: float = 2e-3, batch: int = 256) -> dict[str, float]:
        """Fit to a log, from where the weights are.

        Args:
            log: of at least two runs.
            steps: of Adam at most; the best by the held-out runs' likelihood is kept.
            rate: Adam's.
            batch: moves of a step.

        Returns:
            ``fitted`` and ``held_out``, mean negative log-likelihoods a thing predicted.

        Raises:
            TaskError: there are not enough moves.
        """
        runs = len(log.reward)
        held = max(1, round(HELD_OUT * runs))
        order = torch.randperm(runs, generator=self._rng)
        train, test = (_rows(log.picked(part)) for part in (order[held:], order[:held]))
        if min(len(train[0]), len(test[0])) < 2:
            raise TaskError(f"A surrogate needs logged moves of at least two runs, got {runs} runs.")
        self._rescale(train)
        drawn = torch.randint(len(train[0]), (self.networks, len(train[0])), generator=self._rng)  # bootstraps
        optimizer = torch.optim.Adam(self.parameters(), rate)
        best, kept, last = math.inf, self.state_dict(), math.nan
        for number in range(steps + 1):
            if number % 50 == 0 or number == steps:
                with torch.no_grad():
                    score = float(self._likelihood(*test))
                if score < best:
                    best, kept = score, {name: value.clone() for name, value in self.state_dict().items()}
            index = drawn.gather(1, torch.randint(drawn.shape[1], (self.networks, batch), generator=self._rng))
            with torch.enable_grad():
                loss = self._likelihood(*(part[index] for part in train), beta=BETA)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch's is untyped
            optimizer.step()
            last = float(loss.detach())
        self.load_state_dict(kept)
        return {"fitted": last, "held_out": best}

    def _likelihood(self, seen: Tensor, action: Tensor, happened: Tensor, *, beta: float = 0.0) -> Tensor:
        """Give the mean negative log-likelihood, ``[]``, less its constant, each term times its deviation^(2 beta)."""
        mean, deviation = self(seen, action)
        return unlikelihood(mean, deviation, happened, self.change_size, beta).mean()

    def _rescale(self, rows: tuple[Tensor, Tensor, Tensor]) -> None:
        seen, action, happened = rows
        both = torch.cat([seen, action], -1)
        change = happened - torch.cat([seen, torch.zeros_like(seen[:, :1])], -1)
        for name, values in (("", both), ("change_", change)):
            self.get_buffer(f"{name}center").copy_(values.mean(0))
            self.get_buffer(f"{name}size").copy_(values.std(0).clamp_min(1e-6))


def told(weights: Net, scales: Net, seen: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Predict with given weights; :meth:`Surrogate.forward` says what. All may have leading axes of their own.

    Args:
        weights: ``weight0``, ``bias0`` and so on.
        scales: ``center`` and ``size`` of what goes in, ``change_center`` and ``change_size`` of what comes out.
        seen: ``[..., n, F]``.
        action: ``[..., n, K]``.

    Returns:
        Mean and deviation, ``[..., E, n, D]`` each.
    """
    x, last = (torch.cat([seen, action], -1) - scales["center"]) / scales["size"], len(weights) // 2 - 1
    for number in range(last + 1):
        x = x @ weights[f"weight{number}"].mT + weights[f"bias{number}"]
        x = torch.tanh(x) if number < last else x
    mean, spread = x.chunk(2, -1)
    deviation = scales["change_size"] * torch.exp(FLOOR + (CEILING - FLOOR) * torch.sigmoid(spread))
    change = scales["change_center"] + scales["change_size"] * mean
    here = torch.cat([seen, torch.zeros_like(seen[..., :1])], -1)
    return here + change, deviation


def noise_behind(model: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], networks: int, log: Log) -> Tensor:
    """Give what a model does not explain of a log, in its deviations, ``[E, N, T, D]``; 0 where no move was made."""
    runs, moves = log.reward.shape
    happened = torch.cat([log.seen[:, 1:], log.reward[..., None]], -1).reshape(runs * moves, -1)
    mean, deviation = model(log.seen[:, :-1].reshape(runs * moves, -1), log.action.reshape(runs * moves, -1))
    noise = ((happened - mean) / deviation).reshape(networks, runs, moves, -1)
    return torch.where(log.known[..., None], noise, 0.0).detach()


def unlikelihood(mean: Tensor, deviation: Tensor, happened: Tensor, size: Tensor, beta: float = 0.0) -> Tensor:
    """Give negative log-likelihoods less their constant, each times its deviation^(2 beta), one a thing predicted."""
    terms = 0.5 * ((happened - mean) / deviation).square() + (deviation / size).log()
    return terms * (deviation / size).detach() ** (2 * beta)


def _rows(log: Log) -> tuple[Tensor, Tensor, Tensor]:
    """Give the moves made, one a row: ``[n, F]``, ``[n, K]``, ``[n, D]``."""
    happened = torch.cat([log.seen[:, 1:], log.reward[..., None]], -1)
    return log.seen[:, :-1][log.known], log.action[log.known], happened[log.known]


@torch.no_grad()
def errors(surrogate: Surrogate, log: Log, ahead: Sequence[int] = (1, 4, 8)) -> dict[str, float]:
    """Say whether the model is any good: prediction errors against logs that it has not seen.

    Args:
        surrogate: what predicts, by the mean of its networks' means.
        log: held out.
        ahead: moves ahead, each from every place of the log that has as many moves behind it.

    Returns:
        For each ``h``: ``features_h``, the root mean square error over features in deviations of what they change by in
        ``h`` moves (1: as good as knowing their mean change); ``still_h``, the same where no change is predicted;
        ``reward_h``, of the rewards' sum, in its deviations; and ``inside``, the share of one-step outcomes within one
        predicted deviation (0.68 of a Gaussian).
    """
    found: dict[str, float] = {}
    moves = log.reward.shape[1]
    for horizon in (h for h in ahead if h <= moves):
        starts = range(moves - horizon + 1)
        guesses, truths, origins, sums, totals = [], [], [], [], []
        for start in starts:
            whole = log.known[:, start : start + horizon].all(1)
            seen = log.seen[whole, start].expand(surrogate.networks, -1, -1)
            total = torch.zeros(surrogate.networks, seen.shape[1], dtype=torch.float64)
            for move in range(start, start + horizon):
                mean, _ = surrogate(seen, log.action[whole, move].expand(surrogate.networks, -1, -1))
                seen, total = mean[..., :-1], total + mean[..., -1]
            guesses.append(seen.mean(0))
            sums.append(total.mean(0))
            truths.append(log.seen[whole, start + horizon])
            origins.append(log.seen[whole, start])
            totals.append(log.reward[whole, start : start + horizon].sum(1))
        guess, truth, origin, summed, earned = (torch.cat(part) for part in (guesses, truths, origins, sums, totals))
        size = (truth - origin).std(0).clamp_min(1e-9)
        moving = size > 1e-6
        found[f"features_{horizon}"] = float(((guess - truth) / size)[:, moving].square().mean().sqrt())
        found[f"still_{horizon}"] = float(((origin - truth) / size)[:, moving].square().mean().sqrt())
        found[f"reward_{horizon}"] = float((summed - earned).square().mean().sqrt() / earned.std().clamp_min(1e-9))
    noise = surrogate.inferred(log)[:, log.known]
    found["inside"] = float((noise.abs() < 1).double().mean())
    return found
