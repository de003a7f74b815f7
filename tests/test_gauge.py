"""Laws of the gauge: what it reads of any optimizer is what autograd computed, whatever the tensors are like."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trimtab
from trimtab.controllers import KnobDescent
from trimtab.errors import SignalError
from trimtab.gauge import Gauge
from trimtab.knobs import Panel


def last(pilot: Any) -> Any:
    """Give the signals of the last decision."""
    return pilot.trace.decisions[-1][1].seen.signals


def test_a_reading_is_what_autograd_computed() -> None:
    """Squared norms, dots and the update of the nine statistics, checked against a loop by hand, site by site."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    optimizer = torch.optim.SGD(trimtab.groups(model, lr=0.1), lr=0.1, momentum=0.9)
    pilot = trimtab.attach(optimizer, "constant", sites="groups", every=1)
    seen: list[tuple[list[Tensor], list[Tensor]]] = []
    for number in range(4):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        sites = [list(model[0].parameters()), list(model[2].parameters())]
        weight = [torch.cat([p.detach().reshape(-1) for p in site]).clone() for site in sites]
        grad = [torch.cat([p.grad.reshape(-1) for p in site]).clone() for site in sites]
        seen.append((weight, grad))
        optimizer.step()
        pilot.step(loss)
    signals = last(pilot)
    for s in range(2):
        w, g = seen[3][0][s], seen[3][1][s]
        w_last, g_last, first = seen[2][0][s], seen[2][1][s], seen[0][0][s]
        expected = {"grad_sq": g @ g, "weight_sq": w @ w, "update_sq": (w_last - w) @ (w_last - w),
                    "drift_sq": (first - w) @ (first - w), "grad_dot_update": g @ (w_last - w),
                    "grad_dot_last_grad": g @ g_last, "last_grad_dot_update": g_last @ (w_last - w),
                    "last_grad_sq": g_last @ g_last, "grad_dot_drift": g @ (first - w)}  # fmt: skip
        for name, value in expected.items():
            torch.testing.assert_close(getattr(signals, name)[0, s], value, rtol=1e-10, atol=1e-16)


def quick(params: Any, loss_of: Any, kind: Any = torch.optim.SGD, steps: int = 12, **options: Any) -> Any:
    """Train something for a few steps under a pilot."""
    optimizer = kind(params, **({"lr": 0.01} | options))
    pilot = trimtab.attach(optimizer, "random")
    for _ in range(steps):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    return pilot


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.SparseAdam])
def test_sparse_gradients_are_measured(kind: Any) -> None:
    """An embedding's sparse gradient counts as the dense one it stands for."""
    table = nn.Embedding(6, 3, sparse=True)
    with torch.no_grad():
        table.weight.fill_(1.0)
    pilot = quick(table.parameters(), lambda: table(torch.tensor([1, 1, 4])).sum(), kind)
    assert 3 * (2.0**2 + 1.0**2) == float(last(pilot).grad_sq)


def test_frozen_and_unused_parameters_have_no_gradient() -> None:
    """A parameter without `.grad` counts with a gradient of zeros; no warning while others have one."""
    used, frozen, unused = (nn.Parameter(torch.ones(3)) for _ in range(3))
    frozen.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pilot = quick([used, frozen, unused], lambda: (used * 2).sum() + frozen.sum())
    assert 12.0 == float(last(pilot).grad_sq)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_precision_is_measured(dtype: torch.dtype) -> None:
    """Half, single and double precision give the same reading of the same numbers."""
    weight = nn.Parameter(torch.full((4,), 0.5, dtype=dtype))
    pilot = quick([weight], lambda: 0.25 * weight.sum(), steps=1)
    assert (0.25, 1.0) == (float(last(pilot).grad_sq), float(last(pilot).weight_sq))


def test_mixed_precision_in_one_group_is_measured() -> None:
    """Parameters of one site may differ in precision."""
    a, b = nn.Parameter(torch.ones(2, dtype=torch.bfloat16)), nn.Parameter(torch.ones(2, dtype=torch.float64))
    pilot = quick([a, b], lambda: a.sum().double() + 2 * b.sum())
    assert 10.0 == float(last(pilot).grad_sq)


def test_complex_parameters_count_both_parts() -> None:
    """A complex weight is two real ones, and no part is dropped."""
    weight = nn.Parameter(torch.tensor([3 + 4j, 0j]))
    pilot = quick([weight], lambda: weight.abs().square().sum(), torch.optim.AdamW, steps=1)
    assert (100.0, 25.0) == (float(last(pilot).grad_sq), float(last(pilot).weight_sq))


def test_channels_last_weights_pair_with_their_gradients() -> None:
    """A gradient in another memory layout than its weight is paired coordinate by coordinate."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = nn.Conv2d(3, 4, 3)
    readings = []
    for layout in (torch.contiguous_format, torch.channels_last):
        conv = nn.Conv2d(3, 4, 3)
        conv.load_state_dict(plain.state_dict())
        conv = conv.to(memory_format=layout)
        x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)
        pilot = quick(conv.parameters(), lambda conv=conv, x=x: conv(x).square().mean(), steps=7)
        readings.append([float(last(pilot).grad_dot_drift), float(last(pilot).grad_dot_update)])
    assert readings[0] == pytest.approx(readings[1], rel=1e-4)


class InBackward(torch.optim.Optimizer):
    """Takes its gradients inside backward and leaves none behind."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.taken: dict[Any, Tensor] = {}
        for group in self.param_groups:
            for p in group["params"]:
                p.register_post_accumulate_grad_hook(self._take)

    def _take(self, p: Any) -> None:
        self.taken[p] = p.grad
        p.grad = None

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step with what was taken."""
        with torch.no_grad():
            for p, grad in self.taken.items():
                p.add_(grad, alpha=-self.param_groups[0]["lr"])


def test_an_in_backward_optimizer_is_turned_by_its_loss() -> None:
    """Where no parameter has a gradient at the step, one warning says so, and the loss alone informs the controller."""
    model = nn.Linear(3, 1)
    with pytest.warns(RuntimeWarning, match="No parameter has a gradient when the optimizer steps") as caught:
        pilot = quick(model.parameters(), lambda: model(torch.ones(4, 3)).square().mean(), InBackward, steps=25)
    assert 1 == len(caught)
    assert 0.0 == float(last(pilot).grad_sq) < float(last(pilot).weight_sq)
    assert math.isfinite(float(last(pilot).loss))
    assert 0 == pilot.trace.restores
    assert 0.01 != pilot.get_last_lr()[0]


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.SGD])
@pytest.mark.parametrize("by_name", [True, False])
def test_a_closure_s_gradient_is_that_of_its_first_call(kind: Any, by_name: bool) -> None:
    """An optimizer that evaluates the loss itself, once or often a step, is measured before the weights move."""
    model = nn.Linear(3, 1)
    optimizer = kind(model.parameters(), lr=0.05)
    pilot = trimtab.attach(optimizer, "random")
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    squares: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        squares.append(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
        return loss

    first = closure().item()
    for _ in range(20):
        squares.clear()
        loss = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
        pilot.step(loss)
    assert 20 == pilot.last_epoch
    assert squares[0] == pytest.approx(float(last(pilot).grad_sq), rel=1e-6)
    assert loss.item() < first


class Lion(torch.optim.Optimizer):
    """An optimizer that no rule knows."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step by the sign of an interpolated mean."""
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.sub_(group["lr"] * (group["betas"][0] * mean + (1 - group["betas"][0]) * p.grad).sign())
                mean.lerp_(p.grad, 1 - group["betas"][1])


def test_an_unknown_optimizer_is_turned() -> None:
    """Whatever the class, all but a hypergradient can be measured, its betas turned, and its slots restored."""
    model = nn.Linear(3, 1)
    optimizer = Lion(model.parameters(), lr=0.01)
    pilot = trimtab.attach(optimizer, "random", knobs=("lr", "beta1"))
    for number in range(30):
        loss = model(torch.ones(4, 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if number == 29:
            model.weight.grad.fill_(math.nan)
        optimizer.step()
        pilot.step(loss)
    assert 1 == pilot.trace.restores
    assert bool(model.weight.isfinite().all())
    assert 0.9 != optimizer.param_groups[0]["betas"][0]
    with pytest.raises(trimtab.TaskError, match="class must be exactly one of"):
        trimtab.attach(Lion(model.parameters(), lr=0.01), KnobDescent())


def test_accumulated_gradients_count_as_one_step() -> None:
    """Micro-batches between two optimizer steps are one step, whether the pilot is called at each or at the last."""
    counts = []
    for at_each in (True, False):
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        pilot = trimtab.attach(optimizer, "constant")
        for number in range(24):
            loss = model(torch.ones(4, 3)).square().mean()
            loss.backward()
            is_last = number % 4 == 3
            if is_last:
                optimizer.step()
                optimizer.zero_grad()
            if is_last or at_each:
                pilot.step(loss)
        counts.append((pilot.last_epoch, [row["step"] for row in pilot.trace.rows]))
    assert [(6, [1, 2, 4])] * 2 == counts


def test_a_reading_is_taken_once() -> None:
    """A gauge asked without a step in between says so."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    gauge = Gauge(optimizer, Panel.of(["lr"]), [[0]], every=10)
    with pytest.raises(SignalError, match="No reading waits"):
        gauge.read(1, torch.ones(1, 1), None)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (torch.ones(3), r"`loss` must be a single number, got a float32 tensor of shape \[3\]: give its mean"),
        (torch.ones(1, dtype=torch.complex64), r"`loss` must be a single number, got a complex64 tensor"),
        ("0.3", r"`loss` must be a number or a tensor of one element, got str"),
        ([0.3], r"`loss` must be a number or a tensor of one element, got list"),
    ],
)
def test_a_loss_that_is_none_is_refused_and_may_be_given_again(loss: Any, words: str) -> None:
    """The error names the shape, and the right loss can still be given for the same step."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pilot = trimtab.attach(optimizer, "constant")
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    with pytest.raises(SignalError, match=words):
        pilot.step(loss)
    pilot.step(0.5)
    assert [0.5] == [row["loss"] for row in pilot.trace.rows]


@pytest.mark.parametrize("loss", [0.5, 1, torch.tensor(0.5), torch.tensor([[0.5]]), None, math.nan])
def test_a_loss_may_come_in_many_forms(loss: Any) -> None:
    """A number, a tensor of one element on any graph, or none; the latter is not taken for a divergence."""
    model = nn.Linear(3, 1)
    pilot = quick(model.parameters(), lambda: model(torch.ones(1, 3)).sum(), steps=0)
    for _ in range(10):
        model(torch.ones(1, 3)).sum().backward()
        pilot.optimizer.step()
        pilot.step(loss)
    assert 0 == pilot.trace.restores
    assert 5 == len(pilot.trace.rows)
