"""Set our evolution strategies beside cmaes' separable CMA-ES: cost of a generation, and progress with equal members.

Both teach the same small policy on the same lessons of teach-v1, 48 members a generation. Ours gives each pair its own
starting rate and seed; a ranking of all members needs them to have the same, so CMA-ES gets one start a generation::

    OMP_NUM_THREADS=1 python benchmarks/teachers.py

Rows go to ``results/teachers.jsonl``: milliseconds of drawing and updating, seconds of the plant, and the mean cost of
the policy on lessons kept for it, before and after.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cmaes import SepCMA
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
def main() -> None:
    """Measure both, with the same settings for three seeds."""
    torch.set_num_threads(1)
    genome = Genome(Policy.for_panel(PANEL, 16).spec, ("*", "!mean_*", "!rank_*"))
    for seed in range(3):
        for name, teach in (("evolution", evolution), ("cmaes.SepCMA", separable)):
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
    """Teach with the library's; likewise."""
    made, own = SepCMA(genome.untaught().numpy(), SIGMA, population_size=MEMBERS, seed=seed), 0.0
    for number in range(GENERATIONS):
        begin = time.process_time()
        rows = [made.ask() for _ in range(MEMBERS)]
        own += time.process_time() - begin
        lesson = LESSONS.taught(1000 * seed + number)
        costs = cost_of(genome, torch.from_numpy(np.stack(rows)), lesson, lesson.starts(PANEL, 1).repeat(MEMBERS, 1))
        begin = time.process_time()
        made.tell([(row, float(cost)) for row, cost in zip(rows, costs, strict=True)])
        own += time.process_time() - begin
    return torch.from_numpy(made.mean), own


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


if __name__ == "__main__":
    main()
