"""Networks whose first weights come from a seed alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def build_seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network under its own seed; the global generators end as they were.

    Args:
        make: makes the network; its initialisers draw from PyTorch's global CPU generator.
        seed: any integer of 64 bits.

    Returns:
        The network, float32, on the CPU, in training mode.

    Example:
        >>> one, two = (build_seeded(lambda: nn.Linear(2, 1), 7) for _ in range(2))
        >>> torch.equal(one.weight, two.weight)
        True
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # `torch.manual_seed` would also seed the accelerators, which this fork does not restore.
        torch.default_generator.manual_seed(seed)
        return make().to(torch.float32)
