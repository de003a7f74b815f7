"""Guard: when a run is off the rails, what to go back to, how far to cut the rate.

The guard is pure and shaped: the same code judges one live run and thousands of simulated ones. It never touches
weights; it says per member whether the state before this step is worth keeping (:attr:`Verdict.keep`) and whether to
go back to the one kept last (:attr:`Verdict.restore`). A snapshot is always verified: it holds the weights, slots and
knobs *before* the step whose loss has just been seen and found good (the mean of those since the last reading; far
below the first loss more closely). The first is taken before the first step.

Letters: ``B`` members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.judgement import FINE, HARMED, TRIAL, Case, is_seen, judge, read
from trimtab.level import Memory, followed, none_yet
from trimtab.signals import Signals

LATER = 0.5  # the cut of a rate under which the validation loss rose
DUE = ("kept_at", "val_at", "val_apart", "failures", "gave_up")  # what of the memory tells when a snapshot is due


@dataclass(frozen=True)
class Verdict:
    """What the guard says of one reading.

    Attributes:
        keep: ``[B]`` bool, take the state before this step as the new snapshot.
        restore: ``[B]`` bool, go back to the snapshot.
        cut: ``[B]`` factor in (0, 1] on the snapshot's learning rate, where restored; the helm takes the controller's
            own rate instead where the first steps did harm and, but where the snapshot is unsound, where that is lower.
        reason: ``[B]`` int64, index into :data:`trimtab.judgement.REASONS`.
        gave_up: ``[B]`` bool, the tries are used up: the snapshot is the result, the rate stays at its lowest.
    """

    keep: Tensor
    restore: Tensor
    cut: Tensor
    reason: Tensor
    gave_up: Tensor


@dataclass(frozen=True)
class Guard:
    """Watches a run and brings it back.

    A reading is bad when its losses or its gradient are not finite, or when the mean of its losses exceeds
    ``level + 3 noise + margin max(|level|, 2 % of the way made)``, with `level` the larger of a fast and a slow moving
    mean and `noise` a moving mean deviation. All terms scale with the loss; none needs it to be positive.

    Something not finite that came out of nothing, no loss before it having risen, is taken for a bad batch: the
    snapshot is restored and the rate left alone, up to ``GLITCHES`` times without three good readings in between.
    Any other failure cuts the rate, each try further.

    Up to step 10 there is little to lose and much to learn: the untouched network's loss is a bound that only too high
    a rate passes, and one step of it may kill a network for good. There a smaller rise is bad
    (:data:`trimtab.level.EARLY_MARGIN`), and a failure beyond the usual law cuts twice.

    The first seven of them are a trial: no state but the first is kept, so that failures go back to the untouched
    weights. Where a mean of losses in them was above the first loss by a fifth (``HARM``), short of a failure, the
    run goes back too, once, at the rate that the controller has come to by then: a net that one far too large step has
    thrown about does not recover what it loses.

    The first loss after going back is the snapshot's own, on a batch that did not choose it. Where that is beyond the
    bound three times in a row (``BELIEVED``), a smaller rate cannot help: a lucky batch let a spoilt state pass, or
    the data has changed. The run then goes on from there at the first cut alone, and its level is taken anew.

    A rate cannot undo what was learned by heart, so the guard does. No state is kept that validates worse than the
    snapshot, unless a loss has failed since; and where validations lie no further apart than `longest` steps, or
    `spacing` of the steps so far, none but at a validation, so that a snapshot's loss is its own. Where the validation
    loss is twice in a row beyond ``kept + 2 rises + rise max(|kept|, 10 % of the way made)``, with `rises` a moving
    mean of what it rises from one validation to the next, the run goes back to the snapshot (to its average, where one
    is kept) at half its rate. That is, where the training loss is below the snapshot's. Where it is not, a high rate
    may yet pay: four times `rise` is allowed then (``LOOSE``), and after three tries (``BELIEVED``) anything.

    Args:
        margin: how many times its level a loss may rise beyond noise. The default is the factor ``exp(1.2)``.
        cut: factor on the learning rate per try.
        tries: restores without a new snapshot in between, after which the guard gives up.
        spacing: a new snapshot is due when this share of the steps so far has passed since the last, so that early ones
            lie close and later ones cost little; each failure brings them closer, for such a run needs them more ...
        longest: ... or this many steps. A restore loses no more than that, what passed since the last reading, and,
            where validations are judged, what passed while none was as low as the snapshot's.
        rise: how many times its level a validation loss may rise while the training loss falls; None: it may for ever.
        in_checkpoint: whether ``Pilot.state_dict`` carries the snapshot (exact resume in the middle of trouble) or
            leaves it out (a smaller checkpoint; after a load the loaded weights are the snapshot).

    Raises:
        KnobError: a setting is out of range.
    """

    margin: float = math.e**1.2 - 1
    cut: float = 0.25
    tries: int = 10
    spacing: float = 1 / 8
    longest: int = 256
    rise: float | None = 0.05
    in_checkpoint: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        if not (
            self.margin > 0 and 0 < self.cut < 1 and self.tries >= 1 and 0 <= self.spacing < 1 and self.longest >= 1
        ) or (self.rise is not None and not self.rise >= 0):
            raise KnobError(
                "A guard needs `margin > 0`, `0 < cut < 1`, `tries >= 1`, `0 <= spacing < 1`, `longest >= 1` and "
                f"`rise >= 0` or None, got margin={self.margin}, cut={self.cut}, tries={self.tries}, "
                f"spacing={self.spacing}, longest={self.longest}, rise={self.rise}."
            )

    def start(self, members: int) -> Memory:
        """Give the memory before the first reading, each ``[B]``."""

        def full(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.full((members,), value, dtype=dtype)

        means = none_yet(members)
        return {
            "means": means,
            "kept_means": means,
            "val": full(math.nan),
            "kept_val": full(math.nan),
            "val_at": full(0, torch.int64),
            "val_apart": full(0, torch.int64),
            "is_sure": full(0, torch.bool),
            "rises": full(0.0),
            "over": full(0, torch.int64),
            "loose": full(0, torch.int64),
            "worst": full(-math.inf),
            "first": full(math.nan),
            "best": full(math.inf),
            "kept_at": full(0, torch.int64),
            "good": full(0, torch.int64),
            "tries": full(0, torch.int64),
            "unsound": full(0, torch.int64),
            "glitches": full(0, torch.int64),
            "cuts": full(0, torch.int64),
            "failures": full(0, torch.int64),
            "has_failed": full(0, torch.bool),
            "restores": full(0, torch.int64),
            "gave_up": full(0, torch.bool),
        }

    def is_due_of_one(self, step: int, memory: Memory) -> bool:
        """Say the same as `is_due` of a run of one member, in plain numbers instead of small tensors."""
        return bool(self.is_due(step, {name: memory[name].item() for name in DUE}))

    def is_due(self, step: Any, memory: Mapping[str, Any]) -> Any:
        """Say for which members ``[B]`` the state before step ``step`` ``[B]`` should be held ready as a snapshot."""
        share, kept_at, apart = self.spacing * step, memory["kept_at"], memory["val_apart"]
        far = step - kept_at
        is_far = (far >= share / (1 + 4 * memory["failures"])) | (far >= self.longest)
        waits_not = (apart > share) & (apart > self.longest) | (step >= memory["val_at"] + apart)
        return ((kept_at == 0) | is_far & (step > TRIAL) & waits_not) & (memory["gave_up"] < 1)

    def check(self, signals: Signals, memory: Memory) -> tuple[Verdict, Memory]:
        """Judge a reading.

        Args:
            signals: the reading.
            memory: what `start` or the last call handed back; not changed in place.

        Returns:
            The verdict and the new memory. Where `restore` is set, the memory's moving means are those from before, or
            the snapshot's own where the validation loss rose or the first steps did harm (noise is not forgotten), or
            this reading's where the snapshot is unsound.
        """
        losses = read(signals, memory, self.margin)
        seen = is_seen(losses, signals, self.rise)
        due, wrong = self.is_due(signals.step.double(), memory), losses.reason != FINE
        if not bool((due | seen | wrong | (signals.step <= TRIAL) | memory["gave_up"]).any()):
            # nothing to judge, as at most readings of one run: what follows would change nothing, at twice the cost
            verdict = Verdict(due, due, torch.ones_like(losses.mean), losses.reason, memory["gave_up"])
            return verdict, {**memory, **followed(losses.mean, memory, wrong), "good": memory["good"] + 1}
        case = judge(losses, signals, memory, seen, self.rise)
        # the very first state is kept whatever its loss: there is no other
        keep = due & (case.is_fit | (memory["kept_at"] == 0))
        failed = case.is_failure.to(torch.int64)
        tries, cuts = memory["tries"] + failed, memory["cuts"] + failed * (1 + case.is_wild.to(torch.int64))
        gave_up = memory["gave_up"] | (tries > self.tries)
        recovered = keep & ~case.is_bad & (memory["good"] + 1 >= 3)
        new = {
            **_kept(case, signals, memory, keep=keep, seen=seen, due=due),
            "tries": tries.masked_fill(recovered | case.settles, 0),
            "glitches": (memory["glitches"] + case.is_lucky).masked_fill(recovered, 0),
            "cuts": cuts.masked_fill(keep, 0).masked_fill(case.settles, 1),  # a snapshot holds the rate as cut so far
            "gave_up": gave_up,
        }
        base = torch.full_like(losses.mean, self.cut).masked_fill(case.is_back, LATER)
        cut = (base ** cuts.to(base)).masked_fill(case.is_lucky | (case.reason == HARMED), 1.0)
        return Verdict(keep, case.is_bad, cut.masked_fill(case.settles, self.cut), case.reason, gave_up), new


def _kept(case: Case, signals: Signals, memory: Memory, *, keep: Tensor, seen: Tensor, due: Tensor) -> Memory:
    """Carry what is known of the run and of its snapshot past a reading; all but tries, glitches and cuts."""
    held_out, bad, back, settles = case.held_out, case.is_bad, case.is_back, case.settles
    val = held_out.val
    # the snapshot's own loss is not known where it was taken between two validations: the next one tells
    own = torch.where(memory["val"].isposinf() & seen & ~memory["is_sure"], val, memory["kept_val"])
    known = torch.fmax(own, memory["kept_val"])
    former = torch.cat([memory["kept_means"][:, :2], case.level["means"][:, 2:]], 1)
    means = torch.where(back[:, None], former, case.level["means"])
    return case.level | {
        "means": means,
        "kept_means": torch.where(keep[:, None], means, memory["kept_means"]),
        "worst": case.worst,
        # of a state that is left; where it rose, nothing more is kept before the next one
        "val": val.masked_fill(bad, math.nan).masked_fill(back, math.inf),
        "kept_val": torch.where(keep & val.isfinite(), val, known).masked_fill(settles, math.nan),
        "val_at": torch.where(seen, signals.step, memory["val_at"]),
        "val_apart": torch.where(seen, signals.step - memory["val_at"], memory["val_apart"]),
        "is_sure": torch.where(keep, seen, memory["is_sure"]),
        "rises": torch.where(bad, memory["rises"], held_out.rises),
        "over": held_out.over.masked_fill(back, 0),
        "loose": held_out.loose,
        "kept_at": torch.where(keep | due & held_out.is_worse, signals.step, memory["kept_at"]),
        "good": (memory["good"] + 1).masked_fill(bad, 0),
        "unsound": case.unsound.masked_fill(settles, 0),
        "failures": memory["failures"] + (bad & ~back & ~settles).to(torch.int64),
        "has_failed": (memory["has_failed"] | bad) & ~back & ~keep,  # since the snapshot was taken
        "restores": memory["restores"] + bad.to(torch.int64),
    }
