"""A watchdog on a kernel's process: its deadline, and how much memory it took."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

INTERVAL_SECONDS = 0.2


def read_peak_kib(pid: int) -> int:
    """Read the most memory that a process has held, in KiB; 0 when it has gone, or cannot be asked.

    Linux keeps the high-water mark; elsewhere it is what the process holds now.
    """
    status = Path(f"/proc/{pid}/status")
    if not Path("/proc/self/status").exists():
        import psutil

        try:
            return int(psutil.Process(pid).memory_info().rss) // 1024
        except psutil.Error:
            return 0
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def kill_tree(pid: int) -> None:
    """Kill a kernel for good: its process group, and children that left the group."""
    import psutil

    try:
        strays = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        strays = []
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # a kernel leads its own group
    for stray in strays:
        with contextlib.suppress(psutil.Error):
            stray.kill()


class Watch:
    """Watch one kernel from a thread, so that code which never returns cannot hold it up.

    Parameters
    ----------
    deadline : float, optional
        Seconds from now after which the kernel is killed.

    Attributes
    ----------
    peak_kib : int
        Most memory seen, in KiB.
    expired : bool
        Whether the deadline passed and the kernel was killed for it.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.peak_kib = 0
        self.expired = False
        self._end = None if deadline is None else time.monotonic() + deadline
        self._pid = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, pid: int) -> None:
        """Begin to watch a process."""
        self._pid = pid
        self.sample()  # one that dies before the first interval is over has held something too
        self._thread = threading.Thread(target=self._run, name="kernel-watch", daemon=True)
        self._thread.start()

    def sample(self) -> None:
        """Read the memory now."""
        if self._pid:
            self.peak_kib = max(self.peak_kib, read_peak_kib(self._pid))

    def stop(self) -> None:
        """Stop watching; must be called before the process is reaped and its number used again."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pause()):
            self.sample()
            if self._end is not None and time.monotonic() >= self._end and not self._stop.is_set():
                self.expired = True
                kill_tree(self._pid)
                return

    def _pause(self) -> float:
        if self._end is None:
            return INTERVAL_SECONDS
        return max(0.0, min(INTERVAL_SECONDS, self._end - time.monotonic()))
