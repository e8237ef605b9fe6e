"""What a scorer's process is at now, in memory that its parent reads: so a stall, or a death, has a row to blame."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from typing import NamedTuple

FIELDS = 6
SINCE, KEY, ROWS, DONE, LOADED, WAITED = range(FIELDS)


def waited(pid: int) -> int:
    """Give the nanoseconds that a process waited for a processor; 0 where the kernel does not count them.

    The second figure of ``/proc/<pid>/schedstat``, of the process's first thread (Linux, Documentation/scheduler/
    sched-stats.rst).
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


class Work(NamedTuple):
    """What is, or was, under way.

    Attributes
    ----------
    seconds : float
        How long by now, without the time in which others had the processor; 0 when nothing is.
    key : int
        Of the first row that is being scored; -1 while the model is loaded.
    rows : int
        How many are scored in one go.
    batches : int
        Batches that were logged since the process began.
    loaded : bool
        Whether the model was loaded.
    """

    seconds: float
    key: int
    rows: int
    batches: int
    loaded: bool


class Watch:
    """Shared by a process and those it forks after making this."""

    def __init__(self) -> None:
        # aligned words: each is written at once, so that a reader needs no lock
        self._words = memoryview(mmap.mmap(-1, 8 * FIELDS)).cast("q")

    def begin(self, key: int, rows: int) -> None:
        """Say that some rows are being scored from now on; key -1 for loading the model."""
        self._words[KEY] = key
        self._words[ROWS] = rows
        self._words[WAITED] = waited(os.getpid())
        self._words[SINCE] = time.monotonic_ns()

    def end(self) -> None:
        """Say that it is done."""
        self._words[SINCE] = 0
        if self._words[KEY] < 0:
            self._words[LOADED] = 1

    def logged(self) -> None:
        """Count a batch whose scores are in the log."""
        self._words[DONE] += 1

    def read(self, pid: int = 0) -> Work:
        """Read what is under way.

        Parameters
        ----------
        pid : int
            Of the process at work, while it lives: one that has to wait for a processor does not stall.
        """
        since = self._words[SINCE]
        seconds = (time.monotonic_ns() - since) / 1e9 if since else 0.0
        if since and pid:
            seconds = max(seconds - max(waited(pid) - self._words[WAITED], 0) / 1e9, 1e-9)
        key, rows = self._words[KEY], self._words[ROWS]
        return Work(seconds, key, rows, self._words[DONE], bool(self._words[LOADED]))
