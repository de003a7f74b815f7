"""Oracle: a probe's statistics are the norms and dots of whole sites, or good estimates of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from trimtab.errors import SignalError
from trimtab.probe import STATISTICS, Probe

F64 = torch.float64
MEMBERS = 2
Five = tuple[list[Tensor], ...]  # weight, grad, last weight, last grad, first weight: each [B, size] a parameter


def drawn(sizes: list[int], seed: int = 0, spread: list[float] | None = None) -> Five:
    """Draw the five moments of parameters of these sizes, each as large as `spread` says."""
    rng = torch.Generator().manual_seed(seed)
    scales = spread or [1.0] * len(sizes)
    shared = [torch.randn(MEMBERS, size, generator=rng, dtype=F64) for size in sizes]
    return tuple(
        [s * (c + 0.5 * torch.randn(c.shape, generator=rng, dtype=F64)) for c, s in zip(shared, scales, strict=True)]
        for _ in range(5)
    )


def measured(probe: Probe, five: Five) -> Tensor:
    """Sample the five and measure them: ``[B, 9, S]``."""
    return probe.measure(*(probe.sample(tensors) for tensors in five))


def direct(five: Five) -> Tensor:
    """Compute a single site's nine statistics from whole vectors: ``[B, 9]``."""
    w, g, w_last, g_last, w_first = (torch.cat(tensors, 1) for tensors in five)
    u, d = w_last - w, w_first - w
    pairs = {
        "grad_sq": (g, g),
        "weight_sq": (w, w),
        "update_sq": (u, u),
        "drift_sq": (d, d),
        "grad_dot_update": (g, u),
        "grad_dot_last_grad": (g, g_last),
        "last_grad_dot_update": (g_last, u),
        "last_grad_sq": (g_last, g_last),
        "grad_dot_drift": (g, d),
    }
    return torch.stack([(pairs[name][0] * pairs[name][1]).sum(1) for name in STATISTICS], 1)


def test_a_small_site_is_measured_exactly() -> None:
    """Sites of no more than the sample equal the direct norms and dots, site by site."""
    sizes = [[3, 5], [7], [1, 2, 4]]
    probe = Probe(sizes, sample=8)
    five = drawn([size for site in sizes for size in site])
    found = measured(probe, five)
    ends = (0, 2, 3, 6)
    for s, (a, b) in enumerate(pairwise(ends)):
        torch.testing.assert_close(found[..., s], direct(tuple(t[a:b] for t in five)), rtol=1e-13, atol=1e-13)
    assert (MEMBERS, 9, 3) == found.shape
    assert 22 == probe.width


def test_a_large_site_is_estimated() -> None:
    """Squared norms and dots of 400,000 coordinates come from 10,000 of them to five standard errors."""
    sizes = [300_000, 60_000, 40_000]
    probe, five = Probe([sizes], sample=10_000), drawn(sizes)
    assert 10_000 == probe.width
    found, true = measured(probe, five)[..., 0], direct(five)
    norms = torch.stack([true[:, STATISTICS.index(n)] for n in ("grad_sq", "update_sq", "weight_sq", "drift_sq")], 1)
    # a product of two normal numbers varies by about its factors' norms: relative to these the error is sqrt(2 / m)
    error = (found - true).abs() / norms.amax(1, keepdim=True)
    assert float(error.max()) < 5 * (2 / 10_000) ** 0.5


def test_small_parameters_count_as_what_they_are() -> None:
    """A large matrix beside many small vectors of larger gradients is estimated without bias."""
    sizes = [200_000] + [50] * 40
    spread = [1.0] + [20.0] * 40
    ratios = []
    for seed in range(8):
        five = drawn(sizes, seed, spread)
        found, true = measured(Probe([sizes], sample=2_000), five)[..., 0], direct(five)
        ratios.append(found[:, 0] / true[:, 0])
    # one coordinate of each vector is seen, so that a single estimate varies; the mean of 16 must be near 1
    assert abs(float(torch.stack(ratios).mean()) - 1) < 0.3


def test_cosines_are_within_the_stated_error() -> None:
    """With the default sample a cosine is estimated to ±0.008 standard error."""
    size = 300_000
    probe, five = Probe([[size]]), drawn([size])
    found, true = measured(probe, five)[..., 0], direct(five)

    def cosine(of: Tensor) -> Tensor:
        by = dict(zip(STATISTICS, of.unbind(1), strict=True))
        return by["grad_dot_last_grad"] / (by["grad_sq"] * by["last_grad_sq"]).sqrt()

    assert float((cosine(found) - cosine(true)).abs().max()) < 4 * 0.008


def test_the_same_sizes_give_the_same_sample() -> None:
    """Two probes of the same sizes look at the same coordinates: so do live and simulated runs."""
    sizes = [[5_000, 100], [40], [9_000]]
    one, same = (Probe(sizes, sample=1_000) for _ in range(2))
    five = drawn([5_000, 100, 40, 9_000])
    assert torch.equal(one.sample(five[0]), same.sample(five[0]))


def test_members_are_measured_apart() -> None:
    """B members give what each gives alone."""
    sizes = [[500, 20], [7]]
    probe, five = Probe(sizes, sample=100), drawn([500, 20, 7])
    together = measured(probe, five)
    for b in range(MEMBERS):
        alone = measured(probe, tuple([t[b : b + 1] for t in tensors] for tensors in five))
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-14, atol=1e-14)


def test_the_order_of_parameters_in_a_site_does_not_matter() -> None:
    """Permuting whole parameters, and coordinates within one, leaves an unsampled site's statistics unchanged."""
    sizes = [6, 3, 11]
    five = drawn(sizes)
    shuffle = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    permuted = tuple([t[2][:, shuffle], t[0], t[1]] for t in five)
    found = measured(Probe([sizes]), five)
    torch.testing.assert_close(measured(Probe([[11, 6, 3]]), permuted), found, rtol=1e-13, atol=1e-13)


def test_every_parameter_is_seen() -> None:
    """However small beside the others, a parameter has at least one coordinate in the sample."""
    sizes = [100_000, 1, 0, 1]
    probe = Probe([sizes], sample=100)
    ones = [torch.zeros(1, 100_000, dtype=F64), *(torch.ones(1, n, dtype=F64) for n in (1, 0, 1))]
    assert 2.0 == float(probe.sample(ones).sum())


def test_samples_are_copies() -> None:
    """What was sampled does not change with the weights."""
    weight = torch.ones(1, 4)
    sampled = Probe([[4]]).sample([weight])
    weight.zero_()
    assert 4.0 == float(sampled.sum())


@pytest.mark.parametrize("sizes", [[], [[3], []], [[0]]])
def test_a_site_of_nothing_is_refused(sizes: list[list[int]]) -> None:
    """Every site needs a parameter."""
    with pytest.raises(SignalError, match="Every site needs at least one parameter, got sizes"):
        Probe(sizes)
