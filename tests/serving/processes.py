"""Runs the model server and the shadow scorer of these tests as processes: ``python processes.py server ...``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

HERE = Path(__file__).parent


class Process:
    """A server or scorer process, and for a server its address."""

    def __init__(self, role: str, artifacts: Path, models: Path, **environment: str) -> None:
        self.log = artifacts.parent / f"{role}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "processes.py"), role, str(models)],
                env={**os.environ, "SUNDIAL_ARTIFACTS": str(artifacts), **environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip().rpartition(" ")[2]

    def wait_ready(self, seconds: float = 60) -> None:
        """Wait until the server has a model."""
        deadline = time.monotonic() + seconds
        while httpx.get(f"{self.url}/ping", trust_env=False, timeout=60).status_code != 200:
            assert time.monotonic() < deadline, "the server has no model"
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it as the machine would."""
        self.process.kill()
        self.process.wait(30)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; give its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)


@contextlib.contextmanager
def running(role: str, artifacts: Path, models: Path, **environment: str) -> Iterator[Process]:
    """Run a process, and leave none behind."""
    artifacts.mkdir(parents=True, exist_ok=True)
    started = Process(role, artifacts, models, **environment)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.kill()
        assert started.process.stdout is not None
        started.process.stdout.close()


def be_impatient(bounds: dict[str, float]) -> None:
    """Set bounds of the server lower, so that tests reach them."""
    from sundial.serving import batching, invocations, protocol

    for name, value in bounds.items():
        (module,) = [module for module in (batching, invocations, protocol) if hasattr(module, name)]
        setattr(module, name, value)


def main(role: str, models: str) -> None:
    """Be the process."""
    import logging

    from sundial.serving.server import serve
    from sundial.serving.shadow import score_shadow

    sys.path.insert(0, str(HERE))
    from folder_source import FolderSource
    from trouble import TroubledSource

    logging.basicConfig(level=logging.INFO)
    be_impatient(json.loads(os.environ.get("IMPATIENT", "{}")))
    source = TroubledSource(Path(models)) if role == "troubled" else FolderSource(Path(models))
    if role == "server":
        serve("demo", port=0, source=source)
    elif role == "server-on-port":
        serve("demo", source=source)
    else:
        print("scoring demo", flush=True)
        score_shadow("demo", source=source)


if __name__ == "__main__":
    main(*sys.argv[1:])
