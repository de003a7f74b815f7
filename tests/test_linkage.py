"""Laws of the linkage: a site's value reaches every group, and what sets groups apart is kept."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from trimtab.errors import KnobError
from trimtab.knobs import Knob, Panel
from trimtab.linkage import Linkage, read_field


def parameter() -> nn.Parameter:
    """Make a parameter of two zeros."""
    return nn.Parameter(torch.zeros(2))


def adam(*groups: dict[str, Any], **fields: Any) -> torch.optim.AdamW:
    """Make AdamW with one group for each dictionary, or one plain group."""
    return torch.optim.AdamW([{"params": [parameter()], **group} for group in groups or ({},)], **fields)


def link(optimizer: Any, knobs: Any = ("lr",), *, apart: bool = False) -> Linkage:
    """Link an optimizer's groups, all in one site or each in its own."""
    count = len(optimizer.param_groups)
    return Linkage(Panel.of(knobs), optimizer, [[g] for g in range(count)] if apart else [range(count)])


def field(optimizer: Any, name: str) -> list[float]:
    """Read a hyperparameter of all groups."""
    return [float(read_field(group, name)) for group in optimizer.param_groups]


@pytest.mark.parametrize("name", ["lr", "weight_decay", "beta1", "beta2", "eps"])
def test_any_number_of_a_group_can_be_turned(name: str) -> None:
    """A field, also one inside `betas`, reads as it is and takes the value written."""
    optimizer = adam(lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01)
    linkage = link(optimizer, [name])
    assert field(optimizer, name) == linkage.read()[0].tolist() == linkage.start[0].tolist()
    others = {other: field(optimizer, other) for other in ("lr", "weight_decay", "beta1", "beta2", "eps")}
    linkage.write([[0.625]])
    assert others | {name: [0.625]} == {other: field(optimizer, other) for other in others}
    assert [[0.625]] == linkage.read().tolist()


def test_sgd_s_momentum_and_rmsprop_s_alpha_can_be_turned() -> None:
    """Fields are looked up by name, whatever the optimizer."""
    sgd = torch.optim.SGD([parameter()], lr=0.1, momentum=0.9)
    link(sgd, ["momentum"]).write([[0.5]])
    rms = torch.optim.RMSprop([parameter()], lr=0.1)
    link(rms, ["alpha"]).write([[0.75]])
    assert ([0.5], [0.75]) == (field(sgd, "momentum"), field(rms, "alpha"))


def test_a_knob_of_the_user_s_own_is_got_and_set() -> None:
    """A dropout's p or a clip norm is turned beside the optimizer's fields, and put back by `restore`."""
    dropout, clip = nn.Dropout(0.1), {"norm": 1.0}
    knobs = [
        Knob("p", 0.0, 0.9, "linear", get=lambda: dropout.p, set=lambda p: setattr(dropout, "p", p)),
        Knob("clip", 1e-2, 1e2, get=lambda: clip["norm"], set=lambda norm: clip.update(norm=norm)),
        "lr",
    ]
    optimizer = adam(lr=0.1)
    linkage = link(optimizer, knobs)
    assert [[0.1, 1.0, 0.1]] == linkage.start.tolist()
    linkage.write([[0.5, 4.0, 0.2]])
    assert (0.5, 4.0, [0.2]) == (dropout.p, clip["norm"], field(optimizer, "lr"))
    linkage.restore()
    assert (0.1, 1.0, [0.1]) == (dropout.p, clip["norm"], field(optimizer, "lr"))


def test_a_log_scale_keeps_ratios() -> None:
    """Groups of one site get the same factor."""
    optimizer = adam({"lr": 0.1}, {"lr": 0.01}, {"lr": 0.3})
    link(optimizer).write([[0.05]])
    assert pytest.approx([0.05, 0.005, 0.15], rel=1e-15) == field(optimizer, "lr")


def test_a_one_minus_log_scale_keeps_ratios_of_the_distance_from_one() -> None:
    """Halving 1 - beta of one group halves it in all."""
    optimizer = adam({"betas": (0.9, 0.99)}, {"betas": (0.8, 0.999)}, lr=0.1)
    link(optimizer, ["beta1"]).write([[0.95]])
    assert pytest.approx([0.95, 0.9], rel=1e-14) == field(optimizer, "beta1")
    assert [0.99, 0.999] == field(optimizer, "beta2")


def test_a_linear_scale_keeps_differences() -> None:
    """Groups of one site move by the same amount."""
    optimizer = adam({"weight_decay": 0.25}, {"weight_decay": 0.5}, lr=0.1)
    link(optimizer, [Knob("weight_decay", 0.0, 1.0, "linear")]).write([[0.375]])
    assert [0.375, 0.625] == field(optimizer, "weight_decay")


@pytest.mark.parametrize(
    ("knob", "bases", "value", "expected"),
    [
        (Knob("weight_decay", 0.0, 1.0, "linear"), [0.5, 0.25], 0.0, [0.0, 0.0]),
        (Knob("weight_decay", 0.0, 1.0, "linear"), [0.25, 0.5], 1.0, [1.0, 1.0]),
        (Knob("weight_decay", 0.0, 0.999, "one_minus_log"), [0.9, 0.5], 0.0, [0.0, 0.0]),
    ],
)
def test_no_group_is_carried_out_of_the_knob_s_range(
    knob: Knob, bases: list[float], value: float, expected: list[float]
) -> None:
    """What keeps groups apart ends at the knob's bounds: no negative decay, no negative momentum."""
    optimizer = adam(*({"weight_decay": base} for base in bases), lr=0.1)
    link(optimizer, [knob]).write([[value]])
    assert expected == field(optimizer, "weight_decay")


def test_a_zero_stays_zero_on_a_log_scale() -> None:
    """A group without weight decay stays without, and the value is read from the first group that has one."""
    optimizer = adam({"weight_decay": 0.0}, {"weight_decay": 0.01}, lr=0.1)
    linkage = link(optimizer, ["weight_decay"])
    assert [[0.01]] == linkage.start.tolist()
    linkage.write([[0.04]])
    assert [0.0, 0.04] == field(optimizer, "weight_decay")
    assert [[0.04]] == linkage.read().tolist()


@pytest.mark.parametrize("scale", ["log", "linear", "one_minus_log"])
def test_a_value_nobody_turned_is_bit_identical(scale: Any) -> None:
    """Writing the start gives every group the very number it had, also after other values."""
    bases = [0.1, 0.3, 1 / 3]
    optimizer = adam(*({"weight_decay": base} for base in bases), lr=0.1)
    linkage = link(optimizer, [Knob("weight_decay", 1e-3, 0.99, scale)])
    for value in (linkage.start, linkage.start * 0.7, linkage.start):
        linkage.write(value.tolist())
    assert bases == field(optimizer, "weight_decay")


def test_sites_are_turned_apart() -> None:
    """Each site's groups follow their own site's value."""
    optimizer = adam({"lr": 0.1}, {"lr": 0.2}, {"lr": 0.4})
    linkage = Linkage(Panel.of(["lr"]), optimizer, [[0, 2], [1]])
    assert [[0.1], [0.2]] == linkage.start.tolist()
    linkage.write([[0.05], [0.8]])
    assert [0.05, 0.8, 0.2] == field(optimizer, "lr")


def test_a_group_in_no_site_is_left_alone() -> None:
    """Groups that no site names keep their values."""
    optimizer = adam({"lr": 0.1}, {"lr": 0.2})
    Linkage(Panel.of(["lr"]), optimizer, [[1]]).write([[0.5]])
    assert [0.1, 0.5] == field(optimizer, "lr")


def test_tensors_are_filled_in_place() -> None:
    """A tensor learning rate and tensor betas keep their memory, so that compiled steps stay compiled."""
    optimizer = adam(lr=torch.tensor(0.1), betas=(torch.tensor(0.9), torch.tensor(0.99)), capturable=False)
    linkage = link(optimizer, ["lr", "beta1", "beta2"])
    group = optimizer.param_groups[0]
    places = [group["lr"].data_ptr(), group["betas"][0].data_ptr(), group["betas"][1].data_ptr()]
    linkage.write([[0.5, 0.25, 0.75]])
    assert places == [group["lr"].data_ptr(), group["betas"][0].data_ptr(), group["betas"][1].data_ptr()]
    assert [0.5, 0.25, 0.75] == [float(x) for x in (group["lr"], *group["betas"])]
    assert isinstance(group["betas"], tuple)


def test_a_tensor_nobody_turned_is_bit_identical() -> None:
    """A float32 tensor comes back as the float32 number it was."""
    lr = torch.tensor(0.1)
    optimizer = adam(lr=lr)
    linkage = link(optimizer)
    linkage.write((linkage.start * 3).tolist())
    linkage.write(linkage.start.tolist())
    assert torch.equal(torch.tensor(0.1), optimizer.param_groups[0]["lr"])


def test_a_tensor_that_groups_share_is_separated() -> None:
    """Groups made with one lr tensor are turned apart, and neither the caller's tensor nor the defaults change."""
    lr = torch.tensor(0.1)
    optimizer = adam({}, {}, lr=lr)
    linkage = link(optimizer, apart=True)
    linkage.write([[0.5], [0.25]])
    assert [0.5, 0.25] == field(optimizer, "lr")
    assert torch.tensor(0.1) == lr == optimizer.defaults["lr"]


def test_a_float_checkpoint_loads_into_tensor_rates() -> None:
    """After a checkpoint replaced tensors by floats, values are still written, and read back."""
    saved = adam({"lr": 0.1}, {"lr": 0.2}).state_dict()
    optimizer = adam({}, {}, lr=torch.tensor(0.3))
    linkage = link(optimizer, apart=True)
    optimizer.load_state_dict(saved)
    linkage.write([[0.5], [0.25]])
    assert [0.5, 0.25] == field(optimizer, "lr")
    assert [[0.5], [0.25]] == linkage.read().tolist()


def test_a_checkpoint_whose_groups_share_a_tensor_loads_into_float_rates() -> None:
    """After a checkpoint brought one tensor for all groups, they are still turned apart, and then in place."""
    saved = adam({}, {}, lr=torch.tensor(0.1), betas=(torch.tensor(0.9), torch.tensor(0.99))).state_dict()
    optimizer = adam({"lr": 0.3}, {"lr": 0.3})
    linkage = link(optimizer, ["lr", "beta1"], apart=True)
    optimizer.load_state_dict(copy.deepcopy(saved))
    for values in ([[0.5, 0.75], [0.25, 0.625]], [[1.0, 0.5], [2.0, 0.25]]):
        linkage.write(values)
        assert [list(column) for column in zip(*values, strict=True)] == [
            field(optimizer, "lr"),
            field(optimizer, "beta1"),
        ]
    places = [group["lr"].data_ptr() for group in optimizer.param_groups]
    linkage.write([[0.5, 0.75], [0.25, 0.625]])
    assert places == [group["lr"].data_ptr() for group in optimizer.param_groups]


def test_restore_puts_back_what_the_user_set() -> None:
    """`restore` gives every group its own number again."""
    optimizer = adam({"lr": 0.1}, {"lr": 1 / 3})
    linkage = link(optimizer)
    linkage.write([[7.0]])
    linkage.restore()
    assert [0.1, 1 / 3] == field(optimizer, "lr")


@pytest.mark.parametrize("bad", [True, math.nan, math.inf, -0.1, [0.1], "quick", None, torch.tensor([0.1, 0.2])])
def test_what_is_no_number_is_refused(bad: Any) -> None:
    """A bool, NaN, a negative rate, a list: the error names the knob, the group and the value."""
    optimizer = adam({}, {}, lr=0.1)
    optimizer.param_groups[1]["lr"] = bad
    with pytest.raises(KnobError, match=r"Knob 'lr' must be a finite number of at least 0 in group 1, got"):
        link(optimizer)


def test_a_momentum_of_one_is_refused() -> None:
    """On a one_minus_log scale nothing is left of a distance of 0."""
    optimizer = torch.optim.SGD([parameter()], lr=0.1, momentum=1.0)
    with pytest.raises(KnobError, match=r"Knob 'momentum' must be below 1 in group 0, got 1.0"):
        link(optimizer, ["momentum"])


def test_a_field_that_is_not_there_is_refused() -> None:
    """The error lists what there is and the way out."""
    with pytest.raises(KnobError, match=r"no hyperparameter 'momentum' \(it has .*lr.*leave the knob out, or give it"):
        link(adam(lr=0.1), ["momentum"])


def test_a_log_knob_that_is_zero_everywhere_is_refused() -> None:
    """A log scale cannot leave 0; the error says three ways out."""
    with pytest.raises(KnobError, match=r"'weight_decay' is 0 in every group.*set it above 0, leave it out.*'linear'"):
        link(adam(lr=0.1, weight_decay=0.0), ["weight_decay"])
