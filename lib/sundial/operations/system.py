"""Brings the whole system up, in order, and checks that the schedule really schedules."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sundial.errors import PipelineError, ServiceError, SettingsError
from sundial.operations.alarms import read_standing
from sundial.operations.faults import find_missed
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
# how long before its worker is started again a flow run may have been aborted with the old one
CRASHED_WITH_WORKER = timedelta(seconds=45)


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


def check_ports(settings: Settings, *pipelines: Pipeline) -> None:
    """Refuse ports that are taken, or wanted twice, before anything is started.

    Raises
    ------
    PipelineError
        When two pipelines would be served on one port; names both.
    PortInUseError
        See :func:`sundial.operations.services.check_port`.
    """
    served: dict[int, Pipeline] = {}
    for item in pipelines:
        other = served.setdefault(item.serve_port(settings), item)
        if other is not item:
            raise PipelineError(
                f"{other.name} and {item.name} would both be served on port {item.serve_port(settings)}",
                hint=f"give one of them another number: serve_port_offset in {item.folder / 'pipeline.yaml'}",
            )
    if "PREFECT_API_URL" not in os.environ:
        check_port(settings.host, settings.prefect_port, "the Prefect server")
    for port in served:
        check_port(settings.host, port, "the model server")


def check_auth() -> None:
    """Refuse to start a Prefect server that would refuse us.

    Raises
    ------
    SettingsError
        When the string that the server asks for is not the one that clients send.
    """
    asked, sent = (os.environ.get(f"PREFECT_{name}API_AUTH_STRING", "") for name in ("SERVER_", ""))
    if "PREFECT_API_URL" not in os.environ and asked != sent:
        raise SettingsError(
            "PREFECT_SERVER_API_AUTH_STRING, which the server asks for, is not PREFECT_API_AUTH_STRING, which is sent",
            hint="set both to the same 'name:password'",
        )


def check_shared(settings: Settings) -> None:
    """Refuse to work beside another machine with which not enough is shared.

    Raises
    ------
    SettingsError
        Naming what is missing.
    """
    names = {"PREFECT_API_URL": os.environ.get("PREFECT_API_URL"), "SUNDIAL_WORK_POOL": settings.work_pool}
    names |= {"MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI"), "SUNDIAL_STORE": settings.store}
    missing = [name for name, value in names.items() if not value]
    if missing:
        raise SettingsError(
            f"a worker beside another machine shares Prefect, registry and store with it: {', '.join(missing)} not set",
            hint="set them as they are where 'sundial up' runs",
        )


def bring_up(supervisor: Supervisor, *pipelines: Pipeline, say: Callable[[str], None]) -> None:
    """Start Prefect's server, the worker, and a model server and a shadow scorer for each pipeline.

    A server that ``PREFECT_API_URL`` names is used and not started.

    Parameters
    ----------
    supervisor : Supervisor
        Keeps what is started, and ends it.
    *pipelines : Pipeline
        What is served and released.
    say : callable
        Told each address.

    Raises
    ------
    PipelineError
        When two pipelines would be served on one port.
    PortInUseError
        When a port is taken.
    ServiceError
        When a server does not come up.
    """
    settings = supervisor.settings
    check_writable(settings)
    check_ports(settings, *pipelines)
    check_auth()
    own_server = "PREFECT_API_URL" not in os.environ
    alone = own_server and not settings.work_pool  # else what runs may be another machine's
    server = prefect_server(settings) if own_server else None
    labels = {item.name: f" of {item.name}" if len(pipelines) > 1 else "" for item in pipelines}
    serving = [model_server(settings, item, label=labels[item.name]) for item in pipelines]
    if server is not None:
        supervisor.add(server)
    for one in serving:
        supervisor.add(one)
    for item in pipelines:
        supervisor.add(shadow_scorer(settings, item, label=labels[item.name]))
    if server is not None:
        server.wait_ready()
    with PrefectApi(settings=settings) as api:
        if not api.is_healthy():
            raise ServiceError(
                f"no Prefect server answers at {api.url}", hint="unset PREFECT_API_URL to have one started"
            )
        say(f"Prefect       {api.ui}")
        for item in pipelines if alone else ():
            adopt_orphans(api, item)

        def is_registered() -> bool:
            # the last one that the worker registers of each; READY once a runner asks for its work
            found = [api.find_deployment("rollback", item.name) for item in pipelines]
            return all(one is not None and one.get("status") == "READY" for one in found)

        started = supervisor.add(worker(settings, [item.name for item in pipelines], is_registered))
        started.wait_ready()
        if alone:
            started.before_restart = lambda: adopt_all(settings, *pipelines)
        for one in serving:
            one.wait_ready()
            say(f"{one.name:<13} {one.address}  (POST /invocations, GET /health)")
        say(f"reports       {serving[0].address}/reports/")
        say(f"logs          {settings.logs}")


def adopt_all(settings: Settings, *pipelines: Pipeline) -> None:
    """Start again what was running when the worker died, of all pipelines."""
    since = datetime.now(UTC) - CRASHED_WITH_WORKER
    with PrefectApi(settings=settings) as api:
        for pipeline in pipelines:
            adopt_orphans(api, pipeline, since)


def adopt_orphans(api: PrefectApi, pipeline: Pipeline, since: datetime | None = None) -> list[FlowRun]:
    """Start again what was running when the last worker died; nothing else can be running before ours starts.

    Parameters
    ----------
    api : PrefectApi
        Of a server that only our worker uses.
    pipeline : Pipeline
        Whose flow runs.
    since : datetime, optional
        When the worker died: a flow run that was aborted with it, and could still say so, goes on too.

    Returns
    -------
    list of FlowRun
        Those that were put back.
    """
    orphans = api.find(pipeline.name, states=["RUNNING", "PENDING"])
    if since is not None:
        crashed = api.find(pipeline.name, states=["CRASHED"])
        orphans += [item for item in crashed if item.ended is not None and item.ended >= since]
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


def catch_up(settings: Settings, pipeline: Pipeline) -> FlowRun | None:
    """Start the last release that the schedule missed while the system was down; one, however many were missed.

    Parameters
    ----------
    settings : Settings
        Where things are.
    pipeline : Pipeline
        Whose schedule.

    Returns
    -------
    FlowRun or None
        What was started; None when nothing was missed, or Prefect still has it and starts it by itself.
    """
    known = read_standing(settings).memory.get("schedules", {}).get(pipeline.name)
    at = datetime.now(UTC)
    if known is None or not find_missed(pipeline, settings, since=datetime.fromisoformat(known["since"]), at=at):
        return None
    due = pipeline.schedule.last_before(at - pipeline.schedule.starts_within)
    with PrefectApi(settings=settings) as api:
        coming = api.find(pipeline.name, flow="release", states=["SCHEDULED", "PENDING", "RUNNING"])
        if any(item.starts is not None and due <= item.starts <= at for item in coming):
            return None
        name, key = f"catch-up release of {due:%Y-%m-%d}", f"catch-up {pipeline.name} {due.isoformat()}"
        return api.start("release", pipeline.name, {"pipeline": pipeline.name}, name=name, at=due, key=key)
