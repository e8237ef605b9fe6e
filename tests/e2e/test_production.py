"""Outgrown: PostgreSQL and S3 behind everything, auth strings before it, two machines that share nothing else.

What stands for a machine is a folder: each has artifacts and a copy of the project of its own, and processes that know
no other. What tells them from whole machines is the network between those.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from sundial.errors import ServiceError, SettingsError
from sundial.operations.prefect_api import PrefectApi
from sundial.operations.services import Supervisor
from sundial.operations.status import wait_for_version
from sundial.operations.system import bring_up, check_auth, check_shared
from sundial.pipeline import load_pipeline
from sundial.release.registry import Registry
from sundial.runs import Run, list_runs, open_run
from sundial.serving.predictions import read_log
from sundial.settings import load_settings
from tests.conftest import copy_tiny
from tests.e2e.conftest import ROOT, System, free_port
from tests.object_store import SECRET, ObjectStore

sys.path.insert(0, str(ROOT / "tests" / "serving"))

from database import Database, running_database

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PASSWORD, TOKEN, AUTH = "database-password-of-nobody", "token-of-nobody-0123456789", "sundial:prefect-auth-of-nobody"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SECRETS = (PASSWORD, TOKEN, AUTH, SECRET)
ROWS = [
    {"parcel_id": number, "weight": 0.5 + number, "shop": "north", "posted_at": "2013-10-01"} for number in range(8)
]


@dataclass(frozen=True)
class Machines:
    """Two machines, and what is between them."""

    system: System
    elsewhere: Path
    shared: dict[str, str]
    database: Database

    @property
    def url(self) -> str:
        """Address of the model server."""
        return self.system.settings.serve_url


def address(database: Database, name: str, driver: str = "") -> str:
    """Give the address of a new database, with a password, and the driver that its user asks for."""
    plain = database.make(name).replace("sundial@", f"sundial:{PASSWORD}@")
    return plain.replace("postgresql:", f"postgresql{driver}:")


def copy_project(root: Path) -> Path:
    """Put the tiny project onto a machine."""
    (copy_tiny(root) / "flows").symlink_to(ROOT / "flows")
    return root


@contextmanager
def running(*arguments: str, root: Path, **environment: str) -> Iterator[Path]:
    """Give a command on another machine, whose project is there; give where its output goes."""
    own = {"SUNDIAL_ROOT": root, "SUNDIAL_ARTIFACTS": root / "artifacts", "PYTHONPATH": root / "lib"}
    env = {**os.environ, **{name: str(value) for name, value in own.items()}, **environment}
    for name in ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_DATABASE_CONNECTION_URL"):
        env.pop(name, None)  # the server's alone
    output = root / "output.txt"
    with (
        output.open("ab") as log,
        subprocess.Popen(
            [sys.executable, "-m", "sundial", *arguments], cwd=root, env=env, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield output
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, object_store: ObjectStore) -> Iterator[Machines]:
    """Run the system on one machine, and a worker for its releases on another."""
    here, elsewhere = (copy_project(tmp_path_factory.mktemp(name) / "project") for name in ("here", "elsewhere"))
    with running_database() as database, pytest.MonkeyPatch.context() as patch:
        serve_port, prefect_port = free_port(), free_port()
        shared = {
            "MLFLOW_TRACKING_URI": address(database, "mlflow", "+psycopg"),
            "SUNDIAL_PREDICTIONS_URL": address(database, "predictions"),
            "SUNDIAL_STORE": f"{object_store.make_bucket()}/team",
            "SUNDIAL_WORK_POOL": "team",
            "SUNDIAL_TOKEN": TOKEN,
            "SUNDIAL_SERVE_PORT": str(serve_port),
            "PREFECT_API_AUTH_STRING": AUTH,
            **object_store.environment,
        }
        own = {
            "SUNDIAL_ROOT": str(here),
            "SUNDIAL_ARTIFACTS": str(here / "artifacts"),
            "SUNDIAL_PREFECT_PORT": str(prefect_port),
            "SUNDIAL_SERVE_WORKERS": "2",
            "SUNDIAL_WORK_QUEUES": "serving",
            "PREFECT_SERVER_API_AUTH_STRING": AUTH,
            "PREFECT_API_DATABASE_CONNECTION_URL": address(database, "prefect", "+asyncpg"),
            "PYTHONPATH": str(here / "lib"),
        }
        assert "SUNDIAL_KERNEL_SOCKET" not in os.environ, "a test before left it"
        for name, value in {**shared, **own}.items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(here / "lib"))
        sys.modules.pop("tiny", None)
        settings = load_settings()
        pipeline = load_pipeline("tiny", settings)
        with Supervisor(settings) as supervisor, PrefectApi(settings=settings) as api:
            bring_up(supervisor, pipeline, say=print)
            with running("worker", root=elsewhere, PREFECT_API_URL=settings.prefect_api_url):
                system = System(settings, pipeline, supervisor, api, Registry(settings))
                yield Machines(system, elsewhere, shared, database)
        sys.modules.pop("tiny", None)


@pytest.fixture(scope="module")
def promoted(machines: Machines) -> Run:
    """Release on the one machine, sign on the other; give the run as the other has it."""
    system = machines.system
    released = system.wait(system.start_release("2013-09-30"))
    assert released.state == "COMPLETED", released.message
    theirs = [path.parent for path in (machines.elsewhere / "artifacts" / "runs").glob("*/manifest.json")]
    (name,) = [folder.name for folder in theirs]
    deadline = time.monotonic() + 120
    while not (question := system.api.find("tiny", flow="promotion", run=name, states=["PAUSED"])):
        assert time.monotonic() < deadline, "nobody was asked"
        time.sleep(0.3)
    system.api.answer(question[0], {"decision": "approve", "name": "reviewer", "reason": "from elsewhere"})
    ended = system.wait(question[0], ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"))
    assert ended.state == "COMPLETED", ended.message
    wait_for_version(system.settings, "1", pipeline=system.pipeline)
    return open_run(name, system.settings)


def ask(url: str, rows: list[dict[str, Any]], prefix: str) -> httpx.Response:
    """Ask a model server, over a connection of its own so that any of its processes may answer."""
    named = [{**row, "request_id": f"{prefix}-{row['parcel_id']}"} for row in rows]
    answer = httpx.post(f"{url}/invocations", json={"dataframe_records": named}, headers=HEADERS, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer


def test_one_machine_releases_and_another_decides(machines: Machines, promoted: Run):
    """Stages 01 to 09 ran on the second machine, 11 on the first; both have the whole run, the same in each byte."""
    theirs = Run(machines.elsewhere / "artifacts" / "runs" / promoted.name)

    assert promoted.succeeded("11_promote_model")
    assert "11_promote_model" not in theirs.stages()
    assert len(theirs.stages()) == 7
    for stage, record in theirs.stages().items():
        assert record == promoted.stage_record(stage)
        assert record["kernel"]["kind"] == "fork", "Prefect adds the project's folders to PYTHONPATH"
        for output in record["outputs"]:
            assert (
                promoted.verify_output(stage, output).read_bytes() == theirs.verify_output(stage, output).read_bytes()
            )
    assert [promoted.name] == [run.name for run in list_runs("tiny", settings=machines.system.settings)]


def test_everything_is_in_postgres_and_in_the_bucket(machines: Machines, promoted: Run):
    """The registry, Prefect's states and requests are rows; models and runs are objects; no database file is left."""
    answers = ask(machines.url, ROWS, "stored").json()
    counts = {}
    for name, table in {
        "mlflow": "model_versions",
        "prefect": "flow_run",
        "predictions": "sundial_predictions",
    }.items():
        with closing(psycopg.connect(machines.database.url(name))) as connection:
            counts[name] = connection.execute(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
            ).fetchone()[0]
    info = machines.system.registry.version("tiny", "production")
    logged = read_log("tiny", settings=machines.system.settings)

    assert counts["mlflow"] == 1
    assert counts["prefect"] >= 2
    assert counts["predictions"] >= len(ROWS)
    assert info.source.startswith(f"{machines.shared['SUNDIAL_STORE']}/models/tiny/")
    assert answers["request_ids"] == [name for name in logged["request_id"] if name.startswith("stored-")]
    assert [] == list(machines.system.settings.artifacts.rglob("*.db"))
    assert [] == list(machines.system.settings.predictions.glob("*/production"))


def test_processes_behind_one_port_share_one_log(machines: Machines, promoted: Run):
    """A request that one process has answered is answered from the log by whichever is asked next."""
    first = ask(machines.url, ROWS, "repeated").json()
    workers = set()
    for _ in range(40):
        assert first["predictions"] == ask(machines.url, ROWS, "repeated").json()["predictions"]
        health = httpx.get(f"{machines.url}/health", headers=HEADERS, trust_env=False).json()
        workers.add(health["worker"])
    logged = read_log("tiny", settings=machines.system.settings)

    assert {0, 1} == workers
    with closing(psycopg.connect(machines.database.url("predictions"))) as connection:
        rows = connection.execute("SELECT count(*) FROM sundial_predictions WHERE request_id LIKE 'repeated-%'")
        assert len(ROWS) == rows.fetchone()[0]
    assert len(ROWS) == sum(logged["request_id"].str.startswith("repeated-"))


def test_an_empty_machine_serves_the_same_answers(machines: Machines, promoted: Run, tmp_path: Path):
    """It has the settings and nothing else: the model comes from the bucket, its rows go to the same log."""
    expected = ask(machines.url, ROWS, "here").json()
    root, port = copy_project(tmp_path / "project"), free_port()
    with running("serve", "--port", str(port), root=root):
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while not up(url):
            assert time.monotonic() < deadline, (root / "output.txt").read_text()
            time.sleep(0.2)
        answers = ask(url, ROWS, "there").json()
        assert expected["predictions"] == ask(url, ROWS, "here").json()["predictions"]

    assert (expected["predictions"], "1") == (answers["predictions"], str(answers["model_version"]))
    ids = set(read_log("tiny", settings=machines.system.settings)["request_id"])
    assert {"here-0", "there-0"} <= ids


def up(url: str) -> bool:
    """Tell whether a model server has a model."""
    try:
        return httpx.get(f"{url}/ping", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_every_metric_of_the_dashboard_is_exported(machines: Machines, promoted: Run):
    """What docs/production/grafana.json draws is what this server exports, labels included."""
    panels = json.loads((ROOT / "docs" / "production" / "grafana.json").read_text())["panels"]
    targets = [target for panel in panels for target in panel["targets"]]
    drawn = {name for target in targets for name in re.findall(r"sundial_\w+", target["expr"])}
    # Prometheus adds the address of whom it asks
    labels = {name for target in targets for name in re.findall(r"{{(\w+)}}", target["legendFormat"])} - {"instance"}
    registry = machines.system.registry
    registry.set_alias("tiny", "shadow", 1, by="a test", reason="so that there are metrics of a shadow")
    deadline, missing = time.monotonic() + 60, drawn
    while missing and time.monotonic() < deadline:
        ask(machines.url, ROWS, f"metrics-{time.monotonic()}")
        text = httpx.get(f"{machines.url}/metrics", headers=HEADERS, trust_env=False).text
        missing = {name for name in drawn if not re.search(rf"^{name}(?:{{[^}}]*}})? \S+$", text, re.MULTILINE)}
        time.sleep(0.3)
    registry.delete_alias("tiny", "shadow", by="a test", reason="done")

    assert set() == missing
    assert len(drawn) >= 15
    assert {"status", "alias", "worker"} == labels
    assert all(f'{label}="' in text for label in labels)


def test_who_has_no_secret_is_turned_away(machines: Machines, promoted: Run, monkeypatch: pytest.MonkeyPatch):
    """Prefect's server and the model server answer 401 to anybody else, and our own error says what to set."""
    settings = machines.system.settings
    assert 401 == httpx.post(f"{settings.prefect_api_url}/flow_runs/filter", json={}, trust_env=False).status_code
    wrong = ("sundial", "wrong")
    assert (
        401
        == httpx.post(f"{settings.prefect_api_url}/flow_runs/filter", json={}, auth=wrong, trust_env=False).status_code
    )
    body = {"dataframe_records": ROWS}
    assert 401 == httpx.post(f"{machines.url}/invocations", json=body, trust_env=False).status_code
    for path in ("/metrics", "/reports/", "/version"):
        assert 401 == httpx.get(f"{machines.url}{path}", trust_env=False).status_code

    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "sundial:wrong")
    with PrefectApi(settings=settings) as api, pytest.raises(ServiceError, match="set PREFECT_API_AUTH_STRING"):
        api.find("tiny")
    with pytest.raises(SettingsError, match="is not PREFECT_API_AUTH_STRING"):
        check_auth()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(SettingsError, match="PREFECT_API_URL, MLFLOW_TRACKING_URI not set"):
        check_shared(settings)


def test_no_secret_is_written_anywhere(machines: Machines, promoted: Run, object_store: ObjectStore):
    """Not in a log, a manifest, a notebook or a report of either machine, and not in what was published."""
    ask(machines.url, ROWS, "secret")
    places = [machines.system.settings.artifacts, machines.elsewhere / "artifacts", machines.elsewhere / "output.txt"]
    files = [path for place in places for path in (place.rglob("*") if place.is_dir() else [place]) if path.is_file()]
    found = {f"{path}: {secret}" for path in files for secret in SECRETS if secret.encode() in path.read_bytes()}

    assert len(files) > 50
    assert any(path.name == "worker.log" for path in files)
    assert set() == found
