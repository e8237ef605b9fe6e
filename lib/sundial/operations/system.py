"""Brings the whole system up, in order, and checks that the schedule really schedules."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from sundial.errors import ServiceError
from sundial.operations.prefect_api import FlowRun, PrefectApi
from sundial.operations.services import (
    Supervisor,
    check_port,
    model_server,
    prefect_server,
    shadow_scorer,
    worker,
)
from sundial.pipeline import Pipeline
from sundial.settings import Settings

# Prefect's scheduler looks every 5 s for what it has not scheduled yet
SCHEDULE_SECONDS = 45.0


def check_writable(settings: Settings) -> None:
    """Refuse a folder that cannot be written to, before anything is started.

    Raises
    ------
    ServiceError
        Naming the folder.
    """
    try:
        settings.artifacts.mkdir(parents=True, exist_ok=True)
        probe = settings.artifacts / f".writable-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ServiceError(
            f"{settings.artifacts} cannot be written to: {error.strerror}",
            hint="make it writable, or set SUNDIAL_ARTIFACTS to a folder that is",
        ) from error


def check_ports(settings: Settings) -> None:
    """Refuse ports that are taken, before anything is started.

    Raises
    ------
    PortInUseError
        See :func:`sundial.operations.services.check_port`.
    """
    if "PREFECT_API_URL" not in os.environ:
        check_port(settings.host, settings.prefect_port, "the Prefect server")
    check_port(settings.host, settings.serve_port, "the model server")


def bring_up(supervisor: Supervisor, pipeline: Pipeline, *, say: Callable[[str], None]) -> None:
    """Start Prefect's server, the model server, the shadow scorer and the worker.

    A server that ``PREFECT_API_URL`` names is used and not started.

    Parameters
    ----------
    supervisor : Supervisor
        Keeps what is started, and ends it.
    pipeline : Pipeline
        What is served and released.
    say : callable
        Told each address.

    Raises
    ------
    PortInUseError
        When a port is taken.
    ServiceError
        When a server does not come up.
    """
    settings = supervisor.settings
    check_writable(settings)
    own_server = "PREFECT_API_URL" not in os.environ
    server = prefect_server(settings) if own_server else None
    serving = model_server(settings, pipeline.name)
    if server is not None:
        supervisor.add(server)
    supervisor.add(serving)
    supervisor.add(shadow_scorer(settings, pipeline.name))
    if server is not None:
        server.wait_ready()
    with PrefectApi(settings=settings) as api:
        if not api.is_healthy():
            raise ServiceError(
                f"no Prefect server answers at {api.url}", hint="unset PREFECT_API_URL to have one started"
            )
        say(f"Prefect       {api.ui}")
        if own_server:
            adopt_orphans(api, pipeline)

        def is_registered() -> bool:
            # the last one that the worker registers; READY once a runner asks for its work
            found = api.find_deployment("rollback", pipeline.name)
            return found is not None and found.get("status") == "READY"

        supervisor.add(worker(settings, [pipeline.name], is_registered)).wait_ready()
        serving.wait_ready()
        say(f"model server  {serving.address}  (POST /invocations, GET /health)")
        say(f"reports       {serving.address}/reports/")
        say(f"logs          {settings.logs}")


def adopt_orphans(api: PrefectApi, pipeline: Pipeline) -> list[FlowRun]:
    """Start again what was running when the last worker died; nothing else can be running before ours starts.

    Parameters
    ----------
    api : PrefectApi
        Of a server that only our worker uses.
    pipeline : Pipeline
        Whose flow runs.

    Returns
    -------
    list of FlowRun
        Those that were put back.
    """
    orphans = api.find(pipeline.name, states=["RUNNING", "PENDING"])
    for orphan in orphans:
        api.set_state(orphan, "SCHEDULED", name="AwaitingRetry", message="its worker went away; it goes on")
    return orphans


def check_schedule(settings: Settings, pipeline: Pipeline) -> FlowRun:
    """Check that the weekly schedule has produced its next release; a healthy answer alone proves nothing.

    Returns
    -------
    FlowRun
        The next release.

    Raises
    ------
    ServiceError
        When there is none.
    """
    deadline = time.monotonic() + SCHEDULE_SECONDS
    with PrefectApi(settings=settings) as api:
        while time.monotonic() < deadline:
            scheduled = [item for item in api.find(pipeline.name, flow="release", states=["SCHEDULED"]) if item.starts]
            if scheduled:
                return min(scheduled, key=lambda item: str(item.starts))
            time.sleep(1)
    raise ServiceError(
        f"the schedule {pipeline.schedule.cron!r} of {pipeline.name} has produced no release within "
        f"{SCHEDULE_SECONDS:.0f} s",
        hint=f"see {settings.logs / 'prefect-server.log'}; a known cause is SQLAlchemy 2.1 with Prefect 3.8",
    )
