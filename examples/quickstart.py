"""Train a network under a controller: where a scheduler was built, attach; where it was stepped, step.

python examples/quickstart.py
"""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
from torch import nn

import trimtab


def main(steps: int = 300, lr: float = 1.0) -> float:
    """Train from a learning rate that is far too high; return the final validation loss."""
    raw, labels = load_breast_cancer(return_X_y=True)
    x = torch.tensor(StandardScaler().fit_transform(raw), dtype=torch.float32)
    y = torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, val = order[:450], order[450:]

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)

    def validate() -> float:
        model.eval()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(x[val]), y[val])
        model.train()
        return loss.item()

    pilot = trimtab.attach(optimizer, "plateau", horizon=steps, validate=validate, model=model)
    for step in range(steps):
        batch = train[torch.randint(len(train), (32,), generator=torch.Generator().manual_seed(step))]
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        pilot.step(loss)
        optimizer.zero_grad()

    print(pilot.explain(last=3))
    print(f"validation loss {validate():.3f}, learning rate {pilot.get_last_lr()[0]:.2g}")
    return validate()


if __name__ == "__main__":
    main()
