"""Law: what a rule is, where it comes from, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimtab.errors import TaskError
from trimtab.rules import CATALOGUE, SGD, Adam, AdamW, Muon, rule_of


class Drifting(torch.optim.SGD):
    """A subclass, which may step in a way of its own."""


def parameter(*shape: int) -> torch.nn.Parameter:
    """Make a parameter of zeros."""
    return torch.nn.Parameter(torch.zeros(*shape))


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogue_names_each_rule_as_the_rule_does(name: str) -> None:
    """A rule's name is its key, and its defaults are those of the real twin."""
    rule = CATALOGUE[name]()
    kind: Any = type(rule.optimizer([parameter(2, 2)]))
    assert name == rule.name
    assert rule == rule_of(kind([parameter(2, 2)]))


def test_defaults_are_the_first_group_s_numbers_now() -> None:
    """Numbers may differ by group and may be tensors; the first group's current ones are taken."""
    groups: list[dict[str, Any]] = [{"params": [parameter(2)], "weight_decay": 0.5}, {"params": [parameter(2)]}]
    optimizer = torch.optim.AdamW(groups, lr=torch.tensor(0.25), betas=(0.5, 0.75))
    optimizer.param_groups[0]["betas"] = (0.25, 0.75)
    assert AdamW(lr=0.25, beta1=0.25, beta2=0.75, weight_decay=0.5) == rule_of(optimizer)


def test_flags_that_do_not_change_the_step_are_no_matter() -> None:
    """How torch runs a step (foreach, capturable, ...) is not part of the rule."""
    assert SGD(lr=0.1) == rule_of(torch.optim.SGD([parameter(2)], lr=0.1, foreach=True))


def test_groups_of_different_flags_are_refused() -> None:
    """The error names the flag, its value by group and the way out."""
    groups: list[dict[str, Any]] = [{"params": [parameter(2)], "maximize": True}, {"params": [parameter(2)]}]
    with pytest.raises(TaskError, match=r"share the flag 'maximize', got \[True, False\].*an optimizer of its own"):
        rule_of(torch.optim.Adam(groups))


@pytest.mark.parametrize("kind", [torch.optim.Adagrad, Drifting])
def test_an_optimizer_without_a_rule_is_refused(kind: Any) -> None:
    """Unknown classes and subclasses of known ones are refused, with the list of known ones."""
    with pytest.raises(TaskError, match=rf"exactly one of torch.optim.SGD, .*got .*{kind.__qualname__}: use one"):
        rule_of(kind([parameter(2)], lr=0.1))


@pytest.mark.parametrize("name", CATALOGUE)
def test_complex_parameters_are_refused(name: str) -> None:
    """A rule takes real floating point numbers."""
    with pytest.raises(TaskError, match="must be real"):
        CATALOGUE[name]().start(torch.zeros(2, 2, dtype=torch.complex64))


def test_muon_refuses_what_is_no_matrix() -> None:
    """Muon's parameters are matrices."""
    with pytest.raises(TaskError, match=r"must be real matrices .* got shape \[3\]"):
        Muon().start(torch.zeros(3))


def test_muon_in_another_dtype_has_no_real_twin() -> None:
    """Muon iterates in bfloat16 in torch."""
    with pytest.raises(TaskError, match=r"got ns_dtype=torch.float64"):
        Muon(ns_dtype=torch.float64).optimizer([parameter(2, 2)])


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_update_changes_nothing_in_place(name: str) -> None:
    """Gradient, slots, parameter and values stay as they were, and slots keep their names, shapes and dtypes."""
    rule = CATALOGUE[name]()
    rng = torch.Generator().manual_seed(0)
    param, grad = torch.randn(2, 3, 4, generator=rng)
    values = {name: torch.full((3, 1), value) for name, value in rule.defaults.items()}
    _, slots = rule.update(grad, rule.start(param), param, values)
    held = [*slots.values(), *values.values(), param, grad]
    copies = [tensor.clone() for tensor in held]
    _, after = rule.update(grad, slots, param, values)
    assert all(torch.equal(copy, tensor) for copy, tensor in zip(copies, held, strict=True))
    blank = rule.start(param)
    for found in (slots, after):
        assert {n: (s.shape, s.dtype) for n, s in blank.items()} == {n: (s.shape, s.dtype) for n, s in found.items()}


@pytest.mark.parametrize("name", CATALOGUE)
def test_values_left_out_are_the_defaults(name: str) -> None:
    """Numbers from the rule and the same numbers given as tensors make the same step."""
    rule = CATALOGUE[name]()
    rng = torch.Generator().manual_seed(0)
    param, grad = torch.randn(2, 3, 4, dtype=torch.float64, generator=rng)
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in rule.defaults.items()}
    some, none = (rule.update(grad, rule.start(param), param, given)[0] for given in (values, {}))
    torch.testing.assert_close(some, none, rtol=1e-14, atol=1e-14)


def test_values_per_coordinate_equal_one_value_each() -> None:
    """Values of shape ``[B, n]`` work, as for sites joined in one buffer."""
    rule, rng = Adam(), torch.Generator().manual_seed(0)
    param, grad = torch.randn(2, 3, 4, dtype=torch.float64, generator=rng)
    lr = torch.tensor([0.1, 0.1, 0.2, 0.2], dtype=torch.float64).expand(3, 4)
    both, _ = rule.update(grad, rule.start(param), param, {"lr": lr})
    left, _ = rule.update(grad, rule.start(param), param, {"lr": lr[:, :1]})
    right, _ = rule.update(grad, rule.start(param), param, {"lr": lr[:, 2:3]})
    assert torch.equal(torch.cat([left[:, :2], right[:, 2:]], 1), both)
