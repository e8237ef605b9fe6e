"""Several worker processes behind one port: one that dies costs the others nothing, and is replaced at once.

Each worker listens on a socket of its own, and the kernel shares the connections out among them (``SO_REUSEPORT``).
They are forked from a process that has everything imported and nothing begun, so that a new one is there in a moment.
That process only watches.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from sundial.errors import ServiceError
from sundial.serving.process import stopping

START_SECONDS = 60.0
GRACE_SECONDS = 10.0
HEALTHY_SECONDS = 10.0  # a worker that lived this long may be replaced at once
LONGEST_WAIT = 30.0
POLL_SECONDS = 0.05
PR_SET_PDEATHSIG = 1
NEEDED = (
    "sklearn.compose",
    "sklearn.ensemble",
    "skops.io",
    "treelite",
    "uvicorn",
    "sundial.release.registry",
    "sundial.serving.app",
)

logger = logging.getLogger("sundial.serving")


@dataclass
class _Worker:
    """One worker process."""

    pid: int
    ready: int  # end of a pipe: a byte once it listens, its end when it dies before
    started: float
    is_ready: bool = False


class Workers:
    """Starts workers, and replaces those that die.

    Parameters
    ----------
    count : int
        How many.
    work : callable
        What worker ``n`` does until it is told to stop: takes ``n`` and a function to call once it listens.
    """

    def __init__(self, count: int, work: Callable[[int, Callable[[], None]], None]) -> None:
        self.count = count
        self._work = work
        self._workers: dict[int, _Worker] = {}
        self._failures = [0] * count
        self._again = [0.0] * count

    def run(self, on_ready: Callable[[], None]) -> None:
        """Run until SIGTERM or SIGINT.

        Parameters
        ----------
        on_ready : callable
            Called once all workers listen.

        Raises
        ------
        ServiceError
            When a worker ends before any of them ever listened.
        """
        told = False
        with stopping() as stop:
            try:
                deadline = time.monotonic() + START_SECONDS
                while not stop.is_set():
                    self._start_missing()
                    self._hear()
                    self._bury(fatal=not told)
                    if not told and all(worker.is_ready for worker in self._workers.values()):
                        told = True
                        on_ready()
                    if not told and time.monotonic() > deadline:
                        raise ServiceError(f"the workers do not listen after {START_SECONDS:.0f} s", hint="see the log")
            finally:
                self._end()

    def _start_missing(self) -> None:
        for number in range(self.count):
            if number not in self._workers and time.monotonic() >= self._again[number]:
                self._workers[number] = self._start(number)

    def _start(self, number: int) -> _Worker:
        sys.stdout.flush()
        sys.stderr.flush()
        reading, writing = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            os.close(writing)
            return _Worker(pid, reading, time.monotonic())
        status = 1
        try:
            os.close(reading)
            for worker in self._workers.values():
                os.close(worker.ready)
            for name in (signal.SIGTERM, signal.SIGINT):
                signal.signal(name, signal.SIG_DFL)
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
                if os.getppid() != parent:  # it died before we could say that we want to die with it
                    os._exit(1)
            self._work(number, lambda: _say_ready(writing))
            status = 0
        except BaseException:
            logger.exception("worker %d failed", number)
        finally:
            logging.shutdown()
            os._exit(status)

    def _hear(self) -> None:
        """Wait a moment for workers that begin to listen."""
        waiting = {worker.ready: worker for worker in self._workers.values() if not worker.is_ready}
        if not waiting:
            time.sleep(POLL_SECONDS)
            return
        for handle in select.select(list(waiting), [], [], POLL_SECONDS)[0]:
            if os.read(handle, 1):
                waiting[handle].is_ready = True
            else:
                time.sleep(POLL_SECONDS)  # it is dying

    def _bury(self, *, fatal: bool) -> None:
        """See which workers died, and say when each is started again."""
        for number, worker in list(self._workers.items()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid == 0:
                continue
            os.close(worker.ready)
            del self._workers[number]
            code = os.waitstatus_to_exitcode(status)
            if fatal and not worker.is_ready:
                raise ServiceError(f"worker {number} ended with {code} instead of starting", hint="see the log above")
            lived = time.monotonic() - worker.started
            self._failures[number] = 0 if lived > HEALTHY_SECONDS else self._failures[number] + 1
            wait = min(2 ** (self._failures[number] - 1), LONGEST_WAIT) if self._failures[number] > 1 else 0.0
            self._again[number] = time.monotonic() + wait
            logger.error("worker %d (pid %d) ended with %d; another starts in %.0f s", number, worker.pid, code, wait)

    def _end(self) -> None:
        """Ask all workers to end, and kill those that do not."""
        for worker in self._workers.values():
            _kill(worker.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in self._workers.values():
            while os.waitpid(worker.pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    _kill(worker.pid, signal.SIGKILL)
                    os.waitpid(worker.pid, 0)
                    break
                time.sleep(POLL_SECONDS)
            os.close(worker.ready)
        self._workers.clear()


def _say_ready(handle: int) -> None:
    os.write(handle, b"x")


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        logger.info("worker with pid %d was gone already", pid)


def listen_beside(host: str, port: int, family: int) -> socket.socket:
    """Take a port that the processes of this server share; it does not listen yet."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    return bound


def prepare() -> None:
    """Import all that a worker needs, and hide it from the garbage collector, so that workers share its memory."""
    for name in NEEDED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
