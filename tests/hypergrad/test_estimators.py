"""Laws of the estimators: closed forms, limits, and what they are of one another."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.hypergrad import (
    ESTIMATORS,
    Estimator,
    Form,
    ForwardMode,
    HyperDistill,
    Implicit,
    OneStepValidation,
    Step,
    Unroll,
    ZerothOrder,
    estimator_named,
)
from trimtab.hypergrad.batches import formed
from trimtab.hypergrad.products import Curve
from trimtab.hypergrad.unrolled import slopes
from trimtab.hypergrad.zeroth import slope_of
from trimtab.knobs import Panel
from trimtab.layout import Layout
from trimtab.rules import SGD, AdamW

F64 = torch.float64
Ride = Callable[..., Any]
MOMENTUM = {"lr": 0.05, "momentum": 0.8, "weight_decay": 1e-2}


def read(estimator: Estimator, steps: tuple[Step, ...]) -> Tensor:
    """Follow steps, and read after the last one."""
    first = steps[0]
    memory = estimator.start(Form(first.weights, first.slots, first.layout, *first.values.shape[1:]))
    for number, step in enumerate(steps, 1):
        is_due = number == len(steps)
        if is_due or estimator.is_running:
            memory = estimator.follow(step, memory, is_due=is_due)
    return estimator.read(memory, torch.zeros_like(first.weights), first.layout)


def bowl(lr: float, decay: float) -> tuple[Step, Tensor, Tensor]:
    """A step of SGD where it stands still: on ``sum a w^2 / 2 - b w + decay w^2 / 2``, held out ``sum (w - c)^2 / 2``.

    Returns the step, the eigenvalues of ``du/dw``, and the slope of the best response by the weight decay.
    """
    a, b, c = torch.tensor([[0.5, 1.0, 3.0], [1.0, 2.0, 3.0], [0.0, 1.0, -1.0]], dtype=F64)
    rest = b / (a + decay)

    def gradient(weights: Tensor, batch: Any, values: Tensor, noise: Any) -> Curve:
        leaf = weights.clone().requires_grad_()
        return Curve([leaf], [a * leaf - b])

    layout = Layout({"w": torch.Size([3])}, [["w"]], joined=True)
    knobs = ("lr", "weight_decay")
    step = Step(
        SGD(),
        layout,
        rest[None],
        (SGD().start(rest[None]),),
        torch.tensor([[[lr, decay]]], dtype=F64),
        Panel.of(knobs),
        lambda values: layout.values(values, knobs),
        (a * rest - b)[None],
        rest[None],
        gradient=gradient,
        held_out=lambda weights: weights - c,
    )
    return step, lr * (a + decay), ((rest - c) * (-rest / (a + decay))).sum()


def test_the_implicit_slope_tends_to_the_best_response_s() -> None:
    """Term by term, on a bowl: off by ``(1 - x)^i`` on each eigenvalue ``x``, and so by less than 1e-10 in the end."""
    step, eigen, exact = bowl(0.2, 0.1)
    errors = [float((read(Implicit(i), (step,))[0, 0, 1] - exact).abs()) for i in (1, 3, 9, 27, 81, 201)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10
    slowest = float(1 - eigen.min())
    assert pytest.approx(slowest**54, rel=0.05) == errors[4] / errors[3]
    assert errors[0] > 0.1 * abs(float(exact))


@pytest.mark.parametrize("lookback", [1, 3, 9, 27])
def test_at_rest_the_implicit_slope_is_the_unroll_s(lookback: int) -> None:
    """Where the steps are all alike, a series of ``i`` terms is exact differentiation through ``i`` of them."""
    step, _, _ = bowl(0.2, 0.1)
    unrolled = sum(slopes([step] * lookback, step.held_out_grad(step.after)))
    torch.testing.assert_close(read(Implicit(lookback), (step,)), unrolled, rtol=1e-12, atol=1e-12)


def test_the_series_sign_is_the_implicit_function_theorem_s() -> None:
    """With ``p + (du/dw)^T p`` in place of ``p - (du/dw)^T p`` it runs away from the best response."""
    step, _, exact = bowl(0.2, 0.1)
    row = step.held_out_grad(step.after)
    total = row
    for _ in range(26):
        row = row + (row - step.pull_weights(row))
        total = total + row
    wrong = float((step.pull_values(total)[0, 0, 1] - exact).abs())
    right = float((read(Implicit(27), (step,))[0, 0, 1] - exact).abs())
    assert right < 0.1 * abs(float(exact)) < 10 * abs(float(exact)) < wrong


def thrown() -> Step:
    """A step of SGD at ``lr h > 2``, out along the one unstable direction, which alone the held-out loss sees."""
    step, eigen, _ = bowl(1.0, 0.1)
    assert float(eigen.max()) > 2
    gone = torch.tensor([[0.0, 0.0, 1.0]], dtype=F64)
    before = step.weights + gone
    moved = step.at(before)
    done = Step(**{**vars(moved), "after": before - moved.values[..., 0] * (moved.grad + 0.1 * before)})
    return Step(**{**vars(done), "held_out": lambda weights: (weights - step.weights) * gone})


@pytest.mark.parametrize(("lookback", "carry"), [(1, 0.2), (1, 0.9), (3, 0.5)])
def test_a_carried_sum_pulls_an_unstable_rate_down_at_every_reading(lookback: int, carry: float) -> None:
    """It keeps its sign from one reading to the next, and is no less than the look-back's own series."""
    step, estimator = thrown(), Implicit(lookback, carry=carry)
    memory = estimator.start(Form(step.weights, step.slots, step.layout, 1, 2))
    alone = float(read(Implicit(lookback), (step,))[0, 0, 0])
    for _ in range(20):
        memory = estimator.follow(step, memory, is_due=True)
        assert float(memory["slope"][0, 0, 0]) >= alone * (1 - 1e-12) > 0


@pytest.mark.parametrize(("lookback", "pulls_down"), [(1, True), (3, True), (5, True), (2, False), (4, False)])
def test_an_odd_look_back_pulls_an_unstable_rate_down(lookback: int, pulls_down: bool) -> None:
    """Where ``lr h > 2`` the loss's slope by lr is positive for odd look-backs alone."""
    held = thrown()
    if lookback % 2:
        found = read(Implicit(lookback), (held,))
    else:
        with pytest.warns(UserWarning, match="use an odd one"):
            found = read(Implicit(lookback), (held,))
    assert pulls_down == (float(found[0, 0, 0]) > 0)


@pytest.mark.parametrize(("lookback", "carry"), [(1, 0.5), (1, 0.9), (3, 0.8)])
def test_a_carried_sum_tends_to_the_faded_series(lookback: int, carry: float) -> None:
    """On a bowl at rest: the look-back's over ``1 - carry (1 - x)^m`` on each eigenvalue ``x``, nearer the truth."""
    step, eigen, exact = bowl(0.2, 0.1)
    estimator = Implicit(lookback, carry=carry)
    memory = estimator.start(Form(step.weights, step.slots, step.layout, 1, 2))
    for _ in range(300):
        memory = estimator.follow(step, memory, is_due=True)
    short, old = (1 - (1 - eigen) ** lookback) / eigen, carry * (1 - eigen) ** (lookback + 1)
    faded = step.pull_values(step.held_out_grad(step.after) * short / (1 - old))
    torch.testing.assert_close(memory["slope"], faded, rtol=1e-10, atol=1e-12)
    errors = [float((found[0, 0, 1] - exact).abs()) for found in (memory["slope"], read(Implicit(lookback), (step,)))]
    assert errors[0] < errors[1]


def test_a_carried_sum_that_outgrew_stable_steps_is_dropped() -> None:
    """Where ``lr h`` is far beyond 2 the sum would grow at each reading without end; it begins anew instead."""
    step, eigen, _ = bowl(2.0, 0.1)
    assert float(eigen.max()) > 5
    estimator = Implicit(1, carry=0.8)
    memory = estimator.start(Form(step.weights, step.slots, step.layout, 1, 2))
    sizes = []
    for _ in range(40):
        memory = estimator.follow(step, memory, is_due=True)
        sizes.append(float(memory["sum"].norm()))
    row = step.held_out_grad(step.after)
    most = float(row.norm()) * (1 + 0.8 * (float(eigen.max()) - 1) ** 2 / (1 - 0.8))
    assert max(sizes) < most
    assert any(size == pytest.approx(float(row.norm())) for size in sizes[1:])


def test_a_look_back_of_one_is_one_step_validation(ride: Ride) -> None:
    """To the last bits, for any rule."""
    done = ride(AdamW(eps=1e-3), {"lr": 0.02, "beta1": 0.8, "weight_decay": 0.01}, 5, by="layer")
    for estimator in (Implicit(1), Unroll(1), HyperDistill(gamma=0.0, refit=0)):
        torch.testing.assert_close(
            read(estimator, done.steps), read(OneStepValidation(), done.steps), rtol=1e-12, atol=1e-16
        )


def test_fewer_examples_bend_a_little_differently(ride: Ride) -> None:
    """The Hessian of all of the batch's examples is that of the batch; of half of them it is near it."""
    done = ride(SGD(momentum=0.8), MOMENTUM, 6)
    whole, same, half = (read(Implicit(5, examples), done.steps) for examples in (None, 8, 4))
    assert torch.equal(whole, same)
    assert not torch.equal(whole, half)
    assert float(torch.nn.functional.cosine_similarity(whole.flatten(1), half.flatten(1)).min()) > 0.9


@pytest.mark.parametrize("window", [1, 2, 5, 9])
def test_unroll_sees_its_window_alone(window: int, ride: Ride) -> None:
    """The sum of the last steps' exact slopes; all of them where there are fewer."""
    done = ride(SGD(momentum=0.8), MOMENTUM, 6)
    expected = sum(slopes(done.steps[-window:], done.row))
    torch.testing.assert_close(read(Unroll(window), done.steps), expected, rtol=1e-12, atol=1e-16)


def test_a_member_put_elsewhere_forgets(ride: Ride) -> None:
    """After a restore three steps ago only those count for it, and all of them for the other."""
    done = ride(SGD(momentum=0.8), MOMENTUM, 6)
    estimator = Unroll(6)
    first = done.steps[0]
    memory = estimator.start(Form(first.weights, first.slots, first.layout, 1, 3))
    for number, step in enumerate(done.steps, 1):
        memory = estimator.follow(step, memory, is_due=number == 6)
        if number == 3:
            memory = memory | {"count": memory["count"] * torch.tensor([1.0, 0.0], dtype=F64)}
    found = estimator.read(memory, first.weights, first.layout)
    torch.testing.assert_close(found[0], sum(slopes(done.steps, done.row))[0])
    torch.testing.assert_close(found[1], sum(slopes(done.steps[3:], done.row))[1])


def test_the_distilled_step_is_at_the_mean_of_the_past(ride: Ride) -> None:
    """Weights count by ``gamma`` to their age, and the factor is the sum of those."""
    gamma, done = 0.7, ride(SGD(momentum=0.8), MOMENTUM, 5)
    ages = torch.tensor([gamma**age for age in (4, 3, 2, 1, 0)], dtype=F64)
    mean = torch.einsum("s,sbn->bn", ages / ages.sum(), torch.stack([step.weights for step in done.steps]))
    estimator = HyperDistill(gamma, refit=0)
    first = done.steps[0]
    memory = estimator.start(Form(first.weights, first.slots, first.layout, 1, 3))
    for number, step in enumerate(done.steps, 1):
        memory = estimator.follow(step, memory, is_due=number == 5)
    torch.testing.assert_close(memory["weights"], mean)
    last = done.steps[-1]
    expected = ages.sum() * last.at(mean, formed(memory["batch"], last.batch)).pull_values(done.row)
    torch.testing.assert_close(memory["slope"], expected)


def test_the_mixed_batch_keeps_its_share(ride: Ride) -> None:
    """Of eight examples ``round(8 p)`` are the older mixture's, the rest the new batch's, inputs with their targets."""
    old, new = (step for step in ride(SGD(), {"lr": 0.1}, 2).steps)
    for share, count in ((0.0, 0), (0.3, 2), (0.5, 4), (1.0, 8)):
        made = new.mixed(old.batch, torch.full((2,), share, dtype=F64), draw=3)
        stays = (made.x == old.batch.x).all(-1)
        assert [count, count] == stays.sum(1).tolist()
        assert torch.equal(stays, made.y == old.batch.y)
        assert torch.equal(~stays, (made.x == new.batch.x).all(-1))


def test_theta_is_one_where_one_step_tells_all() -> None:
    """On a line of constant slope and no curvature the fit of ``theta`` is exact: ``s`` pieces give ``s`` slopes."""
    layout = Layout({"w": torch.Size([2])}, [["w"]], joined=True)
    push = torch.tensor([[1.0, 2.0]], dtype=F64)

    def gradient(weights: Tensor, batch: Any, values: Tensor, noise: Any) -> Curve:
        leaf = weights.clone().requires_grad_()
        return Curve([leaf], [push + 0 * leaf])

    step = Step(
        SGD(),
        layout,
        torch.zeros(1, 2, dtype=F64),
        (SGD().start(torch.zeros(1, 2, dtype=F64)),),
        torch.tensor([[[0.1]]], dtype=F64),
        Panel.of(["lr"]),
        lambda values: layout.values(values, ("lr",)),
        push,
        -0.1 * push,
        gradient=gradient,
        held_out=torch.ones_like,
        batch=torch.zeros(1, 4, 1),
    )
    estimator = HyperDistill(gamma=0.5, refit=1, window=4)
    memory = estimator.follow(step, estimator.start(Form(step.weights, step.slots, layout, 1, 1)), is_due=True)
    x = torch.tensor([(1 - 0.5**s) / 0.5 for s in (1, 2, 3, 4)], dtype=F64)
    y = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)
    torch.testing.assert_close(memory["theta"], ((x * y).sum() / (x * x).sum())[None])


def branched(step: Step, count: int) -> Tensor:
    """Differentiate exactly through a branch: the step, and those after it on the same batch."""
    steps, slots = [step], step.applied(step.values)[1]
    for _ in range(count - 1):
        here = steps[-1].at(steps[-1].after)
        after, later = here.applied(step.values, slots)
        steps.append(Step(**{**vars(here), "slots": slots, "after": after}))
        slots = later
    found: Tensor = sum(slopes(steps, step.held_out_grad(steps[-1].after)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("horizon", "sizes"), [(1, (4, 64, 1024)), (3, (4, 64))])
def test_zeroth_order_tends_to_the_slope(horizon: int, sizes: tuple[int, ...], ride: Ride) -> None:
    """The error of ``q`` directions beside the exact window falls as ``1 / sqrt(q)``: to a fourth for 16 times."""
    done = ride(SGD(momentum=0.8), MOMENTUM, 4)
    exact = branched(done.steps[-1], horizon) * done.values
    errors = []
    for pairs in sizes:
        tries = [
            read(ZerothOrder(pairs, mu=1e-4, horizon=horizon, seed=seed), done.steps) * done.values
            for seed in range(12)
        ]
        errors.append(float((torch.stack(tries) - exact).square().mean().sqrt()))
    assert all(2.5 < before / after < 6.5 for before, after in pairwise(errors))


def test_in_one_dimension_one_direction_is_enough(ride: Ride) -> None:
    """The slope of one knob, to the pair's own error."""
    alone = ride(SGD(), {"lr": 0.1}, 4)
    found = read(ZerothOrder(1, mu=1e-5), alone.steps)
    torch.testing.assert_close(found, read(OneStepValidation(), alone.steps), rtol=1e-6, atol=1e-12)


def test_a_branch_of_several_steps_is_the_unroll(ride: Ride) -> None:
    """Branches that go on with the last batch answer as exact differentiation through them does."""
    alone = ride(SGD(momentum=0.5), {"lr": 0.1}, 4).steps[-1]
    found = read(ZerothOrder(1, mu=1e-5, horizon=3), (alone,))
    torch.testing.assert_close(found, branched(alone, 3), rtol=1e-5, atol=1e-10)


def test_whole_runs_can_be_compared_too(ride: Ride) -> None:
    """`slope_of` takes the ends of runs of six steps, all of them members of one plant, as it takes those of one."""
    knobs = {"lr": 0.05}
    done = ride(SGD(), knobs, 6)

    def end(values: Tensor) -> Tensor:
        held: Tensor = ride(SGD(), knobs, 6, values=values.flatten(0, 1)).held
        return held.unflatten(0, values.shape[:2])

    found = slope_of(end, done.values, 1, 1e-5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, sum(slopes(done.steps, done.row)), rtol=1e-6, atol=1e-10)


def test_forward_mode_begins_anew_where_it_overflowed(ride: Ride) -> None:
    """A member whose derivative is no number has 0 before the next step, the other goes on."""
    done = ride(SGD(momentum=0.8), MOMENTUM, 5)
    estimator, first = ForwardMode(), done.steps[0]
    memory = estimator.start(Form(first.weights, first.slots, first.layout, 1, 3))
    memory = estimator.follow(first, memory, is_due=False)
    memory["weights"][1, 0, 3] = torch.inf
    memory = estimator.follow(done.steps[1], memory, is_due=False)
    fresh = estimator.follow(
        done.steps[1], estimator.start(Form(first.weights, first.slots, first.layout, 1, 3)), is_due=False
    )
    assert torch.equal(memory["weights"][1], fresh["weights"][1])
    assert not torch.equal(memory["weights"][0], fresh["weights"][0])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_has_a_name(name: str) -> None:
    """It is made by its name, and says it."""
    assert name == estimator_named(name).name


def test_what_is_out_of_range_is_refused() -> None:
    """The error states the law and the values."""
    for make, words in (
        (lambda: Implicit(0), "`lookback` must be"),
        (lambda: Implicit(3, 0), "`examples` must be"),
        (lambda: Implicit(3, carry=1.0), r"`carry` must be in \[0, 1\)"),
        (lambda: Unroll(0), "`window` must be"),
        (lambda: ForwardMode("test"), "`objective` 'val' or 'train'"),
        (lambda: ForwardMode(discount=0.0), "`discount` in"),
        (lambda: HyperDistill(gamma=1.0), r"`gamma` in \[0, 1\)"),
        (lambda: ZerothOrder(0), "`pairs >= 1`"),
        (lambda: estimator_named("exact"), "No estimator is named 'exact'"),
        (lambda: estimator_named("one-step", 3), "`lookback` is for implicit and unroll"),
    ):
        with pytest.raises(KnobError, match=words):
            make()
