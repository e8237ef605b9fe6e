"""What a scorer is at now: a process that waits for a processor is not taken for one that stalls."""

from __future__ import annotations

import os
import signal
import time

import pytest

from sundial.serving.watch import Watch, waited


def _start(work: object, niceness: int) -> int:
    """Run a function in a process of its own, on the first processor that this one may use."""
    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.nice(niceness)
        work()  # type: ignore[operator]
        os._exit(0)
    return pid


def _spin() -> None:
    while True:
        pass


@pytest.mark.skipif(not waited(os.getpid()), reason="this kernel does not count how long processes wait")
def test_waiting_for_a_processor_is_no_stall() -> None:
    """Beside a busy process the time of a nice one counts only while it runs; wall-clock time counts all of it."""
    watch = Watch()

    def work() -> None:
        watch.begin(key=7, rows=3)
        _spin()

    pids = [_start(_spin, 0), _start(work, 19)]
    try:
        deadline = time.monotonic() + 20
        counted = all_of_it = watch.read()
        # what it waits just now is counted once it runs again
        while time.monotonic() < deadline and not all_of_it.seconds > 1 + 2 * counted.seconds:
            time.sleep(0.05)
            counted, all_of_it = watch.read(pids[1]), watch.read()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    assert (counted.key, counted.rows) == (7, 3)
    assert 0 < counted.seconds < all_of_it.seconds / 2


def test_sleeping_is_a_stall() -> None:
    """A process that does nothing is not excused: all of its time counts."""
    watch = Watch()

    def work() -> None:
        watch.begin(key=1, rows=1)
        time.sleep(30)

    pid = _start(work, 0)
    try:
        time.sleep(0.7)
        counted, all_of_it = watch.read(pid), watch.read()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    assert counted.seconds > all_of_it.seconds - 0.2
