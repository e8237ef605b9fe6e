"""What happens between the notebooks of a release: begin a run, pass its gates, and say where it stands.

Flows call these, and so does anybody who runs a release without an orchestrator.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import pandas as pd

from sundial.errors import GateFailedError
from sundial.evaluation.gates import GateResult, judge_gates
from sundial.formats import read_json, write_json_atomically
from sundial.pipeline import Pipeline
from sundial.release.environment import record_environment
from sundial.runs import Run, create_run, list_runs, now
from sundial.settings import Settings

Step = Literal["release", "comparison", "monitoring"]


def find_release(pipeline: str, key: str, settings: Settings | None = None) -> Run | None:
    """Find the release that was begun with a key; None when none was."""
    runs = list_runs(pipeline, kind="release", settings=settings) if key else []
    return next((run for run in reversed(runs) if run.manifest().get("key") == key), None)


def is_outdated(pipeline: Pipeline, scheduled: datetime, at: datetime | None = None) -> bool:
    """Tell whether a later start of the schedule has come since: that release stands for all that were missed."""
    return pipeline.schedule.next_after(scheduled) <= (at or datetime.now(UTC))


def begin_release(
    pipeline: Pipeline,
    as_of: str,
    *,
    started_by: str,
    key: str = "",
    scheduled: datetime | None = None,
    settings: Settings | None = None,
) -> Run:
    """Make the run of a weekly release, or find the one that was begun with the same key.

    Parameters
    ----------
    pipeline : Pipeline
        What is released.
    as_of : str
        Release date; empty for the one that this week's schedule stands for.
    started_by : str
        Who or what started it, for the manifest.
    key : str
        Identity of the start, such as a flow run's; a second call with it goes on where the first stopped.
    scheduled : datetime, optional
        When it was to start, which says for which week it is, however late it does; now by default.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    Run
    """
    begun = find_release(pipeline.name, key, settings)
    if begun is not None:
        return begun
    moment = scheduled or datetime.now(UTC)
    date = pd.Timestamp(as_of) if as_of else pd.Timestamp(pipeline.as_of(moment))
    run = create_run(pipeline.name, date, kind="release", started_by=started_by, settings=settings)
    run.update(key=key, scheduled=moment.isoformat(timespec="seconds"))
    record_environment(run)
    return run


def remaining_stages(run: Run, stages: tuple[str, ...]) -> list[str]:
    """List the stages that have not succeeded yet: from the first that has not, all of them.

    A stage behind a failed one may have succeeded on what the failed one made in an earlier attempt; it runs again.
    """
    for index, stage in enumerate(stages):
        if not run.succeeded(stage):
            return list(stages[index:])
    return []


def pass_gates(run: Run, pipeline: Pipeline, step: Step) -> list[GateResult]:
    """Judge the gates of a step and write their verdicts into the run, before anything follows from them.

    Parameters
    ----------
    run : Run
        Whose scraps are judged.
    pipeline : Pipeline
        Whose gates.
    step : {'release', 'comparison', 'monitoring'}
        Which of them.

    Returns
    -------
    list of GateResult

    Raises
    ------
    GateFailedError
        When one failed; one sentence naming gate, number and bound. The others are in gates.json.
    """
    results = judge_gates(getattr(pipeline.gates, step), run.scraps())
    path = run.folder / "gates.json"
    verdicts = read_json(path) if path.exists() else {}
    verdicts[step] = {"at": now(), "results": [result.as_dict() for result in results]}
    write_json_atomically(path, verdicts)
    failed = [result for result in results if not result.passed]
    if failed:
        more = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
        raise GateFailedError(
            f"{pipeline.name} {run.as_of:%Y-%m-%d}: {failed[0].sentence}{more}",
            hint=f"nothing was deployed; see {run.folder / 'index.html'}",
        )
    return results


def comparison_date(run: Run, pipeline: Pipeline) -> pd.Timestamp:
    """Give the date at which a candidate's soak is over."""
    return run.as_of + pipeline.schedule.soak


def monitoring_date(promoted: pd.Timestamp, pipeline: Pipeline) -> pd.Timestamp:
    """Give the date at which the labels of the watched production are mature."""
    return promoted + pipeline.schedule.watch + pipeline.label.maturity


def wait_until(moment: timedelta) -> datetime:
    """Give the time of day, in UTC, at which a wait that begins now is over."""
    return datetime.now(UTC) + moment
