"""Signals and Observation: the two shaped records that everything speaks.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``F`` features, ``W`` steps since the last reading.

A *reading* is taken at some optimizer steps only (:func:`is_reading`). The reading of step ``t`` describes the moment
just before the optimizer's ``t``-th update: weights ``w_t``, the gradient ``g_t`` there, the loss ``L(w_t)``, the
knob values about to be used, and the update ``u_{t-1} = w_{t-1} - w_t`` that led there.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

EARLY = (1, 2, 4, 7)  # a wrong initial learning rate wrecks a net within ten steps


def is_reading(step: int, every: int) -> bool:
    """Whether a reading is taken, and a decision made, at an optimizer step.

    Args:
        step: the optimizer step, counted from 1.
        every: steps between readings once the early ones are over.

    Returns:
        True at steps 1, 2, 4, 7 and at each multiple of `every`.

    Example:
        >>> [t for t in range(1, 31) if is_reading(t, 10)]
        [1, 2, 4, 7, 10, 20, 30]
    """
    return step in EARLY or step % every == 0


@dataclass(frozen=True)
class Signals:
    """What one reading told us, raw.

    Squared norms and dots are over the coordinates of a site, estimated from :class:`trimtab.probe.Probe`'s fixed
    sample where the site is larger than that (exact below), in the task's own units. Float64.

    Attributes:
        step: ``[B]`` int64, optimizer steps, this one included.
        losses: ``[B, W]`` training losses of the steps since the last reading, oldest first, this step's last.
        values: ``[B, S, K]`` knob values that this step uses, in the optimizer's units.
        grad_sq: ``[B, S]`` ``|g_t|^2``.
        weight_sq: ``[B, S]`` ``|w_t|^2``.
        update_sq: ``[B, S]`` ``|u_{t-1}|^2``; 0 before the second step.
        drift_sq: ``[B, S]`` ``|w_t - w_1|^2``, the squared distance from the start.
        grad_dot_update: ``[B, S]`` ``<g_t, u_{t-1}>``.
        grad_dot_last_grad: ``[B, S]`` ``<g_t, g_{t-1}>``.
        last_grad_dot_update: ``[B, S]`` ``<g_{t-1}, u_{t-1}>``.
        last_grad_sq: ``[B, S]`` ``|g_{t-1}|^2``.
        grad_dot_drift: ``[B, S]`` ``<g_t, w_1 - w_t>``.
        hypergrad: ``[B, S, K]`` ``d L(w_t) / d value`` of the knobs used by update ``t-1``; None unless asked for.
        val_loss: ``[B]`` validation loss at the weights after this step, NaN where not measured; None if never.
    """

    step: Tensor
    losses: Tensor
    values: Tensor
    grad_sq: Tensor
    weight_sq: Tensor
    update_sq: Tensor
    drift_sq: Tensor
    grad_dot_update: Tensor
    grad_dot_last_grad: Tensor
    last_grad_dot_update: Tensor
    last_grad_sq: Tensor
    grad_dot_drift: Tensor
    hypergrad: Tensor | None = None
    val_loss: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """``[B]`` this step's training loss, in the task's unit."""
        return self.losses[:, -1]


@dataclass(frozen=True)
class Observation:
    """What a controller may know when it decides.

    Attributes:
        signals: the raw record.
        features: ``[B, S, F]`` float64 in [-10, 10], free of the loss's unit.
        position: ``[B, S, K]`` knobs now, in the unit cube.
        progress: ``[B]`` step / horizon in [0, 1]; NaN when no horizon was declared.
    """

    signals: Signals
    features: Tensor
    position: Tensor
    progress: Tensor
