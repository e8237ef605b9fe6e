"""A disk that is full: requests are refused or answered without being logged, and nothing that was logged is hurt."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from folder_source import FolderSource
from logwriter import Writer
from processes import running

from sundial.serving.predictions import production_folder, read_log
from sundial.serving.shadow import score_shadow
from sundial.settings import Settings

ROW = {"distance": 900.0, "minute": 600, "weekend": False, "carrier": "AA"}
DISK_BYTES = 192 << 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 192 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"NOT TESTED: a full disk, since no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def disk_settings(small_disk: Path) -> Settings:
    """Give settings whose artifacts are on the small disk."""
    return Settings(artifacts=small_disk / "artifacts")


def fill(folder: Path) -> Path:
    """Fill a disk to the last byte."""
    path = folder / "ballast"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (4096, 1):
            while True:
                try:
                    os.write(handle, b"x" * size)
                except OSError:
                    break
    finally:
        os.close(handle)
    return path


def asker(url: str) -> Callable[[str], httpx.Response]:
    """Make a function that asks a server under a request id."""

    def ask(request_id: str) -> httpx.Response:
        body = {"dataframe_records": [ROW], "request_ids": [request_id]}
        return httpx.post(f"{url}/invocations", json=body, trust_env=False, timeout=30)

    return ask


@pytest.mark.slow
def test_a_full_disk_refuses_and_recovers(models: FolderSource, disk_settings: Settings, small_disk: Path) -> None:
    """With no space left requests get 503 and are not in the log; with space again the same server answers."""
    models.point("shadow", 2)
    with running("server", disk_settings.artifacts, models.root) as process:
        process.wait_ready()
        ask = asker(process.url)
        assert [200] * 5 == [ask(f"before-{number}").status_code for number in range(5)]
        ballast = fill(small_disk)
        answers = [ask(f"during-{number}") for number in range(80)]
        refused = [answer for answer in answers if answer.status_code != 200]
        health = httpx.get(f"{process.url}/health", trust_env=False).json()
        ballast.unlink()
        assert [200] * 5 == [ask(f"after-{number}").status_code for number in range(5)]
        assert 200 == ask("during-79").status_code
        recovered = httpx.get(f"{process.url}/health", trust_env=False).json()

    assert {503} == {answer.status_code for answer in refused}
    assert len(refused) > 5
    assert "No space left" in refused[-1].json()["error"]
    assert refused[-1].headers["retry-after"]
    assert ("degraded", "ok") == (health["status"], recovered["status"])
    log = read_log("demo", settings=disk_settings)
    accepted = [f"during-{number}" for number, answer in enumerate(answers) if answer.status_code == 200]
    expected = [f"before-{number}" for number in range(5)] + accepted + [f"after-{number}" for number in range(5)]
    assert [*expected, "during-79"] == log["request_id"].tolist()
    assert 0 == log.attrs["lost_rows"]
    assert len(log) == score_shadow("demo", disk_settings, once=True, source=models)


@pytest.mark.slow
def test_by_a_setting_a_full_disk_is_answered_and_counted(
    models: FolderSource, disk_settings: Settings, small_disk: Path
) -> None:
    """Where the settings prefer answers to the log, nobody is refused, and what is unlogged is counted and told."""
    with running("server", disk_settings.artifacts, models.root, SUNDIAL_LOG_FAILURE="answer") as process:
        process.wait_ready()
        ask = asker(process.url)
        assert 200 == ask("before").status_code
        ballast = fill(small_disk)
        assert [200] * 80 == [ask(f"during-{number}").status_code for number in range(80)]
        health = httpx.get(f"{process.url}/health", trust_env=False).json()
        metrics = httpx.get(f"{process.url}/metrics", trust_env=False).text
        ballast.unlink()
        assert 200 == ask("after").status_code

    log = read_log("demo", settings=disk_settings)
    unlogged = health["log"]["unlogged_rows"]
    assert unlogged > 5
    assert len(log) == 82 - unlogged
    assert {"before", "after"} < set(log["request_id"])
    assert f"sundial_log_unlogged_total {unlogged}" in metrics
    assert ("degraded", 1) == (health["status"], int("sundial_log_failing 1" in metrics))


def test_a_file_that_may_not_grow(models: FolderSource, settings: Settings) -> None:
    """A limit on the size of files, which anybody may set, refuses like a full disk, at any byte of a frame."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = Writer(settings)
    writer.write(3)
    size = next(production_folder("demo", settings).glob("*.seg")).stat().st_size
    try:
        for more in range(0, 100, 7):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + more, before[1]))
            with pytest.raises(OSError, match="cannot be written"):
                writer.write(2, a_batch=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    writer.write(2)
    writer.log.close()

    log = read_log("demo", settings=settings)
    assert ["0", "1", "2", "3", "4"] == log["request_id"].tolist()
    assert 0 == log.attrs["lost_rows"]
