"""What a release refuses to read or to write: tables without a row, and tables from before its time.

A file that was changed is found by its hash. These checks find what hashes well and is wrong all the same: a query
that gave nothing, a source that stopped growing, an artifact of another week. They raise in the very cell that loads
or saves, so that the report shows which, and hold in releases only: whoever explores may look at anything.
"""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pandas as pd

from sundial.declarations import LIFECYCLE
from sundial.errors import EmptyDataError, StaleDataError
from sundial.pipeline import Pipeline
from sundial.runs import Run, list_runs

FIRST_OF_LIFECYCLE = "09_deploy_shadow"  # as of the date of the release, like the stages above it


def newest_event(value: Any, event_time: str) -> pd.Timestamp | None:
    """Give the time of the newest event in a table, in UTC without a zone.

    Parameters
    ----------
    value : object
        What is saved.
    event_time : str
        Column with the time of the event.

    Returns
    -------
    Timestamp or None
        None for what is no table, has no such column, or no time in it.
    """
    if not isinstance(value, pd.DataFrame) or event_time not in value.columns:
        return None
    times = value[event_time]
    if not pd.api.types.is_datetime64_any_dtype(times) or times.isna().all():
        return None
    newest: pd.Timestamp = times.max()
    return newest if newest.tzinfo is None else newest.tz_convert(UTC).tz_localize(None)


def check_input(run: Run, pipeline: Pipeline, name: str, value: Any, *, at: pd.Timestamp) -> None:
    """Refuse an input that holds nothing, or that was made as of another date.

    Parameters
    ----------
    run : Run
        A release.
    pipeline : Pipeline
        What it declares.
    name : str
        ``stage/output``.
    value : object
        As read.
    at : Timestamp
        The date that the reading stage pretends it is.

    Raises
    ------
    EmptyDataError
        When a table has no row, or a document nothing in it.
    StaleDataError
        When the stage that made it did so as of another date.
    """
    maker, _, output = name.partition("/")
    empty = isinstance(value, pd.DataFrame | dict | list) and not len(value)
    if empty and output not in pipeline.stage(maker).may_be_empty:
        what = "no row" if isinstance(value, pd.DataFrame) else "nothing in it"
        raise EmptyDataError(
            f"the input {name} has {what}", hint=f"find out why, then run {maker} again; may_be_empty allows it"
        )
    made = run.stage_record(maker).get("as_of")
    if made is None:
        return
    made_at = pd.Timestamp(made)
    released = maker not in LIFECYCLE or maker == FIRST_OF_LIFECYCLE
    if (released and made_at != run.as_of) or not run.as_of <= made_at <= max(at, run.as_of):
        raise StaleDataError(
            f"the input {name} was made as of {made_at:%Y-%m-%d}; this is the release of {run.as_of:%Y-%m-%d}, "
            f"at {at:%Y-%m-%d}",
            hint=f"run {maker} again in this run",
        )


def check_output(
    run: Run,
    pipeline: Pipeline,
    stage: str,
    output: str,
    table: pd.DataFrame,
    newest: pd.Timestamp | None,
    *,
    at: pd.Timestamp,
) -> None:
    """Refuse a table without a row, or one whose newest event is too old.

    Where ``freshness`` says nothing of a table that comes from outside, its newest event must be newer than that of the
    release before: a week in which nothing happened is a source that stopped.

    Parameters
    ----------
    run : Run
        A release.
    pipeline : Pipeline
        What it declares.
    stage, output : str
        What is saved.
    table : DataFrame
        The same.
    newest : Timestamp or None
        Time of its newest event.
    at : Timestamp
        The date that the stage pretends it is.

    Raises
    ------
    EmptyDataError
        When it has no row; the lifecycle's own tables may.
    StaleDataError
        When it has seen nothing new.
    """
    spec = pipeline.stage(stage)
    if table.empty and stage not in LIFECYCLE and output not in spec.may_be_empty:
        raise EmptyDataError(
            f"{stage} made {output} without a row",
            hint="find out why its source is empty; where that is right, say so: may_be_empty in pipeline.yaml",
        )
    bound = spec.freshness.get(output)
    if bound is not None and not table.empty:
        if newest is None:
            raise StaleDataError(
                f"{stage} made {output} without a time in {pipeline.event_time}, and pipeline.yaml bounds its age",
                hint="save that column, or take the table out of freshness",
            )
        if at - newest > bound:
            raise StaleDataError(
                f"the newest {pipeline.event_time} in {output} is {newest}, {_days(at - newest)} before {at:%Y-%m-%d}; "
                f"freshness in pipeline.yaml allows {_days(bound)}",
                hint="find out why its source is late, then resume",
            )
    elif newest is not None and not spec.inputs and stage not in LIFECYCLE:
        before = _release_before(run, pipeline, stage, output)
        if before is not None and newest <= before[1]:
            raise StaleDataError(
                f"the newest {pipeline.event_time} in {output} is {newest}, which the release of "
                f"{before[0].as_of:%Y-%m-%d} had seen already",
                hint="find out why its source stopped; where that is right, give its age a bound: freshness",
            )


def _release_before(run: Run, pipeline: Pipeline, stage: str, output: str) -> tuple[Run, pd.Timestamp] | None:
    """Find the release of the date before, and the newest event that its table had."""
    mine = run.as_of
    others = [item for item in list_runs(pipeline.name, kind="release") if item.as_of < mine and item.succeeded(stage)]
    for other in sorted(others, key=lambda item: item.as_of, reverse=True):
        newest = other.stage_record(stage).get("outputs", {}).get(output, {}).get("newest")
        if newest:
            return other, pd.Timestamp(newest)
    return None


def _days(span: pd.Timedelta | Any) -> str:
    return f"{pd.Timedelta(span) / pd.Timedelta(days=1):.3g} days"
