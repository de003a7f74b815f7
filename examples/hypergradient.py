"""Follow a hypergradient of the validation loss: learning rate, momentum and weight decay of a run, while it trains.

The controller turns each knob the way that would have made the validation loss lower five steps on, as the last step
tells it (one-pass implicit differentiation). It needs two functions of yours: the loss of the last batch once more, and
the loss on held-out examples.

python examples/hypergradient.py
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn

import trimtab
from trimtab.controllers import Hypergradient


def main(steps: int = 400, lr: float = 1e-5) -> tuple[float, dict[str, float]]:
    """Train from a rate that is far too low; return the held-out error and where the knobs ended."""
    torch.manual_seed(0)
    x, y = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    train, held = slice(0, 300), slice(300, None)
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.5, weight_decay=1e-4)
    batch = x[train], y[train]

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(model(inputs).squeeze(-1), targets)

    def held_out() -> torch.Tensor:
        model.eval()
        loss = loss_of(x[held], y[held])
        model.train()
        return loss

    pilot = trimtab.attach(
        optimizer,
        Hypergradient("implicit", lookback=5),
        knobs="default",
        model=model,
        loss_fn=lambda: loss_of(*batch),
        validation_loss=held_out,
        every=5,
    )
    for _ in range(steps):
        rows = torch.randint(300, (64,))
        batch = x[rows], y[rows]
        loss = loss_of(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    group = optimizer.param_groups[0]
    knobs = {name: float(group[name]) for name in ("lr", "momentum", "weight_decay")}
    error = held_out().item()
    print(f"held-out error {error:.3f} of the targets' variance;", {name: f"{v:.3g}" for name, v in knobs.items()})
    return error, knobs


if __name__ == "__main__":
    main()
