"""Weeks that were missed, releases that meet, and one that broke and goes on: on a real Prefect server and worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sundial.cli import main
from sundial.formats import hash_file
from sundial.operations.alarms import raise_alarms, read_standing
from sundial.operations.system import catch_up
from sundial.operations.watchdog import look
from sundial.runs import Run, list_runs
from tests.e2e.conftest import ENDED, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def releases(system: System) -> list[Run]:
    """List the releases, oldest first."""
    return list_runs("tiny", kind="release", settings=system.settings)


def test_three_missed_weeks_are_caught_up_with_by_one_release_which_breaks_and_goes_on(
    system: System, capsys: pytest.CaptureFixture[str]
):
    """One release, of the last week; its fault is one alarm; resumed, it repeats nothing, and a lost file is back."""
    since = datetime.now(UTC) - timedelta(days=23)
    schedule = f"{system.pipeline.schedule.cron} {system.pipeline.schedule.timezone}"
    raise_alarms(
        [], system.settings, memory={"schedules": {"tiny": {"schedule": schedule, "since": since.isoformat()}}}
    )
    due = system.pipeline.schedule.last_before(datetime.now(UTC) - system.pipeline.schedule.starts_within)
    with system.sabotaged("06_train_model"):
        caught = catch_up(system.settings, system.pipeline)
        assert catch_up(system.settings, system.pipeline) is None, "a second release for the same weeks"
        assert "FAILED" == system.wait(caught, ENDED).state
    (run,) = releases(system)
    assert (system.pipeline.as_of(due), due) == (run.as_of.date(), datetime.fromisoformat(run.manifest()["scheduled"]))

    look(system.settings, ["tiny"])
    (alarm,) = read_standing(system.settings).alarms.values()
    assert ("failed", run.name, "06_train_model") == (alarm.kind, alarm.run, alarm.stage)
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
    look(system.settings, ["tiny"])
    assert {} == read_standing(system.settings).alarms
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
