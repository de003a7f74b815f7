"""Provenance: which code gave a row, on which machine, by which command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


@dataclass(frozen=True)
class Provenance:
    """What a row says of its origin.

    Attributes:
        commit: of the checkout that holds the package, "-dirty" behind it where files differ; else its version.
        machine: the processor, its cores, the threads a run has.
        torch: its version.
        command: that started the race.
    """

    commit: str
    machine: str
    torch: str
    command: str

    @classmethod
    def now(cls, command: Sequence[str] = ()) -> Provenance:
        """Ask this machine.

        Args:
            command: the words of the command; those of this process by default.

        Returns:
            The answers.
        """
        words = list(command) or [Path(sys.argv[0]).name, *sys.argv[1:]]
        return cls(_commit(), f"{_processor()}, {os.cpu_count()} cores, 1 thread", torch.__version__, shlex.join(words))


def _commit() -> str:
    here = Path(__file__).parent
    if (here.parents[2] / "pyproject.toml").is_file():  # a checkout, not an installed package inside somebody else's
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
        )
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    try:
        return f"version {version('trimtab')}"
    except PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
