"""Laws of a population: every member is the run that its own weights would make alone."""

from __future__ import annotations

import pytest
import torch

import trimtab
from trimtab.controllers import Policy, Population
from trimtab.errors import SignalError
from trimtab.rules import SGD

MEMBERS, STEPS = 3, 30


def policies(kind: str) -> list[Policy]:
    """Make policies that differ in every weight."""
    panel = trimtab.Panel.of(["lr"])
    made = [Policy.for_panel(panel, hidden=4, kind=kind) for _ in range(MEMBERS)]
    for number, policy in enumerate(made):
        rng = torch.Generator().manual_seed(number)
        for weight in policy.parameters():
            weight.data = 0.3 * torch.randn(weight.shape, generator=rng)
    return made


def losses(controller: trimtab.Controller, seeds: list[int]) -> torch.Tensor:
    """Train digits-mlp-v1 in float64 under the controller; ``[T, B]``."""
    task, panel = trimtab.task_named("digits-mlp-v1"), trimtab.Panel.of(["lr"])
    plant = trimtab.Plant(task, SGD(), panel, dtype=torch.float64)
    values = torch.full((len(seeds), 1, 1), 1e-2, dtype=torch.float64)
    run = trimtab.rollout(plant, controller, values, seeds=seeds, steps=STEPS, horizon=STEPS, guard=trimtab.Guard())
    return run.losses


@pytest.mark.parametrize("kind", ["mlp", "gru"])
def test_each_member_is_steered_by_its_own_weights(kind: str) -> None:
    """Three members with weights of their own end where three single runs end, and not all alike."""
    made = policies(kind)
    weights = {name: torch.stack([dict(p.named_parameters())[name].detach() for p in made]) for name in
               dict(made[0].named_parameters())}  # fmt: skip
    with torch.no_grad():
        together = losses(Population(made[0], weights), [7] * MEMBERS)
        for number, policy in enumerate(made):
            torch.testing.assert_close(together[:, number], losses(policy, [7])[:, 0], rtol=1e-12, atol=1e-12)
    assert len(set(together[-1].tolist())) == MEMBERS


def test_a_population_of_another_size_is_refused() -> None:
    """Weights for two members cannot steer three, nor weights of another shape any."""
    policy = policies("mlp")[0]
    two = {name: torch.stack([weight.detach()] * 2) for name, weight in policy.named_parameters()}
    with pytest.raises(SignalError, match="weights for 2 members, the run has 3"):
        losses(Population(policy, two), [0, 1, 2])
    with pytest.raises(SignalError, match="needs the policy's parameters"):
        Population(policy, {name: weight[0] for name, weight in two.items()})
    two["out_bias"] = two["out_bias"][:1]
    with pytest.raises(SignalError, match="same number of members"):
        Population(policy, two)
