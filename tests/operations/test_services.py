"""Servers are started in order, watched, and ended without a process left behind."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from sundial.errors import PortInUseError, ServiceError
from sundial.operations.services import Service, Supervisor, check_port, tail
from sundial.settings import load_settings

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
FAMILY = [
    sys.executable,
    "-c",
    "import subprocess, sys, time, pathlib\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\n"
    "time.sleep(60)\n",
]


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, waiting a little for it."""
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_a_taken_port_is_named_with_the_variable_that_changes_it():
    """The message names port, server and the variable to set."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(PortInUseError) as caught:
            check_port("127.0.0.1", port, "the model server")

    assert f"port {port}" in str(caught.value)
    assert f"SUNDIAL_SERVE_PORT={port + 1}" in str(caught.value)


def test_a_free_port_passes():
    """Nothing is raised, and the port stays free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    check_port("127.0.0.1", port, "the model server")
    check_port("127.0.0.1", port, "the model server")


def test_leaving_the_supervisor_ends_children_of_children(tmp_path: Path):
    """Neither the service nor what it started is there afterwards."""
    pidfile = tmp_path / "pid"
    with Supervisor(load_settings()) as supervisor:
        service = supervisor.add(Service("family", [*FAMILY, str(pidfile)], tmp_path / "log", pidfile.exists))
        service.wait_ready()
        deadline = time.monotonic() + 10
        while not pidfile.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        child = int(pidfile.read_text())
        parent = service.process.pid

    assert is_gone(parent)
    assert is_gone(child)


def test_a_service_that_ends_while_starting_shows_the_end_of_its_log(tmp_path: Path):
    """The error says the exit code and what the service wrote last."""
    command = [sys.executable, "-c", "print('no such disk'); raise SystemExit(3)"]
    with Supervisor(load_settings()) as supervisor:
        service = supervisor.add(Service("broken", command, tmp_path / "log", lambda: False))

        with pytest.raises(ServiceError, match="(?s)broken ended with 3.*no such disk"):
            service.wait_ready()


def test_a_service_that_is_never_ready_is_given_up(tmp_path: Path):
    """The wait ends after the service's patience."""
    with Supervisor(load_settings()) as supervisor:
        service = supervisor.add(Service("slow", SLEEP, tmp_path / "log", lambda: False, patience=0.3))

        with pytest.raises(ServiceError, match="slow is not up after"):
            service.wait_ready()


@pytest.mark.parametrize("poll", [0.05, 30.0], ids=["looking", "told"])
def test_a_service_that_dies_is_started_again(tmp_path: Path, poll: float):
    """The watcher says so, tells who is to raise an alarm, and there is a new process; Linux tells it at once."""
    if poll > 1 and sys.platform != "linux":
        pytest.skip("only Linux tells at once that a process has ended")
    said: list[str] = []
    ended: queue.Queue[tuple[str, datetime]] = queue.Queue()
    began, started = datetime.now(UTC), time.monotonic()

    class EnoughError(Exception):
        """Ends the watch."""

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            raise EnoughError

    with Supervisor(load_settings()) as supervisor:
        service = supervisor.add(Service("mortal", SLEEP, tmp_path / "log", lambda: True))
        first = service.process.pid
        threading.Timer(0.3, os.kill, (first, signal.SIGKILL)).start()
        code = [sys.executable, "-c", "pass"]
        service.command = code  # the second life is short, which ends this test

        with pytest.raises(EnoughError):
            supervisor.watch(say=say, ended=lambda name, at: ended.put((name, at)), poll=poll)

    name, at = ended.get(timeout=5)
    assert "mortal" == name
    assert began <= at <= datetime.now(UTC)
    assert time.monotonic() - started < 20
    assert "mortal ended with -9; starting it again" in said[0]
    assert service.process.pid != first


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_services_die_with_a_supervisor_that_is_killed(tmp_path: Path):
    """Even kill -9 of the one who started a service leaves no process behind."""
    script = (
        "import sys, time, pathlib\n"
        "from sundial.operations.services import Service, Supervisor\n"
        "from sundial.settings import load_settings\n"
        "supervisor = Supervisor(load_settings())\n"
        "service = supervisor.add(Service('orphan', [sys.executable, '-c', 'import time; time.sleep(60)'],"
        " pathlib.Path(sys.argv[1]) / 'log', lambda: True))\n"
        "print(service.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()

    assert is_gone(child)


def test_tail_of_a_missing_log_is_empty(tmp_path: Path):
    """No log, no text, no error."""
    assert tail(tmp_path / "nothing") == ""
