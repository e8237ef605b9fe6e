"""What is wrong with a pipeline's releases, as the files of its runs say: no server is asked.

It goes by the records of the stages, which a runner writes; by the locks, which the kernel lets go when their process
dies; and by the schedule. A stage that says it is running, and at which nobody is, was left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sundial.errors import PipelineError
from sundial.execution.notebooks import find_cell
from sundial.formats import read_json
from sundial.operations.alarms import Alarm, Kind
from sundial.operations.notices import find_report
from sundial.pipeline import Pipeline, load_pipeline
from sundial.release.steps import find_release
from sundial.release.turns import is_running, was_left, whose_turn
from sundial.runs import Run, list_runs
from sundial.settings import Settings

LOOKED_AT = 8  # newest releases: a review comes weeks after its release
BEFORE_SHADOW = "09_deploy_shadow"
BEFORE_PRODUCTION = "11_promote_model"
STAGE_OF = {"release": BEFORE_SHADOW, "comparison": "10_compare_shadow", "promotion": BEFORE_PRODUCTION}
STAGE_OF |= {"watch": BEFORE_PRODUCTION, "monitoring": "12_monitor_production"}
GRACE = timedelta(seconds=60)  # what a runner that kills its kernel in time needs to say so


def find_missed(pipeline: Pipeline, settings: Settings, *, since: datetime, at: datetime) -> list[Alarm]:
    """Tell whether a release should have started and did not; of several that were missed, the last.

    Parameters
    ----------
    pipeline : Pipeline
        With its schedule.
    settings : Settings
        Where its runs are.
    since : datetime
        Starts before this are none of ours: the schedule was another, or nobody ran it.
    at : datetime
        Now.
    """
    due = pipeline.schedule.last_before(at - pipeline.schedule.starts_within)
    if due <= since or whose_turn(pipeline.name, settings) is not None:
        return []
    if any(started >= due for run in _releases(pipeline, settings) for started in _starts(run)):
        return []
    week = f"{pipeline.as_of(due):%Y-%m-%d}"
    return [
        Alarm(
            key=f"{pipeline.name} not started {due.isoformat()}",
            kind="not started",
            cause=f"the release of {due:%A %Y-%m-%d %H:%M %Z} has not started, {_span(at - due)} later",
            pipeline=pipeline.name,
            week=week,
            report=find_report(pipeline.name, "", settings),
            resume=f"sundial up, or: sundial release --pipeline {pipeline.name}",
        )
    ]


def find_broken(pipeline: Pipeline, settings: Settings, *, at: datetime) -> list[Alarm]:
    """Find stages that failed or were left, and releases that do not end.

    Parameters
    ----------
    pipeline : Pipeline
        Whose releases.
    settings : Settings
        Where they are.
    at : datetime
        Now.
    """
    found = []
    newer: set[str] = set()  # stages that a newer release has begun: what failed there before is moot
    for run in reversed(_releases(pipeline, settings)[-LOOKED_AT:]):
        stages = run.stages()
        broken = [
            alarm
            for stage, record in stages.items()
            if not _is_moot(stage, newer) and (alarm := _judge_stage(run, stage, record, pipeline, settings, at))
        ]
        if not broken and not newer:
            broken = _judge_release(run, stages, pipeline, settings, at)
        found += broken
        newer |= {
            stage for stage, record in stages.items() if record.get("status") in ("succeeded", "running", "failed")
        }
    return found


def is_mended(alarm: Alarm, pipeline: Pipeline, settings: Settings) -> bool:
    """Tell whether what an alarm was about is over: it succeeded, or a newer release has made it moot."""
    if not alarm.run:
        return True
    runs = {run.name: run for run in _releases(pipeline, settings)}
    run = runs.get(alarm.run)
    if run is None:  # removed
        return True
    newer = {stage for name, one in runs.items() if _is_newer(one, run) for stage in one.stages()}
    if alarm.stage:
        return _is_moot(alarm.stage, newer) or run.succeeded(alarm.stage)
    return bool(newer) or (not was_left(run, settings) and alarm.kind == "not finished")


def is_moot(flow: str, run: str, pipeline: str, settings: Settings) -> bool:
    """Tell whether a newer release makes a flow that failed nobody's concern any more."""
    runs = list_runs(pipeline, kind="release", settings=settings)
    own = next((one for one in runs if one.name == run), None)
    if own is None:
        return False
    newer = {stage for one in runs if _is_newer(one, own) for stage in one.stages()}
    return _is_moot(STAGE_OF.get(flow, "13_review_production"), newer)


def find_flow_faults(
    flow_run: str, name: str, parameters: Mapping[str, Any], reason: str, settings: Settings
) -> list[Alarm]:
    """Give the alarms of a flow run that failed: those of its run, or one that says what Prefect knows.

    Parameters
    ----------
    flow_run, name : str
        Identity and name of the flow run.
    parameters : mapping
        What it was called with.
    reason : str
        Why it failed.
    settings : Settings
        Where its run is.
    """
    pipeline = str(parameters.get("pipeline", ""))
    begun = None if parameters.get("run") else find_release(pipeline, flow_run, settings)
    run = str(parameters.get("run") or (begun.name if begun else ""))
    try:
        found = find_broken(load_pipeline(pipeline, settings), settings, at=datetime.now(UTC))
    except PipelineError:
        found = []
    about = [alarm for alarm in found if run and alarm.run == run]
    own = [alarm for alarm in about if alarm.kind != "not finished"]
    week = str(parameters.get("as_of") or (f"{begun.as_of:%Y-%m-%d}" if begun else ""))
    said = f"{name} ended: {reason.strip().partition(chr(10))[0] or 'no reason given'}"
    if about and not own:  # the files know where it stopped, and the flow run why
        return [replace(about[0], kind="failed", cause=said)]
    return own or [
        Alarm(
            key=f"flow run {flow_run} failed",
            kind="failed",
            cause=said,
            pipeline=pipeline,
            week=week,
            run=run,
            report=find_report(pipeline, run, settings),
            resume=f"sundial resume {run or flow_run}",
        )
    ]


def find_interrupted(service: str, pipelines: Iterable[str], settings: Settings, ended: datetime) -> list[Alarm]:
    """Say that a part of the system ended, and which stages were under way then.

    A stage that has ended since is named as well: it went on without the part, and somebody may ask.

    Parameters
    ----------
    service : str
        What ended, such as ``worker``.
    pipelines : iterable of str
        Names of those that it serves.
    settings : Settings
        Where their runs are.
    ended : datetime
        When it did.

    Returns
    -------
    list of Alarm
        One for each stage that was under way; one that names none when none was.
    """
    at = ended.isoformat(timespec="milliseconds")
    said = f"the {service} ended, and is started again"
    found = []
    for name in pipelines:
        for run in list_runs(name, kind="release", settings=settings)[-LOOKED_AT:]:
            for stage, record in run.stages().items():
                folder = run.stage_folder(stage)
                running = record.get("status") == "running"
                if not running and (folder / "stage.json").stat().st_mtime < ended.timestamp():
                    continue
                cell = find_cell(folder, ended)
                if not running and cell is None:
                    continue
                where = f", in cell {cell}" if cell else ""
                where += "" if running else f"; it has {record.get('status', 'ended')} since"
                found.append(
                    Alarm(
                        key=f"{service} ended {at} {run.name}/{stage}",
                        kind="server down",
                        cause=f"{said}; {stage} was under way{where}",
                        pipeline=name,
                        week=f"{run.as_of:%Y-%m-%d}",
                        run=run.name,
                        stage=stage,
                        cell=cell,
                        report=find_report(name, run.name, settings, stage),
                        resume=f"nothing, if it goes on by itself; else: sundial resume {run.name}",
                    )
                )
    return found or [Alarm(f"{service} ended {at}", "server down", said, resume="nothing, if it stays up")]


def kind_of(cause: str) -> Kind:
    """Give the kind of alarm that a failed stage is: data that is empty or old is what its source must mend."""
    if cause.startswith("EmptyDataError"):
        return "empty data"
    return "old data" if cause.startswith("StaleDataError") else "failed"


def _judge_stage(
    run: Run, stage: str, record: dict[str, Any], pipeline: Pipeline, settings: Settings, at: datetime
) -> Alarm | None:
    """Give the alarm that the record of a stage deserves; None when all is well."""
    status, started = record.get("status"), record.get("started", "")
    about: dict[str, Any] = {
        "pipeline": run.pipeline,
        "week": f"{run.as_of:%Y-%m-%d}",
        "run": run.name,
        "stage": stage,
        "report": find_report(run.pipeline, run.name, settings, stage),
        "resume": f"sundial resume {run.name}",
    }
    if status == "failed":
        error = record.get("error", {})
        cause = error.get("cause", "")
        said = str(error.get("message", "")).partition("\n")[0] or f"{stage} failed"
        return Alarm(f"{run.name}/{stage} {started}", kind_of(cause), said, cell=error.get("cell"), **about)
    if status != "running":
        return None
    if not is_running(run, stage):
        if run.stage_record(stage).get("status") != "running":  # it ended while we looked
            return None
        said = f"{stage} was left: the process that ran it is gone"
        cell = find_cell(run.stage_folder(stage))
        said += f", while cell {cell} ran" if cell else ""
        return Alarm(f"{run.name}/{stage} {started} left", "not finished", said, cell=cell, **about)
    begun = _moment(started)
    if begun is not None and at - begun > pipeline.stage(stage).timeout + GRACE:
        said = f"{stage} has been running for {_span(at - begun)}, longer than its timeout allows"
        cell = find_cell(run.stage_folder(stage))
        return Alarm(f"{run.name}/{stage} {started} late", "not finished", said, cell=cell, **about)
    return None


def _judge_release(
    run: Run, stages: dict[str, dict[str, Any]], pipeline: Pipeline, settings: Settings, at: datetime
) -> list[Alarm]:
    """Judge a release whose stages are all well: whether somebody is at it, and for how long."""
    about: dict[str, Any] = {
        "pipeline": run.pipeline,
        "week": f"{run.as_of:%Y-%m-%d}",
        "run": run.name,
        "report": find_report(run.pipeline, run.name, settings),
        "resume": f"sundial resume {run.name}",
    }
    done = [name for name, record in stages.items() if record.get("status") == "succeeded"]
    if was_left(run, settings):
        where = f"after {done[-1]}" if done else "before its first stage"
        said = f"the release was left {where}: the process that ran it is gone, or met an error"
        return [Alarm(f"{run.name} left after {len(done)}", "not finished", said, **about)]
    begun = _moment(run.manifest().get("created", ""))
    if run.manifest().get("under_way") and begun is not None and at - begun > pipeline.schedule.ends_within:
        said = f"the release is still running, {_span(at - begun)} after it began"
        return [Alarm(f"{run.name} late", "not finished", said, **about)]
    path = run.folder / "gates.json"
    verdicts = read_json(path) if path.exists() else {}
    for step, verdict in verdicts.items():
        failed = [item for item in verdict["results"] if item["status"] == "failed"]
        if failed:
            said = f"a gate of the {step} stopped it: {failed[0]['sentence']}"
            return [Alarm(f"{run.name} gate {verdict['at']}", "failed", said, **about)]
    return []


def _releases(pipeline: Pipeline, settings: Settings) -> list[Run]:
    return list_runs(pipeline.name, kind="release", settings=settings)


def _starts(run: Run) -> list[datetime]:
    """List when a release began, and for when it was scheduled."""
    manifest = run.manifest()
    moments = [_moment(manifest.get(name, "")) for name in ("created", "scheduled")]
    return [moment for moment in moments if moment is not None]


def _is_newer(one: Run, other: Run) -> bool:
    return str(one.manifest()["created"]) > str(other.manifest()["created"])


def _is_moot(stage: str, newer: set[str]) -> bool:
    """Tell whether a newer release makes the fault of a stage nobody's concern any more."""
    if stage <= BEFORE_SHADOW:
        return bool(newer)  # this week's release stands for last week's
    if stage <= BEFORE_PRODUCTION:
        return BEFORE_SHADOW in newer  # another candidate has taken its place
    return stage in newer


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _span(span: timedelta) -> str:
    minutes = span.total_seconds() / 60
    if minutes < 2:
        return f"{span.total_seconds():.0f} s"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
