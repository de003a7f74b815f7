"""Law: hypergradients leave compiled models and compiled optimizer steps compiled, and equal those of eager runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import trimtab
from trimtab.controllers import Hypergradient
from trimtab.hypergrad import Implicit
from trimtab.pilot import Mode


def trained(*, is_compiled: bool, mode: Mode = "act") -> tuple[list[torch.Tensor], list[int]]:
    """Train with a rate for each parameter; give the weights, and how many graphs there were of the model and step."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counters = [CompileCounter(), CompileCounter()]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1)).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01), foreach=False)
    x, y = torch.randn(32, 4).double(), torch.randn(32, 1).double()
    run: Any = torch.compile(model, backend=counters[0]) if is_compiled else model
    pilot = trimtab.attach(
        optimizer,
        Hypergradient(Implicit(3), per_parameter=True),
        loss_fn=lambda: (model(x) - y).square().mean(),
        validate=lambda: (model(x[:8]) - y[:8]).square().mean(),
        model=model,
        every=2,
        mode=mode,
    )
    step = torch.compile(optimizer.step, backend=counters[1]) if is_compiled else optimizer.step
    for _ in range(12):
        loss = (run(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        step()
        pilot.step(loss)
    return [p.detach().clone() for p in model.parameters()], [c.frame_count for c in counters]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses its own deprecated functions
def test_a_rate_for_each_parameter_under_compile() -> None:
    """The compiled run's weights are the eager run's; twelve steps and six decisions add no graphs."""
    weights, graphs = trained(is_compiled=True)
    plain, _ = trained(is_compiled=False)
    still, _ = trained(is_compiled=False, mode="suggest")
    for weight, same, other in zip(weights, plain, still, strict=True):
        torch.testing.assert_close(weight, same)
        assert (weight - other).abs().max() > 1e-4
    assert [1, 1] == graphs
