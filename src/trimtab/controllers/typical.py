"""Typical: where each feature lies in training runs and how far it spreads, so that a policy reads all alike.

A network that is taught by perturbing its weights learns what a feature says no faster than the feature is large: a
trend of 0.05 and a ratio of 5 must weigh the same. The numbers are rounded medians and half-widths over the readings of
teach-v1's lessons, finer where a feature tells most near 0. They are part of a policy's file: another table here does
not change a policy that was taught with this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TYPICAL = {
    "trend_fast": (0.0, 0.2),
    "trend_mid": (0.0, 0.3),
    "trend_slow": (0.0, 0.2),
    "noise": (-1.0, 2.0),
    "best_gap": (0.0, 0.2),
    "progress_made": (-1.0, 2.0),
    "bad_share": (0.0, 0.2),
    "val_gap": (0.5, 1.0),
    "val_trend": (0.0, 0.1),
    "val_best_gap": (0.0, 0.2),
    "cos_grad": (0.0, 0.3),
    "cos_update": (0.0, 0.2),
    "update_ratio": (0.5, 1.0),
    "distance": (0.5, 0.7),
    "grad_trend_fast": (0.0, 0.4),
    "grad_trend_slow": (0.0, 0.3),
    "snr": (0.0, 0.2),
    "directness": (0.7, 0.3),
    "lr_dog": (1.0, 1.5),
    "lr_dadapt": (0.0, 1.5),
    "lr_secant": (0.0, 1.0),
    "lr_polyak": (2.0, 1.5),
    "progress": (0.5, 0.3),
    "age": (0.0, 0.4),
    "horizon": (0.4, 0.4),
    "has_horizon": (1.0, 0.5),
    "has_val": (0.5, 0.5),
    "depth": (0.0, 0.6),
    "share": (0.0, 0.6),
    "position": (0.3, 0.35),
    "move": (0.0, 0.6),
    "rank": (0.0, 0.5),
}
"""Center and size of a feature, by its name, or by what stands before the knob or the feature that it is of."""


def typical(names: Sequence[str]) -> tuple[list[float], list[float]]:
    """Give centers and sizes of features, ``F`` each.

    Args:
        names: the features' names.

    Returns:
        The centers, and the sizes, which are above 0.

    Example:
        >>> typical(["trend_mid", "position_lr", "rank_trend_mid", "mean_snr"])
        ([0.0, 0.3, 0.0, 0.0], [0.3, 0.35, 0.5, 0.2])
    """
    found = [_of(name.removeprefix("mean_")) for name in names]
    return [center for center, _ in found], [size for _, size in found]


def _of(name: str) -> tuple[float, float]:
    return TYPICAL[name] if name in TYPICAL else TYPICAL[name.partition("_")[0]]


def evened(features: Tensor, center: Tensor, size: Tensor) -> Tensor:
    """Give ``asinh((feature - center) / size)``: linear where it is typical, a logarithm far out.

    Args:
        features: ``[..., F]``.
        center: ``[F]``, of each.
        size: ``[F]``, of each.

    Returns:
        ``[..., F]``, the same dtype.
    """
    return torch.asinh((features - center.to(features)) / size.to(features))
