"""What rules that react to the loss share: the loss they watch, and the change of learning rate they still owe.

A rule asks for a factor at once ("a tenth of it"), while a move is limited to ``exp(rate)`` per decision. So the rule
adds the factor's logarithm to a debt and pays one move of it at each reading, until the learning rate is where the
rule wants it or the knob's range ends.

Letters: ``B`` members, ``S`` sites, ``K`` knobs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.knobs import EARLY_STEPS, Panel
from trimtab.signals import Observation, Signals

Memory = dict[str, Tensor]


def watch(signals: Signals) -> tuple[Tensor, Tensor]:
    """Give the loss that a rule judges by, and where there is one.

    Args:
        signals: the reading.

    Returns:
        ``[B]`` float64 losses in the task's unit: the validation loss in a run that measures one, else the mean
        training loss since the last reading; and ``[B]`` bool, False at readings between two validations.
    """
    if signals.val_loss is None:
        loss = signals.losses.to(torch.float64).mean(-1)
        return loss, torch.ones_like(loss, dtype=torch.bool)
    return signals.val_loss.to(torch.float64), ~signals.val_loss.isnan()


def start_owing(panel: Panel, members: int, sites: int, who: str) -> Memory:
    """Begin without a debt.

    Args:
        panel: the knobs; one must be the learning rate, on a log scale.
        members: ``B``.
        sites: ``S``.
        who: the controller's name, for the error.

    Returns:
        ``owed`` ``[B, S]`` log units of lr; ``rate`` and ``span`` ``[B]``, likewise; ``is_lr`` ``[B, K]`` bool.

    Raises:
        KnobError: no knob is the learning rate on a log scale.
    """
    lr = next((knob for knob in panel if knob.name == "lr" and knob.scale == "log"), None)
    if lr is None:
        raise KnobError(
            f"Controller {who!r} turns the knob 'lr' on a log scale, and the panel has "
            f"{', '.join(f'{knob.name} ({knob.scale})' for knob in panel)}: add 'lr' to `knobs`."
        )
    return {
        "owed": torch.zeros(members, sites, dtype=torch.float64),
        "rate": torch.full((members,), lr.rate, dtype=torch.float64),
        "span": torch.full((members,), lr.span, dtype=torch.float64),
        "is_lr": torch.tensor([[knob is lr for knob in panel]] * members),
    }


def lr_position(seen: Observation, state: Memory) -> Tensor:
    """Give ``[B, S]``: where the learning rate is, in the unit interval."""
    return (seen.position * state["is_lr"][:, None]).sum(-1)


def largest(seen: Observation, state: Memory) -> Tensor:
    """Give ``[B, 1]``: the largest change of log lr that a decision may make now."""
    return (state["rate"] * torch.where(seen.signals.step <= EARLY_STEPS, 2.0, 1.0))[:, None]


def pay(seen: Observation, state: Memory, owed: Tensor) -> tuple[Tensor, Tensor]:
    """Turn as much of a debt into a move as one decision may.

    Args:
        seen: what there is to know.
        state: with what `start_owing` gave.
        owed: ``[B, S]`` change of log lr asked for; what would leave the knob's range is forgiven.

    Returns:
        ``[B, S, K]`` moves, zero for all knobs but the learning rate, and ``[B, S]`` what is still owed.
    """
    place, span = lr_position(seen, state), state["span"][:, None]
    owed = torch.minimum(torch.maximum(owed, -place * span), (1 - place) * span)
    limit = largest(seen, state)
    move = (owed / limit).clamp(-1, 1)
    left = torch.where(owed.abs() <= limit, 0.0, owed - move * limit)
    return move[..., None] * state["is_lr"][:, None], left
