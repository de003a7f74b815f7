"""Laws of sites: live groups and simulated sites are the same split of the same parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trimtab.errors import KnobError
from trimtab.sites import groups, sites_of


class Net(nn.Module):
    """A stem, three blocks of two layers, a head of two, and a vector of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.stem = nn.Linear(4, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)) for _ in range(3))
        self.head = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))


EXPECTED = {
    "run": ["run"],
    "layer": [
        "scale",
        "stem",
        *[f"blocks.{i}.{j}" for i in range(3) for j in range(2)],
        "head.0",
        "head.2",
    ],
    "block": ["scale", "stem", "blocks.0", "blocks.1", "blocks.2", "head.0", "head.2"],
    r"blocks\.(\d)": ["rest", "0", "1", "2"],
    r"weight|bias": ["rest", "weight", "bias"],
    r"nothing": ["rest"],
}


@pytest.mark.parametrize("by", EXPECTED)
def test_sites_have_these_names_in_the_network_s_order(by: str) -> None:
    """By layer, by block, as one, by a pattern's first group or whole match; what does not match is "rest"."""
    assert EXPECTED[by] == [group["name"] for group in groups(Net(), by=by)]


@pytest.mark.parametrize("by", EXPECTED)
def test_live_and_simulated_sites_are_the_same(by: str) -> None:
    """`groups` holds, in the same order, the parameters that `sites_of` names, each once."""
    net = Net()
    named = dict(net.named_parameters())
    live = [[id(p) for p in group["params"]] for group in groups(net, by=by)]
    simulated = [[id(named[name]) for name in site] for site in sites_of(net, by=by)]
    assert live == simulated
    assert sorted(map(id, named.values())) == sorted(i for site in live for i in site)


def test_options_are_shared_by_all_groups() -> None:
    """Hyperparameters given are every group's, and torch accepts the groups."""
    optimizer = torch.optim.SGD(groups(Net(), by="block", lr=0.25), momentum=0.5)
    assert {0.25} == {group["lr"] for group in optimizer.param_groups}
    assert 7 == len(optimizer.param_groups)


def test_frozen_parameters_are_left_out() -> None:
    """Only what requires a gradient is in a site; a layer all frozen is none."""
    net = Net()
    net.stem.requires_grad_(False)
    net.head[0].bias.requires_grad_(False)
    sites = sites_of(net)
    assert ("head.0.weight",) in sites
    assert not any(name.startswith("stem") for site in sites for name in site)


def test_tied_parameters_are_in_one_site() -> None:
    """A tensor that two layers share belongs to the first."""
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert (("0.weight", "0.bias"), ("1.bias",)) == sites_of(net)


def test_a_network_with_nothing_to_train_is_refused() -> None:
    """There is no site without a parameter."""
    for make in (groups, sites_of):
        with pytest.raises(KnobError, match="no parameter that requires a gradient"):
            make(nn.Tanh())


def test_what_is_no_pattern_is_refused() -> None:
    """The error names what `by` may be."""
    with pytest.raises(KnobError, match=r"`by` must be 'layer', 'block', 'run' or a regular expression, got '\('"):
        groups(Net(), by="(")
