"""Laws of workers: the same results in the same order wherever they are made, and no life after the parent's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from trimtab.workers import Metered, cluster, crew


def slow_square(number: int) -> tuple[int, int, int]:
    """Give a square after some work, with the process that made it and its threads."""
    sum(range(200_000))
    return number * number, os.getpid(), torch.get_num_threads()


@pytest.mark.slow
def test_a_crew_works_in_order_with_one_thread_each() -> None:
    """Three processes give what one gives, in the inputs' order; what they spend is counted."""
    with crew(1) as here, crew(3) as there:
        alone, metered = list(here(slow_square, range(8))), Metered(there)
        made = list(metered(slow_square, range(8)))
    assert [square for square, _, _ in alone] == [square for square, _, _ in made]
    assert {os.getpid()} == {process for _, process, _ in alone}
    assert os.getpid() not in {process for _, process, _ in made}
    assert {1} == {threads for _, _, threads in made}
    assert metered.seconds > 0


def test_what_this_process_spends_is_not_counted_twice() -> None:
    """A meter around the plain map stays at zero."""
    metered = Metered(map)
    assert [0, 1, 4] == [square for square, _, _ in metered(slow_square, range(3))]
    assert metered.seconds == 0


ORPHANS = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from test_workers import slow_square
from trimtab.workers import crew
if __name__ == "__main__":
    with crew(2) as spread:
        print(*{process for _, process, _ in spread(slow_square, range(20))}, flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
def test_workers_do_not_outlive_their_parent(tmp_path: Path) -> None:
    """After SIGKILL of the parent its workers are gone within seconds."""
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    with subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        processes = [int(word) for word in parent.stdout.readline().split()]
        assert processes
        parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while any(is_alive(process) for process in processes) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(is_alive(process) for process in processes)


def is_alive(process: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'trimtab[ray]'")
@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_gives_the_same() -> None:
    """A local cluster gives what this process gives, in order."""
    with cluster("local") as spread:
        made = list(spread(slow_square, range(4)))
    assert [0, 1, 4, 9] == [square for square, _, _ in made]
    assert os.getpid() not in {process for _, process, _ in made}


def test_ray_is_asked_for_by_name_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray the error names the extra."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"trimtab\[ray\]"), cluster("local"):
        pass
