"""The servers of the long-lived system: started in order, watched, and ended without a process left behind."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from sundial.errors import PortInUseError, ServiceError
from sundial.pipeline import Pipeline
from sundial.settings import Settings

PR_SET_PDEATHSIG = 1
GRACE_SECONDS = 8.0
# A service that was up for so long is no service that cannot start: what it does next is counted anew.
STEADY_SECONDS = 20.0
MOST_RESTARTS = 10
# Nobody but us needs to know that somebody turns a sundial.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_COLORS": "false",
}


def check_port(host: str, port: int, what: str) -> None:
    """Refuse a port that somebody else listens on.

    Raises
    ------
    PortInUseError
        Naming the port, who has it where that can be seen, and the variable that changes it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            variable = "SUNDIAL_PREFECT_PORT" if "Prefect" in what else "SUNDIAL_SERVE_PORT"
            raise PortInUseError(
                f"port {port} on {host}, which {what} needs, cannot be used: {error.strerror}{_who_has(port)}",
                hint=f"stop that process, or choose another port: {variable}={port + 1}",
            ) from error


def free_port(host: str = "127.0.0.1") -> int:
    """Find a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _who_has(port: int) -> str:
    """Name the process that listens on a port, when we may see it."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            address: Any = connection.laddr
            if connection.status == psutil.CONN_LISTEN and address and address[1] == port and connection.pid:
                return f" (process {connection.pid}, {psutil.Process(connection.pid).name()})"
    return ""


def _die_with_parent() -> None:
    """Ask the kernel to end this process when its parent is gone, however that ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Service:
    """One server process.

    Attributes
    ----------
    name : str
        For people.
    command : list of str
        Program and arguments.
    log : Path
        Where its output goes.
    ready : callable
        Tells whether it is up.
    address : str
        What to show people; empty for none.
    environment : dict
        Variables beside those of this process.
    patience : float
        Seconds that it may take to be up.
    before_restart : callable
        Called when it died, before it is started again.
    """

    name: str
    command: list[str]
    log: Path
    ready: Callable[[], bool]
    address: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    patience: float = 90.0
    before_restart: Callable[[], object] = lambda: None
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    started: float = 0.0

    def start(self, cwd: Path) -> None:
        """Start the process, in a session of its own so that a Ctrl-C reaches only the one who watches it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  our own programs
                self.command,
                cwd=cwd,
                env={**os.environ, **QUIET, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def wait_ready(self) -> None:
        """Wait until it is up.

        Raises
        ------
        ServiceError
            When it ended, or took too long; shows the end of its log.
        """
        deadline = time.monotonic() + self.patience
        while not self.ready():
            if not self.is_running:
                code = self.process.returncode if self.process else None
                raise ServiceError(
                    f"{self.name} ended with {code} instead of starting:\n{tail(self.log)}", hint=f"see {self.log}"
                )
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{self.name} is not up after {self.patience:.0f} s:\n{tail(self.log)}", hint=f"see {self.log}"
                )
            time.sleep(0.1)

    def end_group(self) -> None:
        """Kill what a process that died has left of its group; it would go on, and nobody would know of it."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the process and all that it started: asked first, killed when it does not go."""
        if self.process is None:
            return
        family: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            family = [*root.children(recursive=True), root]
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_SECONDS)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=GRACE_SECONDS)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)


def tail(path: Path, lines: int = 12) -> str:
    """Give the last lines of a log."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


class Supervisor:
    """Starts services in order, restarts one that died, and ends them all in reverse.

    Parameters
    ----------
    settings : Settings
        Where things are.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.services: list[Service] = []

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def add(self, service: Service) -> Service:
        """Start a service; :meth:`Service.wait_ready` says when it is up."""
        self.services.append(service)
        service.start(self.settings.root)
        return service

    def stop(self) -> None:
        """End all services, the last started first. A second Ctrl-C meanwhile changes nothing."""
        previous = None
        with suppress(ValueError):  # not the main thread: signals are not ours to hold
            previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            while self.services:
                self.services.pop().stop()
        finally:
            if previous is not None:
                signal.signal(signal.SIGINT, previous)

    def watch(
        self,
        *,
        say: Callable[[str], None],
        ended: Callable[[str, datetime], object] = lambda _, __: None,
        poll: float = 1.0,
    ) -> None:
        """Watch until interrupted; a service that died is started again, slower each time that it dies soon.

        Parameters
        ----------
        say : callable
            Told of it in a sentence.
        ended : callable
            Told the name of the service and when it ended, in a thread of its own: whoever is slow to hear of it
            holds nothing up.
        poll : float
            Seconds between two looks; where the kernel tells of an end at once (Linux), they are not waited for.

        Raises
        ------
        ServiceError
            When one died eleven times, each time soon.
        """
        waiting: set[str] = set()
        while True:
            wait_for_end([service.process for service in self.services if service.process is not None], poll)
            at = datetime.now(UTC)
            for service in self.services:
                if service.is_running:
                    continue
                steady = time.monotonic() - service.started > STEADY_SECONDS
                service.restarts = 1 if steady else service.restarts + 1
                code = service.process.returncode if service.process else None
                if service.restarts > MOST_RESTARTS:
                    raise ServiceError(
                        f"{service.name} ended {service.restarts} times:\n{tail(service.log)}",
                        hint=f"see {service.log}",
                    )
                if service.name not in waiting:
                    say(f"{service.name} ended with {code}; starting it again ({service.log})")
                    threading.Thread(target=ended, args=(service.name, at), name="service-ended", daemon=True).start()
                service.end_group()
                time.sleep(min(2**service.restarts, 30) - 1)
                try:
                    service.before_restart()
                except ServiceError as error:  # another of ours is down as well: once more, a little later
                    say(f"{service.name} waits: {error.message}")
                    service.started = time.monotonic()
                    waiting.add(service.name)
                    continue
                waiting.discard(service.name)
                service.start(self.settings.root)


def wait_for_end(processes: Iterable[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait a while, on Linux only until one of the processes ends; those that had ended before are left out."""
    if not hasattr(os, "pidfd_open"):
        time.sleep(seconds)
        return
    handles = []
    try:
        # of a process that has ended and was not asked how, the number is not given away yet
        handles = [os.pidfd_open(process.pid) for process in processes if process.returncode is None]
        select.select(handles, [], [], seconds)
    finally:
        for handle in handles:
            os.close(handle)


def answers(url: str) -> bool:
    """Tell whether something answers at an address, whatever its status."""
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code < 600
    except httpx.HTTPError:
        return False


def prefect_environment(settings: Settings) -> dict[str, str]:
    """Give the variables that make Prefect's parts use our server and our folder."""
    return {
        "PREFECT_HOME": str(settings.artifacts / "prefect"),
        "PREFECT_API_URL": settings.prefect_api_url,
        "PREFECT_UI_API_URL": settings.prefect_api_url,
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "sundial",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "OMP_WAIT_POLICY": "PASSIVE",  # of the kernel server, whose kernels inherit it; see execution/runner.py
        # flows/ is run from the project, not installed
        "PYTHONPATH": os.pathsep.join(filter(None, [str(settings.root), os.environ.get("PYTHONPATH")])),
    }


def prefect_server(settings: Settings) -> Service:
    """Describe a Prefect server with its UI, on SQLite under artifacts."""
    check_port(settings.host, settings.prefect_port, "the Prefect server")
    python = (sys.executable, "-m")
    return Service(
        "Prefect server",
        [*python, "prefect", "server", "start", "--host", settings.host, "--port", str(settings.prefect_port)],
        settings.logs / "prefect-server.log",
        lambda: answers(f"{settings.prefect_api_url}/health"),
        address=settings.prefect_api_url.removesuffix("/api"),
        environment=prefect_environment(settings),
    )


def model_server(settings: Settings, pipeline: Pipeline, *, label: str = "") -> Service:
    """Describe the model server of a pipeline; the label tells it from those of others."""
    address = pipeline.serve_url(settings)
    check_port(settings.host, pipeline.serve_port(settings), "the model server")
    return Service(
        f"model server{label}",
        [sys.executable, "-m", "sundial", "serve", "--pipeline", pipeline.name],
        settings.logs / f"model-server-{pipeline.name}.log",
        lambda: answers(f"{address}/health"),
        address=address,
    )


def shadow_scorer(settings: Settings, pipeline: Pipeline, *, label: str = "") -> Service:
    """Describe the shadow scorer of a pipeline; it has no address, and its lag is the model server's to tell."""
    return Service(
        f"shadow scorer{label}",
        [sys.executable, "-m", "sundial", "shadow", "--pipeline", pipeline.name],
        settings.logs / f"shadow-scorer-{pipeline.name}.log",
        lambda: True,
    )


def worker(settings: Settings, pipelines: list[str], ready: Callable[[], bool]) -> Service:
    """Describe the worker, which registers the flows with their schedules and runs them, or with --join joins one."""
    return Service(
        "worker",
        [sys.executable, "-m", "flows.deployments", *pipelines],
        settings.logs / "worker.log",
        ready,
        environment=prefect_environment(settings),
    )


def watchdog(settings: Settings, pipelines: list[str]) -> Service:
    """Describe the watchdog, which raises alarms."""
    named = [part for name in pipelines for part in ("--pipeline", name)]
    return Service(
        "watchdog",
        [sys.executable, "-m", "sundial", "watchdog", *named],
        settings.logs / "watchdog.log",
        lambda: True,
    )
