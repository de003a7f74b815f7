"""Judgement: what a reading comes to before the guard acts on it: fine, a failure and its kind, or fit to be kept.

Letters: ``B`` members, ``W`` steps since the last reading.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.best import BEYOND, risen
from trimtab.level import Bounds, Memory, bounds, followed, none_yet
from trimtab.signals import Signals

FINE, NOT_FINITE, EXPLODED, RISEN, HARMED, UNSOUND = 0, 1, 2, 3, 4, 5
REASONS = (
    "",
    "the loss or the gradient is not finite",
    "the loss exploded",
    "the validation loss rose",
    "the first steps did harm",
    "the snapshot's own loss is as high",
)
GLITCHES = 3  # bad batches in a row that are believed to be such
TRIAL, HARM = 7, 0.2  # up to this step only the first state is kept; a loss risen by this share of the first is harm
IN_A_ROW = 2  # validations that must be far too high: one of them may be chance
BELIEVED = 3  # how often a snapshot must itself be too high in a row, or a run go back at no better fit: it is the data
LOOSE = 4  # how many times as far a validation loss may rise while the snapshot still fits best: a high rate may pay


@dataclass(frozen=True)
class Losses:
    """A reading's losses and what they are held to, ``[B]`` each but where said.

    Attributes:
        each: ``[B, W]``.
        mean: theirs.
        bound: how high they may be.
        is_finite: bool, whether they and gradient and weights are; a NaN loss at sane weights is one that was not told.
        reason: int64, NOT_FINITE, EXPLODED or FINE, which all are while there is no level yet.
    """

    each: Tensor
    mean: Tensor
    bound: Bounds
    is_finite: Tensor
    reason: Tensor


@dataclass(frozen=True)
class HeldOut:
    """What a validation loss beside the snapshot's says, ``[B]`` each.

    Attributes:
        val: the last one.
        rises: its mean rise.
        over: how often in a row it was far worse.
        loose: how often in the run it was so often enough at no better fit than the snapshot's.
        is_worse: bool, it is worse at all, and nothing has failed since the snapshot: going back that far a second time
            would cost more.
        is_risen: bool, it was far worse often enough.
    """

    val: Tensor
    rises: Tensor
    over: Tensor
    loose: Tensor
    is_worse: Tensor
    is_risen: Tensor


@dataclass(frozen=True)
class Case:
    """What a reading comes to, ``[B]`` each but where said.

    Attributes:
        reason: int64, index into :data:`REASONS`.
        is_back: bool, a risen validation loss, or harm: the snapshot is gone back to for what it is, not for a failure.
        is_lucky: bool, a bad batch: no rate is to blame.
        is_wild: bool, what only far too high a rate does.
        settles: bool, the snapshot itself is too high, and the run goes on from it.
        is_fit: bool, the state before this step is one to go back to.
        unsound: int64, how often in a row the snapshot itself was too high.
        worst: the highest mean loss of the trial.
        level: the level after this reading, as :func:`trimtab.level.followed` gives it.
        held_out: what validation says.
    """

    reason: Tensor
    is_back: Tensor
    is_lucky: Tensor
    is_wild: Tensor
    settles: Tensor
    is_fit: Tensor
    unsound: Tensor
    worst: Tensor
    level: Memory
    held_out: HeldOut

    @property
    def is_bad(self) -> Tensor:
        """Whether the run must go back."""
        return self.reason != FINE

    @property
    def is_failure(self) -> Tensor:
        """Whether a try is used up and the rate cut further."""
        return self.is_bad & ~self.is_lucky & ~self.settles & (self.reason != HARMED)


def read(signals: Signals, memory: Memory, margin: float) -> Losses:
    """Hold a reading's losses to the level so far.

    Args:
        signals: the reading.
        memory: the guard's, from before.
        margin: how many times its level a loss may rise beyond noise.

    Returns:
        The losses.
    """
    losses = signals.losses.to(torch.float64)
    mean, bound = losses.mean(1), bounds(memory, margin, signals.step)
    sane = ((signals.grad_sq + signals.weight_sq) < math.inf).all(1)
    finite = sane & (losses.abs() != math.inf).all(1)
    reason = ((mean > bound.now) * EXPLODED).masked_fill(~finite, NOT_FINITE)
    return Losses(losses, mean, bound, finite, reason)


def judge(losses: Losses, signals: Signals, memory: Memory, seen: Tensor, rise: float | None) -> Case:
    """Judge a reading.

    Args:
        losses: what `read` gave of it.
        signals: the reading.
        memory: the guard's, from before.
        seen: ``[B]`` bool, whose validation loss is judged.
        rise: how many times its level a validation loss may rise while the training loss falls; None: for ever.

    Returns:
        What it comes to.
    """
    reason, mean, wrong = losses.reason, losses.mean, losses.reason != FINE
    is_calm, is_wild, is_up, is_own = _about(losses, memory)
    unsound = (memory["unsound"] + 1) * (is_own & wrong)
    settles = (unsound >= BELIEVED) & ~memory["gave_up"]
    start = torch.where(settles[:, None], none_yet(len(mean)).to(mean), memory["means"])
    level = followed(mean, memory | {"means": start}, wrong & ~settles & ~memory["gave_up"])
    held_out = _held_out(signals, level["means"], memory, seen, rise)
    is_trial = (reason == FINE) & (signals.step <= TRIAL)
    worst = torch.where(is_trial, torch.fmax(memory["worst"], mean), memory["worst"])
    is_harmed = (signals.step == TRIAL) & (worst > memory["first"] + HARM * memory["first"].abs())
    reason = torch.where((reason == FINE) & held_out.is_risen, RISEN, reason.masked_fill(settles, UNSOUND))
    reason = torch.where((reason == FINE) & is_harmed, HARMED, reason).masked_fill(memory["gave_up"], FINE)
    bad, back = reason != FINE, (reason == RISEN) | (reason == HARMED)
    lucky = bad & ~back & is_calm & (memory["glitches"] < GLITCHES) & (memory["tries"] == 0)
    is_fit = ~bad & ~held_out.is_worse & ~is_up
    return Case(reason, back, lucky, is_wild, settles, is_fit, unsound, worst, level, held_out)


def is_seen(losses: Losses, signals: Signals, rise: float | None) -> Tensor:
    """Say for which members ``[B]`` a validation loss is judged at this reading: none of a state to be left anyway."""
    if signals.val_loss is None or rise is None:
        return torch.zeros_like(signals.step, dtype=torch.bool)
    return signals.val_loss.isfinite() & (losses.reason == FINE)


def _held_out(signals: Signals, means: Tensor, memory: Memory, seen: Tensor, rise: float | None) -> HeldOut:
    """Judge a validation loss.

    Args:
        signals: the reading.
        means: ``[B, 3]`` of the training losses, this reading's among them.
        memory: the guard's, from before.
        seen: as in `judge`.
        rise: likewise.

    Returns:
        What it says.
    """
    val, kept, rises, over = memory["val"], memory["kept_val"], memory["rises"], memory["over"]
    never = torch.zeros_like(memory["gave_up"])
    if signals.val_loss is None or rise is None:
        return HeldOut(val, rises, over, memory["loose"], never, never)
    now, level = signals.val_loss.to(torch.float64), torch.fmax(kept.abs(), 0.1 * (memory["first"] - kept).clamp_min(0))
    rises = torch.where(seen, risen(now, val, rises, level), rises)
    val = torch.where(seen, now, val)
    fits = means[:, 0] < memory["kept_means"][:, 0]
    # no better fit, and to go back did not help: it is the data that has changed
    is_judged = fits | (memory["loose"] < BELIEVED)
    is_worse = is_judged & (val > kept)
    is_far = is_worse & (val > kept + BEYOND * rises + torch.where(fits, rise, LOOSE * rise) * level)
    over = torch.where(seen, torch.where(is_far, over + 1, 0), over)
    is_risen = seen & (over >= IN_A_ROW)
    loose = memory["loose"] + (is_risen & ~fits)
    return HeldOut(val, rises, over, loose, is_worse & ~memory["has_failed"], is_risen)


def _about(losses: Losses, memory: Memory) -> tuple[Tensor, ...]:
    """Say more of a reading that may have to be acted on.

    Args:
        losses: they.
        memory: from before.

    Returns:
        ``[B]`` bool each: it is not finite and came out of nothing; only far too high a rate does so; the state is not
        one to go back to; its first loss, which right after going back is the snapshot's own, is too high.
    """
    each, mean, bound, finite = losses.each, losses.mean, losses.bound, losses.is_finite
    known = each.abs() < math.inf
    risen = known & (each > bound.usual[:, None])
    is_calm = ~finite & ~risen.any(1) & (known[:, 0] | (memory["good"] >= 3))
    is_wild = bound.is_early & (~finite | (mean > bound.usual))
    # far below the first loss, where the bound is wide beside the level, a spike may have begun within it
    is_up = bound.is_low & ((mean > bound.close) | (each[:, -1] > bound.now))
    is_back = (memory["good"] == 0) & (memory["restores"] > 0)
    return is_calm, is_wild, is_up, finite & is_back & (each[:, 0] > bound.now)
