"""A real PostgreSQL server on a temporary data directory, run by somebody without rights."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

PATTERN = "/usr/lib/postgresql/*/bin"


class Database:
    """The server; it can be stopped and started again."""

    def __init__(self, binaries: Path, folder: Path, user: str | None, port: int) -> None:
        self._binaries = binaries
        self._folder = folder
        self._user = user
        self._port = port

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs."""
        command = [str(self._binaries / program), "-D", str(self._folder / "data"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, user=self._user, cwd=self._folder)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        # fsync off: the tests kill processes, not the machine
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop it at once, as a crash would."""
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")

    def url(self, name: str = "postgres") -> str:
        """Address of a database."""
        return f"postgresql://sundial@127.0.0.1:{self._port}/{name}"

    def make(self, name: str) -> str:
        """Make an empty database; give its address."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


@contextlib.contextmanager
def running_database() -> Iterator[Database]:
    """Run a server; skip loudly where there is none, unless in CI, where that is a failure."""
    found = sorted(Path("/").glob(PATTERN.lstrip("/")))
    if not found:
        reason = f"NOT TESTED: PostgreSQL is not installed under {PATTERN} (Debian: apt install postgresql)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="sundial-postgres-"))  # its sockets need a short path
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to be root
        user = next((name for name in ("postgres", "nobody") if _exists(name)), None)
        shutil.chown(folder, user)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    database = Database(found[-1], folder, user, port)
    try:
        database.run("initdb", "-A", "trust", "-U", "sundial", "-E", "UTF8", "--no-sync")
        database.start()
        yield database
    finally:
        with contextlib.suppress(AssertionError):
            database.stop()
        for _ in range(50):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
