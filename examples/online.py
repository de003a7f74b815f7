"""Let a card go on learning in the run that it controls, and keep what it learned as a card of its own.

python examples/online.py
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import trimtab
from trimtab.controllers import card
from trimtab.teach import OnlineTeaching


def main(steps: int = 300) -> tuple[float, float]:
    """Fit a random function; return the last loss, and how far the policy's weights have come (root mean square)."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2048, 8, generator=rng)
    y = torch.sin(x).sum(1, keepdim=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))

    shipped = card("trimtab-v1")
    teaching = OnlineTeaching(shipped, lr=0.003)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    pilot = trimtab.attach(optimizer, teaching, horizon=steps, model=model)
    loss = torch.tensor(torch.nan)
    for _ in range(steps):
        chosen = torch.randint(len(x), (64,), generator=rng)
        loss = nn.functional.mse_loss(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        pilot.step(loss)
        optimizer.zero_grad()

    learned = teaching.policy_of(pilot.state_dict()["helm"]["mind"])
    with tempfile.TemporaryDirectory() as folder:
        learned.save(Path(folder) / "mine.safetensors")  # trimtab.Policy.load reads it
    pairs = zip(learned.parameters(), shipped.parameters(), strict=True)
    change = torch.cat([(new - old).flatten() for new, old in pairs]).square().mean().sqrt()
    print(f"loss {loss.item():.3f}, learning rate {pilot.get_last_lr()[0]:.3g}, weights moved by {change:.3f}")
    return loss.item(), change.item()


if __name__ == "__main__":
    main()
