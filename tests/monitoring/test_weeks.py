"""The ledger of weeks: a review opens when the labels are mature, and is overdue when that day is over."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from sundial.monitoring.weeks import list_weeks
from sundial.operations.status import read_status
from sundial.operations.summary import print_status
from sundial.pipeline import load_pipeline
from sundial.release.approval import Decision, record_decision
from sundial.runs import Run, create_run
from sundial.settings import load_settings
from sundial.stage import open_stage

PROMOTED = "2020-11-02T10:00:00+00:00"
OPENS = datetime.fromisoformat(PROMOTED) + timedelta(days=9)  # a week that is watched, and two days of maturity


@pytest.fixture
def run(project) -> Run:
    """Make a release whose version went into production."""
    run = create_run("tiny", "2013-10-07", kind="release", started_by="test")
    run.restart_stage("11_promote_model", status="running")
    stage = open_stage("11_promote_model", pipeline="tiny", as_of="2013-10-14", run=run.name)
    stage.save("promotion", {"version": 2, "promoted_at": PROMOTED, "production_from": "2013-10-14T00:00:00"})
    run.update_stage("11_promote_model", status="succeeded")
    return run


def weeks(now: datetime):
    """List the weeks at a moment."""
    return list_weeks(load_pipeline("tiny"), load_settings(), now=now)


def test_the_ledger_says_when_labels_are_mature(run):
    """The data's week ends after seven days, its labels are mature two days later; the wall clock waits as long."""
    (week,) = weeks(OPENS - timedelta(days=3))

    assert (week.version, week.since, week.until) == (2, "2013-10-14T00:00:00", "2013-10-21T00:00:00")
    assert week.labels_mature == "2013-10-23T00:00:00"
    assert datetime.fromisoformat(week.opens) == OPENS
    assert week.state == "maturing"


@pytest.mark.parametrize(
    ("late", "state"), [(timedelta(0), "open"), (timedelta(hours=23), "open"), (timedelta(days=1), "overdue")]
)
def test_a_review_opens_itself_and_is_overdue_a_day_later(run, late, state):
    """On the day it is open; when that day is over without an answer, it is overdue."""
    assert weeks(OPENS + late)[0].state == state


def test_a_review_that_was_opened_earlier_is_open(run):
    """Once the monitoring ran the question is there, whatever the day."""
    run.restart_stage("12_monitor_production", status="succeeded")

    assert weeks(OPENS - timedelta(days=5))[0].state == "open"


def test_an_answer_ends_it(run):
    """An answered review is never overdue, and the ledger says what was answered by whom."""
    record_decision(
        run, Decision(kind="review", decision="keep", name="Ada", reason="fine", evidence="e", at="2020-11-12")
    )
    week = weeks(OPENS + timedelta(days=30))[0]

    assert (week.state, week.answer) == ("answered", "keep, Ada")


def test_status_says_overdue(run, capsys):
    """What waits too long is said by sundial status, in words and as JSON, also when every server is down."""
    settings = load_settings()
    found = read_status(settings, load_pipeline("tiny"))
    print_status(found, settings)

    assert [week["state"] for week in found["weeks"]] == ["overdue"]
    assert "review of version 2, 2013-10-14 to 2013-10-21, is OVERDUE since 2020-11-12 10:00" in " ".join(
        capsys.readouterr().out.split()
    )


def test_what_was_never_promoted_is_not_there(project):
    """A release without a promotion has no week in production."""
    create_run("tiny", "2013-10-07", kind="release", started_by="test")

    assert weeks(OPENS) == []
