"""make bench-rollback: how long the command `sundial rollback` takes, with nothing of Prefect running.

The model server runs; its registry answers, or cannot be read. What is timed is the whole command: Python's start, its
imports, the order, and the wait until the server answers with the version before.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure, write_figures
from folder_source import FolderSource, build_version
from processes import running

from sundial.operations.rollback import read_answering
from sundial.release.pointer import Pointer
from sundial.settings import Settings

GOAL_SECONDS = 2.0
TINY = Path(__file__).parents[1] / "tiny" / "notebooks" / "tiny"


def make_project(root: Path) -> None:
    """Make a project with a pipeline called demo, and its models."""
    shutil.copytree(TINY, root / "notebooks" / "demo")
    declared = root / "notebooks" / "demo" / "pipeline.yaml"
    declared.write_text(declared.read_text().replace("name: tiny", "name: demo"))
    (root / "models").mkdir()
    for version in (1, 2):
        build_version(root / "models", version)


def promote(source: FolderSource, settings: Settings) -> None:
    """Put version 1 and then version 2 into production, and wait until the way back is prepared."""
    for version in (1, 2):
        source.point("production", version)
        while (standing := Pointer("demo", settings).standing()) is None or standing.production["version"] != version:
            time.sleep(0.02)


def roll_back(environment: dict[str, str]) -> float:
    """Run the command; give its seconds."""
    command = [sys.executable, "-m", "sundial", "rollback", "--pipeline", "demo", "--name", "Ada", "--reason", "bench"]
    begun = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    arguments = parser.parse_args(argv)
    seconds: dict[str, list[float]] = {"the registry up": [], "the registry down": []}
    with tempfile.TemporaryDirectory(prefix="sundial-bench-") as scratch:
        root = Path(scratch)
        make_project(root)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = Settings(root=root, artifacts=root / "artifacts", serve_port=port)
        own = {"SUNDIAL_ROOT": str(root), "SUNDIAL_ARTIFACTS": str(settings.artifacts), "SUNDIAL_SERVE_PORT": str(port)}
        source = FolderSource(root / "models")
        source.point("production", 1)
        aliases = source.root / "aliases.json"
        with running("server-on-port", settings.artifacts, source.root, **own) as process:
            process.wait_ready()
            for name, times in seconds.items():
                for _ in range(arguments.times):
                    promote(source, settings)
                    registered = aliases.read_text()
                    if name.endswith("down"):
                        aliases.write_text("{")
                    times.append(roll_back({**os.environ, **own}))
                    assert read_answering("demo", settings) == 1
                    aliases.write_text(registered if name.endswith("down") else aliases.read_text())
                    while Pointer("demo", settings).order() is not None:
                        time.sleep(0.02)
    goal = f"under {GOAL_SECONDS:.0f} s"
    figures = []
    for name, times in seconds.items():
        met = max(times) < GOAL_SECONDS
        figures.append(Figure(f"sundial rollback, {name}: median", statistics.median(times), "s"))
        figures.append(Figure(f"sundial rollback, {name}: slowest of {len(times)}", max(times), "s", goal, met))
    write_figures("rollback", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
