"""Oracle: tangents are what finite differences of the step are, for every rule and knob."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.rules import CATALOGUE, SGD, Adam, AdamW, Muon, NAdam, RMSprop, Rule, Slots, tangents

RULES: list[Rule] = [
    SGD(dampening=0.3, momentum=0.9, weight_decay=0.1),
    SGD(nesterov=True, momentum=0.9),
    Adam(eps=1e-2, weight_decay=0.1),
    Adam(eps=1e-2, amsgrad=True, maximize=True, weight_decay=0.1, decoupled_weight_decay=True),
    AdamW(eps=1e-2),  # a larger eps than usual, since finite differences do not see 1e-8
    NAdam(eps=1e-2, weight_decay=0.1),
    NAdam(eps=1e-2, weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    RMSprop(eps=1e-2, momentum=0.9, weight_decay=0.1),
    RMSprop(eps=1e-2, momentum=0.9, weight_decay=0.1, centered=True, maximize=True),
    Muon(ns_dtype=torch.float64),
    Muon(ns_dtype=torch.float64, nesterov=False, eps=50.0),  # a norm below eps, so that eps has an effect
]
MEMBERS = 3
MEMORIES = ("momentum", "alpha", "beta1", "beta2")  # matter by their distance from 1


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Compute in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def under_way(rule: Rule, steps: int, dead: bool = False) -> tuple[Tensor, Slots, Tensor, dict[str, Tensor]]:
    """Take a few steps with values of each member's own; give the next gradient, slots, parameters and values."""
    rng = torch.Generator().manual_seed(5)
    shape = (7,) if rule.elementwise else (4, 3)
    param, slots = torch.randn(MEMBERS, *shape, generator=rng), {}
    spread = torch.linspace(0.8, 1.0, MEMBERS).reshape(-1, *[1] * len(shape))
    values = {name: value * spread for name, value in rule.defaults.items()}
    slots = rule.start(param)
    for _ in range(steps + 1):
        grad = torch.randn(MEMBERS, *shape, generator=rng)
        if dead:
            grad[:, 0] = 0.0
            param[:, 0] = 0.0
        before = (grad, slots, param, values)
        param, slots = rule.update(grad, slots, param, values)
    return before


def central_difference(rule: Rule, state: tuple[Tensor, Slots, Tensor, dict[str, Tensor]], name: str) -> Tensor:
    """Differentiate the step by one knob, with fourth-order central differences."""
    grad, slots, param, values = state
    scale = 1 - values[name] if name in MEMORIES else values[name].abs()
    size = 5e-3 * torch.where(scale == 0, 1.0, scale)

    def step(times: int) -> Tensor:
        return rule.update(grad, slots, param, {**values, name: values[name] + times * size})[0] - param

    return (8 * (step(1) - step(-1)) - (step(2) - step(-2))) / (12 * size)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("steps", [0, 5])
def test_tangents_equal_finite_differences(rule: Rule, steps: int) -> None:
    """At the first step and later, one pass gives each member's own derivative, to 1e-6."""
    state = under_way(rule, steps)
    found = tangents(rule, *state, tuple(rule.defaults))
    assert (len(rule.defaults), *state[2].shape) == found.shape
    for name, tangent in zip(rule.defaults, found, strict=True):
        expected = central_difference(rule, state, name)
        assert (tangent - expected).norm() <= 1e-6 * expected.norm() + 1e-9, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [*RULES, Muon()], ids=repr)
def test_a_coordinate_that_never_had_a_gradient_has_finite_tangents(rule: Rule, dtype: torch.dtype) -> None:
    """Dead coordinates, which stay at 0, neither move nor answer to any knob."""
    for steps in (0, 5):
        grad, slots, param, values = under_way(rule, steps, dead=True)
        grad, param = grad.to(dtype), param.to(dtype)
        if steps == 0:
            slots = rule.start(param)
        else:
            slots = {name: slot if name in ("step", "mu_product") else slot.to(dtype) for name, slot in slots.items()}
        found = tangents(rule, grad, slots, param, values, tuple(rule.defaults))
        assert dtype == found.dtype
        assert found.isfinite().all()
        assert torch.equal(torch.zeros_like(found[:, :, 0]), found[:, :, 0])


@pytest.mark.parametrize("rule", [*RULES, Muon()], ids=repr)
def test_a_tensor_without_any_gradient_has_finite_tangents(rule: Rule) -> None:
    """A gradient of zeros, from the first step on, gives finite tangents; so does lr = 0."""
    _, _, param, values = under_way(rule, 0)
    for lr in (values["lr"], torch.zeros_like(values["lr"])):
        found = tangents(rule, 0 * param, rule.start(param), 0 * param, {**values, "lr": lr}, tuple(rule.defaults))
        assert found.isfinite().all()


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_backward_through_steps_is_finite_with_dead_coordinates(rule: Rule) -> None:
    """Reverse mode through three unrolled steps gives finite derivatives by values, gradient and parameters."""
    grad, slots, param, values = under_way(rule, 0, dead=True)
    inputs = [grad.requires_grad_(), param.requires_grad_(), *(v.requires_grad_() for v in values.values())]
    slots, end = rule.start(param), param
    for _ in range(3):
        end, slots = rule.update(grad, slots, end, values)
    for part in torch.autograd.grad(end.sum(), inputs, allow_unused=True):
        assert part is None or part.isfinite().all()


def test_momentum_at_zero_answers_as_from_above() -> None:
    """At momentum 0 the derivative is the one-sided one, the velocity that would come in: a controller can leave 0."""
    rule, param, grad = SGD(lr=0.1), torch.zeros(2), torch.ones(2)
    slots = {"momentum_buffer": torch.full((2,), 3.0), "started": torch.ones(1)}
    found = tangents(rule, grad, slots, param, {"momentum": torch.tensor(0.0)}, ("momentum",))
    torch.testing.assert_close(found, torch.full((1, 2), -0.3))


def test_a_knob_left_out_of_the_values_is_taken_at_its_default() -> None:
    """A name without a value is differentiated at the rule's default."""
    param, grad = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    found = tangents(SGD(lr=0.5), grad, SGD().start(param), param, {}, ("weight_decay",))
    assert [[-0.5, -1.0]] == found.tolist()


def test_no_knobs_give_no_rows() -> None:
    """Without names the result is empty and shaped."""
    param = torch.zeros(4)
    assert (0, 4) == tangents(SGD(), param, SGD().start(param), param, {}, ()).shape


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_knob_that_the_rule_does_not_read_is_refused(name: str) -> None:
    """The error names the rule's own knobs."""
    rule, param = CATALOGUE[name](), torch.zeros(2, 2)
    with pytest.raises(KnobError, match=f"{name} does not read 'dropout': its knobs are lr, "):
        tangents(rule, param, rule.start(param), param, {}, ("dropout",))
