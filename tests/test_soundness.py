"""A release refuses what hashes well and is wrong all the same: nothing in it, or from before its time."""

from __future__ import annotations

import pandas as pd
import pytest

from sundial.errors import EmptyDataError, PipelineError, StaleDataError
from sundial.pipeline import load_pipeline, parse_pipeline
from sundial.runs import Run, create_run
from sundial.stage import open_stage

AS_OF = "2013-09-30"


def parcels(newest: str, rows: int = 3) -> pd.DataFrame:
    """Make some parcels, the last posted at this time."""
    posted = pd.date_range(end=newest, periods=rows, freq="h")
    return pd.DataFrame({"parcel_id": range(rows), "posted_at": posted})


def release(as_of: str = AS_OF) -> Run:
    """Make a release."""
    return create_run("tiny", as_of)


def save(run: Run, table: pd.DataFrame, *, done: bool = True) -> None:
    """Save a table as 01 does."""
    open_stage("01_query_data", pipeline="tiny", as_of=f"{run.as_of:%Y-%m-%d}", run=run.name).save("parcels", table)
    run.update_stage("01_query_data", status="succeeded" if done else "failed")


def declare(project, line: str) -> None:
    """Put a line into the declaration of 01."""
    path = project / "notebooks" / "tiny" / "pipeline.yaml"
    path.write_text(path.read_text().replace("    outputs: [parcels]\n", f"    outputs: [parcels]\n    {line}\n"))


def test_a_table_without_a_row_stops_a_release_where_it_is_made(project):
    """It names stage and table; a scratch run may hold one."""
    with pytest.raises(EmptyDataError, match="01_query_data made parcels without a row"):
        save(release(), parcels(AS_OF, rows=0))

    save(create_run("tiny", AS_OF, kind="scratch"), parcels(AS_OF, rows=0))


def test_a_table_that_may_be_empty_is_saved_and_read(project):
    """may_be_empty allows it on both sides."""
    declare(project, "may_be_empty: [parcels]")
    run = release()
    save(run, parcels(AS_OF, rows=0))

    assert 0 == len(open_stage("04_build_training_set", pipeline="tiny", as_of=AS_OF, run=run.name).load("parcels"))


@pytest.mark.parametrize(("newest", "refused"), [("2013-09-28", False), ("2013-09-26", True)])
def test_freshness_bounds_the_age_of_the_newest_row(project, newest: str, refused: bool):
    """Three days are allowed: two pass, four do not, and the message says both."""
    declare(project, "freshness: {parcels: 3 days}")
    if refused:
        with pytest.raises(StaleDataError, match=r"4 days before 2013-09-30; freshness in pipeline.yaml allows 3 days"):
            save(release(), parcels(newest))
    else:
        save(release(), parcels(newest))


def test_a_source_without_anything_new_stops_the_release_after(project):
    """Without a bound, a newest row that last week's release had seen already is a source that stopped."""
    save(release("2013-09-23"), parcels("2013-09-22"))

    with pytest.raises(StaleDataError, match="which the release of 2013-09-23 had seen already"):
        save(release(), parcels("2013-09-22"))
    save(release(), parcels("2013-09-29"))


def test_an_earlier_attempt_and_a_later_week_are_no_measure(project):
    """The same week again, or one before it, compares with neither."""
    save(release(), parcels("2013-09-29"))
    save(release(), parcels("2013-09-29"))
    save(release("2013-09-23"), parcels("2013-09-22"))


def test_an_input_without_a_row_is_refused_where_it_is_read(project):
    """Also when it hashes as it should: the reader says which input."""
    run = release()
    save(run, parcels(AS_OF))
    path = run.folder / run.stage_record("01_query_data")["outputs"]["parcels"]["path"]
    parcels(AS_OF, rows=0).to_parquet(path)
    from sundial.formats import hash_file

    run.update_stage("01_query_data", outputs={"parcels": {"path": str(path), "sha256": hash_file(path)}})

    with pytest.raises(EmptyDataError, match="the input 01_query_data/parcels has no row"):
        open_stage("04_build_training_set", pipeline="tiny", as_of=AS_OF, run=run.name).load("parcels")


def test_an_input_of_another_week_is_refused(project):
    """What 01 made as of the week before is none of this release's."""
    run = release()
    save(run, parcels(AS_OF))
    run.update_stage("01_query_data", as_of="2013-09-23T00:00:00")

    with pytest.raises(StaleDataError, match="made as of 2013-09-23; this is the release of 2013-09-30"):
        open_stage("04_build_training_set", pipeline="tiny", as_of=AS_OF, run=run.name).load("parcels")


@pytest.mark.parametrize(
    "line", ["freshness: {parcel: 3 days}", "may_be_empty: [parcel]", "freshness: {parcels: soon}"]
)
def test_what_bounds_nothing_is_an_error_of_the_pipeline(project, line: str):
    """A name that is no output, and a time that is none, are refused with the line."""
    declare(project, line)

    with pytest.raises(PipelineError, match=r"pipeline.yaml, line \d+"):
        load_pipeline("tiny")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('cron: "0 6 * * 1"', 'cron: "0 6 * * 8"', "day-of-week"),
        ('cron: "0 6 * * 1"', 'cron: "weekly"', "weekly"),
        ('cron: "0 6 * * 1"', 'cron: "0 6 * * 1"\n  timezone: Nowhere/Land', "Nowhere/Land"),
    ],
)
def test_a_schedule_that_never_comes_is_an_error_of_the_pipeline(project, old: str, new: str, said: str):
    """A cron expression or a time zone that cannot be read is refused at once, not on Monday."""
    path = project / "notebooks" / "tiny" / "pipeline.yaml"

    with pytest.raises(PipelineError, match=said):
        parse_pipeline(path.read_text().replace(old, new), path)
