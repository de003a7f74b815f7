"""Laws of the one-pass bench: the same starts for all, splits that do not meet, scores that are the rows'."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trimtab.bench.onepass.blocks import estimate, squared_error
from trimtab.bench.onepass.clipped import ClippedSGD
from trimtab.bench.onepass.command import one_pass
from trimtab.bench.onepass.page import as_json, as_markdown, best_of_three, frontier, outcomes, write_page
from trimtab.bench.onepass.problems import FILES, ORDER, Fashion, FullBatch, problem_named
from trimtab.bench.onepass.run import Job, begun, plant_of, run
from trimtab.bench.onepass.suite import METHODS, method_named, starts
from trimtab.controllers import Constant
from trimtab.datasets import fetch
from trimtab.errors import TaskError
from trimtab.hypergrad import Unroll
from trimtab.plant import Plant
from trimtab.rollout import Voyage
from trimtab.task import Batch
from trimtab.tasks import task_named

needs_data = pytest.mark.skipif("TRIMTAB_DATA" not in os.environ, reason="TRIMTAB_DATA is not set")
ORIGIN = {"commit": "abc", "machine": "one", "command": "trimtab bench one-pass"}


def row(method: str, finals: list[float | None]) -> dict[str, Any]:
    """Make a row of finals."""
    return ORIGIN | {"table": "energy", "method": method, "runs": len(finals), "finals": finals}


def test_starts_are_the_paper_s_box_and_the_same_for_all() -> None:
    """log10 lr in [-6, -1], momentum in [0, 1], log10 weight decay in [-7, -2]; more runs begin with the same ones."""
    drawn = starts(500)
    low, high = drawn.amin(0), drawn.amax(0)
    for column, (a, b) in enumerate(((1e-6, 1e-1), (0.0, 1.0), (1e-7, 1e-2))):
        assert a <= float(low[column]) < float(high[column]) <= b
    assert torch.equal(starts(7), drawn[:7])


def test_scores_leave_lost_runs_out_and_count_them() -> None:
    """Mean and median of the others, bootstrapped; the cost comes from the timing's row."""
    rows = [row("a", [1.0, 3.0, None, 8.0]), ORIGIN | {"table": "energy", "method": "a", "runs": 5, "ratio": 1.4}]
    (found,) = outcomes([*rows])
    assert (1, 4.0, 3.0, 1.0, 1.4) == (found.lost, found.mean, found.median, found.best, found.cost)
    assert 0 < found.mean_deviation < 4
    (lost,) = outcomes([row("b", [None, None])])
    assert lost.lost == 2
    assert math.isnan(lost.mean)


def test_the_best_of_three_is_chosen_by_validation() -> None:
    """Of each group of three the run with the lowest held-out score counts, at three runs' cost; a rest is left out."""
    kept = row("random, validation kept", [5.0, 6.0, 7.0, None, 2.0, 1.0, 0.1])
    kept["held_out"] = [0.3, 0.2, 0.9, None, 0.4, 0.5, 0.0]
    assert [6.0, 2.0] == best_of_three(kept)
    timed = ORIGIN | {"table": "energy", "method": kept["method"], "runs": 5, "ratio": 1.1}
    alone, chosen = outcomes([kept, timed])
    assert (7, 1, 2, 0) == (alone.runs, alone.lost, chosen.runs, chosen.lost)
    assert (4.0, 2.0, pytest.approx(3.3)) == (chosen.mean, chosen.best, chosen.cost)


def test_the_page_shows_table_and_frontier(tmp_path: Path) -> None:
    """Every method is a line of the table and a mark of the picture; JSON has no NaN."""
    rows = [row("a", [1.0, 2.0]), row("b", [3.0, None])]
    assert "" == frontier(rows)
    rows += [
        ORIGIN | {"table": "energy", "method": name, "runs": 5, "ratio": r} for name, r in (("a", 1.1), ("b", 2.0))
    ]
    page = write_page(rows, tmp_path / "page.html").read_text()
    assert "authors" in page
    assert "<td>a</td>" in page
    assert "| b | 1 | 2 | 3 ± 0 | 3 ± 0 | 3 | 2.00 |" in as_markdown(rows)
    assert ["a", "b"] == [entry["method"] for entry in json.loads(as_json(rows))["outcomes"]]


@needs_data
@pytest.mark.parametrize("table", ["energy", "energy-authors", "kin8nm", "power"])
def test_splits_do_not_meet(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, validation and test examples are others; a merged task trains on the first two, scores on the third."""
    made = problem_named(table).make
    if table == "energy-authors":  # its order is a download of its own: here another one stands for it
        order = np.random.default_rng(0).permutation(768)
        np.savetxt(tmp_path / "order.txt", order, fmt="%d")
        here = fetch
        monkeypatch.setattr(
            "trimtab.bench.onepass.problems.fetch",
            lambda file: tmp_path / "order.txt" if file is ORDER else here(file),
        )
    task, merged = made(False), made(True)
    if table == "energy-authors":
        assert [614, 78, 76] == [len(task.data(split)[0]) for split in ("train", "val", "test")]  # as in the source
        targets = np.loadtxt(fetch(FILES["energy"][0]))[order, -1]
        found = torch.cat([task.data(split)[1] for split in ("train", "val", "test")]) * task.table.deviation
        torch.testing.assert_close(
            found - found[0], torch.from_numpy(targets - targets[0]).float(), rtol=1e-5, atol=1e-4
        )
    sizes = [len(task.data(split)[0]) for split in ("train", "val", "test")]
    assert task.batch_size == sizes[0]
    assert merged.batch_size == sizes[0] + sizes[1]
    assert torch.equal(merged.data("test")[0], task.data("test")[0])
    whole = torch.cat([task.data("train")[0], task.data("val")[0]])
    assert torch.equal(whole, merged.data("train")[0])
    torch.testing.assert_close(whole.mean(0), torch.zeros(whole.shape[1]), rtol=0, atol=1e-4)


@needs_data
def test_what_is_not_turned_stays() -> None:
    """A method that turns weight decay alone leaves rate and momentum where they were drawn."""
    method = method_named("WD (Lorraine)")
    voyage, passage = begun(plant_of(problem_named("energy"), method), method, starts(2))
    passage, done = voyage.advance(passage, 60)
    torch.testing.assert_close(done.values[-1, :, 0, :2], starts(2)[:, :2], rtol=1e-6, atol=0)
    assert not torch.allclose(done.values[-1, :, 0, 2], starts(2)[:, 2], rtol=0.1)


@pytest.mark.slow
@needs_data
def test_hypergradients_leave_random_starts_behind() -> None:
    """After 400 steps from 20 starts the mean error is below half of that of fixed hyperparameters."""
    ends = {}
    for name in ("random, validation kept", "WD+LR+M, T=5 i=5, 64 examples"):
        finals = run(Job("energy", name, 20, 400))["finals"]
        assert None not in finals
        ends[name] = float(torch.tensor(finals).mean())
    fixed, turned = ends.values()
    assert turned < 0.5 * fixed


@pytest.mark.slow
@needs_data
def test_the_command_goes_on_where_it_was(tmp_path: Path) -> None:
    """What has rows is not run again; the answer is JSON where asked for."""
    names = ["random"]
    first = one_pass("energy", names, tmp_path, count=2, steps=5, jobs=1)
    assert "| random | 0 | 2 |" in first
    before = (tmp_path / "rows.jsonl").read_text()
    told = json.loads(one_pass("energy", names, tmp_path, count=2, steps=5, jobs=1, is_json=True))
    assert "random" == told["outcomes"][0]["method"]
    assert before == (tmp_path / "rows.jsonl").read_text()


@needs_data
def test_baydin_steps_the_logarithm_by_the_gradients_product() -> None:
    """``log10 lr`` grows by 0.001 <g_t, g_{t-1}>; torch's own SGD with those rates sees the same rates again."""
    method, count = method_named("LR (Baydin), T=1"), 12
    drawn = torch.tensor([[0.05, 0.7, 1e-3]], dtype=torch.float64)
    plant = plant_of(problem_named("energy"), method)
    voyage, passage = begun(plant, method, drawn, 4)
    used = voyage.advance(passage, count)[1].values[:, 0, 0]
    model = plant.task.build(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.7, weight_decay=1e-3)
    lr, last = math.log10(0.05), None
    for row in used:
        assert float(row[0]) == pytest.approx(10**lr, rel=1e-5)
        optimizer.zero_grad()
        plant.task.loss(model, Batch(*plant.task.data("train"))).backward()
        optimizer.param_groups[0]["lr"] = 10**lr
        grad = torch.cat([p.grad.flatten() for p in model.parameters()])
        lr += 0.0 if last is None else 0.001 * float(grad @ last)
        last = grad
        optimizer.step()
    torch.testing.assert_close(used[-1, 1:], drawn[0, 1:], rtol=1e-6, atol=0)
    assert abs(lr - math.log10(0.05)) > 1e-3


@needs_data
def test_the_stepped_rate_is_drawn_every_ten_steps_for_each_run() -> None:
    """Factors are in [0.95, 1.01], others for each run, and a run's own whatever runs are beside it."""
    method = method_named("random, rate stepped (xLR)")
    plant = plant_of(problem_named("energy"), method)
    rates = {}
    for first, count in ((0, 3), (1, 1)):
        voyage, passage = begun(plant, method, starts(3)[first : first + count], first)
        rates[first] = voyage.advance(passage, 45)[1].values[:, :, 0, 0]
    factors = rates[0][1:] / rates[0][:-1]
    turned = torch.tensor([step % 10 == 0 for step in range(1, 45)])
    assert bool((factors[~turned] == 1).all())
    assert 0.95 <= float(factors[turned].min()) < float(factors[turned].max()) <= 1.01
    assert len(factors[turned].flatten().unique()) == 12
    torch.testing.assert_close(rates[0][:, 1], rates[1][:, 0], rtol=1e-9, atol=0)


@needs_data
def test_the_bench_s_network_is_two_linear_layers() -> None:
    """Its transposed products, and its blocks, give what ``Linear, ReLU, Linear`` gives with the same weights."""
    task = FullBatch("power")
    model, x = task.build(3), task.data("val")[0]
    plain = torch.nn.Sequential(torch.nn.Linear(4, 50), torch.nn.ReLU(), torch.nn.Linear(50, 1))
    plain.load_state_dict(dict(zip(plain.state_dict(), model.state_dict().values(), strict=True)))
    torch.testing.assert_close(plain(x)[:, 0], model(x), rtol=1e-5, atol=1e-6)
    error = (plain(x)[:, 0] - task.data("val")[1]).square().mean()
    torch.testing.assert_close(error, task.loss(model, Batch(*task.data("val"))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("examples", [40, 1300])
def test_blocks_give_what_autograd_gives(examples: int) -> None:
    """Loss, gradient, and the gradient's own derivative, of members together (float64, 1e-12)."""
    rng = torch.Generator().manual_seed(0)
    shapes = ((3, 7, 4), (3, 7), (3, 1, 7), (3, 1), (3, examples, 4), (3, examples))
    drawn = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
    weights, (x, y) = [part.requires_grad_() for part in drawn[:4]], drawn[4:]

    def plain(*inputs: torch.Tensor) -> torch.Tensor:
        return (estimate(*inputs[:-1]) - inputs[-1]).square().mean()

    found = []
    for error in (plain, squared_error):
        loss = torch.func.vmap(error)(*weights, x, y)
        grads = torch.autograd.grad(loss.sum(), weights, retain_graph=True)
        bent = torch.autograd.grad(loss.sum(), weights, create_graph=True)
        second = torch.autograd.grad(bent, weights, [g.detach() for g in bent])
        found.append((loss, *grads, *bent, *second))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@needs_data
def test_fashion_is_the_paper_s() -> None:
    """Batches of 50 for ten epochs of 50,000, 10,000 validate; every pixel is standardised over both."""
    task, merged = Fashion(), Fashion(is_merged=True)
    assert [len(task.data(split)[0]) for split in ("train", "val", "test")] == [50_000, 10_000, 10_000]
    assert task.batch_size * task.horizon == 10 * 50_000
    x = merged.data("train")[0]
    assert torch.equal(x[50_000:], task.data("val")[0])
    torch.testing.assert_close(x[:, ::50].double().std(0), torch.ones(16, dtype=torch.float64), rtol=0, atol=1e-3)


@needs_data
def test_held_out_examples_are_drawn_anew() -> None:
    """A problem with `fresh` examples shows each hypergradient others, the same in each run of the bench."""
    method = method_named("WD+LR+M, T=5 i=1")
    problem = replace(problem_named("energy"), fresh=8)
    ends = []
    for _ in range(2):
        voyage, passage = begun(plant_of(problem, method), method, starts(2))
        ends.append(voyage.advance(passage, 30)[1].values[-1])
    assert torch.equal(*ends)
    voyage, passage = begun(plant_of(problem_named("energy"), method), method, starts(2))
    assert not torch.equal(ends[0], voyage.advance(passage, 30)[1].values[-1])


@needs_data
def test_a_method_may_ask_for_fewer_examples_to_validate() -> None:
    """Others for each hypergradient, where the table itself shows all."""
    plant = plant_of(problem_named("energy"), method_named("WD+LR+M, T=5 i=5, 64 examples, 16 to validate"))
    one, other = plant._held_out_data(1), plant._held_out_data(2)
    assert 16 == len(one[0]) == len(other[0])
    assert not torch.equal(one[0], other[0])


def test_gradients_are_cut_as_torch_cuts_them() -> None:
    """Ten steps on steep and flat slopes are those of ``clip_grad_norm_`` and ``torch.optim.SGD`` (1e-12)."""
    rng = torch.Generator().manual_seed(0)
    slopes = torch.randn(10, 6, generator=rng, dtype=torch.float64) * torch.logspace(-3, 1, 10)[:, None]
    live = torch.nn.Parameter(torch.randn(6, generator=rng, dtype=torch.float64))
    rule, values = ClippedSGD(0.25), {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05}
    optimizer, weights = torch.optim.SGD([live], **values), live.detach()[None].clone()
    slots = rule.start(weights)
    told = {name: torch.full((1, 1), value, dtype=torch.float64) for name, value in values.items()}
    for slope in slopes:
        live.grad = slope.clone()
        torch.nn.utils.clip_grad_norm_([live], 0.25)
        optimizer.step()
        weights, slots = rule.update(slope[None], slots, weights, told)
    torch.testing.assert_close(live.detach(), weights[0], rtol=1e-12, atol=1e-12)


def test_hypergradients_go_through_the_cut() -> None:
    """The exact slope through six cut steps by rate, momentum and decay is that of finite differences (float64)."""
    task, panel, estimator = task_named("diabetes-mlp-v1"), method_named("random").panel, Unroll(6)
    held_out = tuple(part.double() if part.is_floating_point() else part for part in task.data("val"))
    plant = Plant(task, ClippedSGD(0.25), panel, every=50, estimator=estimator, held_out=held_out, dtype=torch.float64)
    voyage = Voyage(plant, Constant())

    def end(values: torch.Tensor) -> float:
        return float(plant.evaluate(voyage.advance(voyage.begin(values, [0]), 6)[0].copies, held_out)[0])

    start = torch.tensor([[[0.3, 0.5, 1e-2]]], dtype=torch.float64)
    read = voyage.advance(voyage.begin(start, [0]), 7)[1].decisions[-1].seen.signals.hypergrad
    assert read is not None
    for knob in range(3):
        nudge = 1e-5 * torch.eye(3, dtype=torch.float64)[knob]
        slope = (end(start + nudge) - end(start - nudge)) / 2e-5
        assert float(read[0, 0, knob]) == pytest.approx(slope, rel=1e-5)
    grad = torch.autograd.grad(task.loss(model := task.build(0), Batch(*task.data("train"))), list(model.parameters()))
    assert float(torch.cat([g.flatten() for g in grad]).norm()) > 0.25


def test_what_is_unknown_is_refused(tmp_path: Path) -> None:
    """The error lists what there is."""
    assert len({method.name for method in METHODS}) == len(METHODS)
    with pytest.raises(TaskError, match="no method 'best': there are random; "):
        method_named("best")
    with pytest.raises(
        TaskError, match="no table 'iris': there are energy, energy-authors, kin8nm, power, fashion, ptb, cifar"
    ):
        problem_named("iris")
    with pytest.raises(TaskError, match=r"at least 1 and .* got 0"):
        one_pass("energy", [], tmp_path, count=0)
