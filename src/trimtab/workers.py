"""Workers: processes that call a function on each of several inputs, here or on a Ray cluster.

Results come in the inputs' order and do not depend on how many work: every worker has one thread of torch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from trimtab.errors import OrderError

Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Calls a function on each of several inputs and gives the results in order: ``map``, or that of a pool."""


def settle() -> None:
    """Set up a worker process: one thread, no ear for Ctrl-C (the parent tells it), and no life after its parent's."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class Metered:
    """A map that counts what other processes spend.

    Args:
        spread: the map.

    Attributes:
        seconds: of their processors, so far; what is done in this process is not in it.
    """

    def __init__(self, spread: Spread) -> None:
        self._spread, self.seconds = spread, 0.0

    def __call__(self, function: Callable[[Any], Any], inputs: Iterable[Any]) -> Iterator[Any]:
        """Call `function` on each input; results in order."""
        for process, seconds, result in self._spread(partial(_clocked, function), inputs):
            self.seconds += seconds if process != os.getpid() else 0.0
            yield result


def _clocked(function: Callable[[Any], Any], each: Any) -> tuple[int, float, Any]:
    begin = time.process_time()
    result = function(each)
    return os.getpid(), time.process_time() - begin, result


@contextmanager
def crew(jobs: int) -> Iterator[Spread]:
    """Give a map over worker processes of this machine, started once.

    Args:
        jobs: how many; 1 works in this process.

    Yields:
        The map; functions and inputs must be picklable.
    """
    if jobs == 1:
        yield map
        return
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=settle)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def cluster(address: str) -> Iterator[Spread]:
    """Give a map over a Ray cluster, one core a call.

    Args:
        address: of its head, "auto" for the one this machine belongs to, or "local" to start one here.

    Yields:
        The map; functions and inputs must be picklable, and the workers have this version of trimtab.

    Raises:
        ImportError: Ray is not installed; says how to.
        OrderError: nobody answers there, which Ray finds out after minutes.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("`--ray` needs Ray, which is not installed: pip install 'trimtab[ray]'.") from error
    try:
        ray.init(None if address == "local" else address, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise OrderError(f"There is no Ray cluster at {address!r} ({error}); 'local' starts one here.") from error
    try:
        remote = ray.remote(num_cpus=1)(_called)
        yield lambda function, inputs: ray.get([remote.remote(function, each) for each in inputs])
    finally:
        ray.shutdown()


def _called(function: Callable[[Any], Any], each: Any) -> Any:
    torch.set_num_threads(1)
    return function(each)
