"""What holds for every test: it draws the same random numbers alone, with others and in any order."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Begin torch's random numbers anew, so that networks made in passing are the same in every run."""
    torch.manual_seed(0)
