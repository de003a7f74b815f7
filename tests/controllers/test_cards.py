"""Cards in the package load, say where they come from, and fit the knobs they were taught on."""

import pytest

from trimtab.bench.contender import contender_named
from trimtab.controllers import controller_named
from trimtab.controllers.cards import card, fitting, page, shipped
from trimtab.errors import TaskError
from trimtab.features import Features
from trimtab.knobs import Panel


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_card_is_taught_and_has_a_page(name):
    """Its features are this version's, its moves are not all zero, and its page says what it was taught on."""
    policy = card(name)
    assert list(Features(Panel.of(policy.spec["knobs"])).names) == policy.spec["features"]
    assert policy.out_weight.abs().max() > 0
    text = page(name)
    assert text.startswith(f"# {name}\n")
    for word in ("**Taught on**", "**Command**", "**Commit**", "**Cost**", "**Score**", "## Limits"):
        assert word in text


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_card_is_a_controller_by_name(name):
    """`attach`, races and `trimtab controllers` find it by its name."""
    assert controller_named(name).spec == card(name).spec
    assert contender_named(name).name == name


def test_the_card_for_knobs():
    """The learning rate alone has a card, for several sites and for averaged runs others, three knobs have one."""
    assert fitting(("lr",), 1) == "trimtab-v6"
    assert fitting(("lr",), 1, is_averaged=True) == "trimtab-average-v1"
    assert fitting(("lr",), 3) == "trimtab-layer-v1"
    assert fitting(("lr", "beta1", "weight_decay"), 1) == "trimtab-joint-v2"
    assert fitting(("beta2",), 1) is None
    assert fitting(("momentum", "lr", "weight_decay"), 1) is None


def test_an_unknown_card_is_told():
    """The error names what comes close."""
    with pytest.raises(TaskError, match="did you mean 'trimtab-v1'"):
        card("trimtab-v1x")
