"""A promotion counts once the way back has been walked; when that fails production is what it was."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import msgspec
import pytest

from sundial.errors import RegistryError, RehearsalError
from sundial.operations import rehearsal
from sundial.operations.rehearsal import promote
from sundial.operations.status import wait_for_version
from sundial.release.history import PROMOTION, REHEARSAL, RESTORED
from sundial.release.registry import Registry
from sundial.release.tenures import list_tenures
from sundial.serving.predictions import read_log
from sundial.settings import Settings, load_settings

pytestmark = pytest.mark.slow
SIGNED = {"by": "ada", "reason": "better", "evidence": "e" * 64, "as_of": "2013-10-14"}


def kinds(registry: Registry) -> list[tuple[int | None, str]]:
    """List the moves of production."""
    return [(move.version, move.kind) for move in registry.history("toy")]


@contextmanager
def callers(url: str, row: dict[str, object]) -> Iterator[list[tuple[int, str]]]:
    """Ask all the time meanwhile; give status and version of each answer."""
    seen: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not stop.is_set():
                answer = client.post(f"{url}/invocations", json={"dataframe_records": [row]})
                seen.append((answer.status_code, answer.json().get("model_version", "")))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def neighbour(port: int) -> Iterator[list[str]]:
    """Let the model server of another pipeline listen on a port; give what it was asked."""
    asked: list[str] = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = b'{"pipeline": "other", "version": "7"}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield asked
        server.shutdown()


def test_under_load_the_way_back_is_walked_and_no_request_fails(
    register: Callable[[int], int], registry: Registry, server_beside: str
) -> None:
    """Forward, back byte for byte, forward; callers get answers of either version, and the samples are in no window.

    It is one of several pipelines, and the server of another, on the port of the settings, is asked nothing.
    """
    first, second = register(0), register(1)
    settings = load_settings()
    with neighbour(settings.serve_port) as asked:
        _, nothing = promote("toy", first, **SIGNED, settings=settings)
        assert nothing.said == f"version {first} is the first in production: there is nothing to go back to"

        with callers(server_beside, {"maker": "acme", "price": 3.0, "parts": 7, "imported": False}) as seen:
            move, walked = promote("toy", second, **SIGNED, settings=settings)
            time.sleep(0.2)
    assert [] == asked

    assert ("running", first, second) == (walked.server, walked.previous, walked.version)
    assert ["before", "candidate answers", "switched back", "switched forward"] == [
        step["step"] for step in walked.steps
    ]
    assert "answered byte for byte as before" in walked.said
    assert (first, "ada", "e" * 64) == (move.previous, move.by, move.evidence)
    assert [(first, PROMOTION), (second, PROMOTION), (first, REHEARSAL), (second, REHEARSAL)] == kinds(registry)
    assert second == registry.alias("toy", "production").version
    assert {200} == {status for status, _ in seen}
    assert {str(first), str(second)} == {version for _, version in seen}
    everything = read_log("toy", settings=settings)
    samples = everything["request_id"].str.startswith(rehearsal.PREFIX)
    assert samples.sum() >= 5 * 32
    assert 0 == read_log("toy", start="2000-01-01", settings=settings)["request_id"].str.startswith("rehearsal-").sum()


def test_without_a_server_a_fresh_one_is_started_and_ended(
    toy: Settings, register: Callable[[int], int], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens: a server of its own rehearses and writes into no log of ours; what was cut short goes on."""
    monkeypatch.setenv("SUNDIAL_SERVE_PORT", "1")
    settings = load_settings()
    first, second = register(0), register(1)
    registry.set_alias("toy", "production", first)

    _, walked = promote("toy", second, **SIGNED, settings=settings)
    assert "fresh" == walked.server
    assert second == registry.alias("toy", "production").version
    assert read_log("toy", settings=settings).empty

    # cut short in the middle of the way back, it goes on
    registry.set_alias("toy", "production", first, kind=REHEARSAL)
    promote("toy", second, **SIGNED, settings=settings)
    assert second == registry.alias("toy", "production").version

    # but what a person took back does not come again by itself
    registry.set_alias("toy", "production", first, kind="rollback")
    with pytest.raises(RegistryError, match="was in production before, and version 1 took its place"):
        promote("toy", second, **SIGNED, settings=settings)


class Broken(http.server.BaseHTTPRequestHandler):
    """A server in front of the real one, which breaks in one way once another version has answered."""

    behind = ""
    way = ""
    switched = False

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """Answer what the real one does, but for the version of one that is stuck."""
        answer = httpx.get(f"{self.behind}{self.path}", timeout=60, trust_env=False)
        document = answer.json()
        if self.way == "stuck":
            document["version"] = "1"
        self._send(answer.status_code, msgspec.json.encode(document))

    def do_POST(self) -> None:
        """Answer what the real one does, until the way back."""
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = httpx.post(
            f"{self.behind}{self.path}",
            content=body,
            headers={"content-type": "application/json"},
            timeout=60,
            trust_env=False,
        )
        if not answer.is_success:
            self._send(answer.status_code, answer.content)
            return
        document = answer.json()
        Broken.switched |= document["model_version"] == "2"
        if Broken.switched and document["model_version"] == "1":
            if self.way == "slightly off":
                document["predictions"][0] += 1e-12
            if self.way == "error":
                self._send(500, b'{"error": "out of memory"}')
                return
        self._send(answer.status_code, msgspec.json.encode(document))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ("slightly off", "version 1 after the way back answers 32 of 32 sample requests differently"),
        ("error", "answers a sample request with 500"),
        ("stuck", "does not answer with version 2 after 2 s: it answers with 1"),
    ],
)
def test_a_failed_rehearsal_leaves_production_as_it_was(
    register: Callable[[int], int],
    registry: Registry,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    sentence: str,
) -> None:
    """Answers off by 1e-12, an error, a server that does not follow: version 1 stays, it says why, a retry may work."""
    first, second = register(0), register(1)
    registry.set_alias("toy", "production", first)
    wait_for_version(load_settings(), str(first))  # 2 s would be too few for that on a busy machine
    monkeypatch.setattr(rehearsal, "SWITCH_SECONDS", 2.0 if way == "stuck" else 90.0)
    monkeypatch.setattr(Broken, "behind", server)
    monkeypatch.setattr(Broken, "way", way)
    monkeypatch.setattr(Broken, "switched", False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as broken:
        threading.Thread(target=broken.serve_forever, daemon=True).start()
        monkeypatch.setenv("SUNDIAL_SERVE_PORT", str(broken.server_address[1]))
        with pytest.raises(RehearsalError, match=sentence) as caught:
            promote("toy", second, **SIGNED, settings=load_settings())
        broken.shutdown()

    assert "version 1 is in production, as before" in caught.value.message
    assert first == registry.alias("toy", "production").version
    last = registry.history("toy")[-1]
    # where the alias had gone back already, there was nothing left to move
    assert (first, RESTORED if way == "stuck" else REHEARSAL) == (last.version, last.kind)
    assert sentence in registry.version("toy", second).tags["rehearsal"]
    assert first == list_tenures("toy", load_settings())[-1].version

    monkeypatch.setattr(rehearsal, "SWITCH_SECONDS", 90.0)
    monkeypatch.setenv("SUNDIAL_SERVE_PORT", server.rpartition(":")[2])
    promote("toy", second, **SIGNED, settings=load_settings())
    assert second == registry.alias("toy", "production").version
