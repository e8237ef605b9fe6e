"""Three weeks of the tiny pipeline replayed for real, killed and gone on with; one of them again on a Dask cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sundial.errors import ServiceError
from sundial.operations.services import Service, Supervisor, free_port, prefect_environment, prefect_server
from sundial.pipeline import load_pipeline
from sundial.release.registry import Registry
from sundial.replay.pages import PAGES, render_replay
from sundial.replay.plan import list_steps
from sundial.replay.replays import Replay, begin_replay, isolate, read_records
from sundial.replay.running import run_replay
from sundial.runs import Run, list_runs
from sundial.serving.predictions import read_log
from sundial.serving.shadow import read_shadow_scores
from sundial.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
WEEKS = ("2013-09-30", "2013-10-14")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def services(project, monkeypatch) -> Iterator[Supervisor]:
    """Run a Prefect server for the test's flows; they find the project's package and these flows."""
    monkeypatch.setenv("SUNDIAL_PREFECT_PORT", str(free_port()))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(project / "lib"), str(ROOT)]))
    with Supervisor(load_settings()) as supervisor:
        supervisor.add(prefect_server(supervisor.settings)).wait_ready()
        yield supervisor


def begin(name: str, last: str = WEEKS[1], plant: int = 1) -> Replay:
    """Begin three weeks, with bad releases planted beside the one in the middle."""
    return begin_replay(load_pipeline("tiny"), WEEKS[0], last, approve="passing", name=name, plant=plant)


def figures(replay: Replay) -> dict[str, object]:
    """Give all that notebooks recorded, by release date and stage; how long something took is of the machine."""
    timed = ("seconds", "latency", "rehearsal")
    return {
        f"{run.as_of:%Y-%m-%d} {stage}": {
            name: value for name, value in record.get("scraps", {}).items() if not any(word in name for word in timed)
        }
        for run in list_runs("tiny", settings=replay.settings)
        for stage, record in run.stages().items()
    }


def release(replay: Replay, week: int) -> Run:
    """Find the run of a week."""
    return next(run for run in list_runs("tiny", settings=replay.settings) if run.as_of == replay.weeks[week])


def start_dask(services: Supervisor) -> str:
    """Start a scheduler and two workers in processes of their own that share only the folder; give its address."""
    settings, port = services.settings, free_port()
    address, python = f"tcp://127.0.0.1:{port}", (sys.executable, "-m")
    scheduler = [*python, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    worker = [*python, "distributed.cli.dask_worker", address, "--nthreads", "1"]
    for name, command in {"scheduler": scheduler, "worker-1": worker, "worker-2": worker}.items():
        log, environment = settings.logs / f"dask-{name}.log", prefect_environment(settings)
        command = [*command, "--no-dashboard"]
        services.add(Service(f"dask {name}", command, log, lambda: True, environment=environment))
    return address


def test_a_killed_replay_goes_on_where_it_was(services):
    """What was done is not done again, and all weeks come out as if nothing had happened.

    Nothing real moves: there is no run, version or request outside of the replays.
    """
    settings = services.settings
    first = begin("first")
    total = len(list_steps(first))
    log = (project_log := settings.logs / "killed.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.replay", str(first.folder), "2"],
        env={**os.environ, **prefect_environment(settings)},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while len(read_records(first)) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    log.close()
    done = read_records(first)
    assert 4 <= len(done) < total, project_log.read_text()[-2000:]
    before = {path: path.stat().st_mtime_ns for path in (first.folder / "steps").glob("*.json")}

    run_replay(first, settings, workers=2, say=lambda _: None)
    assert total == len(read_records(first))
    assert before == {path: path.stat().st_mtime_ns for path in before}
    check_weeks(first)
    check_pages(first)

    assert [] == list_runs(settings=settings)
    assert [] == Registry(settings).versions("tiny")
    assert not settings.predictions.exists()


def test_a_week_again_on_dask_gives_the_same_figures(services, monkeypatch):
    """All that the notebooks record is the same on two workers that share only the folder as it was on this machine."""
    first = begin("first", last=WEEKS[0], plant=0)
    run_replay(first, services.settings, workers=2, say=lambda _: None)
    monkeypatch.setenv("SUNDIAL_DASK_SCHEDULER", start_dask(services))
    second = begin("second", last=WEEKS[0], plant=0)
    run_replay(second, load_settings(), workers=2, say=lambda _: None)

    assert {"fork"} == {record["kernel"]["kind"] for record in release(second, 0).stages().values()}
    again = figures(second)
    # there was no production to compare the first release with
    assert {f"2013-09-30 {stage}" for stage in second.pipeline.stages if not stage.startswith("10_")} == set(again)
    assert figures(first) == again


def check_weeks(replay: Replay) -> None:
    """Check that the weeks went as the schedule has it, and that the policy signed as a policy."""
    records = read_records(replay)
    assert records[0, "judgement"]["first"]
    assert "2013-10-14T00:00:00" == records[1, "decision"]["promoted"]
    answer = release(replay, 1).stage_record("11_promote_model")["parameters"]
    assert ("policy: passing", "2013-10-14T00:00:00") == (
        answer["approver"],
        release(replay, 1).stage_record("11_promote_model")["as_of"],
    )
    with isolate(replay.settings):
        registry = Registry(replay.settings)
        in_production = [registry.production_at("tiny", week, in_run_time=True) for week in replay.weeks]
        log = read_log("tiny", settings=replay.settings)
        shadow = read_shadow_scores("tiny", 2, settings=replay.settings)
    assert [1, 1, 2] == [info.version for info in in_production]
    # 40 parcels a day: every request of three weeks is logged once, and the week in shadow scored
    assert (3 * 7 * 40, 3 * 7 * 40) == (len(log), log["request_id"].nunique())
    assert 7 * 40 == len(shadow)
    assert [1, 1, 2] == log.groupby(log["event_time"].dt.to_period("W"))["model_version"].first().tolist()
    planted = {kind: record for (week, kind), record in records.items() if kind.startswith("planted")}
    assert {1} == {week for week, kind in records if kind.startswith("planted")}
    assert "stopped" in {
        "stopped" if record.get("failed_stage") or _fails(record) else "passed" for record in planted.values()
    }


def _fails(record: dict) -> bool:
    return any(item["status"] == "failed" for step in record.get("verdicts", {}).values() for item in step)


def check_pages(replay: Replay) -> None:
    """Check that the four pages are there, open offline, and rest on Parquet."""
    board = render_replay(replay)
    for name, title in PAGES.items():
        html = (board.parent / f"{name}.html").read_text()
        assert f"<h1>{title}</h1>" in html
        assert "http://" not in html.replace("http://www.w3.org", "")
    assert "policy: passing" in board.read_text()
    assert {"board", "staleness", "gates", "gates_sweep", "shift"} <= {
        path.stem for path in replay.tables.glob("*.parquet")
    }


def test_a_flow_that_cannot_go_on_says_where_it_was(services, monkeypatch):
    """A step that fails for a fault of the machine ends the replay with the end of its log; it is not recorded."""
    replay = begin("broken")
    (replay.folder / "runs").write_text("a file where a folder should be")

    with pytest.raises(ServiceError, match=r"ended with 1 after 0 of \d+ steps"):
        run_replay(replay, services.settings, workers=1, say=lambda _: None)
    assert {} == read_records(replay)
