"""Laws of the features: free of the loss's unit, bounded whatever comes, and what their formulas say.

Letters: ``B`` members, ``S`` sites, ``F`` features.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trimtab.controllers import Constant
from trimtab.errors import SignalError
from trimtab.features import CLOCK, HISTORY, RUN, SITE, SPANS, Features
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import rollout
from trimtab.rules import SGD, Adam, Rule
from trimtab.signals import Signals
from trimtab.sites import sites_of
from trimtab.task import Batch, Model
from trimtab.tasks.digits_mlp import DigitsMLP

F64 = torch.float64
PANEL = Panel.of(["lr"])
FEATURES = Features(PANEL)
SQUARES = ("grad_sq", "weight_sq", "update_sq", "drift_sq", "last_grad_sq")
DOTS = ("grad_dot_update", "grad_dot_last_grad", "last_grad_dot_update", "grad_dot_drift")


def signals(step: int, losses: Any, *, val: Any = None, **given: Any) -> Signals:
    """Make a reading of one site; losses are ``[W]`` or ``[B, W]``, others numbers or ``[B]``."""
    losses = torch.as_tensor(losses, dtype=F64)
    losses = losses if losses.dim() == 2 else losses[None]
    members = len(losses)

    def column(value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=F64).reshape(-1, 1).expand(members, 1)

    return Signals(
        step=torch.full((members,), step),
        losses=losses,
        values=column(given.pop("lr", 0.1))[..., None],
        **{name: column(given.pop(name, 1.0 if name in SQUARES else 0.0)) for name in SQUARES + DOTS},
        val_loss=None if val is None else torch.as_tensor(val, dtype=F64).expand(members),
        **given,
    )


def seen(readings: list[Signals], features: Features = FEATURES, horizon: int | None = None) -> list[dict[str, Tensor]]:
    """Show readings one after the other; give each one's features by name, ``[B, S]``."""
    members, sites = readings[0].grad_sq.shape
    memory = features.start(members)
    at = torch.full((members, sites, len(features.panel)), 0.5, dtype=F64)
    rows = []
    for reading in readings:
        found, memory = features.see(reading, at, torch.zeros_like(at), horizon, memory)
        rows.append(dict(zip(features.names, found.unbind(-1), strict=True)))
    return rows


class Shuffled:
    """The digits' network with its hidden units in another order, and its loss in another unit."""

    name, batch_size, noise_shape = "digits-shuffled", 32, None

    def __init__(self, unit: float = 1.0, seed: int | None = None) -> None:
        self._task, self._unit, self._seed = DigitsMLP(), unit, seed
        self.data, self.score = self._task.data, self._task.score

    def build(self, seed: int) -> nn.Module:
        """Make the network; a shuffled one computes the same function."""
        net: Any = self._task.build(seed)
        if self._seed is not None:
            order = torch.randperm(32, generator=torch.Generator().manual_seed(self._seed))
            with torch.no_grad():
                for part in (net.hidden.weight, net.hidden.bias):
                    part.copy_(part[order].clone())
                net.output.weight.copy_(net.output.weight[:, order].clone())
        return net

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Give the mean cross-entropy in the unit chosen."""
        return self._unit * self._task.loss(model, batch)


def run(task: Any, rule: Rule, lr: float, by: str = "layer", seeds: tuple[int, ...] = (0, 1)) -> list[Tensor]:
    """Simulate 60 steps in float64, validation measured; give the features ``[B, S, F]`` of each reading."""
    sites = sites_of(task.build(0), by)
    plant = Plant(task, rule, PANEL, sites=sites, dtype=F64)
    values = torch.full((len(seeds), len(sites), 1), lr, dtype=F64)
    done = rollout(plant, Constant(), values, seeds=seeds, steps=60, horizon=60, validate_every=20)
    return [decision.seen.features for decision in done.decisions]


UNIT_FREE = [n for n, name in enumerate(FEATURES.names) if not name.startswith(("position", "move"))]


@pytest.mark.parametrize("unit", [1e-3, 1e3])
@pytest.mark.parametrize(
    ("rule", "lr", "power"),
    [(SGD(), 0.05, -1), (SGD(momentum=0.9), 0.01, -1), (Adam(eps=0.0), 1e-3, 0), (Adam(eps=1e-30), 1e-3, 0)],
    ids=["sgd", "momentum", "adam-eps-0", "adam-eps-tiny"],
)
def test_the_loss_s_unit_does_not_matter(rule: Rule, lr: float, power: int, unit: float) -> None:
    """In a real run a loss a thousand times larger (SGD's rate smaller by as much) gives the same features."""
    plain = run(Shuffled(), rule, lr)
    scaled = run(Shuffled(unit), rule, lr * unit**power)
    for one, other in zip(plain, scaled, strict=True):
        torch.testing.assert_close(one[..., UNIT_FREE], other[..., UNIT_FREE], rtol=1e-9, atol=1e-9)
    assert len({tuple(features.flatten().tolist()) for features in plain}) == len(plain)  # a run, not a standstill


@pytest.mark.parametrize("rule", [SGD(momentum=0.9), Adam()], ids=["sgd", "adam"])
def test_the_order_of_parameters_does_not_matter(rule: Rule) -> None:
    """In a real run hidden units in another order give the same features."""
    plain, shuffled = (run(Shuffled(seed=seed), rule, 1e-3) for seed in (None, 5))
    for one, other in zip(plain, shuffled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_members_are_seen_apart() -> None:
    """B members of a real run see what B runs of one see."""
    together = run(Shuffled(), SGD(), 0.05, seeds=(0, 1, 2))
    for b in range(3):
        for one, all_ in zip(run(Shuffled(), SGD(), 0.05, seeds=(b,)), together, strict=True):
            torch.testing.assert_close(one, all_[b : b + 1], rtol=1e-10, atol=1e-10)


WILD = st.sampled_from(
    [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 1e300, -1e300, 1e-300, 1e160, 1e-160, 5e-324]
)


@st.composite
def wild_readings(draw: st.DrawFn) -> list[Signals]:
    """Draw a few readings with any number in any field, of two members."""
    readings, step = [], 0
    for _ in range(draw(st.integers(1, 5))):
        step += draw(st.integers(1, 10))
        width = draw(st.integers(1, 4))
        losses = [[draw(WILD | st.floats(width=64)) for _ in range(width)] for _ in range(2)]
        given_ = {name: [draw(WILD) for _ in range(2)] for name in (*SQUARES, *DOTS, "lr")}
        val = draw(st.none() | st.lists(WILD, min_size=2, max_size=2))
        readings.append(signals(step, losses, val=val, **given_))
    return readings


@given(readings=wild_readings(), horizon=st.sampled_from([None, 1, 10**9]))
@settings(deadline=None, max_examples=40)
def test_features_are_bounded_whatever_comes(readings: list[Signals], horizon: int | None) -> None:
    """NaN, infinities, zeros and 1e±300 in any field, reading after reading, give numbers in [-10, 10]."""
    for row in seen(readings, horizon=horizon):
        found = torch.stack(list(row.values()))
        assert bool(found.isfinite().all())
        assert float(found.abs().max()) <= 10
    tame = seen([*readings, *[signals(100 + 10 * n, [1.0 / n], grad_dot_last_grad=0.5) for n in range(1, 4)]][-3:])
    assert bool(torch.stack(list(tame[-1].values())).isfinite().all())


@given(values=st.lists(st.floats(-3, 3).map(lambda x: round(x, 1)), min_size=1, max_size=HISTORY + 8))
@settings(deadline=None, max_examples=20)
def test_ranks_are_those_of_a_sorted_list(values: list[float]) -> None:
    """A rank is the share of the last 32 values below less the share above, ties counting for neither."""
    rows = seen([signals(n + 1, [1.0], grad_dot_update=v / 3) for n, v in enumerate(values)])
    shown = [float(row["cos_update"]) for row in rows]
    for n, row in enumerate(rows):
        last = shown[max(0, n - HISTORY) : n]
        expected = sum((shown[n] > v + 1e-6) - (shown[n] < v - 1e-6) for v in last) / max(1, len(last))
        assert pytest.approx(expected, abs=1e-12) == float(row["rank_cos_update"])
        assert -1 <= float(row["rank_cos_update"]) <= 1


def test_rounding_does_not_rank() -> None:
    """Values that differ by rounding alone rank as equal."""
    rows = seen([signals(n + 1, [1.0], grad_dot_update=0.5 + n * 1e-15) for n in range(5)])
    assert [0.0] * 5 == [float(row["rank_cos_update"]) for row in rows]


@pytest.mark.parametrize("every", [1, 3, 10])
def test_moving_means_are_those_of_a_loop(every: int) -> None:
    """Taken window by window in closed form, the loss's means equal those of a loop over steps, bad losses left out."""
    losses = (2 + torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=F64)).exp()
    losses[[7, 8, 31]] = torch.tensor([math.nan, math.inf, 1e200], dtype=F64)
    rows = seen([signals(t, losses[t - every : t]) for t in range(every, 61, every)])
    sums, weights = [0.0] * 4, [0.0] * 4
    best = first = math.inf
    for t, loss in enumerate(losses.tolist(), 1):
        is_good = abs(loss) < 1e150
        for i, span in enumerate(SPANS):
            sums[i] = (1 - 1 / span) * sums[i] + (loss / span if is_good else 0)
            weights[i] = (1 - 1 / span) * weights[i] + (1 / span if is_good else 0)
        first = loss if t == 1 else first
        if t % every:
            continue
        level = [a / b for a, b in zip(sums, weights, strict=True)]
        best = min(best, level[0])
        row = rows[t // every - 1]
        expected = {
            "trend_fast": math.log(level[0] / level[1]),
            "trend_mid": math.log(level[1] / level[2]),
            "trend_slow": math.log(level[2] / level[3]),
            "best_gap": math.log(level[0] / best),
            "progress_made": math.log(level[0] / first),
            "bad_share": sum(1 for x in losses[t - every : t].tolist() if not abs(x) < 1e150) / every,
        }
        for name, value in expected.items():
            assert pytest.approx(value, abs=1e-9) == float(row[name]), name


def test_noise_is_the_spread_beside_the_level() -> None:
    """Losses that alternate by ±10 % of their level have a noise of log 0.1, in every unit."""
    for unit in (1.0, 1e-6):
        course = [[unit * (1 + 0.1 * (-1) ** t) for t in range(10 * n, 10 * n + 10)] for n in range(60)]
        rows = seen([signals(10 * (n + 1), window) for n, window in enumerate(course)])
        assert pytest.approx(math.log(0.1), abs=0.02) == float(rows[-1]["noise"])


def test_a_falling_loss_has_falling_trends() -> None:
    """A loss that falls by 1 % a step has the trends of a geometric series; a constant one has none."""
    falling = [[0.99**t for t in range(10 * n, 10 * n + 10)] for n in range(120)]
    row = seen([signals(10 * (n + 1), window) for n, window in enumerate(falling)])[-1]
    # the mean of span s over a series q**t is q**t (1 - k) / (1 - k / q) with k = 1 - 1/s, where k < q
    fast, mid = ((1 / s) / (1 - (1 - 1 / s) / 0.99) for s in SPANS[:2])
    assert pytest.approx(math.log(fast / mid), abs=1e-9) == float(row["trend_fast"])
    still = seen([signals(10 * n, [0.3] * 10) for n in range(1, 30)])[-1]
    for name in ("trend_fast", "trend_mid", "trend_slow", "best_gap", "progress_made", "bad_share"):
        assert pytest.approx(0.0, abs=1e-9) == float(still[name]), name


def test_a_loss_that_crosses_zero_has_bounded_ratios() -> None:
    """A ratio of two signs is as large as a feature may be, with the sign of the difference."""
    rows = seen([signals(1, [2.0]), signals(2, [-3.0])])
    assert float(rows[1]["progress_made"]) < 0
    # level fast after two steps: (2 * 7/64 + -3 * 1/8) / (15/64)
    assert pytest.approx(-9.9035, abs=1e-3) == float(seen([signals(1, [2.0]), signals(2, [-9.0])])[1]["progress_made"])


def test_validation_is_compared_with_training_and_itself() -> None:
    """Gap, trend and distance from the best are log ratios of what was measured, and hold between measurements."""
    vals = [math.nan, 2.0, math.nan, 1.0, 4.0]
    rows = seen([signals(10 * (n + 1), [0.5] * 10, val=v) for n, v in enumerate(vals)])
    assert [1.0] * 5 == [float(row["has_val"]) for row in rows]
    expected = [(0, 0, 0), (math.log(4), 0, 0), (math.log(4), 0, 0), (math.log(2), math.log(0.5), 0),
                (math.log(8), math.log(4), math.log(4))]  # fmt: skip
    for row, (gap, trend, best) in zip(rows, expected, strict=True):
        found = [float(row[name]) for name in ("val_gap", "val_trend", "val_best_gap")]
        assert pytest.approx([gap, trend, best], abs=1e-9) == found


def test_cosines_and_sizes_are_what_their_formulas_say() -> None:
    """Cosines, update ratio, distance and directness of one reading, by hand."""
    row = seen(
        [
            signals(
                1,
                [1.0],
                grad_sq=4.0,
                update_sq=0.25,
                weight_sq=100.0,
                drift_sq=0.16,
                last_grad_sq=9.0,
                grad_dot_update=0.5,
                grad_dot_last_grad=-3.0,
            )
        ]
    )[0]
    expected = {
        "cos_update": 0.5 / (2 * 0.5),
        "cos_grad": -3 / (2 * 3),
        "update_ratio": math.log10(0.5 / 10) + 3,
        "distance": math.log10(0.4 / 10) + 1,
        "directness": math.log10(0.4 / 0.5) + 1,
        "snr": -3 / ((4 + 9) / 2),
        "grad_trend_fast": 0.0,
        "grad_trend_slow": 0.0,
    }
    for name, value in expected.items():
        assert pytest.approx(value, abs=1e-12) == float(row[name]), name


def test_gradient_trends_are_those_of_log_norms() -> None:
    """The gradient's log norm beside its mean over 32 steps, and that beside its mean over 256."""
    norms = [1.0, 2.0, 8.0]
    rows = seen([signals(10 * (n + 1), [1.0], grad_sq=g * g) for n, g in enumerate(norms)])
    sums, weights = [0.0, 0.0], [0.0, 0.0]
    for row, g in zip(rows, norms, strict=True):
        for i, span in enumerate((32, 256)):
            keep = math.exp(-10 / span)
            sums[i] = keep * sums[i] + (1 - keep) * math.log(g)
            weights[i] = keep * weights[i] + (1 - keep)
        fast, slow = (a / b for a, b in zip(sums, weights, strict=True))
        found = [float(row["grad_trend_fast"]), float(row["grad_trend_slow"])]
        assert pytest.approx([math.log(g) - fast, fast - slow], abs=1e-9) == found


# ---- the classical estimates, on a quadratic where the right answer is known


def descended(lr: float, steps: int, curvature: Tensor, start: Tensor) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """Descend ½ wᵀHw at a constant rate, read at every step; give features and the weights before each step."""
    w, last, readings, course = start.clone(), None, [], []
    for step in range(1, steps + 1):
        g = curvature * w
        u = torch.zeros_like(w) if last is None else last[0] - w
        g_last = torch.zeros_like(w) if last is None else last[1]
        d = start - w
        dots = {"grad_dot_update": g @ u, "grad_dot_last_grad": g @ g_last, "last_grad_dot_update": g_last @ u}
        squares = {"grad_sq": g @ g, "weight_sq": w @ w, "update_sq": u @ u, "drift_sq": d @ d}
        loss = [float(0.5 * (curvature * w) @ w)]
        squares["last_grad_sq"] = g_last @ g_last
        readings.append(signals(step, loss, lr=lr, **dots, **squares, grad_dot_drift=g @ d))
        course.append(w.clone())
        last = (w, g)
        w = w - lr * g
    return seen(readings), course


H = torch.tensor([1.0, 0.3, 0.05], dtype=F64)
W = torch.tensor([1.0, -2.0, 3.0], dtype=F64)


@pytest.mark.parametrize("lr", [1e-3, 0.1, 1.0])
def test_secant_is_the_exact_line_minimiser(lr: float) -> None:
    """exp(lr_secant) times the rate in use minimises the loss along the last update, exactly, on a quadratic."""
    rows, course = descended(lr, 12, H, W)
    assert 0.0 == float(rows[0]["lr_secant"])
    for row, w in zip(rows[1:], course, strict=False):
        g = H * w
        best = float(g @ g / (g @ (H * g)))  # the rate of steepest descent with exact line search
        assert pytest.approx(best / lr, rel=1e-9) == math.exp(float(row["lr_secant"]))


def test_secant_is_the_furthest_where_the_curvature_is_negative() -> None:
    """Downhill without end, the ratio is as large as a feature may be."""
    rows, _ = descended(0.1, 3, -H, W)
    assert 10.0 == float(rows[-1]["lr_secant"])


@pytest.mark.parametrize("lr", [1e-4, 0.1])
def test_dog_is_the_furthest_distance_over_the_gradients(lr: float) -> None:
    """exp(lr_dog) times the rate in use is DoG's rate, computed from all weights and gradients of the run."""
    rows, course = descended(lr, 20, H, W)
    steep = furthest = 0.0
    for row, w, before in zip(rows[1:], course[1:], course, strict=False):
        steep += float((H * before).square().sum())
        furthest = max(furthest, float((w - W).norm()))
        assert pytest.approx(furthest / math.sqrt(steep), rel=1e-9) == lr * math.exp(float(row["lr_dog"]))


def test_dog_grows_a_rate_that_is_too_small() -> None:
    """Far from the minimum, moving straight, a small rate is told to grow as the root of the steps taken."""
    rows, _ = descended(1e-6, 26, H, W)
    assert pytest.approx(0.5 * math.log(25), abs=1e-3) == float(rows[-1]["lr_dog"])


def test_d_adaptation_never_overstates_the_distance() -> None:
    """Its distance is a lower bound on that to the minimum (0 here), and of its order once the run has moved."""
    lr = 0.5
    rows, course = descended(lr, 60, H, W)
    steep, shares = 0.0, []
    for row, before in zip(rows[1:], course, strict=False):
        steep += float((H * before).square().sum())
        distance = lr * math.exp(float(row["lr_dadapt"])) * math.sqrt(steep)
        shares.append(distance / float(W.norm()))
    assert max(shares) <= 1
    assert shares[-1] > 0.2


def test_polyak_is_half_the_log_of_loss_over_descent() -> None:
    """It compares the loss with what the last update promised to gain, lr |g|² for SGD."""
    lr = 0.1
    rows, course = descended(lr, 8, H, W)
    for row, before, now in zip(rows[1:], course, course[1:], strict=False):
        loss, gain = 0.5 * float((H * now) @ now), lr * float((H * before).square().sum())
        assert pytest.approx(0.5 * math.log(loss / gain), rel=1e-9) == float(row["lr_polyak"])


def test_polyak_is_zero_at_the_rate_it_means() -> None:
    """On a round bowl, where Polyak's rate is 1/(2h), a step of the rate whose gain is the loss left reads 0."""
    h = 1.0
    lr = 2 - math.sqrt(3)  # ½ h (1 - lr h)² = lr h²
    rows, _ = descended(lr, 4, torch.full((3,), h, dtype=F64), W)
    assert pytest.approx(0.0, abs=1e-9) == float(rows[-1]["lr_polyak"])


# ---- names, clock, sites


def test_names_are_unique_and_as_many_as_features() -> None:
    """Each feature has a name of its own, in the order of the tensor's last axis."""
    for knobs in (["lr"], ["lr", "momentum", "weight_decay"]):
        features = Features(Panel.of(knobs), (0.0, 0.5, 1.0), (0.2, 0.5, 0.3))
        assert len(set(features.names)) == len(features.names)
        assert len(features.names) == 2 * len(RUN) + 3 * len(SITE) + len(CLOCK) + 2 * len(knobs)
        reading = run_like(features, 2)
        at = torch.rand(2, 3, len(knobs), dtype=F64)
        found, _ = features.see(reading, at, -at, 100, features.start(2))
        assert (2, 3, len(features.names)) == tuple(found.shape)
        row = dict(zip(features.names, found.unbind(-1), strict=True))
        for k, name in enumerate(knobs):
            torch.testing.assert_close(row[f"position_{name}"], 2 * at[..., k] - 1)
            torch.testing.assert_close(row[f"move_{name}"], -at[..., k])


def run_like(features: Features, members: int) -> Signals:
    """Make a reading of several sites, drawn."""
    rng = torch.Generator().manual_seed(0)
    sites = len(features.share)
    drawn = {name: torch.rand(members, sites, generator=rng, dtype=F64) for name in SQUARES + DOTS}
    values = torch.rand(members, sites, len(features.panel), generator=rng, dtype=F64)
    return Signals(step=torch.full((members,), 20), losses=torch.rand(members, 5, dtype=F64), values=values, **drawn)


def test_the_clock_tells_progress_horizon_and_age() -> None:
    """Progress is step / horizon, the others logarithms; without a horizon these three are 0 and age still tells."""
    reading = signals(100, [1.0])
    known, unknown = (seen([reading], horizon=horizon)[0] for horizon in (400, None))
    names = ("progress", "horizon", "has_horizon", "age", "has_val")
    assert pytest.approx([0.25, math.log10(400) / 2 - 1, 1, 0, 0]) == [float(known[name]) for name in names]
    assert [0, 0, 0, 0, 0] == [float(unknown[name]) for name in names]
    assert 1.0 == float(seen([signals(10_000, [1.0])])[0]["age"])


def test_sites_know_their_depth_and_share_and_see_the_mean_of_all() -> None:
    """Depth runs from -1 to 1, share is a logarithm, and means are over sites."""
    features = Features(PANEL, (0.0, 0.5, 1.0), (0.1, 0.01, 0.89))
    row = seen([run_like(features, 2)], features)[0]
    assert [-1.0, 0.0, 1.0] == row["depth"][0].tolist()
    assert pytest.approx([-1.0, -2.0, math.log10(0.89)]) == row["share"][0].tolist()
    for name in SITE:
        mean = row[name].mean(1, keepdim=True).expand(-1, 3)
        torch.testing.assert_close(row[f"mean_{name}"], mean, rtol=1e-12, atol=1e-12)
    for name in RUN:
        assert torch.equal(row[name], row[name][:, :1].expand(-1, 3))


def test_see_changes_nothing_in_place() -> None:
    """The memory handed in stays as it was, and keeps its shapes from the start on."""
    reading, at = signals(10, [1.0, 2.0]), torch.full((1, 1, 1), 0.5, dtype=F64)
    start = FEATURES.start(1)
    _, memory = FEATURES.see(reading, at, at, None, start)
    copy = {name: value.clone() for name, value in memory.items()}
    FEATURES.see(replace(reading, step=torch.tensor([20])), at, at, None, memory)
    assert all(torch.equal(copy[name].nan_to_num(7.0), memory[name].nan_to_num(7.0)) for name in copy)
    assert {n: (v.shape, v.dtype) for n, v in start.items()} == {n: (v.shape, v.dtype) for n, v in memory.items()}


def test_signals_of_other_sites_are_refused() -> None:
    """The error says how many sites each has."""
    features = Features(PANEL, (0.0, 1.0), (0.5, 0.5))
    with pytest.raises(SignalError, match=r"made for 2 sites, depth for 2; signals have 1"):
        features.see(signals(1, [1.0]), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), None, features.start(1))


def test_no_field_of_the_signals_is_forgotten() -> None:
    """Every field of Signals is fed by these tests, so that a new one is not left out of the laws."""
    known = {"step", "losses", "values", "hypergrad", "val_loss", *SQUARES, *DOTS}
    assert known == {field.name for field in fields(Signals)}


def test_the_page_tells_of_every_feature() -> None:
    """docs/features.md has a row for each feature of run, site and clock, in order, and says how many there are."""
    page = Path(__file__).parents[1] / "docs" / "features.md"
    rows = [line.split("`")[1] for line in page.read_text().splitlines() if line.startswith("| `")]
    assert list(RUN + SITE + CLOCK) == rows[rows.index(RUN[0]) : rows.index(CLOCK[-1]) + 1]
    assert 63 + 2 * len(PANEL) == len(FEATURES.names)
    memory = FEATURES.start(1)
    per_site = sum(memory[name].numel() for name in ("grad", "snr", "path", "history"))
    assert (17, 714) == (sum(value.numel() for value in memory.values()) - per_site, per_site)
