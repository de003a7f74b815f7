"""Record runs under random moves, teach a policy from the traces alone, and let it drive runs of its own.

python examples/offline.py
"""

import tempfile
from pathlib import Path

import trimtab
from trimtab.controllers import Policy, Random
from trimtab.env import Setting
from trimtab.teach import Genome
from trimtab.teach.offline import ImplicitQLearning, Transitions, play, read_episodes, worths


def main(runs: int = 96, steps: int = 1500) -> tuple[float, float]:
    """Return what held-out runs are worth, a fall of the log loss: under the policy, and under the random moves."""
    setting = Setting(trimtab.task_named("quadratic-v1"), horizon=60)
    seeds, plant = range(100, 100 + runs), setting.plant()
    with tempfile.TemporaryDirectory() as folder:
        values = setting.values(plant, seeds)
        play(plant, Random(1.0), values, Path(folder), seeds=seeds, horizon=60, guard=trimtab.Guard())
        episodes = read_episodes(Path(folder))
    genome = Genome(Policy.for_panel(plant.panel, 16, prior="constant").spec, ("*", "!mean_*", "!rank_*"))
    policy, _ = ImplicitQLearning(expectile=0.8, beta=3.0, steps=steps).taught(
        genome, Transitions.of(episodes, genome.spec)
    )
    taught, rolled = (float(worths(setting, who, range(32)).mean()) for who in (policy, Random(1.0)))
    print(f"worth {taught:.2f} under the policy, {rolled:.2f} under the random moves that it was taught from")
    return taught, rolled


if __name__ == "__main__":
    main()
