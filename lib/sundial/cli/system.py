"""Running the system and its parts: up, demo, status, serve, shadow, traffic."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from typing import Annotated

import typer

from sundial.cli.application import PipelineOption, app, end_like_ctrl_c, open_pipeline, open_pipelines
from sundial.errors import SettingsError, SundialError, nearest


@app.command()
def up(
    pipeline: Annotated[
        list[str] | None, typer.Option("--pipeline", "-p", help="Name of a pipeline; repeatable; all by default.")
    ] = None,
) -> None:
    """Run the system, until Ctrl-C.

    Prefect's server (or the one that PREFECT_API_URL names), the worker with the weekly schedules, the watchdog, and
    for each pipeline a model server and a shadow scorer. A release that was missed meanwhile is caught up with.

    Example: sundial up --pipeline payments
    """
    settings, pipelines = open_pipelines(pipeline)
    from sundial.operations.alarms import raise_alarms
    from sundial.operations.faults import find_interrupted
    from sundial.operations.services import Supervisor, watchdog
    from sundial.operations.system import bring_up, catch_up, check_schedule

    names = [declared.name for declared in pipelines]

    def tell_ended(service: str, at: datetime) -> None:
        raise_alarms(find_interrupted(service, names, settings, at), settings)

    end_like_ctrl_c()
    with Supervisor(settings) as supervisor:
        print("Starting the servers ...", flush=True)
        bring_up(supervisor, *pipelines, say=lambda text: print(text, flush=True))
        for declared in pipelines:
            following = check_schedule(settings, declared)
            which = f", {declared.name}" if len(pipelines) > 1 else ""
            print(f"next release  {following.starts:%Y-%m-%d %H:%M %Z} ({declared.schedule.cron}{which})", flush=True)
            if late := catch_up(settings, declared):
                print(f"missed        {late.name} starts now{which}", flush=True)
        supervisor.add(watchdog(settings, names))
        print("Up. Ctrl-C ends all of it; waits and schedules go on when it is started again.", flush=True)
        supervisor.watch(say=lambda text: print(text, file=sys.stderr, flush=True), ended=tell_ended)


@app.command()
def worker(
    queue: Annotated[
        list[str] | None, typer.Option(help="releases or serving; repeatable; releases by default.")
    ] = None,
) -> None:
    """Take on work of a system that runs on another machine, until Ctrl-C.

    Needs PREFECT_API_URL, MLFLOW_TRACKING_URI, SUNDIAL_STORE and SUNDIAL_WORK_POOL as they are there.

    Example: sundial worker --queue releases
    """
    from sundial.operations.prefect_api import PrefectApi
    from sundial.operations.services import Supervisor
    from sundial.operations.services import worker as describe_worker
    from sundial.operations.system import check_shared, check_writable
    from sundial.settings import QUEUES, RELEASES, load_settings

    settings, queues = load_settings(), queue or [RELEASES]
    for name in queues:
        if name not in QUEUES:
            raise SettingsError(f"{name!r} is no queue", hint=nearest(name, QUEUES))
    check_shared(settings)
    check_writable(settings)
    with PrefectApi(settings=settings) as api:
        api.find_deployment("release", "any")  # an error that says what is wrong, before anything is started
    end_like_ctrl_c()
    with Supervisor(settings) as supervisor:
        service = describe_worker(settings, ["--join"], lambda: True)
        service.environment = {**service.environment, "SUNDIAL_WORK_QUEUES": ",".join(queues)}
        supervisor.add(service)
        print(f"Working for {settings.prefect_api_url}, pool {settings.work_pool}. Ctrl-C ends it.", flush=True)
        supervisor.watch(say=lambda text: print(text, file=sys.stderr, flush=True))


@app.command()
def demo(
    approve: Annotated[str, typer.Option(help="Answer the forms in this name, through the API the UI calls.")] = "",
    first: Annotated[str, typer.Option(help="Date of the first release; the calendar's first by default.")] = "",
    pipeline: PipelineOption = "",
) -> None:
    """Turn the loop once on the data that ships.

    Example: sundial demo --approve reviewer
    """
    settings, declared = open_pipeline(pipeline, with_calendar=True)
    from sundial.operations.loop import turn_once
    from sundial.operations.summary import PeakMemory, print_summary

    if not first and declared.calendar is None:
        raise SettingsError(f"{declared.name} has no calendar", hint="give the first date: --first 2026-01-05")
    end_like_ctrl_c()
    begun = time.monotonic()
    with PeakMemory() as memory:
        loop = turn_once(
            settings,
            declared,
            approver=approve or ("" if sys.stdin.isatty() else "reviewer"),
            first=first or str(declared.calendar.first if declared.calendar else ""),
        )
    print_summary(loop, seconds=time.monotonic() - begun, peak_bytes=memory.peak)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, pipeline: PipelineOption = ""
) -> None:
    """Show versions, open questions, what is next, what failed.

    Example: sundial status
    """
    settings, pipelines = open_pipelines([pipeline] if pipeline else None)
    from sundial.operations.status import read_status
    from sundial.operations.summary import print_status

    found = {declared.name: read_status(settings, declared) for declared in pipelines}
    if as_json:
        print(json.dumps(found if len(found) > 1 else found[pipelines[0].name], indent=2))
        return
    for name, one in found.items():
        if len(found) > 1:
            print(f"{'' if name == pipelines[0].name else chr(10)}{name}")
        print_status(one, settings)


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port; SUNDIAL_SERVE_PORT or 8010 by default.")] = 0,
    workers: Annotated[int, typer.Option(min=0, max=64, help="Processes; SUNDIAL_SERVE_WORKERS or 1 by default.")] = 0,
    pipeline: PipelineOption = "",
) -> None:
    """Run the model server; it follows the production alias.

    Example: sundial serve --workers 2
    """
    settings, declared = open_pipeline(pipeline)
    from sundial.serving.server import serve as run_server

    run_server(declared.name, settings, port=port or declared.serve_port(settings), workers=workers or None)


@app.command()
def traffic(
    start: Annotated[str, typer.Option("--from", help="First event time.")],
    end: Annotated[str, typer.Option("--to", help="Event time to stop before.")],
    rate: Annotated[float, typer.Option(help="Requests a second; 0 is as fast as they are answered.")] = 0.0,
    pipeline: PipelineOption = "",
) -> None:
    """Replay the requests of a time to the model server.

    Example: sundial traffic --from 2013-10-07 --to 2013-10-14
    """
    settings, declared = open_pipeline(pipeline)
    import pandas as pd
    from tqdm import tqdm

    from sundial.operations.traffic import Replay

    replay = Replay(declared, pd.Timestamp(start), pd.Timestamp(end), declared.serve_url(settings), rate=rate or None)
    with tqdm(total=replay.total, unit="request", disable=not sys.stderr.isatty()) as bar:

        def show(sent: int) -> None:
            bar.update(sent - bar.n)

        result = replay.run(show)
    print(
        f"{result.sent:,} requests, {result.failed} failed, {result.seconds:.1f} s, p50 {result.quantile(0.5):.1f} ms, "
        f"p99 {result.quantile(0.99):.1f} ms, by version {dict(result.versions)}"
    )
    if result.failed:
        raise SundialError(f"{result.failed} requests failed: {result.first_error}")


@app.command("watchdog")
def watchdog_(
    pipeline: Annotated[
        list[str] | None, typer.Option("--pipeline", "-p", help="Name of a pipeline; repeatable; all by default.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Look once, for cron; exit code 3 while an alarm stands.")
    ] = False,
) -> None:
    """Raise an alarm when a release does not start, does not end, or ends on nothing.

    Each is raised once, said by SUNDIAL_NOTIFICATION_URL and SUNDIAL_NOTIFICATION_BLOCK, and cleared when it is mended.
    It needs no Prefect server; that one is down is one of its alarms.

    Example: sundial watchdog --once
    """
    from sundial.operations.alarms import read_standing
    from sundial.operations.watchdog import keep_watch, look, say_changes
    from sundial.pipeline import list_pipelines
    from sundial.settings import load_settings

    settings = load_settings()  # a pipeline.yaml that cannot be read is an alarm, and not the end of the watchdog
    names = pipeline or list_pipelines(settings)
    if not once:
        end_like_ctrl_c()
        keep_watch(settings, names, say=lambda text: print(text, flush=True))
        return
    say_changes(*look(settings, names), say=print)
    standing = read_standing(settings).alarms
    for alarm in standing.values():
        print(f"stands since {alarm.raised_at}: {alarm.subject}: {alarm.cause}")
    if standing:
        raise typer.Exit(3)
