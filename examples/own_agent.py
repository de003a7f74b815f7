"""Let an agent of your own turn a run's learning rate through Gymnasium: cross-entropy search for three weights.

python examples/own_agent.py
"""

import gymnasium
import numpy as np

import trimtab.env  # registers trimtab/<task>


def main(rounds: int = 6, members: int = 32) -> tuple[float, float]:
    """Learn on training instances; return the mean reward on held-out ones: the agent's, and that of no move."""
    train = gymnasium.make_vec("trimtab/quadratic-v1", num_envs=members)
    test = gymnasium.make_vec("trimtab/quadratic-v1", num_envs=members, instances="held-out")
    names = trimtab.env.environment("quadratic-v1").feature_names
    read = [names.index(name) for name in ("lr_secant", "cos_update", "position_lr")]
    rng, mean, spread = np.random.default_rng(0), np.zeros(3), np.ones(3)

    def total(env: gymnasium.vector.VectorEnv, weights: np.ndarray) -> np.ndarray:
        seen, _ = env.reset(seed=1)
        rewards, is_over = np.zeros(members), np.zeros(members, bool)
        while not is_over.all():
            actions = np.tanh((seen[:, read] * weights).sum(1, keepdims=True))
            seen, reward, terminated, truncated, _ = env.step(actions)
            rewards += reward * ~is_over
            is_over |= terminated | truncated
        return rewards

    for _ in range(rounds):
        tried = rng.normal(mean, spread, (members, 3))
        best = tried[total(train, tried).argsort()[-members // 4 :]]
        mean, spread = best.mean(0), best.std(0)
    learned, still = total(test, mean[None]).mean(), total(test, np.zeros((1, 3))).mean()
    print(f"reward {learned:.2f} on held-out runs; {still:.2f} where the rate is left alone")
    return float(learned), float(still)


if __name__ == "__main__":
    main()
