"""An S3 server of its own, in a process of its own, with empty buckets."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

KEY, SECRET = "AKIASUNDIALTESTSONLY", "sundial-tests-secret-key-of-nobody"


class ObjectStore:
    """The server."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        # what a person sets: the client of S3 reads it, Sundial does not
        self.environment = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._names = itertools.count(1)

    def make_bucket(self) -> str:
        """Make an empty bucket; give its URL."""
        name = f"bucket-{next(self._names)}"
        httpx.put(f"{self.url}/{name}", trust_env=False).raise_for_status()
        return f"s3://{name}"


@contextmanager
def running_object_store() -> Iterator[ObjectStore]:
    """Run the server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        store = ObjectStore(port)
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    httpx.get(store.url, trust_env=False, timeout=5)
                    break
                except httpx.TransportError:
                    assert process.poll() is None, "the S3 server ended"
                    assert time.monotonic() < deadline, "the S3 server is not up"
                    time.sleep(0.1)
            yield store
        finally:
            process.kill()
