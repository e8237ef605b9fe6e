"""The watchdog: looks every few seconds whether releases start, end and are what they should be; raises alarms.

(The watch, `operations.watching`, is something else: it looks at what a promoted model answers in its first hours.)
It reads the files of the runs, and Prefect's API for what only Prefect knows. So it also works while Prefect is down,
which is one of the things that it says.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sundial.errors import PipelineError
from sundial.operations.alarms import Alarm, raise_alarms, read_standing
from sundial.operations.faults import find_broken, find_missed, is_mended, is_moot
from sundial.operations.notices import find_report
from sundial.operations.prefect_api import FlowRun, PrefectApi
from sundial.pipeline import Pipeline, load_pipeline
from sundial.runs import list_runs
from sundial.settings import Settings

log = logging.getLogger("sundial.watchdog")
DOWN_AFTER = timedelta(seconds=45)  # a server that is started again answers sooner
LATE_AFTER = timedelta(minutes=5)  # of a flow run that waits for a worker
JUMP = timedelta(minutes=2)  # more is no correction of a clock, but another time
LEAST_FREE = 500 << 20  # bytes: about what ten releases of the pipeline that ships take
REMEMBERED = timedelta(days=14)


def look(settings: Settings, names: Iterable[str], *, at: datetime | None = None) -> tuple[list[Alarm], list[Alarm]]:
    """Look once: raise what is new, and clear what is mended.

    Parameters
    ----------
    settings : Settings
        Where things are.
    names : iterable of str
        Names of the pipelines that are watched.
    at : datetime, optional
        Now; the clock's by default.

    Returns
    -------
    tuple of two lists of Alarm
        What was raised and what was cleared.
    """
    at = at or datetime.now(UTC)
    memory = dict(read_standing(settings).memory)
    found = _judge_clock(memory, at) + _judge_disk(settings)
    pipelines: dict[str, Pipeline] = {}
    for name in names:
        try:
            pipelines[name] = load_pipeline(name, settings)
        except PipelineError as error:
            found.append(Alarm(f"{name} unreadable", "failed", error.message, pipeline=name, resume="sundial status"))
    since = _remember_schedules(memory, pipelines, at)
    for name, pipeline in pipelines.items():
        found += find_missed(pipeline, settings, since=since[name], at=at)
        found += find_broken(pipeline, settings, at=at)
    asked = True
    with PrefectApi(settings=settings) as api:
        if api.is_healthy():
            memory["prefect_down_since"] = ""
            found += _ask_prefect(api, pipelines, settings, at, known={alarm.run for alarm in found if alarm.run})
        else:
            asked = False
            found += _judge_silence(memory, settings, at)

    def clear(alarm: Alarm) -> bool:
        if alarm.key.startswith("flow run "):
            return asked  # only Prefect knows
        pipeline = pipelines.get(alarm.pipeline)
        return pipeline is None or is_mended(alarm, pipeline, settings)

    return raise_alarms(found, settings, clear=clear, memory=memory | {"looked_at": at.isoformat()})


def keep_watch(
    settings: Settings,
    names: Iterable[str],
    *,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    looks: int | None = None,
) -> None:
    """Look again and again; a look that fails is said, and the next one comes all the same.

    Parameters
    ----------
    settings : Settings
        Says how often.
    names : iterable of str
        Names of the pipelines.
    say : callable
        Told of each alarm that is raised or cleared.
    sleep : callable
        Waits between two looks.
    looks : int, optional
        End after so many; never by default.
    """
    watched = list(names)
    done = 0
    while looks is None or done < looks:
        try:
            say_changes(*look(settings, watched), say=say)
        except Exception:  # the watchdog is what must not die of what it looks at
            log.exception("a look failed")
        done += 1
        if looks is None or done < looks:
            sleep(settings.watchdog_seconds)


def say_changes(raised: list[Alarm], cleared: list[Alarm], *, say: Callable[[str], None]) -> None:
    """Say what was raised and what was cleared."""
    for alarm in raised:
        say(f"ALARM {alarm.subject}\n{alarm.text}\n")
    for alarm in cleared:
        say(f"mended: {alarm.subject} ({alarm.cause})")


def _judge_clock(memory: dict[str, Any], at: datetime) -> list[Alarm]:
    """Say that the clock went back; what is judged by it may be judged late until it has caught up."""
    last = memory.get("looked_at")
    if not last or at >= datetime.fromisoformat(last) - JUMP:
        return []
    said = f"the clock went back from {last[:19]} to {at.isoformat()[:19]} UTC"
    return [Alarm(f"clock {last}", "clock", said, resume="timedatectl: mend the clock; nothing has to be resumed")]


def _judge_disk(settings: Settings) -> list[Alarm]:
    """Say that there is hardly any room left, while there still is some to say so."""
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.artifacts).free
    if free >= LEAST_FREE:
        return []
    said = f"{free / 2**20:,.0f} MiB are left for {settings.artifacts}: stages will fail, and requests be refused"
    return [Alarm("disk full", "disk full", said, resume="make room: sundial rm --keep 20")]


def _remember_schedules(memory: dict[str, Any], pipelines: dict[str, Pipeline], at: datetime) -> dict[str, datetime]:
    """Give since when each schedule has been watched: what was due before it was there was not missed."""
    known = dict(memory.get("schedules", {}))
    for name, pipeline in pipelines.items():
        written = f"{pipeline.schedule.cron} {pipeline.schedule.timezone}"
        if known.get(name, {}).get("schedule") != written:
            known[name] = {"schedule": written, "since": at.isoformat()}
    memory["schedules"] = known
    return {name: datetime.fromisoformat(known[name]["since"]) for name in pipelines}


def _judge_silence(memory: dict[str, Any], settings: Settings, at: datetime) -> list[Alarm]:
    """Say that Prefect is down, once it has been for a while."""
    since = memory.get("prefect_down_since") or at.isoformat()
    memory["prefect_down_since"] = since
    if at - datetime.fromisoformat(since) < DOWN_AFTER:
        return []
    said = f"no Prefect server has answered at {settings.prefect_api_url} since {since[:19]} UTC: nothing is scheduled"
    return [Alarm(f"server down {since}", "server down", said, resume="sundial up")]


def _ask_prefect(
    api: PrefectApi, pipelines: dict[str, Pipeline], settings: Settings, at: datetime, *, known: set[str]
) -> list[Alarm]:
    """Find flow runs that failed where no file says so, such as a question that nobody answered, or that are late."""
    found = []
    for name in pipelines:
        by_key = {run.manifest().get("key"): run.name for run in list_runs(name, kind="release", settings=settings)}
        for flow_run in api.find(name, states=["FAILED", "CRASHED", "SCHEDULED"]):
            if flow_run.starts is None or at - flow_run.starts > REMEMBERED:
                continue
            run = flow_run.run or by_key.get(flow_run.id, "")
            if flow_run.state == "SCHEDULED" and at - flow_run.starts > LATE_AFTER and flow_run.flow != "release":
                late = f"{flow_run.name} was to start at {flow_run.starts:%Y-%m-%d %H:%M} UTC: no worker takes it"
                found.append(_about_flow_run(flow_run, "not started", late, run, settings, "sundial up"))
            elif flow_run.state != "SCHEDULED" and run not in known and not is_moot(flow_run.flow, run, name, settings):
                said = f"{flow_run.name} ended as {flow_run.state_name}: {flow_run.message.partition(chr(10))[0]}"
                resume = "sundial status" if flow_run.flow == "watch" else f"sundial resume {run or flow_run.id}"
                found.append(_about_flow_run(flow_run, "failed", said, run, settings, resume))
    return found


def _about_flow_run(flow_run: FlowRun, kind: Any, said: str, run: str, settings: Settings, resume: str) -> Alarm:
    pipeline = next((tag.removeprefix("pipeline:") for tag in flow_run.tags if tag.startswith("pipeline:")), "")
    return Alarm(
        key=f"flow run {flow_run.id} {kind}",
        kind=kind,
        cause=said,
        pipeline=pipeline,
        week=str(flow_run.parameters.get("as_of") or ""),
        run=run,
        report=find_report(pipeline, run, settings),
        resume=resume,
    )
