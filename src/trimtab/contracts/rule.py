"""What every rule keeps.

Letters: ``B`` members.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from trimtab.rules import Rule, tangents

F64 = torch.float64


class RuleContract:
    """What every rule keeps. Steps are in float64; parameters are matrices, which every rule takes."""

    @pytest.fixture
    def rule(self) -> Rule:
        """Give the rule; override this."""
        raise NotImplementedError("Override the fixture `rule`.")

    @pytest.fixture(autouse=True)
    def double(self) -> Iterator[None]:
        """Let torch's optimizers keep their scalars in float64 too."""
        torch.set_default_dtype(F64)
        yield
        torch.set_default_dtype(torch.float32)

    def test_equals_its_real_twin(self, rule: Rule) -> None:
        """Over 30 steps parameters agree with the real optimizer's to 1e-12, and so do the slots read from it."""
        start, grads = drawn(2)
        for b in range(2):
            real = torch.nn.Parameter(start[b].clone())
            optimizer = rule.optimizer([real])
            copy, slots = start[b].clone(), rule.start(start[b])
            for grad in grads[:, b]:
                found = rule.slots_of(optimizer, real)
                assert {n: s.shape for n, s in found.items()} == {n: s.shape for n, s in slots.items()}
                for name, slot in slots.items():
                    torch.testing.assert_close(found[name], slot, rtol=1e-12, atol=1e-12)
                real.grad = grad.clone()
                optimizer.step()
                copy, slots = rule.update(grad, slots, copy, values_of(rule))
            torch.testing.assert_close(copy, real.detach(), rtol=1e-12, atol=1e-12)

    def test_members_are_steps_of_one(self, rule: Rule) -> None:
        """Members joined in one ``[B, ...]`` tensor, of different values, step as each does alone."""
        start, grads = drawn(3)
        factors = torch.tensor([0.5, 0.8, 1.0])
        joined, slots = start.clone(), rule.start(start)
        for grad in grads:
            given = {name: (value * factors)[:, None, None] for name, value in values_of(rule).items()}
            joined, slots = rule.update(grad, slots, joined, given)
        for b, factor in enumerate(factors):
            single, own = start[b].clone(), rule.start(start[b])
            for grad in grads[:, b]:
                given = {name: value * factor for name, value in values_of(rule).items()}
                single, own = rule.update(grad, own, single, given)
            torch.testing.assert_close(joined[b], single, rtol=1e-12, atol=1e-12)

    def test_changes_nothing_in_place(self, rule: Rule) -> None:
        """Gradient, slots and parameter stay as they were, and slots keep their form."""
        (param,), grads = drawn(1)
        _, slots = rule.update(grads[0, 0], rule.start(param), param, values_of(rule))
        held = [param, grads[1, 0], *slots.values()]
        copies = [t.clone() for t in held]
        _, after = rule.update(grads[1, 0], slots, param, values_of(rule))
        assert all(torch.equal(a, b) for a, b in zip(copies, held, strict=True))
        assert {n: (s.shape, s.dtype) for n, s in after.items()} == {n: (s.shape, s.dtype) for n, s in slots.items()}

    def test_answers_to_its_learning_rate(self, rule: Rule) -> None:
        """The derivative by lr is that of finite differences."""
        (param,), grads = drawn(1)
        values = values_of(rule)
        _, slots = rule.update(grads[0, 0], rule.start(param), param, values)
        (found,) = tangents(rule, grads[1, 0], slots, param, values, ("lr",))
        nudge = 1e-5 * values["lr"]
        high, low = (
            rule.update(grads[1, 0], slots, param, {**values, "lr": values["lr"] + n})[0] for n in (nudge, -nudge)
        )
        torch.testing.assert_close(found, (high - low) / (2 * nudge), rtol=1e-6, atol=1e-6)


def drawn(members: int) -> tuple[Tensor, Tensor]:
    """Draw matrices ``[B, 4, 3]`` and 30 gradients for each, ``[30, B, 4, 3]``."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(members, 4, 3, generator=rng, dtype=F64), torch.randn(
        30, members, 4, 3, generator=rng, dtype=F64
    )


def values_of(rule: Rule) -> dict[str, Tensor]:
    """Give a rule's defaults as tensors."""
    return {name: torch.tensor(value, dtype=F64) for name, value in rule.defaults.items()}
