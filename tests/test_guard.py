"""Laws of the guard: what it fires on, what it lets pass, how far it cuts, what it keeps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.guard import Guard, Verdict
from trimtab.judgement import BELIEVED, EXPLODED, FINE, HARMED, NOT_FINITE, RISEN, TRIAL, UNSOUND
from trimtab.signals import Signals, is_reading

F64 = torch.float64
EVERY = 10
EARLY_READINGS = 5  # at steps 1, 2, 4, 7, 10


def reading(
    step: int, losses: Tensor | Sequence[float], grad_sq: Any = 1.0, weight_sq: Any = 1.0, val: Tensor | None = None
) -> Signals:
    """Make a reading of members ``[B, W]`` losses, one site, and their validation losses ``[B]``."""
    losses = torch.as_tensor(losses, dtype=F64)
    losses = losses if losses.dim() == 2 else losses[None]
    members = len(losses)

    def column(value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=F64).reshape(-1, 1).expand(members, 1)

    zero = torch.zeros(members, 1, dtype=F64)
    return Signals(
        step=torch.full((members,), step),
        losses=losses,
        values=torch.full((members, 1, 1), 0.1, dtype=F64),
        grad_sq=column(grad_sq),
        weight_sq=column(weight_sq),
        val_loss=val,
        **dict.fromkeys(("update_sq", "drift_sq", "last_grad_sq"), zero),
        **dict.fromkeys(("grad_dot_update", "grad_dot_last_grad", "last_grad_dot_update", "grad_dot_drift"), zero),
    )


def windows(course: Tensor) -> list[tuple[int, Tensor]]:
    """Cut a course of losses ``[B, T]`` into the windows of its readings, each with its step."""
    cut, begin = [], 0
    for step in range(1, course.shape[1] + 1):
        if is_reading(step, EVERY):
            cut.append((step, course[:, begin:step]))
            begin = step
    return cut


def judged(course: Any, guard: Guard | None = None, val: Any = None, looks: int = 50) -> list[Verdict]:
    """Judge a course of losses ``[B, T]`` or ``[T]``, and of validation losses at each `looks` steps, by readings."""
    course = torch.as_tensor(course, dtype=F64)
    course = course if course.dim() == 2 else course[None]
    guard = guard or Guard()
    memory = guard.start(len(course))
    verdicts = []
    for step, window in windows(course):
        seen = None if val is None else torch.as_tensor(val, dtype=F64).expand(len(course), -1)[:, step - 1]
        known = seen if seen is None or step % looks == 0 else torch.full_like(seen, math.nan)
        verdict, memory = guard.check(reading(step, window, val=known), memory)
        verdicts.append(verdict)
    return verdicts


def reasons(verdicts: list[Verdict]) -> list[int]:
    """List the first member's reasons."""
    return [int(verdict.reason[0]) for verdict in verdicts]


def noise(steps: int, seed: int = 0, members: int = 8) -> Tensor:
    """Draw ``[members, steps]`` normal noise."""
    return torch.randn(members, steps, generator=torch.Generator().manual_seed(seed), dtype=F64)


T = torch.arange(1000, dtype=F64)
FALLING = 0.1 + 2.2 * torch.exp(-T / 200)
ORDINARY = {
    "cross-entropy with noise": FALLING + 0.1 * noise(1000),
    "noise in proportion": FALLING * torch.exp(0.3 * noise(1000, 1)),
    "heavy-tailed batches": FALLING * torch.exp(0.5 * noise(1000, 2)),
    "a loss that crosses zero": 3 - 6 * (1 - torch.exp(-T / 300)) + 0.5 * noise(1000, 3),
    "a loss below zero throughout": -2 - 3 * (1 - torch.exp(-T / 300)) + 0.3 * noise(1000, 4),
    "a regression loss that falls to 1e-8": 10 ** (-8 * T / 1000) * torch.exp(0.5 * noise(1000, 5)),
    "a plateau with noise only": 2.3 + 0.02 * noise(1000, 6),
    "a constant": torch.full((1, 1000), 0.7, dtype=F64),
    "zero": torch.zeros(1, 1000, dtype=F64),
    "a slow rise (overfitting)": 0.5 + 0.001 * T + 0.05 * noise(1000, 8),
    "a warm-up's bump": 2.3 + torch.exp(-(((T - 30) / 20) ** 2)) + 0.1 * noise(1000, 9),
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_noise_raises_no_alarm(kind: str) -> None:
    """A thousand steps of an ordinary course are fine at every reading; early, heavy tails may cost some cuts.

    How many, `tests/test_guard_noise.py` says. Noise may also be taken for harm, once, which cuts nothing.
    """
    verdicts = judged(ORDINARY[kind])
    early = torch.stack([verdict.restore & (verdict.reason != HARMED) for verdict in verdicts[:EARLY_READINGS]])
    assert not any(bool(verdict.reason.any()) for verdict in verdicts[EARLY_READINGS:])
    assert not bool(early.any()) or kind == "heavy-tailed batches"
    assert float(early.any(0).double().mean()) < 0.5
    cuts = torch.stack([verdict.cut for verdict in verdicts]).amin(0)  # of the first rate, the trial's together
    assert float(cuts.min()) >= (0.25**3 if kind == "heavy-tailed batches" else 1.0)


UP_AND_ON = torch.where((T > 300) & (T < 500), 1.15, 1.0) * (0.5 + torch.exp(-T / 300))  # a rate raised for a while
BY_HEART = 1.0 + (T / 400 - 1) ** 2  # lowest at step 401, 6 % above that at 500, 14 % at 550, 25 % at 600


def keeps(verdicts: list[Verdict]) -> list[int]:
    """List the steps at which the first member's state was kept."""
    steps = filter(lambda step: is_reading(step, EVERY), itertools.count(1))
    return [step for step, verdict in zip(steps, verdicts, strict=False) if bool(verdict.keep[0])]


def test_a_snapshot_is_taken_at_a_validation() -> None:
    """Once two validations tell how far they lie apart; not where that is further than a restore may lose."""
    falling = 0.1 + torch.exp(-T / 300)
    often = keeps(judged(FALLING, val=falling, looks=50))
    assert {0} == {step % 50 for step in often if step > 50}
    assert len(often) >= 8
    rare = keeps(judged(FALLING, val=falling, looks=300))
    assert max(after - before for before, after in itertools.pairwise(rare)) <= 140
    never = keeps(judged(FALLING, val=falling, looks=50, guard=Guard(rise=None)))
    assert any(step % 50 for step in never if step > 50)


def test_a_snapshot_is_not_held_for_long_to_a_loss_that_was_another_state_s() -> None:
    """Validations lie far apart, the snapshot between two of them: the next one after going back tells its own loss."""
    steps = torch.arange(6000, dtype=F64)
    val = torch.where(steps < 650, 0.076, 0.187)
    verdicts = judged(0.1 + 2.2 * torch.exp(-steps / 200), val=val, looks=300)
    assert 1 == reasons(verdicts).count(RISEN)


def test_what_is_learned_by_heart_is_taken_back() -> None:
    """Nothing is kept once the validation loss rises as the training loss falls; far above, the run goes back."""
    verdicts = judged(FALLING, val=BY_HEART)
    steps = [step for step, _ in windows(FALLING[None])]
    back = steps[reasons(verdicts).index(RISEN)]
    kept = [step for step, verdict in zip(steps, verdicts, strict=True) if bool(verdict.keep) and step < back]
    assert 450 < back <= 600
    assert abs(kept[-1] - 401) <= 50  # as near to the lowest as looks are
    first = verdicts[steps.index(back)]
    assert bool(first.restore)
    assert not bool(first.keep)
    assert float(first.cut) == 0.5


def test_each_return_halves_the_rate_further() -> None:
    """Where going back at half the rate does not help, the next time it is a quarter of the snapshot's."""
    cuts = [float(verdict.cut) for verdict in judged(FALLING, val=BY_HEART) if bool(verdict.restore)]
    assert [0.5**number for number in range(1, len(cuts) + 1)] == cuts
    assert len(cuts) >= 2


def test_the_level_goes_back_with_the_run() -> None:
    """The snapshot's higher training loss is no explosion, however much lower the one learned by heart was."""
    guard = Guard()
    memory = guard.start(1)
    course = [(10, 1.0, 1.0), (20, 0.9, 0.9), (30, 0.05, 1.2), (40, 0.05, 1.3), (50, 0.9, 0.9), (60, 0.9, 0.9)]
    found = []
    for step, loss, val in course:
        verdict, memory = guard.check(reading(step, [loss] * 10, val=torch.tensor([val], dtype=F64)), memory)
        found.append(int(verdict.reason))
    assert RISEN in found[2:4]
    assert [FINE, FINE] == found[4:]
    assert int(memory["restores"]) == found.count(RISEN)


@pytest.mark.parametrize(
    ("losses", "val", "guard"),
    [
        (UP_AND_ON, UP_AND_ON, Guard()),  # the training loss rises too, and less than 20 %: a high rate may yet pay
        (FALLING, BY_HEART, Guard(rise=None)),
        (FALLING, BY_HEART.where(T < 400, math.nan), Guard()),  # not measured any more
        (FALLING, FALLING + 0.1, Guard()),
    ],
    ids=["rate raised", "not asked for", "not measured", "falling"],
)
def test_what_is_not_taken_back(losses: Tensor, val: Tensor, guard: Guard) -> None:
    """It takes a validation loss that rises beyond its snapshot's, and further where the training loss does too."""
    assert {FINE} == set(reasons(judged(losses, guard, val)))


def test_what_gets_worse_altogether_is_taken_back() -> None:
    """A training loss that rises with the validation loss, too slowly for an explosion; no state of it is kept."""
    verdicts = judged(BY_HEART, val=BY_HEART)
    steps = [step for step, _ in windows(BY_HEART[None])]
    first = reasons(verdicts).index(RISEN)
    assert 600 <= steps[first] <= 700  # 20 % above the lowest, twice in a row
    assert max(step for step in keeps(verdicts) if step < steps[first]) <= 400
    assert float(verdicts[first].cut) == 0.5


@pytest.mark.parametrize("height", [2.0, 50.0], ids=["within the bound", "beyond it"])
def test_changed_data_is_not_gone_back_from_for_ever(height: float) -> None:
    """Where both losses are higher for good, three tries are made, and what is usual is learned anew."""
    course = torch.full((1, 3000), 1.0, dtype=F64)
    course[0, 800:] = height
    verdicts = judged(course, val=course)
    bad = [reason for reason in reasons(verdicts) if reason != FINE]
    assert [RISEN] * 3 == bad or [EXPLODED] * 3 + [UNSOUND] == bad
    assert not any(bool(verdict.gave_up) for verdict in verdicts)
    assert len([step for step in keeps(verdicts) if step > 1500]) >= 3


@pytest.mark.parametrize("scatter", [0.0, 0.01])
@pytest.mark.parametrize("jumps", [False, True], ids=["evenly", "by leaps"])
def test_data_that_goes_on_changing_is_followed(jumps: bool, scatter: float) -> None:
    """Both losses rise without end: after three returns in the run it is the data, and snapshots go with it."""
    steps = torch.arange(10_000, dtype=F64)
    drift = 1.3 ** (steps / 1000).floor() if jumps else 1 + steps / 1500
    verdicts = judged(
        drift * torch.exp(scatter * noise(10_000, 5, 1)), val=drift * torch.exp(scatter * noise(10_000, 6, 1))
    )
    assert [RISEN] * 3 == [reason for reason in reasons(verdicts) if reason != FINE]
    assert not any(bool(verdict.gave_up) for verdict in verdicts)
    late = [step for step in keeps(verdicts) if step > 3000]
    assert max(after - before for before, after in itertools.pairwise([*late, 10_000])) <= 1500


def test_what_validates_in_an_explosion_is_not_believed() -> None:
    """The loss of a state that is left hides no rise to come: the run is taken back as if it had not been measured."""
    course, told = FALLING.clone(), BY_HEART.clone()
    course[290:300] = 1e6
    told[299] = 1e6
    blind = told.clone()
    blind[299] = math.nan
    spoilt, plain = (reasons(judged(course, val=val)) for val in (told, blind))
    assert spoilt == plain
    assert {EXPLODED, RISEN} <= set(plain)


def test_a_failure_between_rare_validations_stops_no_snapshots() -> None:
    """A bad batch a hundred steps after a validation, the next one 900 on: states are kept all the same."""
    course = 0.1 + 2.2 * torch.exp(-torch.arange(2000, dtype=F64) / 200)
    course[1110:1120] = math.nan
    course[1115] = math.inf
    val = 0.1 + 2.2 * torch.exp(-torch.arange(2000, dtype=F64) / 400)
    kept = keeps(judged(course, val=val, looks=1000))
    late = [*(step for step in kept if step > 1000), 2000]
    assert max(after - before for before, after in itertools.pairwise(late)) <= 260


def test_a_single_spike_hides_no_rise_for_long() -> None:
    """One validation at a hundred times the loss counts as a rise of a quarter of it."""
    told = BY_HEART.clone()
    told[249] = 100.0
    spiked, plain = (reasons(judged(FALLING, val=val)).index(RISEN) for val in (told, BY_HEART))
    assert 0 <= spiked - plain <= 10  # two validations


def test_a_validation_loss_may_scatter() -> None:
    """Of 64 courses of twenty looks, with 5 % of noise on a falling validation loss, few go back even once."""
    losses = FALLING.expand(64, -1)
    verdicts = judged(losses, val=(0.2 + FALLING) * torch.exp(0.05 * noise(1000, 11, members=64)))
    once = torch.stack([verdict.restore for verdict in verdicts]).any(0)
    assert float(once.double().mean()) < 0.05


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("kind", ORDINARY)
def test_an_explosion_is_seen_at_its_first_reading(kind: str, scale: float) -> None:
    """After 500 ordinary steps a loss that doubles at every step is caught within two readings."""
    course = ORDINARY[kind][:1, :520].clone() * scale
    size = (course[0, :500].amax() - course[0, :500].amin() + course[0, :500].abs().amax()).clamp_min(1e-3 * scale)
    course[0, 500:] += size * 2.0 ** torch.arange(1, 21)
    found = reasons(judged(course))
    assert FINE == max(found[EARLY_READINGS:-2])
    assert EXPLODED in found[-2:]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_seen(bad: float) -> None:
    """One bad loss anywhere in a reading's window is enough; NaN beside a finite gradient is a loss nobody told."""
    guard = Guard()
    memory = guard.start(1)
    for step in (1, 2, 4, 7):
        _, memory = guard.check(reading(step, [1.0]), memory)
    gradient = math.nan if math.isnan(bad) else 1.0
    verdict, _ = guard.check(reading(10, [1.0, bad, 1.0], grad_sq=gradient), memory)
    assert NOT_FINITE == int(verdict.reason)
    assert bool(verdict.restore)


@pytest.mark.parametrize("field", ["grad_sq", "weight_sq"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_and_weights_that_are_no_numbers_are_seen(field: str, bad: float) -> None:
    """A finite loss does not excuse them."""
    guard = Guard()
    _, memory = guard.check(reading(1, [1.0]), guard.start(1))
    verdict, _ = guard.check(reading(2, [1.0], **{field: bad}), memory)
    assert NOT_FINITE == int(verdict.reason)


def test_a_loss_that_nobody_told_is_no_failure() -> None:
    """Where the caller gives no loss (NaN) and gradients are finite, the guard lets the run go."""
    verdicts = judged(torch.full((1, 100), math.nan))
    assert FINE == max(reasons(verdicts))
    assert bool(verdicts[0].keep)


def test_bad_batches_after_calm_losses_are_forgiven() -> None:
    """What is not finite and came out of nothing restores without a cut, three times in a row; the fourth cuts."""
    course = torch.ones(1, 60, dtype=F64)
    for step in (15, 25, 35, 45):
        course[0, step] = math.inf
    found = [verdict for verdict in judged(course) if bool(verdict.reason)]
    assert all(bool(verdict.restore) for verdict in found)
    assert [1.0, 1.0, 1.0, 0.25] == [float(verdict.cut) for verdict in found]


def test_three_good_readings_make_bad_batches_forgivable_again() -> None:
    """Bad batches far apart never cut, however many they are."""
    course = torch.ones(1, 1000, dtype=F64)
    course[0, 55::100] = math.inf
    found = [verdict for verdict in judged(course) if bool(verdict.reason)]
    assert [1.0] * 10 == [float(verdict.cut) for verdict in found]


def test_what_rose_before_it_overflowed_is_not_forgiven() -> None:
    """A loss that grew before it was infinite is an explosion, and cuts at once."""
    course = torch.ones(1, 60, dtype=F64)
    course[0, 52:55] = torch.tensor([5.0, 1e3, 1e9])
    course[0, 55:60] = math.inf
    (verdict,) = [verdict for verdict in judged(course) if bool(verdict.reason)]
    assert 0.25 == float(verdict.cut)


def test_an_explosion_is_not_forgiven() -> None:
    """A loss that exploded cuts at once, also after good readings."""
    course = torch.ones(1, 50, dtype=F64)
    course[0, 40:] = 1e6
    (verdict,) = [verdict for verdict in judged(course) if bool(verdict.reason)]
    assert EXPLODED == int(verdict.reason)
    assert 0.25 == float(verdict.cut)


def test_a_window_that_begins_bad_forgives_nothing() -> None:
    """At step 2 the only loss since the first is infinite: nothing was calm before it, so the rate is cut, twice."""
    (verdict, *_) = [v for v in judged([1.0, math.inf, 1.0, 1.0]) if bool(v.reason)]
    assert 0.25**2 == float(verdict.cut)


@pytest.mark.parametrize(
    ("margin", "rise", "cut"),
    [(2.0, 1.8, 1.0), (2.0, 1.9, 0.25), (2.0, 2.9, 0.25), (2.0, 3.1, 0.0625), (0.5, 1.6, 0.0625)],
)
def test_early_a_smaller_rise_cuts_once_and_an_explosion_twice(margin: float, rise: float, cut: float) -> None:
    """At step 2 a loss beyond 1.85 of the untouched network's is bad, one beyond the usual law cuts twice."""
    _, verdict = judged([1.0, rise], Guard(margin=margin))
    assert (cut < 1) == bool(verdict.restore)
    assert cut == float(verdict.cut)


def test_after_step_10_the_usual_law_alone_holds() -> None:
    """The same rises at step 20 cut never, and once."""
    for rise, cut in ((2.9, 1.0), (3.5, 0.25)):
        assert cut == float(judged([1.0] * 10 + [rise] * 10, Guard(margin=2.0))[-1].cut)


@pytest.mark.parametrize(("losses", "harmed"), [
    ([1.0, 0.9, 0.9, 1.6, 0.9, 0.9, 0.9], True), ([1.0] + [1.21] * 6, True), ([1.0] + [1.19] * 6, False),
    ([1.0, 1.8, 0.9, 0.9, 0.9, 0.9, 0.9], True), ([-1.0] + [-0.7] * 6, True), ([-1.0] + [-0.9] * 6, False),
])  # fmt: skip
def test_harm_in_the_first_seven_steps_is_undone_once(losses: list[float], harmed: bool) -> None:
    """Where a window's mean was a fifth above the first loss, step 7 goes back to the first state; no rate is cut."""
    verdicts = judged([*losses, *[0.9 * losses[0]] * 40])
    assert [0, 0, 0, HARMED if harmed else FINE] == reasons(verdicts)[:4]
    assert {FINE} == set(reasons(verdicts)[4:])
    assert 1.0 == float(verdicts[3].cut)
    assert [True, False, False, False] == [bool(verdict.keep) for verdict in verdicts[:4]]


def test_harm_counts_as_no_failure() -> None:
    """It uses up no try, and brings snapshots no closer; the level is the first state's again."""
    guard = Guard()
    memory = guard.start(1)
    for step, loss in ((1, 1.0), (2, 1.8), (4, 1.5), (7, 1.5)):
        _, memory = guard.check(reading(step, [loss]), memory)
    assert [0, 0, 0, 1] == [int(memory[name]) for name in ("tries", "cuts", "failures", "restores")]
    assert [1.0, 1.0] == memory["means"][0, :2].tolist()


def test_a_restored_run_is_kept_more_often() -> None:
    """Each failure brings snapshots closer: 4 of them make a spacing of 125 steps one of 7."""
    guard = Guard()
    memory = guard.start(1)
    memory |= {"kept_at": torch.tensor([1000])}
    step = torch.tensor([1010])
    assert [False] == guard.is_due(step, memory).tolist()
    assert [True] == guard.is_due(step, memory | {"failures": torch.tensor([4])}).tolist()


@pytest.mark.parametrize("cut", [0.25, 0.5, 0.01])
def test_each_try_cuts_further(cut: float) -> None:
    """Failures without a new snapshot cut further and further from the snapshot's rate, up to step 10 twice a time."""
    verdicts = judged([1.0] + [math.inf] * 29, Guard(cut=cut, tries=6))
    assert pytest.approx([cut**n for n in (2, 4, 6, 8, 9, 10)]) == [float(v.cut) for v in verdicts[1:7]]


def test_it_gives_up_when_the_tries_are_used_up() -> None:
    """The reading after `tries` failures restores a last time and gives up; later readings are left alone."""
    verdicts = judged([1.0] + [math.inf] * 99, Guard(tries=3))
    assert [False, False, False, False, True, True, True] == [bool(v.gave_up) for v in verdicts[:7]]
    assert [False, True, True, True, True, False, False] == [bool(v.restore) for v in verdicts[:7]]
    assert not any(bool(v.reason) or bool(v.keep) for v in verdicts[5:])


def test_a_snapshot_makes_the_tries_new() -> None:
    """After a failure, three good readings and a new snapshot the count of tries and cuts begins again."""
    course = torch.ones(1, 400, dtype=F64)
    course[0, 100:110] = 1e6
    course[0, 300:310] = 1e6
    cuts = [float(v.cut) for v in judged(course, Guard(tries=1)) if bool(v.reason)]
    assert [0.25, 0.25] == cuts
    assert not any(bool(v.gave_up) for v in judged(course, Guard(tries=1)))


def test_the_first_state_is_kept_whatever_its_loss() -> None:
    """There is no other to go back to: a first reading that is bad keeps it, and goes back to it."""
    first, second, *_ = judged([math.inf] * 10)
    assert (True, True) == (bool(first.keep), bool(first.restore))
    assert (False, True) == (bool(second.keep), bool(second.restore))


def test_a_spoilt_first_gradient_is_no_fault_of_the_rate() -> None:
    """Before the first update the rate has done nothing: back without a cut."""
    guard = Guard()
    verdict, _ = guard.check(reading(1, [1.0], grad_sq=math.nan), guard.start(1))
    assert bool(verdict.restore)
    assert 1.0 == float(verdict.cut)


def test_a_bad_reading_is_never_kept() -> None:
    """After the first, keep and restore exclude each other, and keep needs a good reading."""
    course = torch.where(noise(400, 3, 4) > 2.5, math.inf, FALLING[:400])
    for verdict in judged(course)[1:]:
        assert not bool((verdict.keep & (verdict.restore | (verdict.reason != FINE))).any())


def test_a_state_whose_own_loss_is_far_up_is_not_kept() -> None:
    """The mean since the last reading may still be fine when a spike has begun: going back to that would be no help."""
    calm, guard = torch.full((1, 1200), 0.01, dtype=F64), Guard(spacing=0)  # a snapshot is due at each reading
    calm[0, 0] = 2.0
    spike = calm.clone()
    spike[0, 1129] = 0.8  # the last of a window, whose mean stays below the bound
    kept = {
        name: {step for (step, _), verdict in zip(windows(course), judged(course, guard), strict=True) if verdict.keep}
        for name, course in {"calm": calm, "spike": spike}.items()
    }
    assert {FINE} == set(reasons(judged(spike, guard)))
    assert {1130} == kept["calm"] - kept["spike"]


def test_a_state_whose_mean_loss_is_far_above_a_low_level_is_not_kept() -> None:
    """Far below the first loss the bound is wide beside the level: what it lets pass is not yet worth going back to."""
    course, guard = torch.full((1, 2400), 0.001, dtype=F64), Guard(spacing=0)
    course[0, 0] = 2.0
    course[0, 2221:2230] = 0.02  # twenty times the level, a fifth of the bound, and the last one no more
    verdicts = judged(course, guard)
    kept = {step for (step, _), verdict in zip(windows(course), verdicts, strict=True) if verdict.keep}
    assert {FINE} == set(reasons(verdicts))
    assert {2220, 2240} <= kept
    assert 2230 not in kept


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_failure_a_state_is_kept_though_it_validates_worse(fails: bool) -> None:
    """A run that explodes needs a recent state more than the best one: else each time it loses all since that one."""
    course = 2.0 - torch.arange(1000, dtype=F64)[None] / 1000
    course[0, 720:730] = 50.0 if fails else course[0, 719]
    val = torch.full((1, 1000), 1.0, dtype=F64)
    val[0, 640:] = 1.02  # no more than 5 % above: it is not taken back
    verdicts = judged(course, Guard(spacing=1 / 16), val=val, looks=20)
    kept = [step for (step, _), verdict in zip(windows(course), verdicts, strict=True) if verdict.keep]
    assert (EXPLODED in reasons(verdicts)) is fails
    assert ([step for step in kept if step > 640] != []) is fails


def spoilt(first: float, low: float = 0.01, high: float = 1.0) -> list[Verdict]:
    """Judge a run at `low` whose readings from step 410 on are `high`, the first loss of each being `first`."""
    course = torch.full((1, 800), low, dtype=F64)
    course[0, 0] = 2.0
    course[0, 400:] = high
    course[0, 410::10] = first
    return judged(course)[len(windows(course[:, :400])) :]


def test_a_snapshot_that_is_itself_too_high_is_gone_on_from() -> None:
    """Where its own loss is beyond the bound on three batches in a row, no rate is to blame: a new level, one cut."""
    verdicts = spoilt(first=0.9)
    assert [EXPLODED] * BELIEVED + [UNSOUND] == reasons(verdicts[: BELIEVED + 1])
    assert pytest.approx([1 / 4, 1 / 16, 1 / 64, 1 / 4]) == [float(v.cut) for v in verdicts[: BELIEVED + 1]]
    after = verdicts[BELIEVED + 1 :]
    assert {FINE} == set(reasons(after))
    assert any(bool(v.keep) for v in after)
    assert not any(bool(v.gave_up) for v in verdicts)


def test_a_snapshot_whose_own_loss_is_low_is_not_gone_on_from() -> None:
    """Where the first loss after going back is fine and the rest are not, it is the rate: cut, until it gives up."""
    verdicts = spoilt(first=0.01)
    assert UNSOUND not in reasons(verdicts)
    assert bool(verdicts[-1].gave_up)


def test_own_losses_count_only_in_a_row() -> None:
    """One batch on which the snapshot is fine says that it may be so: the count begins again."""
    course = torch.full((1, 520), 0.01, dtype=F64)
    course[0, 0] = 2.0
    course[0, 400:] = 1.0
    course[0, 430] = 0.01  # the first of the third reading after going back
    found = reasons(judged(course))[-12:]
    assert [EXPLODED] * 6 + [UNSOUND] + [FINE] * 5 == found


def test_a_failure_after_that_cuts_further() -> None:
    """Until a new snapshot is kept, the next failure cuts from the rate that the run went on at; tries are new."""
    guard, memory = Guard(), Guard().start(1)
    for step in (1, 2, 4, 7, 10, *range(20, 2001, 10)):
        _, memory = guard.check(reading(step, [2.0 if step == 1 else 0.01] * 10), memory)
    for step in range(2010, 2050, 10):
        settled, memory = guard.check(reading(step, [1.0] * 10), memory)
    assert [UNSOUND] == settled.reason.tolist()
    assert (0, 0, 1) == tuple(int(memory[name]) for name in ("tries", "unsound", "cuts"))
    assert pytest.approx([1.0, 1.0, 0.0]) == memory["means"][0].tolist()
    failed, _ = guard.check(reading(2050, [1e3] * 10), memory)
    assert pytest.approx(0.25**2) == float(failed.cut)


@pytest.mark.parametrize(("spacing", "longest"), [(1 / 8, 256), (1 / 32, 256), (0.5, 100), (0.0, 256)])
def test_snapshots_are_spaced(spacing: float, longest: int) -> None:
    """One is kept at the first reading, and after the trial when `spacing` of the steps, or `longest`, has passed."""
    guard = Guard(spacing=spacing, longest=longest)
    course = torch.ones(1, 2000, dtype=F64)
    kept = [step for (step, _), v in zip(windows(course), judged(course, guard), strict=True) if bool(v.keep)]
    steps = [step for step, _ in windows(course)]
    last, expected = 0, []
    for step in steps:
        if last == 0 or (step > TRIAL and step - last >= min(spacing * step, longest)):
            expected.append(step)
            last = step
    assert expected == kept
    assert 1 == kept[0]


def test_what_is_kept_was_due() -> None:
    """`is_due`, asked before the step, tells whenever `check` keeps after it: so the state is at hand."""
    guard, course = Guard(), ORDINARY["noise in proportion"]
    memory = guard.start(len(course))
    for step, window in windows(course):
        due = guard.is_due(torch.full((len(course),), step), memory)
        verdict, memory = guard.check(reading(step, window), memory)
        assert not bool((verdict.keep & ~due).any())


@pytest.mark.parametrize("spacing", [0.1, 1 / 8, 0.0])
def test_plain_numbers_tell_the_same(spacing: float) -> None:
    """A live run asks in plain numbers what simulated ones ask in tensors: to the last step the same answer."""
    guard, course = Guard(spacing=spacing), FALLING[:600].clone()
    course[300:305] = 50.0
    memory, answers = guard.start(1), set()
    for step, window in windows(course[None]):
        due = guard.is_due_of_one(step, memory)
        assert due is bool(guard.is_due(torch.tensor([step], dtype=F64), memory))
        answers.add(due)
        val = torch.tensor([1.0 if step % 50 == 0 else math.nan], dtype=F64)
        _, memory = guard.check(reading(step, window, val=val), memory)
    assert {True, False} == answers


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_loss_s_unit_does_not_matter(scale: float) -> None:
    """A loss a thousand times smaller or larger gets the same verdicts, failures and over-fitting included."""
    course = (FALLING * torch.exp(0.5 * noise(1000, 2)))[:, :300].clone()
    course[:4, 150:] *= 1.5 ** torch.arange(150)
    course[4, 77] = math.inf
    val = 1.0 + (T[:300] / 100 - 1) ** 2
    plain, scaled = judged(course, val=val), judged(course * scale, val=val * scale)
    assert {EXPLODED, RISEN} <= {int(reason) for verdict in plain for reason in verdict.reason}
    for one, other in zip(plain, scaled, strict=True):
        for name in ("keep", "restore", "cut", "reason", "gave_up"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_members_are_judged_apart() -> None:
    """B members get the verdicts of B runs of one."""
    course = (FALLING * torch.exp(0.5 * noise(1000, 2)))[:, :300].clone()
    course[:4, 150:] *= 1.5 ** torch.arange(150)
    course[4, 77] = math.inf
    course[5, :] = math.nan
    together = judged(course)
    for b in range(len(course)):
        for one, all_ in zip(judged(course[b]), together, strict=True):
            for name in ("keep", "restore", "cut", "reason", "gave_up"):
                assert torch.equal(getattr(one, name), getattr(all_, name)[b : b + 1])


def test_a_bad_reading_does_not_move_the_level() -> None:
    """What exploded is not taken into the means: the next reading is judged by the level from before."""
    guard = Guard()
    memory = guard.start(1)
    for step in (1, 2, 4, 7, 10):
        _, memory = guard.check(reading(step, [1.0]), memory)
    _, after = guard.check(reading(20, [1e9]), memory)
    for name in ("means", "first", "best"):
        assert torch.equal(memory[name], after[name])


def test_check_changes_nothing_in_place() -> None:
    """The memory handed in stays as it was."""
    guard = Guard()
    _, memory = guard.check(reading(1, [1.0]), guard.start(1))
    before = {name: value.clone() for name, value in memory.items()}
    guard.check(reading(2, [math.inf]), memory)
    for name, value in before.items():
        torch.testing.assert_close(memory[name], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "setting",
    [{"margin": 0.0}, {"cut": 1.0}, {"cut": 0.0}, {"tries": 0}, {"spacing": 1.0}, {"spacing": -0.1}, {"longest": 0}],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    """The error states the law and all the values."""
    with pytest.raises(KnobError, match=r"A guard needs `margin > 0`, `0 < cut < 1`.*got margin="):
        Guard(**setting)
