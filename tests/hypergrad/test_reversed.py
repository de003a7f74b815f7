"""Oracles of reversed SGD: a plain unroll by autograd, and the way back to the very first bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.hypergrad.reversed import BASE, ONE, Reversible

F64 = torch.float64
BOUNDS = ((0, 12), (12, 19))


def data() -> tuple[Tensor, Tensor]:
    """Draw 30 points of a sine."""
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    return x, torch.sin(2 * x.sum(1))


def loss(weights: Tensor, rows: slice) -> Tensor:
    """Give the squared error of 3-3-1 with tanh, 19 weights."""
    x, y = data()
    hidden = torch.tanh(x[rows] @ weights[:9].reshape(3, 3) + weights[9:12])
    return (hidden @ weights[12:15] + weights[15] + weights[16:19].sum() * 0.1 - y[rows]).square().mean()


def gradient(weights: Tensor, t: int) -> Tensor:
    """Differentiate the loss of step t's five examples."""
    rows = slice(5 * (t % 4), 5 * (t % 4) + 5)
    return torch.autograd.grad(loss(weights, rows), weights, create_graph=True)[0]


def held_out(weights: Tensor) -> Tensor:
    """Give the loss of the last ten."""
    return loss(weights, slice(20, 30))


def knobs(steps: int, momentum: float = 0.9) -> dict[str, Tensor]:
    """Draw knobs of every step and site."""
    rng = torch.Generator().manual_seed(1)
    draw = torch.rand(3, steps, 2, generator=rng, dtype=F64)
    return {
        "lr": 0.02 + 0.05 * draw[0],
        "momentum": ((momentum - 0.1 * draw[1]).clamp_min(0) * BASE).round() / BASE,
        "weight_decay": 1e-2 * draw[2],
    }


def start() -> Tensor:
    """Draw weights on the fixed point's grid."""
    weights = 0.5 * torch.randn(19, generator=torch.Generator().manual_seed(2), dtype=F64)
    return (weights * ONE).round() / ONE


def unrolled(weights: Tensor, given: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Train as torch does, with the whole graph: last weights, slopes by the knobs and by the first weights."""
    leaves = {name: value.clone().requires_grad_() for name, value in given.items()}
    first = weights.clone().requires_grad_()
    sizes = torch.tensor([b - a for a, b in BOUNDS])
    place, velocity = first, torch.zeros_like(weights)
    for t in range(len(given["lr"])):
        lr, momentum, decay = (leaves[name][t].repeat_interleave(sizes) for name in ("lr", "momentum", "weight_decay"))
        velocity = momentum * velocity + gradient(place, t) + decay * place
        place = place - lr * velocity
    found = torch.autograd.grad(held_out(place), [*leaves.values(), first])
    return place.detach(), dict(zip(leaves, found[:-1], strict=True)), found[-1]


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_it_is_the_unroll(momentum: float) -> None:
    """Every step's and site's slope, and the first weights', to ten digits of the largest."""
    given = knobs(60, momentum)
    last, expected, by_start = unrolled(start(), given)
    actual, found = Reversible(gradient, BOUNDS, **given).slopes(start(), held_out)
    torch.testing.assert_close(actual, last, rtol=0, atol=1e-10)
    for name, slope in expected.items():
        torch.testing.assert_close(getattr(found, name), slope, rtol=1e-10, atol=1e-10 * float(slope.abs().max()))
    torch.testing.assert_close(found.start, by_start, rtol=1e-10, atol=1e-10 * float(by_start.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.98, 0.9, 0.3, 0.0])
def test_it_comes_back_bit_for_bit(momentum: float) -> None:
    """After a thousand steps and back it stands where it began."""
    _, found = Reversible(gradient, BOUNDS, **knobs(1000, momentum)).slopes(start(), held_out)
    assert torch.equal(start(), found.first)


@pytest.mark.slow
def test_it_keeps_few_bits() -> None:
    """At a momentum of about 0.85 a step costs some log2(1 / 0.85) = 0.23 bits a parameter, 280 times less than 64."""
    _, found = Reversible(gradient, BOUNDS, **knobs(1000)).slopes(start(), held_out)
    assert found.bits < 0.5
    assert found.bits >= math.log2(1 / 0.9)


def test_chaos_shows_in_the_adjoint() -> None:
    """Above a critical rate the adjoint's norm explodes on the way back; below it stays small."""
    calm, wild = knobs(100), knobs(100)
    wild["lr"] = wild["lr"] * 8.5
    norms = [Reversible(gradient, BOUNDS, **given).slopes(start(), held_out)[1].norms for given in (calm, wild)]
    assert float(norms[0].max()) < 1e2
    assert float(norms[1].max()) > 1e6


def test_what_does_not_fit_is_refused() -> None:
    """Shapes, momenta, and runs that leave the range."""
    with pytest.raises(KnobError, match=r"must be \[T, S\] with S = 2 sites"):
        Reversible(gradient, BOUNDS, torch.ones(3, 2), torch.zeros(4, 2))
    with pytest.raises(KnobError, match=r"Momenta must lie in \[0, 1\)"):
        Reversible(gradient, BOUNDS, torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(KnobError, match="the run diverges"):
        Reversible(gradient, BOUNDS, 1e3 * torch.ones(50, 2), torch.zeros(50, 2)).slopes(start(), held_out)
