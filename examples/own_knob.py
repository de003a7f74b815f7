"""Turn a hyperparameter that no optimizer knows: here the dropout rate, raised when validation falls behind.

python examples/own_knob.py
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import trimtab
from trimtab.controller import State


@dataclass(frozen=True)
class RaiseWhenOverfitting:
    """More dropout while the validation loss is above its best; a controller is these five names."""

    name = "raise-when-overfitting"
    needs = frozenset({"val_loss"})

    def prior(self, panel: trimtab.Panel, horizon: int | None) -> Tensor | None:
        """No schedule underneath."""
        return None

    def start(self, panel: trimtab.Panel, members: int, sites: int) -> State:
        """Remember the best validation loss, and the last, of each member."""
        return torch.full((members, 2), torch.inf, dtype=torch.float64)

    def act(self, seen: trimtab.Observation, state: State) -> tuple[Tensor, State]:
        """Move the knob up where the loss is above its best, down where it is the best."""
        assert seen.signals.val_loss is not None
        last = torch.where(seen.signals.val_loss.isnan(), state[:, 1], seen.signals.val_loss)
        best = torch.minimum(state[:, 0], last)
        move = torch.where(last > 1.02 * best, 1.0, -1.0)
        return move[:, None, None].expand_as(seen.position), torch.stack([best, last], -1)


def main(steps: int = 400) -> float:
    """Train on a hundred digits; return the final dropout rate."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels)
    torch.manual_seed(0)
    dropout = nn.Dropout(0.1)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), dropout, nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def validate() -> float:
        model.eval()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(x[1000:]), y[1000:])
        model.train()
        return loss.item()

    knob = trimtab.Knob(
        "dropout", 0.0, 0.8, "linear", rate=0.05, get=lambda: dropout.p, set=lambda p: setattr(dropout, "p", p)
    )
    pilot = trimtab.attach(
        optimizer, RaiseWhenOverfitting(), knobs=[knob], validate=validate, validate_every=10, model=model
    )
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x[:100]), y[:100])
        loss.backward()
        optimizer.step()
        pilot.step(loss)
        optimizer.zero_grad()
    print(f"dropout ended at {dropout.p:.2f}, validation loss {validate():.3f}")
    return dropout.p


if __name__ == "__main__":
    main()
