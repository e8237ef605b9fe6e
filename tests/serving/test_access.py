"""The bearer token: who has it is answered, who has not is told so, and nobody reads it anywhere."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from folder_source import FolderSource
from processes import running

from sundial.errors import SettingsError
from sundial.operations.status import read_health
from sundial.serving.access import Guard
from sundial.settings import Settings, load_settings

TOKEN = "a-token-of-the-tests-0123"  # noqa: S105  no secret
ROW = {"distance": 900.0, "minute": 600, "weekend": False, "carrier": "AA"}


def basic(password: str) -> str:
    """Write what a browser sends."""
    return f"Basic {base64.b64encode(f'anybody:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN}", True),
        (basic(TOKEN), True),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (TOKEN, False),
        ("Bearer", False),
        ("Basic !", False),
        (basic(""), False),
        ("", False),
        ("Bearer \xff\xfe", False),
    ],
)
def test_only_the_token_opens(header: str, expected: bool) -> None:
    """The whole token, as bearer or as a browser's password, and nothing else."""
    guard = Guard(Settings(token=TOKEN).token)

    assert expected == guard.admits("/health", [(b"authorization", header.encode("latin-1"))])


def test_without_a_token_everybody_is_answered() -> None:
    """An empty setting asks nobody; two headers, of which one is right, do not open."""
    right = (b"authorization", f"Bearer {TOKEN}".encode())

    assert Guard(Settings().token).admits("/invocations", [])
    assert not Guard(Settings(token=TOKEN).token).admits("/health", [right, right])
    assert Guard(Settings(token=TOKEN).token).admits("/ping", [])


@pytest.mark.parametrize("token", ["short", "with a space in it", "ünicode-is-not-it-0123"])
def test_a_weak_token_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """A token that cannot be sent or is soon guessed is refused, without being shown."""
    monkeypatch.setenv("SUNDIAL_TOKEN", token)

    with pytest.raises(SettingsError, match="SUNDIAL_TOKEN") as caught:
        load_settings()
    assert token not in str(caught.value)


@pytest.mark.slow
def test_a_server_with_a_token(models: FolderSource, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every path but ping needs it, our own clients send it, and it stands in no answer and no log."""
    with running("server", settings.artifacts, models.root, SUNDIAL_TOKEN=TOKEN) as process:
        process.wait_ready()
        body = {"dataframe_records": [ROW]}

        def ask(path: str, **headers: str) -> httpx.Response:
            method = "POST" if path == "/invocations" else "GET"
            options: dict[str, Any] = {"json": body} if method == "POST" else {}
            return httpx.request(method, f"{process.url}{path}", headers=headers, trust_env=False, **options)

        paths = ["/invocations", "/health", "/version", "/metrics", "/openapi.json", "/reports/", "/nowhere"]
        refused = [ask(path) for path in paths]
        opened = [ask(path, Authorization=f"Bearer {TOKEN}") for path in paths[:5]]
        client = Settings(token=TOKEN, serve_port=int(process.url.rpartition(":")[2]))

        assert [401] * len(paths) == [answer.status_code for answer in refused]
        assert all("Basic" in answer.headers["www-authenticate"] for answer in refused)
        assert [200] * 5 == [answer.status_code for answer in opened]
        assert read_health(client)["status"] == "ok"
        assert "status" not in read_health(Settings(serve_port=client.serve_port))
        shown = "".join(answer.text + str(answer.headers) for answer in [*refused, *opened])
        assert TOKEN not in shown + process.log.read_text() + repr(client)
