"""Promotions and rollbacks under load that comes whether or not it is answered, and the way back without a registry."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from folder_source import FolderSource, sample_rows
from processes import running

from sundial.errors import RegistryError
from sundial.operations.rollback import roll_back
from sundial.release.pointer import Pointer
from sundial.release.registry import Registry
from sundial.serving.following import AliasFollower
from sundial.serving.predictions import read_log
from sundial.serving.sources import RegistrySource
from sundial.settings import Settings

RATE = 60  # requests a second
ROWS = [{**row, "distance": None} for row in sample_rows(40).to_dict("records")]


@pytest.fixture
def served(settings: Settings) -> Settings:
    """Give settings with a free port for the server."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return settings.model_copy(update={"serve_port": port})


def body_of(row: int, request_id: str) -> dict[str, Any]:
    """Make a request of one row."""
    return {"dataframe_records": [ROWS[row]], "request_ids": [request_id]}


async def open_loop(url: str, stop: asyncio.Event) -> list[tuple[int, int, dict[str, Any]]]:
    """Send requests at a fixed rate, however long the answers take; give row, status and answer of each."""
    found: list[tuple[int, int, dict[str, Any]]] = []
    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=httpx.Limits(max_connections=200)) as client:

        async def send(number: int) -> None:
            row = number % len(ROWS)
            answer = await client.post(f"{url}/invocations", json=body_of(row, f"load-{number}"))
            found.append((row, answer.status_code, answer.json()))

        sending, begun, number = set(), time.monotonic(), 0
        while not stop.is_set():
            await asyncio.sleep(max(begun + number / RATE - time.monotonic(), 0))
            sending.add(asyncio.create_task(send(number)))
            number += 1
        await asyncio.gather(*sending)
    return found


def ask_all(url: str, label: str) -> list[bytes]:
    """Ask for every row alone; give the bytes of the answers, without the ids that were asked under."""
    with httpx.Client(trust_env=False, timeout=60) as client:
        answers = [
            client.post(f"{url}/invocations", json=body_of(row, f"{label}-{row:02d}")) for row in range(len(ROWS))
        ]
    assert {200} == {answer.status_code for answer in answers}
    return [answer.content.replace(label.encode(), b"") for answer in answers]


async def until_version(url: str, version: int, seconds: float = 60) -> None:
    """Wait until a version answers."""
    deadline = time.monotonic() + seconds
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        while (await client.get(f"{url}/version")).json()["version"] != str(version):
            assert time.monotonic() < deadline, f"version {version} does not answer"
            await asyncio.sleep(0.03)


@pytest.mark.slow
def test_ten_promotions_and_ten_rollbacks_fail_nobody(models: FolderSource, served: Settings) -> None:
    """Under open-loop load nobody is failed, each answer and row says its version, and a rollback answers as before."""
    port = {"SUNDIAL_SERVE_PORT": str(served.serve_port)}
    with running("server-on-port", served.artifacts, models.root, **port) as process:
        process.wait_ready()
        before = ask_all(process.url, "before")

        async def switch() -> list[tuple[int, int, dict[str, Any]]]:
            stop = asyncio.Event()
            load = asyncio.create_task(open_loop(process.url, stop))
            for _ in range(10):
                models.point("production", 2)
                await until_version(process.url, 2)
                pointer = Pointer("demo", served)
                while (standing := pointer.standing()) is None or standing.production["version"] != 2:
                    await asyncio.sleep(0.02)
                said = await asyncio.to_thread(roll_back, "demo", "Ada", "a test", served)
                assert "version 1 is production again, instead of version 2" in said
                await until_version(process.url, 1)
                while pointer.order() is not None:  # until the registry was told
                    await asyncio.sleep(0.02)
            stop.set()
            return await load

        answers = asyncio.run(switch())
        after = ask_all(process.url, "after-")
        health = httpx.get(f"{process.url}/health", trust_env=False).json()

    assert {200} == {status for _, status, _ in answers}
    assert {"1", "2"} == {answer["model_version"] for _, _, answer in answers}
    scores: dict[tuple[int, str], set[float]] = {}
    for row, _, answer in answers:
        scores.setdefault((row, answer["model_version"]), set()).add(answer["predictions"][0])
    assert {1} == {len(found) for found in scores.values()}  # a version never gives two scores for a row
    assert before == after
    assert 20 == health["production"]["switches"]
    logged = read_log("demo", settings=served).set_index("request_id")["model_version"]
    said = {answer["request_ids"][0]: int(answer["model_version"]) for _, _, answer in answers}
    assert said == logged[list(said)].to_dict()


@pytest.mark.slow
def test_a_rollback_needs_no_registry(models: FolderSource, served: Settings) -> None:
    """While the registry is down a rollback is obeyed, survives a restart, and is recorded once it is back."""
    port = {"SUNDIAL_SERVE_PORT": str(served.serve_port)}
    models.point("production", 2)
    pointer, aliases = Pointer("demo", served), models.root / "aliases.json"
    with running("server-on-port", served.artifacts, models.root, **port) as process:
        process.wait_ready()
        while pointer.standing() is None:
            time.sleep(0.02)
        registered = aliases.read_text()
        aliases.write_text("{")

        said = roll_back("demo", "Ada", "alerts doubled", served)

        assert "the registry cannot be told yet" in said
        assert "1" == httpx.get(f"{process.url}/version", trust_env=False).json()["version"]
        process.kill()
    with running("server-on-port", served.artifacts, models.root, **port) as process:
        process.wait_ready()
        assert "1" == httpx.get(f"{process.url}/version", trust_env=False).json()["version"]

        aliases.write_text(registered)
        deadline = time.monotonic() + 60
        while pointer.order() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert 1 == json.loads(aliases.read_text())["production"]["version"]
        assert "1" == httpx.get(f"{process.url}/version", trust_env=False).json()["version"]


@pytest.fixture
def registry(built_models: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Give a registry with versions 1 to 3, promoted one after the other."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Registry(settings)
    for version in (1, 2, 4):
        made.register("demo", built_models / f"v{version}")
    for version in (1, 2, 3):
        made.set_alias("demo", "production", version, by="Ada", reason="a test")
    return made


@pytest.mark.slow
def test_an_order_is_the_truth_until_it_is_recorded(registry: Registry, settings: Settings) -> None:
    """Who asks for production gets what servers obey; the next look records it, with who ordered it and why."""
    pointer = Pointer("demo", settings)
    follower = AliasFollower(RegistrySource("demo", settings), pointer)
    follower.look()
    standing = pointer.standing()
    assert standing is not None
    assert standing.previous is not None
    assert (3, 2) == (standing.production["version"], standing.previous["version"])

    order = pointer.give_order(3, "Grace", "alerts doubled")

    assert order == pointer.give_order(3, "Somebody", "else")
    assert registry.alias("demo", "production").version == 2  # type: ignore[union-attr]
    follower.obey()
    assert (2, 1) == (follower.state.model.version, follower.state.switches)  # type: ignore[union-attr]
    follower.look()
    last = registry.history("demo")[-1]
    assert (2, 3, "Grace", "rollback: alerts doubled") == (last.version, last.previous, last.by, last.reason)
    assert pointer.order() is None
    follower.look()
    standing = pointer.standing()
    assert standing is not None
    assert standing.previous is not None
    assert (2, 1) == (standing.production["version"], standing.previous["version"])


@pytest.mark.slow
def test_a_promotion_overtakes_an_order(registry: Registry, settings: Settings) -> None:
    """A promotion after a rollback that nobody has recorded yet records it first, and then holds."""
    pointer = Pointer("demo", settings)
    follower = AliasFollower(RegistrySource("demo", settings), pointer)
    follower.look()
    pointer.give_order(3, "Grace", "alerts doubled")

    registry.set_alias("demo", "production", 1, by="Ada", reason="another")
    follower.look()

    assert [1, 2, 3, 2, 1] == [move.version for move in registry.history("demo")]
    assert pointer.order() is None
    assert 1 == follower.state.model.version  # type: ignore[union-attr]
    with pytest.raises(RegistryError, match="is not the one that answers"):
        pointer.give_order(3, "Grace", "late")


@pytest.mark.slow
def test_without_a_server_the_alias_is_moved(registry: Registry, served: Settings) -> None:
    """Where no server answers, a rollback moves the alias in the registry, one step further back each time."""
    assert "version 2 is production again" in roll_back("demo", "Ada", "a test", served)
    assert "version 1 is production again" in roll_back("demo", "Ada", "a test", served)
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        roll_back("demo", "Ada", "a test", served)
