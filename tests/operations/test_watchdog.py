"""Alarms: raised once by files alone, with Prefect down, each with all a woken person needs; cleared when mended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from sundial.cli import main
from sundial.operations.alarms import raise_alarms, read_standing
from sundial.operations.faults import find_flow_faults, find_interrupted
from sundial.operations.notices import read_notices
from sundial.operations.watchdog import keep_watch, look
from sundial.release.turns import take_turn, whose_turn
from sundial.runs import Run, create_run, now
from sundial.settings import Settings, load_settings

MONDAY = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)  # when the tiny pipeline's schedule starts a release
HOUR = timedelta(hours=1)


@pytest.fixture
def settings(project: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Give the tiny project's settings, with no Prefect server at their address."""
    monkeypatch.setenv("SUNDIAL_PREFECT_PORT", "9")  # discard: nobody answers
    return load_settings()


class Inbox(list):
    """Messages that were received."""


@contextmanager
def receiving() -> Iterator[tuple[str, Inbox]]:
    """Run a real HTTP server that takes messages as Apprise posts them; give its address and what came."""
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            inbox.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"json://127.0.0.1:{server.server_port}/", inbox
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def kinds(settings: Settings) -> list[str]:
    """List the kinds of the alarms that stand, but for Prefect's silence."""
    return [alarm.kind for alarm in read_standing(settings).alarms.values() if alarm.kind != "server down"]


def release(created: datetime, **fields: object) -> Run:
    """Make a release that began at this time."""
    run = create_run("tiny", "2013-09-30")
    run.update(created=created.isoformat(), **fields)
    return run


def test_a_missed_week_is_one_alarm_and_cleared_by_its_release(settings: Settings):
    """Raised after the grace and not before, said once in five looks, gone when the release has begun."""
    look(settings, ["tiny"], at=MONDAY - HOUR)
    look(settings, ["tiny"], at=MONDAY + timedelta(minutes=29))
    assert [] == kinds(settings)
    for minute in range(31, 36):
        look(settings, ["tiny"], at=MONDAY + timedelta(minutes=minute))
    assert ["not started"] == kinds(settings)
    assert 1 == len([item for item in read_notices(settings) if item.get("kind") == "not started"])

    release(MONDAY + HOUR)
    look(settings, ["tiny"], at=MONDAY + HOUR)
    assert [] == kinds(settings)
    assert "mended" in read_notices(settings)[-1]["reason"]


def test_three_missed_weeks_are_one_alarm_for_the_last(settings: Settings):
    """The release that catches up is of the last week; so is the alarm."""
    look(settings, ["tiny"], at=MONDAY - HOUR)
    raised, _ = look(settings, ["tiny"], at=MONDAY + timedelta(weeks=2, hours=1))
    missed = [alarm for alarm in raised if alarm.kind == "not started"]

    assert 1 == len(missed)
    assert "2026-12-07 06:00" in missed[0].cause
    assert "2013-10-28" == missed[0].week  # the week of the data that its calendar has for it


def test_a_schedule_that_nobody_watched_yet_was_not_missed(settings: Settings):
    """A pipeline that is new on a Wednesday has no alarm for Monday; nor has a schedule that was changed."""
    look(settings, ["tiny"], at=MONDAY + timedelta(days=2))
    path = settings.notebooks / "tiny" / "pipeline.yaml"
    path.write_text(path.read_text().replace("0 6 * * 1", "0 6 * * 2"))
    look(settings, ["tiny"], at=MONDAY + timedelta(days=7))

    assert [] == kinds(settings)


def test_a_failed_stage_names_all_that_a_person_needs(settings: Settings):
    """Pipeline, week, stage, cell, cause, report and the command; once, and cleared when the stage succeeds."""
    run = release(MONDAY)
    error = {"cell": 7, "source": "1 / 0", "cause": "ZeroDivisionError: division by zero"}
    error["message"] = "06_train_model failed in cell 7: ZeroDivisionError: division by zero\n    1 / 0"
    run.update_stage("06_train_model", status="failed", started=now(), error=error)
    with receiving() as (url, inbox):
        told = settings.model_copy(update={"notification_url": type(settings.token)(url)})
        for _ in range(3):
            look(told, ["tiny"], at=MONDAY + HOUR)
        (message,) = [item for item in inbox if "tiny" in item["title"]]
        page = f"{settings.serve_url}/reports/{run.name}/06_train_model/report.html"
        for part in (
            "tiny",
            "2013-09-30",
            "06_train_model",
            "7",
            "division by zero",
            page,
            f"sundial resume {run.name}",
        ):
            assert part in message["message"]

        run.update_stage("06_train_model", status="running")
        run.update_stage("06_train_model", status="succeeded")
        look(told, ["tiny"], at=MONDAY + HOUR)
    assert [] == kinds(settings)
    assert "mended" in inbox[-1]["title"]


def test_a_message_that_could_not_be_sent_is_sent_later(settings: Settings, caplog: pytest.LogCaptureFixture):
    """Nobody listened at first; the alarm stands, its message comes at the next look, and no log knows the password."""
    run = release(MONDAY)
    run.update_stage("06_train_model", status="failed", started=now(), error={"message": "06_train_model failed"})
    with receiving() as (url, _):
        url = url.replace("127.0.0.1", "sundial:hunter2-hunter2@127.0.0.1")  # and that server is gone
    silent = settings.model_copy(update={"notification_url": type(settings.token)(url)})
    look(silent, ["tiny"], at=MONDAY)
    assert [True] == [alarm.unsent for alarm in read_standing(settings).alarms.values()]
    assert "SUNDIAL_NOTIFICATION_URL does not take the message" in caplog.text
    assert "hunter2" not in caplog.text

    with receiving() as (url, inbox):
        told = settings.model_copy(update={"notification_url": type(settings.token)(url)})
        look(told, ["tiny"], at=MONDAY)
        look(told, ["tiny"], at=MONDAY)
    assert 1 == len(inbox)


@pytest.mark.parametrize(
    ("cause", "kind"),
    [("EmptyDataError: made parcels without a row", "empty data"), ("StaleDataError: too old", "old data")],
)
def test_empty_and_old_data_are_alarms_of_their_own(settings: Settings, cause: str, kind: str):
    """Whoever reads only the subject knows that the source is to blame."""
    error = {"cell": 3, "cause": cause, "message": f"01_query_data failed in cell 3: {cause}"}
    release(MONDAY).update_stage("01_query_data", status="failed", started=now(), error=error)
    raised, _ = look(settings, ["tiny"], at=MONDAY + HOUR)

    assert [kind] == [alarm.kind for alarm in raised if alarm.run]


HOLDER = """
import sys, time
from sundial.execution.runner import _only_once
from sundial.release.turns import take_turn
from sundial.runs import now, open_run
from sundial.settings import load_settings
run = open_run(sys.argv[1])
with take_turn("tiny", "a flow run", load_settings()) as turn:
    turn.note(run)
    if len(sys.argv) > 2:
        with _only_once(run, sys.argv[2]):
            run.restart_stage(sys.argv[2], status="running", started=now())
            print("in", flush=True)
            time.sleep(600)
    print("in", flush=True)
    time.sleep(600)
"""


@contextmanager
def releasing(run: Run, *stage: str) -> Iterator[subprocess.Popen[str]]:
    """Let another process be at a release, and at a stage of it."""
    command = [sys.executable, "-c", HOLDER, run.name, *stage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout is not None
        assert "in\n" == process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("stage", [(), ("06_train_model",)], ids=["between stages", "in a stage"])
def test_a_killed_worker_is_an_alarm_and_a_living_one_is_none(settings: Settings, stage: tuple[str, ...]):
    """The lock of a dead process is gone, whatever its records say; a working one is left in peace."""
    run = release(datetime.now(UTC))
    with releasing(run, *stage) as process:
        look(settings, ["tiny"])
        assert [] == kinds(settings)
        assert run.name == whose_turn("tiny", settings)["run"]
        process.send_signal(signal.SIGKILL)
        process.wait()
        began = time.monotonic()
        raised, _ = look(settings, ["tiny"])
        assert time.monotonic() - began < 5  # it asks nobody that could keep it waiting
    (alarm,) = [alarm for alarm in raised if alarm.run]
    assert ("not finished", run.name, "".join(stage)) == (alarm.kind, alarm.run, alarm.stage)
    assert "gone" in alarm.cause
    assert whose_turn("tiny", settings) is None


def test_a_release_that_ends_by_an_error_has_not_ended(settings: Settings):
    """Whatever the error was, and whether or not Prefect could be told of it: nobody is at the release any more."""
    run = release(datetime.now(UTC))
    run.update_stage("06_train_model", status="succeeded")
    with suppress(ConnectionError), take_turn("tiny", "a flow run", settings) as turn:
        turn.note(run)
        raise ConnectionError("Prefect does not answer")
    raised, _ = look(settings, ["tiny"])

    (alarm,) = [alarm for alarm in raised if alarm.run]
    assert ("not finished", run.name) == (alarm.kind, alarm.run)
    assert "after 06_train_model" in alarm.cause
    (said,) = find_flow_faults("f", "a flow run", {"pipeline": "tiny", "run": run.name}, "no answer", settings)
    assert (alarm.key, "a flow run ended: no answer") == (said.key, said.cause), "one fault, two alarms"


def test_a_cause_that_is_known_later_is_told(settings: Settings):
    """On a full disk a failed stage looks as if it was left; why it failed is said as soon as its flow has ended."""
    run = release(datetime.now(UTC))
    with releasing(run, "06_train_model"):
        pass
    (left,) = look(settings, ["tiny"])[0]
    assert "was left" in left.cause
    called = {"pipeline": "tiny", "run": run.name}
    reason = "StageFailedError: 06_train_model failed in cell 5: No space left on device"
    whole = find_flow_faults("f", "a flow run", called, reason, settings)

    raised, _ = raise_alarms(whole, settings)

    assert [left.key] == [alarm.key for alarm in raised]
    assert "No space left" in read_standing(settings).alarms[left.key].cause
    assert [] == raise_alarms(whole, settings)[0], "told twice"
    assert [] == look(settings, ["tiny"])[0], "the watchdog takes it back"
    died = find_flow_faults("f", "a flow run", called, "its process exited with -9", settings)
    assert [] == raise_alarms(died, settings)[0], "what says no more is told"


def test_a_service_that_ends_is_an_alarm_about_what_was_under_way(settings: Settings):
    """Stage and run are named while one runs, and none otherwise; it is cleared when the stage has succeeded."""
    run = release(datetime.now(UTC))
    with releasing(run, "06_train_model"):
        (alarm,) = find_interrupted("worker", ["tiny"], settings, datetime.now(UTC))
        assert ("server down", run.name, "06_train_model") == (alarm.kind, alarm.run, alarm.stage)
        assert "the worker ended" in alarm.cause
        raise_alarms([alarm], settings)
    run.update_stage("06_train_model", status="succeeded")
    (other,) = find_interrupted("worker", ["tiny"], settings, datetime.now(UTC))
    assert "" == other.run

    _, cleared = look(settings, ["tiny"])
    assert [alarm.key] == [item.key for item in cleared]


def test_what_was_under_way_is_named_though_it_has_ended(settings: Settings):
    """A stage that went on without the service, and was done before anybody looked, is named with its cell of then."""
    run = release(datetime.now(UTC))
    ended = datetime.now(UTC)
    cells = [new_code_cell("x", metadata={"papermill": {"status": "completed"}}) for _ in range(3)]
    for number, cell in enumerate(cells):
        for name, seconds in {"start_time": number - 1.5, "end_time": number - 0.5}.items():
            cell.metadata["papermill"][name] = (ended + timedelta(seconds=seconds)).isoformat()
    for stage in ("06_train_model", "07_evaluate_model"):
        run.update_stage(stage, status="succeeded")
    nbformat.write(new_notebook(cells=cells), run.stage_folder("06_train_model") / "notebook.ipynb")

    (alarm,) = find_interrupted("Prefect server", ["tiny"], settings, ended)

    assert (run.name, "06_train_model", 2) == (alarm.run, alarm.stage, alarm.cell)
    assert "was under way, in cell 2; it has succeeded since" in alarm.cause
    (nothing,) = find_interrupted("Prefect server", ["tiny"], settings, ended + timedelta(seconds=60))
    assert "" == nothing.run


def test_a_release_that_does_not_end_is_an_alarm(settings: Settings):
    """Longer than ends_within, with a process at it that is alive."""
    run = release(datetime.now(UTC))
    with releasing(run):
        look(settings, ["tiny"], at=datetime.now(UTC) + timedelta(hours=4))
        assert ["not finished"] == kinds(settings)


def test_a_newer_release_makes_older_faults_moot(settings: Settings):
    """What failed last week is this week's release's concern; a review that failed stays one."""
    old = release(MONDAY)
    for stage in ("06_train_model", "12_monitor_production"):
        old.update_stage(stage, status="failed", started=now(), error={"message": f"{stage} failed"})
    look(settings, ["tiny"], at=MONDAY + HOUR)
    assert ["failed", "failed"] == kinds(settings)

    release(MONDAY + timedelta(days=7)).update_stage("01_query_data", status="succeeded")
    look(settings, ["tiny"], at=MONDAY + timedelta(days=7, hours=1))
    assert ["12_monitor_production"] == [item.stage for item in read_standing(settings).alarms.values() if item.stage]


def test_a_prefect_server_that_is_down_is_an_alarm_after_a_while(settings: Settings):
    """Not at once, since a server may be starting; then with the command that starts one."""
    look(settings, ["tiny"], at=MONDAY)
    raised, _ = look(settings, ["tiny"], at=MONDAY + timedelta(seconds=50))

    assert ["server down"] == [alarm.kind for alarm in raised]
    assert "sundial up" in raised[0].resume


def test_a_clock_that_goes_back_is_an_alarm_and_starts_nothing_twice(settings: Settings):
    """Said once; a release that began before the jump still counts for its week."""
    look(settings, ["tiny"], at=MONDAY - HOUR)
    release(MONDAY + timedelta(minutes=1))
    look(settings, ["tiny"], at=MONDAY + 2 * HOUR)
    raised, _ = look(settings, ["tiny"], at=MONDAY + timedelta(minutes=45))

    assert ["clock"] == [alarm.kind for alarm in raised if alarm.kind != "server down"]
    assert "went back" in raised[0].cause


def test_a_clock_that_leaps_ahead_misses_one_week_at_the_most(settings: Settings):
    """A year ahead, as with a dead battery: one alarm, for the last start before the new time."""
    look(settings, ["tiny"], at=MONDAY - HOUR)
    look(settings, ["tiny"], at=MONDAY + timedelta(days=365))

    assert ["not started"] == kinds(settings)


def test_a_pipeline_that_cannot_be_read_is_an_alarm(settings: Settings):
    """The watchdog goes on, and says which line."""
    path = settings.notebooks / "tiny" / "pipeline.yaml"
    path.write_text(path.read_text() + "\nbanana: 1\n")
    raised, _ = look(settings, ["tiny"])

    assert "banana" in raised[0].cause


def test_once_for_cron_prints_and_ends_with_3_while_an_alarm_stands(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    """0 while all is well, 3 and the alarm's text after; a loop of two looks says it once."""
    assert 0 == main(["watchdog", "--once"])
    release(datetime.now(UTC)).update_stage(
        "01_query_data", status="failed", started=now(), error={"message": "01_query_data failed"}
    )
    said: list[str] = []
    keep_watch(settings.model_copy(update={"watchdog_seconds": 1}), ["tiny"], say=said.append, looks=2)
    assert 1 == len([text for text in said if "01_query_data" in text])
    assert 3 == main(["watchdog", "--once"])
    assert "01_query_data" in capsys.readouterr().out


def test_a_second_release_waits_for_the_first(settings: Settings):
    """The second's turn begins when the first's ends, whichever way that is."""
    first, second = release(MONDAY), release(MONDAY)
    order: list[str] = []

    def take() -> None:
        with take_turn("tiny", "second", settings) as turn:
            turn.note(second)
            order.append("second")

    with releasing(first) as process:
        thread = threading.Thread(target=take)
        thread.start()
        time.sleep(0.3)
        assert [] == order
        process.kill()
        process.wait()
        thread.join(10)
    assert ["second"] == order
    assert not second.manifest()["under_way"]
