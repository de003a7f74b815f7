"""Set our evolution strategies beside libraries': cost of a generation, and progress with equal members.

All teach the same small policy on the same lessons of teach-v1, 48 members a generation. Ours gives each pair its own
starting rate and seed; a ranking of all members needs them to have the same, so the others get one start a generation.
Names choose some; the libraries must be installed (``pip install -c constraints.txt cmaes optuna evotorch``)::

    OMP_NUM_THREADS=1 python benchmarks/teachers.py evolution cmaes.SepCMA

Rows go to ``results/teachers.jsonl``: milliseconds of drawing and updating, seconds of the plant, and the mean cost of
the policy on lessons kept for it, before and after.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import append, facts

from trimtab.controllers import Policy, Population
from trimtab.knobs import Panel
from trimtab.teach import Distribution, Evolution, Genome
from trimtab.teach.ascent import directions, gradient, scaled
from trimtab.teach.distribution import Lesson
from trimtab.teach.fitness import attempt

RESULTS = Path(__file__).parent.parent / "results"
PANEL = Panel.of(["lr"])
GENERATIONS, MEMBERS, SIGMA = 60, 48, 0.1
LESSONS = Distribution((50, 100))


@torch.no_grad()
def main(names: list[str]) -> None:
    """Measure them, with the same settings for ten seeds."""
    torch.set_num_threads(1)
    genome = Genome(Policy.for_panel(PANEL, 16).spec, ("*", "!mean_*", "!rank_*"))
    for seed, name in itertools.product(range(10), names or TEACHERS):
        if seed == 0 or name != "optuna.CmaEsSampler":  # whose own arithmetic takes minutes
            teach = TEACHERS[name]
            begin = time.process_time()
            mean, own = teach(genome, seed)
            row: dict[str, Any] = facts() | {
                "teacher": name,
                "seed": seed,
                "weights": genome.size,
                "members": MEMBERS,
                "generations": GENERATIONS,
                "own_ms_a_generation": 1e3 * own / GENERATIONS,
                "seconds": time.process_time() - begin,
                "cost_before": examined(genome, genome.untaught()),
                "cost_after": examined(genome, mean),
            }
            append(RESULTS / "teachers.jsonl", row)
            print(json.dumps({key: row[key] for key in list(row)[-8:]}), flush=True)


def evolution(genome: Genome, seed: int) -> tuple[torch.Tensor, float]:
    """Teach with ours; give the mean, and the seconds that are not the plant's."""
    teacher = Evolution(genome, PANEL, pairs=MEMBERS // 2, tasks=1, sigma=SIGMA, generations=GENERATIONS, seed=seed)
    state = teacher.start(genome.untaught())
    for _ in range(GENERATIONS):
        state, _ = teacher.generation(state, lambda count: LESSONS.taught(1000 * seed + count))
    begin = time.process_time()
    for number in range(GENERATIONS):
        noise = directions(teacher, number, 0)
        state.ascent.climb(gradient(noise, scaled(noise[:, 0])) / SIGMA, 0.04)
    return state.ascent.mean, time.process_time() - begin


def separable(genome: Genome, seed: int) -> tuple[torch.Tensor, float]:
    """Teach with cmaes; likewise."""
    from cmaes import SepCMA

    made, own = SepCMA(genome.untaught().numpy(), SIGMA, population_size=MEMBERS, seed=seed), 0.0
    for number in range(GENERATIONS):
        begin = time.process_time()
        rows = [made.ask() for _ in range(MEMBERS)]
        own += time.process_time() - begin
        costs = ranked(genome, seed, number)(torch.from_numpy(np.stack(rows)))
        begin = time.process_time()
        made.tell([(row, float(cost)) for row, cost in zip(rows, costs, strict=True)])
        own += time.process_time() - begin
    return torch.from_numpy(made.mean), own


def asked(genome: Genome, seed: int) -> tuple[torch.Tensor, float]:
    """Teach with Optuna's sampler, separable too, from the same mean and size; likewise."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names, start = [f"w{number:04d}" for number in range(genome.size)], genome.untaught().tolist()
    sampler = optuna.samplers.CmaEsSampler(
        dict(zip(names, start, strict=True)), SIGMA, seed=seed, popsize=MEMBERS, use_separable_cma=True
    )
    study, own, best = optuna.create_study(sampler=sampler), 0.0, genome.untaught()
    space = {name: optuna.distributions.FloatDistribution(-10.0, 10.0) for name in names}
    for number in range(GENERATIONS):
        begin = time.process_time()
        trials = [study.ask(space) for _ in range(MEMBERS)]
        rows = torch.tensor([[trial.params[name] for name in names] for trial in trials], dtype=torch.float64)
        own += time.process_time() - begin
        costs = ranked(genome, seed, number)(rows)
        best = rows[costs.argsort()[: MEMBERS // 2]].mean(0)  # Optuna does not tell its mean: that of the better half
        begin = time.process_time()
        for trial, cost in zip(trials, costs.tolist(), strict=True):
            study.tell(trial, cost)
        own += time.process_time() - begin
    return best, own


def searched(algorithm: str, **settings: Any) -> Callable[[Genome, int], tuple[torch.Tensor, float]]:
    """Teach with one of EvoTorch's; likewise."""

    def teach(genome: Genome, seed: int) -> tuple[torch.Tensor, float]:
        from evotorch import Problem, algorithms

        number, inside = 0, 0.0

        def costs(rows: torch.Tensor) -> torch.Tensor:
            nonlocal number, inside
            begin = time.process_time()
            found = ranked(genome, seed, number)(rows)
            number, inside = number + 1, inside + time.process_time() - begin
            return found

        problem = Problem("min", costs, solution_length=genome.size, initial_bounds=(-1, 1), dtype=torch.float64,
                          eval_dtype=torch.float64, vectorized=True, seed=seed)  # fmt: skip
        made = getattr(algorithms, algorithm)(
            problem, popsize=MEMBERS, stdev_init=SIGMA, center_init=genome.untaught(), **settings
        )
        begin = time.process_time()
        made.run(GENERATIONS)
        own = time.process_time() - begin - inside
        return torch.as_tensor(made.status["center"]).clone(), own

    return teach


def ranked(genome: Genome, seed: int, number: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Give what a generation's members cost, all on one lesson from one start."""
    lesson = LESSONS.taught(1000 * seed + number)
    return lambda rows: cost_of(genome, rows, lesson, lesson.starts(PANEL, 1).repeat(MEMBERS, 1))


def cost_of(genome: Genome, rows: torch.Tensor, lesson: Lesson, starts: torch.Tensor) -> torch.Tensor:
    """Give ``[B]`` costs of policies, all with the same seed."""
    controller = Population(genome.policy(rows[0]), genome.weights(rows))
    return attempt(lesson, lesson.plant(PANEL), controller, starts, lesson.seeds(1) * len(rows))[0].cost()


def examined(genome: Genome, mean: torch.Tensor) -> float:
    """Give the mean cost over twelve lessons that nobody is taught on, from seven rates each."""
    costs = []
    for lesson in LESSONS.examined(12):
        done, _ = attempt(lesson, lesson.plant(PANEL), genome.policy(mean), lesson.starts(PANEL, 7), lesson.seeds(7))
        costs.append(done.cost().mean())
    return float(torch.stack(costs).mean())


TEACHERS: dict[str, Callable[[Genome, int], tuple[torch.Tensor, float]]] = {
    "evolution": evolution,
    "cmaes.SepCMA": separable,
    "optuna.CmaEsSampler": asked,
    "evotorch.SNES": searched("SNES"),
    "evotorch.PGPE": searched("PGPE", center_learning_rate=0.04, stdev_learning_rate=0.0, optimizer="adam"),
}


if __name__ == "__main__":
    main(sys.argv[1:])
