"""Several workers behind one port: one is killed, and nobody who asks again notices."""

from __future__ import annotations

import os
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
from processes import Process, running

from sundial.errors import PortInUseError
from sundial.serving.board import Board, Seat
from sundial.serving.others import OtherWriters
from sundial.serving.predictions import PredictionLog, production_folder, read_log
from sundial.serving.records import Batch
from sundial.serving.schema import Schema
from sundial.serving.server import bind
from sundial.settings import Settings

ROW = {"distance": 900.0, "minute": 600, "weekend": False, "carrier": "AA"}
SCHEMA = Schema.of({"distance": "float64"})


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def health(process: Process) -> dict[str, Any]:
    """Ask a worker how it is; a connection of its own each time, so that any may answer."""
    return dict(httpx.get(f"{process.url}/health", trust_env=False, timeout=20).json())


def pids(process: Process) -> set[int]:
    """List the worker processes."""
    return {child.pid for child in psutil.Process(process.process.pid).children()}


class Callers:
    """Callers that ask again when a connection breaks, and take nothing but an answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, tuple[float, str]] = {}
        self.failures: list[str] = []
        self.again = 0
        self.stop = threading.Event()

    def call(self, caller: int) -> None:
        """Ask until told to stop."""
        rows = [{**row, "distance": None} for row in sample_rows(50, seed=caller).to_dict("records")]
        number = 0
        while not self.stop.is_set():
            with httpx.Client(base_url=self.url, trust_env=False, timeout=20) as client:
                for _ in range(20):  # then on a new connection, which may be another worker's
                    if self.stop.is_set():
                        return
                    number += 1
                    self._ask(client, f"{caller}-{number}", rows[number % 50])

    def _ask(self, client: httpx.Client, request_id: str, row: dict[str, Any]) -> None:
        body = {"dataframe_records": [row], "request_ids": [request_id]}
        for _ in range(10):
            try:
                answer = client.post("/invocations", json=body)
            except httpx.TransportError:
                self.again += 1
                continue
            if answer.status_code == 200:
                found = answer.json()
                self.answers[request_id] = (found["predictions"][0], found["model_version"])
            else:
                self.failures.append(answer.text)
            return
        self.failures.append(f"{request_id} was never answered")


@contextmanager
def calling(url: str, number: int = 4) -> Iterator[Callers]:
    """Put a server under load."""
    callers = Callers(url)
    threads = [threading.Thread(target=callers.call, args=(caller,)) for caller in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield callers
    finally:
        callers.stop.set()
        for thread in threads:
            thread.join(60)


@pytest.mark.slow
def test_a_killed_worker_costs_no_outage(models: FolderSource, settings: Settings) -> None:
    """After kill -9 of one of two every caller is answered, every answer is in the log, and a new worker is there."""
    with running("server", settings.artifacts, models.root, SUNDIAL_SERVE_WORKERS="2") as process:
        process.wait_ready()
        before = pids(process)
        with calling(process.url) as callers:
            wait_for(lambda: len(callers.answers) > 100)
            killed = min(before)
            os.kill(killed, signal.SIGKILL)
            seen = len(callers.answers)
            wait_for(lambda: len(pids(process)) == 2 and killed not in pids(process))
            wait_for(lambda: len(callers.answers) > seen + 100)
            wait_for(lambda: len(health(process)["workers"]) == 2 and health(process)["status"] == "ok")
        metrics = httpx.get(f"{process.url}/metrics", trust_env=False).text
        workers = health(process)["workers"]
        code = process.stop()

    assert [] == callers.failures
    logged = read_log("demo", settings=settings).set_index("request_id")
    scores = {request_id: score for request_id, (score, _) in callers.answers.items()}
    assert scores == logged.loc[list(scores), "score"].to_dict()
    assert {"0", "1"} == set(workers)
    assert pids_of(workers) != before
    assert 'sundial_model_version{worker="0"} 1.0' in metrics
    assert 'sundial_model_version{worker="1"} 1.0' in metrics
    assert code == 0


def pids_of(workers: dict[str, Any]) -> set[int]:
    """List the processes that health tells of."""
    return {worker["pid"] for worker in workers.values()}


@pytest.mark.slow
def test_all_workers_are_one_server(models: FolderSource, settings: Settings) -> None:
    """A repeat gets its first answer whichever worker it reaches; counts add up; the port is taken; all end."""
    with running("server", settings.artifacts, models.root, SUNDIAL_SERVE_WORKERS="3") as process:
        process.wait_ready()
        asked: set[int] = set()
        answers = []
        for minute in range(40):
            with httpx.Client(base_url=process.url, trust_env=False, timeout=20) as client:
                asked.add(client.get("/health").json()["worker"])
                body = {"dataframe_records": [{**ROW, "minute": minute}], "request_ids": ["same"]}
                answers.append(client.post("/invocations", json=body).json())
        port = int(process.url.rpartition(":")[2])
        with pytest.raises(PortInUseError):
            bind("127.0.0.1", port)
        time.sleep(1.2)  # workers tell each other twice a second
        metrics = httpx.get(f"{process.url}/metrics", trust_env=False).text
        family = pids(process)
        assert process.stop() == 0

    assert len(asked) > 1
    assert {answers[0]["predictions"][0]} == {answer["predictions"][0] for answer in answers}
    assert 1 == len(read_log("demo", settings=settings))
    assert "sundial_predictions_total 1" in metrics
    assert "sundial_repeated_total 39" in metrics
    assert 'sundial_requests_total{status="200"} 40' in metrics
    assert not any(psutil.pid_exists(pid) for pid in family)


@pytest.mark.slow
def test_workers_die_with_the_one_who_watches(models: FolderSource, settings: Settings) -> None:
    """When the watching process is killed no worker goes on alone, and the port is free again."""
    with running("server", settings.artifacts, models.root, SUNDIAL_SERVE_WORKERS="2") as process:
        process.wait_ready()
        family = pids(process)
        process.kill()
        wait_for(lambda: not any(psutil.pid_exists(pid) for pid in family))
        with socket.create_server(("127.0.0.1", int(process.url.rpartition(":")[2]))):
            pass


def batch(*request_ids: str) -> Batch:
    """Make a batch."""
    size = len(request_ids)
    return Batch(
        version=3,
        threshold=0.5,
        served_at=time.time_ns(),
        request_ids=list(request_ids),
        entities=[],
        event_times=[],
        features=[[1.0] * size],
        scores=[0.25] * size,
        decisions=[False] * size,
        latencies=[0.1] * size,
    )


def test_what_others_answer_is_read_at_once(settings: Settings) -> None:
    """An answer of another writer is found by the next look, over new segments and new writers, and none twice."""
    folder = production_folder("demo", settings)
    first = PredictionLog(folder, segment_bytes=400)
    first.append(batch("old"), SCHEMA)
    others = OtherWriters(folder, own=9)
    assert [] == others.read()

    seen = []
    for number in range(20):
        first.append(batch(f"a{number}", f"b{number}"), SCHEMA)
        seen += others.read()
    second = PredictionLog(folder)
    second.append(batch("c"), SCHEMA)
    seen += others.read()

    assert [f"{letter}{number}" for number in range(20) for letter in "ab"] + ["c"] == [name for name, _ in seen]
    assert (0.25, False, 3) == seen[0][1]
    assert [] == others.read()
    first.catch_up([["c"]])
    answer = first.find("c")
    assert answer is not None
    assert answer.version == 3
    others.close()
    first.close()
    second.close()


def test_counts_survive_a_worker() -> None:
    """A worker that takes a dead one's seat goes on counting where that one stopped; a torn slot is no state."""
    board = Board(2)
    Seat(board, 0).tell({"predictions": 7.0}, {"version": "1"})
    seat = Seat(board, 0)
    seat.tell({"predictions": 2.0}, {"version": "2"})

    assert {"counters": {"predictions": 9.0}, "state": {"version": "2"}} == board.read(0)
    assert {0: board.read(0)} == Seat(board, 1).others()
    board._memory[10] ^= 1
    assert board.read(0) is None
    assert {} == Seat(board, 0).before
