"""Oracle: each rule does what its ``torch.optim`` twin does, knobs moving at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.rules import SGD, Adam, AdamW, Muon, NAdam, RMSprop, Rule, rule_of

STEPS = 200
MATRIX = (6, 4)
RULES: list[Rule] = [
    SGD(momentum=0.9, dampening=0.5, weight_decay=0.1),
    SGD(momentum=0.9, nesterov=True),
    SGD(momentum=0.9, nesterov=True, maximize=True),
    SGD(maximize=True),
    *(
        Adam(amsgrad=a, maximize=m, decoupled_weight_decay=d)
        for a in (False, True)
        for m, d in ((False, True), (True, False))
    ),
    Adam(),
    AdamW(),
    AdamW(amsgrad=True, maximize=True),
    NAdam(),
    NAdam(decoupled_weight_decay=True),
    NAdam(maximize=True),
    RMSprop(momentum=0.5),
    RMSprop(momentum=0.5, centered=True),
    RMSprop(momentum=0.5, maximize=True),
    Muon(),
    Muon(nesterov=False, adjust_lr_fn="original"),
    Muon(adjust_lr_fn="match_rms_adamw", ns_steps=3, ns_coefficients=(2.0, -1.5, 0.5)),
]
RANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "lr": lambda u: 10 ** (-3.5 + 2 * u),
    "weight_decay": lambda u: 0.1 * u,
    "dampening": lambda u: u,
    "momentum": lambda u: (u - 0.2).clamp(min=0.0),  # exactly 0 at every fifth step or so
    "beta1": lambda u: 0.98 * u,
    "beta2": lambda u: 0.5 + 0.4999 * u,
    "alpha": lambda u: 0.5 + 0.4999 * u,
    "momentum_decay": lambda u: 0.02 * u,
    "eps": lambda u: 10 ** (-10 + 6 * u),
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Compute in float64: torch keeps some scalars in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def drawn(rule: Rule, rng: torch.Generator, steps: int, members: int) -> list[dict[str, Tensor]]:
    """Draw ``[members]`` values of every hyperparameter, for each step."""
    rows = []
    for _ in range(steps):
        row = {name: RANGES[name](torch.rand(members, generator=rng)) for name in rule.defaults}
        if getattr(rule, "nesterov", False) and "dampening" in row:
            row["dampening"] = torch.zeros(members)
        rows.append(row)
    return rows


def write(group: dict[str, Any], values: dict[str, float]) -> None:
    """Set a group's hyperparameters."""
    plain = dict(values)
    if "betas" in group:
        group["betas"] = (plain.pop("beta1"), plain.pop("beta2"))
    group.update(plain)


def shapes(rule: Rule) -> list[tuple[int, ...]]:
    """Give the shapes of one run's parameters, one group each."""
    return [(5,), (4, 3), ()] if rule.elementwise else [MATRIX, (3, 5), (4, 4)]


def gradient(param: Tensor, noise: Tensor, sign: float) -> Tensor:
    """Give the gradient of a bent bowl; coordinates whose noise is exactly 0 have none."""
    return sign * torch.where(noise == 0, 0.0, torch.tanh(param) + 0.3 * noise)


def weights(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Draw ``[*shape]`` parameters whose first coordinate is 0: with no gradient it stays there, decay or not."""
    return first_zero(torch.randn(1, *shape, generator=rng))[0]


def noises(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Draw ``[steps, *shape]`` noise whose first coordinate is dead."""
    return first_zero(torch.randn(STEPS, *shape, generator=rng))


def first_zero(rows: Tensor) -> Tensor:
    """Set the first coordinate of each row to 0, unless it is the only one."""
    if rows.ndim > 1:
        rows.flatten(1)[:, 0] = 0.0
    return rows


def joined(values: dict[str, Tensor], axes: int) -> dict[str, Tensor]:
    """Shape ``[B]`` values to broadcast against ``[B, ...]`` with `axes` axes of the parameter's."""
    return {name: value.reshape(-1, *[1] * axes) for name, value in values.items()}


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_rule_equals_its_real_twin(rule: Rule) -> None:
    """Over 200 steps, in three groups of different values, every knob moving, parameters agree to 1e-12."""
    rng = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(weights(shape, rng)) for shape in shapes(rule)]
    optimizer = rule.optimizer([{"params": [p]} for p in params])
    copies = [p.detach().clone() for p in params]
    slots = [rule.start(copy) for copy in copies]
    noise = [noises(tuple(p.shape), rng) for p in params]
    sign = -1.0 if getattr(rule, "maximize", False) else 1.0
    for step, row in enumerate(drawn(rule, rng, STEPS, len(params))):
        if step == 0 and isinstance(rule, RMSprop):
            row["momentum"].fill_(0.5)  # torch's RMSprop makes its velocity at its first step, or never
        for i, param in enumerate(params):
            values = {name: value[i] for name, value in row.items()}
            write(optimizer.param_groups[i], {name: float(value) for name, value in values.items()})
            param.grad = gradient(param.detach(), noise[i][step], sign)
            grad = gradient(copies[i], noise[i][step], sign)
            copies[i], slots[i] = rule.update(grad, slots[i], copies[i], values)
        optimizer.step()
    for param, copy in zip(params, copies, strict=True):
        torch.testing.assert_close(copy, param.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_joined_members_equal_separate_runs(rule: Rule) -> None:
    """Members in one ``[B, ...]`` buffer, each with values of its own, equal one real run each, to 1e-12."""
    rng = torch.Generator().manual_seed(1)
    members, shape = 3, shapes(rule)[0]
    start = torch.stack([weights(shape, rng) for _ in range(members)])
    noise = torch.stack([noises(shape, rng) for _ in range(members)], 1)
    rows = drawn(rule, rng, STEPS, members)
    if isinstance(rule, Muon):
        rule = replace(rule, one_by_one=True)
    if isinstance(rule, RMSprop):
        rows[0]["momentum"].fill_(0.5)
    sign = -1.0 if getattr(rule, "maximize", False) else 1.0
    buffer, slots = start.clone(), rule.start(start)
    for row, draw in zip(rows, noise, strict=True):
        buffer, slots = rule.update(gradient(buffer, draw, sign), slots, buffer, joined(row, len(shape)))
    for b in range(members):
        param = torch.nn.Parameter(start[b].clone())
        optimizer = rule.optimizer([param])
        for row, draw in zip(rows, noise, strict=True):
            write(optimizer.param_groups[0], {name: float(value[b]) for name, value in row.items()})
            param.grad = gradient(param.detach(), draw[b], sign)
            optimizer.step()
        torch.testing.assert_close(buffer[b], param.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_slots_read_from_a_live_run_carry_it_on(rule: Rule) -> None:
    """Slots taken off the real twin before its first step or at step 37 continue the run to 1e-12, by defaults too."""
    rng = torch.Generator().manual_seed(2)
    shape = shapes(rule)[1]
    param = torch.nn.Parameter(weights(shape, rng))
    optimizer, noise = rule.optimizer([param]), noises(shape, rng)
    sign = -1.0 if getattr(rule, "maximize", False) else 1.0
    followers: list[list[Any]] = []
    for step in range(60):
        if step in (0, 37):
            slots = {name: slot.clone() for name, slot in rule.slots_of(optimizer, param).items()}
            blank = rule.start(param)
            assert {n: (s.shape, s.dtype) for n, s in blank.items()} == {
                n: (s.shape, s.dtype) for n, s in slots.items()
            }
            followers.append([param.detach().clone(), slots])
        for follower in followers:
            grad = gradient(follower[0], noise[step], sign)
            follower[:] = rule.update(grad, follower[1], follower[0], {})
        param.grad = gradient(param.detach(), noise[step], sign)
        optimizer.step()
    for copy, _ in followers:
        torch.testing.assert_close(copy, param.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_live_optimizer_gives_its_rule_back(rule: Rule) -> None:
    """The rule of a rule's real twin is the rule itself, flags and defaults."""
    optimizer = rule.optimizer([torch.nn.Parameter(torch.zeros(MATRIX))])
    assert rule == rule_of(optimizer)


@pytest.mark.parametrize("rule", [r for r in RULES if r.elementwise], ids=repr)
def test_float32_follows_the_real_twin(rule: Rule) -> None:
    """In float32, with float64 values, a run stays within 1e-5 of the real twin's and stays float32."""
    torch.set_default_dtype(torch.float32)
    rng = torch.Generator().manual_seed(3)
    param = torch.nn.Parameter(torch.randn(5, generator=rng))
    optimizer, noise = rule.optimizer([param]), torch.randn(STEPS, 5, generator=rng)
    copy, slots = param.detach().clone(), rule.start(param)
    sign = -1.0 if getattr(rule, "maximize", False) else 1.0
    values = {name: torch.tensor([value], dtype=torch.float64) for name, value in rule.defaults.items()}
    for draw in noise:
        param.grad = gradient(param.detach(), draw, sign)
        copy, slots = rule.update(gradient(copy, draw, sign), slots, copy, values)
        optimizer.step()
    assert torch.float32 == copy.dtype
    torch.testing.assert_close(copy, param.detach(), rtol=1e-5, atol=1e-5)


def test_nadam_keeps_its_product_in_the_default_dtype() -> None:
    """In float64 under a float32 default, torch rounds NAdam's momentum product to float32, and so does the twin."""
    torch.set_default_dtype(torch.float32)
    rule, rng = NAdam(), torch.Generator().manual_seed(6)
    param = torch.nn.Parameter(torch.randn(5, generator=rng, dtype=torch.float64))
    optimizer, copy, slots = rule.optimizer([param]), param.detach().clone(), rule.start(param)
    for _ in range(20):
        param.grad = torch.randn(5, generator=rng, dtype=torch.float64)
        copy, slots = rule.update(param.grad, slots, copy, {})
        optimizer.step()
    torch.testing.assert_close(copy, param.detach(), rtol=1e-12, atol=1e-12)


def test_joined_matrices_round_like_single_ones_but_for_a_digit() -> None:
    """Joined members' Muon steps are torch's, but for bfloat16's last digit now and then; in float64 they are equal."""
    rng = torch.Generator().manual_seed(4)
    start, grad = torch.randn(2, 8, *MATRIX, generator=rng)
    for dtype, most in ((torch.bfloat16, 1e-3 * 2**-5), (torch.float64, 1e-15)):
        rule = Muon(ns_dtype=dtype)
        joined_step, _ = rule.update(grad, rule.start(start), start, {})
        steps = [rule.update(g, rule.start(p), p, {})[0] for g, p in zip(grad, start, strict=True)]
        assert (joined_step - torch.stack(steps)).abs().max() <= most


def test_a_started_velocity_outlives_momentum_zero() -> None:
    """SGD keeps its velocity while momentum is 0, and the first one is the gradient, undampened."""
    rule, param, grad = SGD(), torch.zeros(2), torch.ones(2)
    values = {"momentum": torch.tensor(0.0), "dampening": torch.tensor(0.5)}
    _, slots = rule.update(grad, rule.start(param), param, values)
    assert [0.0, 0.0] == slots["momentum_buffer"].tolist()
    on = {**values, "momentum": torch.tensor(0.9)}
    _, slots = rule.update(grad, slots, param, on)
    assert [1.0, 1.0] == slots["momentum_buffer"].tolist()
    _, slots = rule.update(3 * grad, slots, param, values)
    assert [1.0, 1.0] == slots["momentum_buffer"].tolist()
    _, slots = rule.update(grad, slots, param, on)
    assert math.isclose(1.4, float(slots["momentum_buffer"][0]))
