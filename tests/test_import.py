"""Law: `import trimtab` costs what torch and numpy cost, and next to nothing more."""

import subprocess
import sys

import pytest

import trimtab

MOST_SECONDS = 0.150  # what an import may add before a user feels it beside torch's own second

LOADED = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
TIMED = """
import time
import torch, numpy
start = time.process_time()
import trimtab
print(time.process_time() - start)
"""


def run(code: str) -> str:
    """Run code in a fresh interpreter and hand back what it printed."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_import_loads_torch_and_numpy_alone() -> None:
    """`import trimtab` loads no third-party package that `import torch, numpy` does not load."""
    theirs = set(run(f"import torch, numpy; {LOADED}").split())
    ours = set(run(f"import trimtab; {LOADED}").split())
    assert {"trimtab"} == ours - theirs - sys.stdlib_module_names


@pytest.mark.slow
def test_import_adds_at_most_150_milliseconds() -> None:
    """`import trimtab`, once torch and numpy are there, takes at most 150 ms of CPU time (the best of five)."""
    assert min(float(run(TIMED)) for _ in range(5)) <= MOST_SECONDS


def test_what_a_run_that_is_only_steered_never_needs_is_loaded_when_asked_for() -> None:
    """Simulator, tasks, twins, hypergradients: all are there by name, and what is not is refused as ever."""
    code = """
import sys
import trimtab
heavy = {"trimtab.plant", "trimtab.tasks", "trimtab.rules", "trimtab.hypergrad.estimator"}
print(heavy & set(sys.modules) == set(), {"Plant", "task_named"} <= set(dir(trimtab)), trimtab.Plant.__name__)
print(trimtab.hypergrad.OneStep.__name__, "Implicit" in dir(trimtab.hypergrad), hasattr(trimtab, "Plan"))
"""
    assert run(code).split() == ["True", "True", "Plant", "OneStep", "True", "False"]
    assert set(trimtab.__all__) <= set(dir(trimtab))
