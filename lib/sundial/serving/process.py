"""What a serving process sets for itself: one thread for numbers, and a clean end when it is told to stop."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

PR_SET_PDEATHSIG = 1
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_limits: list[Any] = []


def limit_threads() -> None:
    """Let OpenMP and BLAS use one thread.

    A prediction opens a parallel region a tree; on shared cores their waits took p99 to 400 ms. The variables are for
    libraries that are loaded after this (scikit-learn's OpenMP), threadpoolctl is for those that are there (numpy's
    BLAS).
    """
    from threadpoolctl import threadpool_limits

    for name in THREADS:
        os.environ[name] = "1"
    _limits[:] = [threadpool_limits(limits=1)]


def raise_file_limit() -> None:
    """Let this process open as many files as it may: a connection is one, and the usual 1,024 are soon used up."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone, however that ended.

    Parameters
    ----------
    parent : int
        Process id of the parent, as it knew it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before we could ask
        os._exit(1)


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """Turn SIGTERM and SIGINT into an event, where signals can be caught.

    Yields
    ------
    Event
        Set once the process should end.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
