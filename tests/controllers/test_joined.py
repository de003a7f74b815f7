"""Several policies as one: the mean of their answers, and what cannot be joined."""

from __future__ import annotations

import pytest
import torch

from trimtab.controllers import Policy, joined
from trimtab.errors import TaskError
from trimtab.features import Features
from trimtab.knobs import Panel

PANEL = Panel.of(["lr", "momentum"])


def taught(hidden: int, seed: int, **settings: object) -> Policy:
    """Make a policy with weights everywhere."""
    policy = Policy.for_panel(PANEL, hidden, **settings)  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=rng))
    return policy


def test_the_answer_is_the_mean_of_theirs_before_the_last_tanh() -> None:
    """So it is for policies of several sizes, at every reading."""
    several = [taught(hidden, seed) for seed, hidden in enumerate((3, 8, 5))]
    features = torch.randn(6, 2, len(Features(PANEL).names), dtype=torch.float64)
    with torch.no_grad():
        answers = [torch.atanh(p.shares(dict(p.named_parameters()), features, {})[0]) for p in several]
        whole = joined(several)
        found = whole.shares(dict(whole.named_parameters()), features, {})[0]
    assert whole.spec == {**several[0].spec, "hidden": 16}
    torch.testing.assert_close(found, torch.tanh(torch.stack(answers).mean(0)), rtol=0, atol=1e-7)  # float32 weights
    assert float(found.std()) > 0.05


def test_one_joined_is_itself() -> None:
    """Bit for bit."""
    one = taught(4, 0)
    assert all(map(torch.equal, one.parameters(), joined([one]).parameters()))


@pytest.mark.parametrize(
    ("settings", "told"), [({"calm": 0.5}, "differ in calm"), ({"reach": 0.5}, "reach"), ({"kind": "gru"}, "kind")]
)
def test_what_is_not_alike_cannot_be_joined(settings: dict[str, object], told: str) -> None:
    """The error says in what they differ."""
    with pytest.raises(TaskError, match=told):
        joined([taught(4, 0), taught(4, 1, **settings)])


def test_there_must_be_some_and_without_memory() -> None:
    """None at all cannot be joined, nor can those with a memory."""
    with pytest.raises(TaskError, match="At least one policy"):
        joined([])
    with pytest.raises(TaskError, match=r"of kind .mlp., got .gru."):
        joined([taught(4, 0, kind="gru"), taught(4, 1, kind="gru")])
