"""Law: `import trimtab` costs what torch and numpy cost, and next to nothing more."""

import subprocess
import sys

import pytest

MOST = 0.15  # what an import may add, of torch's own second or two, before a user feels it

LOADED = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
TIMED = """
import time
first = time.process_time()
import torch, numpy
then = time.process_time()
import trimtab
print((time.process_time() - then) / (then - first))
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
def test_import_adds_little_to_torch_s() -> None:
    """`import trimtab` takes at most 15 % of the CPU time of `import torch, numpy` before it (the best of five)."""
    assert min(float(run(TIMED)) for _ in range(5)) <= MOST
