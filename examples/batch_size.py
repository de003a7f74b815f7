"""Turn the batch size while the run goes on: larger where successive gradients disagree, smaller where they agree.

python examples/batch_size.py
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import trimtab
from trimtab.fit.batch_size import ResizableBatches


@dataclass(frozen=True)
class GrowWhereNoisy:
    """Follow the cosine between this gradient and the last; a controller is these five names."""

    name = "grow-where-noisy"
    needs = frozenset()

    def prior(self, panel: trimtab.Panel, horizon: int | None) -> Tensor | None:
        """No schedule underneath."""
        return None

    def start(self, panel: trimtab.Panel, members: int, sites: int) -> Tensor:
        """Nothing to remember."""
        return torch.zeros(members)

    def act(self, seen: trimtab.Observation, state: Tensor) -> tuple[Tensor, Tensor]:
        """Move up below a cosine of 0.3, down above it."""
        signals = seen.signals
        norms = (signals.grad_sq * signals.last_grad_sq).sqrt()
        cosine = torch.where(norms > 0, signals.grad_dot_last_grad / norms, 0.3)
        return (0.3 - cosine).clamp(-1, 1)[..., None], state


def main(epochs: int = 6) -> list[int]:
    """Learn digits; return the size of each batch."""
    task = trimtab.task_named("digits-cnn-v1")
    data = TensorDataset(*task.data("train"))
    torch.manual_seed(0)
    model = task.build(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    batches = ResizableBatches(RandomSampler(data), 16)
    pilot = trimtab.attach(optimizer, GrowWhereNoisy(), knobs=[batches.knob(8, 256)], model=model)
    sizes = []
    for _ in range(epochs):
        for images, labels in DataLoader(data, batch_sampler=batches):
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            pilot.step(loss)
            optimizer.zero_grad()
            sizes.append(len(images))
        print(f"loss {loss.item():.3f}, batches of {batches.size}")
    return sizes


if __name__ == "__main__":
    main()
