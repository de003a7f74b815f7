"""Turn each layer's learning rate on its own: one parameter group a layer, one site a group.

python examples/layer_wise.py
"""

import torch
from torch import nn

import trimtab
from trimtab.controllers import HypergradientDescent


def main(steps: int = 200) -> dict[str, float]:
    """Fit a random function; return each layer's final learning rate."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=rng)
    y = torch.sin(x).sum(1, keepdim=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    groups = trimtab.groups(model, by="layer", lr=1e-3)
    optimizer = torch.optim.SGD(groups, lr=1e-3)
    pilot = trimtab.attach(optimizer, HypergradientDescent(), sites="groups", every=1)
    for _ in range(steps):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        pilot.step(loss)
        optimizer.zero_grad()

    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    for name, rate in rates.items():
        print(f"layer {name}: {rate:.3g}")
    return rates


if __name__ == "__main__":
    main()
