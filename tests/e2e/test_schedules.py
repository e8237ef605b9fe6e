"""Weeks that were missed, releases that meet, and one that broke and goes on: on a real Prefect server and worker."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from sundial.cli import main
from sundial.declarations import Schedule
from sundial.formats import hash_file
from sundial.operations.alarms import Alarm, raise_alarms, read_standing
from sundial.operations.system import catch_up
from sundial.operations.watchdog import look
from sundial.runs import Run, list_runs
from tests.e2e.conftest import ENDED, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def releases(system: System) -> list[Run]:
    """List the releases, oldest first."""
    return list_runs("tiny", kind="release", settings=system.settings)


def missed_schedule(system: System) -> Schedule:
    """Give a weekly schedule whose last start was a moment ago, and after every release of the tests before."""
    begun = [datetime.fromisoformat(run.manifest()["created"]) for run in releases(system)]
    while (start := datetime.now(UTC).replace(second=0, microsecond=0)) <= max(begun, default=start - timedelta(1)):
        time.sleep(1)
    cron = f"{start.minute} {start.hour} * * {start.isoweekday() % 7}"
    return system.pipeline.schedule.model_copy(update={"cron": cron, "starts_within": timedelta(0)})


def alarms_of(run: Run, system: System) -> list[Alarm]:
    """Look as the watchdog does, and list what stands of a run."""
    look(system.settings, ["tiny"])
    return [alarm for alarm in read_standing(system.settings).alarms.values() if alarm.run == run.name]


def test_three_missed_weeks_are_caught_up_with_by_one_release_which_breaks_and_goes_on(
    system: System, capsys: pytest.CaptureFixture[str]
):
    """One release, of the last week; its fault is one alarm; resumed, it repeats nothing, and a lost file is back."""
    schedule = missed_schedule(system)
    pipeline = system.pipeline.model_copy(update={"schedule": schedule})
    known = {run.name for run in releases(system)}
    since = datetime.now(UTC) - timedelta(days=23)
    written = f"{schedule.cron} {schedule.timezone}"
    raise_alarms([], system.settings, memory={"schedules": {"tiny": {"schedule": written, "since": since.isoformat()}}})
    due = schedule.last_before(datetime.now(UTC))
    with system.sabotaged("06_train_model"):
        caught = catch_up(system.settings, pipeline)
        assert caught is not None
        assert catch_up(system.settings, pipeline) is None, "a second release for the same weeks"
        assert "FAILED" == system.wait(caught, ENDED).state
    (run,) = [run for run in releases(system) if run.name not in known]
    assert (pipeline.as_of(due), due) == (run.as_of.date(), datetime.fromisoformat(run.manifest()["scheduled"]))

    (alarm,) = alarms_of(run, system)
    assert ("failed", "06_train_model") == (alarm.kind, alarm.stage)
    assert alarm.cell is not None
    assert "sabotage in the cell" in alarm.text
    assert f"sundial resume {run.name}" == alarm.resume

    before = run.stage_record("01_query_data")
    output = run.folder / before["outputs"]["parcels"]["path"]
    output.unlink()
    assert 0 == main(["resume", run.name])
    assert "put back, the same to the byte" in capsys.readouterr().out
    assert "COMPLETED" == system.wait(caught, ENDED).state
    assert before == run.stage_record("01_query_data"), "01 ran again"
    assert before["outputs"]["parcels"]["sha256"] == hash_file(output)
    assert [] == alarms_of(run, system)
    assert 1 == main(["resume", run.name]), "nothing has stopped"


def test_late_releases_of_the_schedule_become_one_and_wait_for_one_by_hand(system: System):
    """Of three that a worker finds, the newest runs and the others end Superseded; it and a person's take turns."""
    known = {run.name for run in releases(system)}
    deployment = system.api.find_deployment("release", "tiny")
    now = datetime.now(UTC)
    starts = [system.pipeline.schedule.last_before(now - timedelta(weeks=weeks)) for weeks in (2, 1, 0)]
    late = []
    for start in starts:  # as Prefect's scheduler makes them, weeks ahead
        details = {"type": "SCHEDULED", "state_details": {"scheduled_time": start.isoformat()}}
        body = {"parameters": {"pipeline": "tiny"}, "tags": ["auto-scheduled", "pipeline:tiny"], "state": details}
        answer = system.api._call("POST", f"/deployments/{deployment['id']}/create_flow_run", json=body)
        late.append(system.api.read(answer.json()["id"]))
    by_hand = system.start_release("2013-10-14")
    ended = [system.wait(flow_run, ENDED) for flow_run in (*late, by_hand)]

    assert ["COMPLETED"] * 4 == [item.state for item in ended], [item.message for item in ended]
    assert ["Superseded", "Superseded", "Completed", "Completed"] == [item.state_name for item in ended]
    one, other = [run for run in releases(system) if run.name not in known]
    last, begun = one.stage_record("09_deploy_shadow")["started"], other.manifest()["created"]
    assert datetime.fromisoformat(last) <= datetime.fromisoformat(begun), "the second began before the first had ended"
    assert {"2013-10-14", f"{system.pipeline.as_of(starts[-1])}"} == {f"{run.as_of:%Y-%m-%d}" for run in (one, other)}
