"""Law: what only PPO needs is loaded by PPO alone."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_teaching_loads_no_library_of_reinforcement_learning() -> None:
    """`import trimtab.teach` brings neither Gymnasium nor Stable-Baselines3."""
    code = "import sys, trimtab.teach; print(*({'gymnasium', 'stable_baselines3'} & set(sys.modules)))"
    assert "\n" == subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
