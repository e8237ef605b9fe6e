"""The running system of the fault matrix: a project of small pipelines, `sundial up`, and who receives its alarms."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbformat.v4 import new_code_cell

from sundial.operations.scaffold import make_pipeline
from sundial.operations.services import free_port
from sundial.pipeline import load_pipeline
from sundial.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[3]
UP_SECONDS = 240.0
DISK = 1 << 30  # bytes of the file system that holds the runs
WATCHDOG_SECONDS = 5


@dataclass(frozen=True)
class Message:
    """An alarm as a person got it.

    Attributes
    ----------
    at : float
        When, in seconds since the epoch.
    title : str
        Its subject.
    said : dict
        What stands behind each name: ``Run``, ``Stage``, ``Cell``, ``Cause`` and the others.
    """

    at: float
    title: str
    said: dict[str, str]


class Inbox(ThreadingHTTPServer):
    """Takes messages as Apprise posts them."""

    daemon_threads = True

    def __init__(self) -> None:
        self.messages: list[Message] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def find(self, run: str, stage: str, since: float, says: str) -> Message | None:
        """Find the first alarm about a stage of a run that came after a moment, and whose cause says something."""
        return next(
            (
                message
                for message in list(self.messages)
                if message.at >= since
                and not message.title.endswith(": mended")
                and (message.said.get("Run"), message.said.get("Stage")) == (run, stage)
                and re.search(says, message.said.get("Cause", ""))
            ),
            None,
        )


class _Handler(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        """Keep a message."""
        sent: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        lines = re.findall(r"^(\w+):\s+(.*)$", sent["message"], flags=re.M)
        self.server.messages.append(Message(time.time(), sent["title"], dict(lines)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@dataclass
class System:
    """What is running.

    Attributes
    ----------
    settings : Settings
        Of the project.
    inbox : Inbox
        Where its alarms arrive.
    process : subprocess.Popen
        `sundial up`.
    """

    settings: Settings
    inbox: Inbox
    process: subprocess.Popen[bytes]

    def kill(self, what: str) -> float:
        """Kill the worker, or Prefect's server with all that it started, as the kernel would; give the moment."""
        wanted = "flows.deployments" if what == "worker" else "prefect"
        found = next(child for child in psutil.Process(self.process.pid).children() if wanted in child.cmdline())
        at = time.time()
        if what == "worker":
            found.kill()
        else:
            os.killpg(found.pid, signal.SIGKILL)
        return at


def make_project(root: Path, names: list[str], as_of: date) -> None:
    """Write a project with a pipeline of each name, as `sundial new` does, whose notebooks can be harmed."""
    shutil.copytree(ROOT / "notebooks" / "lifecycle", root / "notebooks" / "lifecycle")
    (root / "flows").symlink_to(ROOT / "flows")
    (root / "harm").mkdir()
    (root / "lib").mkdir()
    shutil.copyfile(Path(__file__).with_name("harm.py"), root / "lib" / "harm.py")
    for name in names:
        make_pipeline(name, as_of=as_of)
        for path in sorted((root / "notebooks" / name).glob("*.ipynb")):
            _add_harm(path, repr(name))
    for path in sorted((root / "notebooks" / "lifecycle").glob("*.ipynb")):
        _add_harm(path, "pipeline")


def _add_harm(path: Path, pipeline: str) -> None:
    notebook = nbformat.read(path, as_version=4)
    tagged = next(index for index, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    begin, end = (f'import harm\n\nharm.{name}("{path.stem}", {pipeline}, run)' for name in ("first", "last"))
    notebook.cells.insert(tagged + 1, new_code_cell(begin, id="harm-first"))
    notebook.cells.append(new_code_cell(end, id="harm-last"))
    nbformat.write(notebook, path)


def harm_cell(settings: Settings, pipeline: str, stage: str) -> int:
    """Give the number of the cell that does the harm, as a reader counts."""
    notebook = nbformat.read(load_pipeline(pipeline, settings).notebook(stage), as_version=4)
    return next(index for index, cell in enumerate(notebook.cells) if cell.get("id") == "harm-first") + 1


@contextmanager
def running(folder: Path, names: list[str], as_of: date) -> Iterator[System]:
    """Make the project and run it, its runs on a small file system of their own; end all of it on leaving."""
    root, inbox = folder / "project", Inbox()
    root.mkdir(parents=True)
    given = {
        "SUNDIAL_ROOT": str(root),
        "SUNDIAL_ARTIFACTS": str(root / "artifacts"),
        "SUNDIAL_PREFECT_PORT": str(free_port("127.0.0.1")),
        "SUNDIAL_SERVE_PORT": str(free_port("127.0.0.1")),
        "SUNDIAL_NOTIFICATION_URL": f"json://127.0.0.1:{inbox.server_port}/",
        "SUNDIAL_WATCHDOG_SECONDS": str(WATCHDOG_SECONDS),
        "PYTHONPATH": str(root / "lib"),
        "MPLBACKEND": "Agg",
    }
    before = dict(os.environ)
    os.environ |= given
    sys.path.insert(0, str(root / "lib"))
    settings = load_settings()
    runs = settings.runs
    runs.mkdir(parents=True)
    process = None
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(runs)]
    subprocess.run(mount, check=True)
    try:
        make_project(root, names, as_of)
        chosen = [part for name in names for part in ("--pipeline", name)]
        log = folder / "up.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "sundial", "up", *chosen],
                cwd=root,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + UP_SECONDS
        while "Up. Ctrl-C" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"sundial up does not come up: {log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield System(settings, inbox, process)
    finally:
        if process is not None and process.poll() is None:
            process.terminate()  # an interrupt may be ignored, where this runs in the background
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        subprocess.run(["umount", "--lazy", str(runs)], check=False)
        inbox.shutdown()
        sys.path.remove(str(root / "lib"))
        os.environ.clear()
        os.environ |= before
