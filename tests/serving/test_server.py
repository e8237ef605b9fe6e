"""Server processes: killed, restarted, switched, stopped, while requests come in."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest
from folder_source import FolderSource, sample_rows
from processes import running

from sundial.errors import PortInUseError, ServiceError
from sundial.serving.predictions import production_folder, read_log
from sundial.serving.server import bind
from sundial.settings import Settings

ROW = {"distance": 900.0, "minute": 600, "weekend": False, "carrier": "AA"}


class Load:
    """Callers that ask all the time, each row under an id of its own, and what they were answered."""

    def __init__(self, url: str, callers: int = 3) -> None:
        self.url = url
        self.answers: dict[str, dict[str, Any]] = {}
        self.failures: list[str] = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._call, args=(number,)) for number in range(callers)]

    def _call(self, caller: int) -> None:
        rows = [{**row, "distance": None} for row in sample_rows(50, seed=caller).to_dict("records")]
        with httpx.Client(base_url=self.url, trust_env=False, timeout=10) as client:
            number = 0
            while not self.stop.is_set():
                request_id = f"{caller}-{number}"
                body = {"dataframe_records": [rows[number % 50]], "request_ids": [request_id]}
                try:
                    answer = client.post("/invocations", json=body)
                except httpx.TransportError as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                    return
                if answer.status_code == 200:
                    self.answers[request_id] = answer.json()
                else:
                    self.failures.append(answer.text)
                number += 1


@contextmanager
def load(url: str) -> Iterator[Load]:
    """Put a server under load."""
    callers = Load(url)
    for thread in callers.threads:
        thread.start()
    try:
        yield callers
    finally:
        callers.stop.set()
        for thread in callers.threads:
            thread.join(30)


def wait_for(condition: Callable[[], bool], seconds: float = 40) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def health(server: Any) -> dict[str, Any]:
    """Ask a server how it is."""
    return dict(httpx.get(f"{server.url}/health", trust_env=False).json())


def ask(server: Any, **more: Any) -> httpx.Response:
    """Ask a server for a prediction."""
    document = {"dataframe_records": [ROW], **more}
    return httpx.post(f"{server.url}/invocations", json=document, trust_env=False, timeout=30)


@pytest.fixture
def server(shared: Any) -> Any:
    """Give the shared server with version 1 in production and nothing in shadow, whatever the test before it did."""
    (shared.models.root / "aliases.json").unlink()
    shared.models.point("production", 1)
    wait_for(lambda: (health(shared)["version"], health(shared)["production"]["error"]) == ("1", ""))
    return shared


@pytest.mark.slow
def test_kill_loses_no_answer(models: FolderSource, settings: Settings) -> None:
    """After kill -9 under load every answer that a caller got is in the log, and a new server gives it again."""
    with running("server", settings.artifacts, models.root) as process:
        process.wait_ready()
        with load(process.url) as callers:
            wait_for(lambda: len(callers.answers) > 300)
            process.kill()

    logged = read_log("demo", settings=settings).set_index("request_id")
    scores = {request_id: answer["predictions"][0] for request_id, answer in callers.answers.items()}
    assert scores == logged.loc[list(scores), "score"].to_dict()
    assert len(logged) - len(scores) <= len(callers.threads)

    asked = next(iter(scores))
    with running("server", settings.artifacts, models.root) as process:
        process.wait_ready()
        answer = ask(process, request_ids=[asked]).json()
    assert callers.answers[asked] == {name: answer[name] for name in callers.answers[asked]}
    assert len(logged) == len(read_log("demo", settings=settings))


@pytest.mark.slow
def test_switching_under_load_fails_nobody(server: Any) -> None:
    """Promotions and rollbacks under load fail no request; each answer and its row say the same version."""
    before = health(server)["production"]["switches"]
    with load(server.url) as callers:
        for version in (2, 1, 2, 1):
            seen = len(callers.answers)
            wait_for(lambda seen=seen: len(callers.answers) > seen + 20)  # type: ignore[misc]
            server.models.point("production", version)
            wait_for(lambda version=version: health(server)["version"] == str(version))  # type: ignore[misc]
        seen = len(callers.answers)
        wait_for(lambda: len(callers.answers) > seen + 20)

    assert [] == callers.failures
    assert {"1", "2"} == {answer["model_version"] for answer in callers.answers.values()}
    found = read_log("demo", settings=server.settings).set_index("request_id").loc[list(callers.answers)]
    assert [int(answer["model_version"]) for answer in callers.answers.values()] == found["model_version"].tolist()
    assert [answer["predictions"][0] for answer in callers.answers.values()] == found["score"].tolist()
    assert health(server)["production"]["switches"] == before + 4


def test_a_version_that_cannot_be_loaded_changes_nothing(server: Any) -> None:
    """A broken version is told by health; the old one goes on answering, and the next good one takes over."""
    shutil.copytree(server.models.root / "v2", server.models.root / "v5")
    server.models.point("production", 5)
    (server.models.root / "v5" / "model.skops").write_bytes(b"broken")

    wait_for(lambda: "version 5 cannot be loaded" in health(server)["production"]["error"])

    assert "1" == ask(server).json()["model_version"]
    assert ("degraded", "5") == (health(server)["status"], health(server)["production"]["wanted"])
    server.models.point("production", 3)
    wait_for(lambda: health(server)["version"] == "3")
    assert "" == health(server)["production"]["error"]


def test_a_registry_that_is_down_changes_nothing(server: Any) -> None:
    """While the aliases cannot be read the model goes on answering, and health says why it may be old."""
    (server.models.root / "aliases.json").write_text("{")

    wait_for(lambda: "registry cannot be read" in health(server)["production"]["error"])

    assert ask(server).status_code == 200


def test_features_of_the_shadow_are_logged(server: Any) -> None:
    """What only the shadow needs is taken once it is there, and stands in the log for it."""
    more = {"dataframe_records": [{**ROW, "wind": 7.5}], "request_ids": ["windy"]}
    assert ask(server, **more).status_code == 422

    server.models.point("shadow", 4)
    wait_for(lambda: ask(server, **more).status_code == 200)

    logged = read_log("demo", settings=server.settings).set_index("request_id")
    assert logged.loc["windy", "wind"] == 7.5
    assert health(server)["shadow"]["version"] == "4"
    assert health(server)["shadow"]["lag_rows"] == len(logged)


def test_one_thread_for_numbers(server: Any) -> None:
    """The process has no pool of OpenMP or BLAS threads beside its own few."""
    assert ask(server, dataframe_records=[ROW] * 500).status_code == 200

    assert psutil.Process(server.process.process.pid).num_threads() < 12


@pytest.mark.slow
def test_a_stop_is_clean(models: FolderSource, settings: Settings) -> None:
    """Told to stop under load it ends with 0, and nobody who was answered is missing from the log."""
    with running("server", settings.artifacts, models.root) as process:
        process.wait_ready()
        with load(process.url) as callers:
            wait_for(lambda: len(callers.answers) > 20)
            code = process.stop(signal.SIGTERM)

    assert code == 0
    assert set(callers.answers) <= set(read_log("demo", settings=settings)["request_id"])
    assert "Traceback" not in process.log.read_text()


@pytest.mark.slow
def test_before_the_first_model(models: FolderSource, settings: Settings) -> None:
    """Without a model callers get 503 and when to come back; once there is one, the same process answers."""
    models.point("production", None)
    with running("server", settings.artifacts, models.root) as process:
        answer = ask(process)
        assert (503, "5") == (answer.status_code, answer.headers["retry-after"])
        assert "no model in production" in answer.json()["error"]
        assert 503 == httpx.get(f"{process.url}/ping", trust_env=False).status_code
        assert 503 == httpx.get(f"{process.url}/health", trust_env=False).status_code
        assert "no model" == health(process)["status"]

        models.point("production", 1)
        process.wait_ready()

        assert "1" == health(process)["version"]
        assert 0 == process.stop(signal.SIGINT)


def test_a_port_in_use_is_told() -> None:
    """A taken port is one clear sentence with what to do, not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(PortInUseError, match=f"port {port} on 127.0.0.1 is in use"):
            bind("127.0.0.1", port)


def test_an_address_of_another_machine_is_told() -> None:
    """A host that is not ours is named."""
    with pytest.raises(ServiceError, match="cannot be used"):
        bind("192.0.2.1", 0)


def test_a_log_that_cannot_be_written_stops_the_start(models: FolderSource, settings: Settings) -> None:
    """A server that could not log does not start, and says why."""
    folder = production_folder("demo", settings)
    folder.parent.mkdir(parents=True)
    folder.write_text("not a folder")

    with running("server", settings.artifacts, models.root) as process:
        assert process.process.wait(60) != 0

    assert "production cannot be written" in process.log.read_text()
