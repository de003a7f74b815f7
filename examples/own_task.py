"""Turn a task of your own into an environment by one call, and let a shipped card act in it.

python examples/own_task.py
"""

import torch
from torch import nn

import trimtab
from trimtab.env import environment
from trimtab.tasks.seeded import build_seeded


class Sine:
    """The sine of a number, by a small network."""

    name, horizon, batch_size, optimizer, metric, noise_shape = "sine-v1", 200, 16, "adamw", "mse", None
    reference, card = trimtab.Reference(0.01, 0.01, 0.02, "not tuned"), "Made up from three seeds."

    def build(self, seed: int) -> nn.Module:
        """Make the network."""
        return build_seeded(lambda: nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)), seed)

    def data(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Give a split."""
        rng = torch.Generator().manual_seed(["train", "val", "test"].index(split))
        x = 6 * torch.rand(512, 1, generator=rng) - 3
        return x, x.sin()

    def loss(self, model: nn.Module, batch: trimtab.Batch) -> torch.Tensor:
        """Give the mean squared error."""
        return (model(batch.x) - batch.y).square().mean()

    score = loss


def main(rate: float = 1e-5) -> list[float]:
    """Begin far too low; return the validation losses that the environment told."""
    env = environment(Sine(), prior="hold", starts=(rate, rate))
    policy, names = trimtab.controller_named("trimtab-v1"), env.feature_names
    weights = {name: weight.detach() for name, weight in policy.named_parameters()}
    center, size = (torch.tensor(policy.spec[name]) for name in ("center", "size"))
    assert list(names) == policy.spec["features"]
    seen, _ = env.reset(seed=0)
    losses, is_over = [], False
    while not is_over:
        z = torch.asinh((torch.from_numpy(seen) - center) / size)
        hidden = torch.tanh(weights["hidden_weight"] @ z.float() + weights["hidden_bias"])
        action = policy.spec["reach"] * torch.tanh(weights["out_weight"] @ hidden + weights["out_bias"])
        seen, _, terminated, truncated, told = env.step(action.numpy())
        losses.append(told["val_loss"])
        is_over = terminated or truncated
    print(f"validation loss {losses[0]:.3f} at first, {losses[-1]:.4f} at the end")
    return losses


if __name__ == "__main__":
    main()
