"""docs/your-model.md as something to follow: its blocks in order, each done as the reader would do it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sundial.operations.services import free_port
from tests.conftest import copy_tiny
from tests.operations.conftest import find_ports

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "your-model.md"
PATIENCE = 420.0


@dataclass(frozen=True)
class Block:
    """A fenced block of the guide: its language, the words behind it, and its text."""

    language: str
    words: dict[str, str]
    text: str


def read_blocks() -> list[Block]:
    """Read all fenced blocks of the guide."""
    found = re.findall(r"^```(\w+)([^\n]*)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return [
        Block(language, dict(word.partition("=")[::2] for word in shlex.split(words)), text)
        for language, words, text in found
    ]


@dataclass
class Reader:
    """Someone at a shell in a project's folder, with the environment active."""

    root: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line."""
        words = ["bash", "-c", command]
        return subprocess.run(
            words, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=PATIENCE
        )

    def follow(self, block: Block) -> str:
        """Do what a block says; give what its last command printed."""
        if block.language == "python":
            self.write(block)
            return ""
        done = ""
        for command in block.text.strip().splitlines():
            if "background" in block.words:
                self.start(command)
                continue
            deadline = time.monotonic() + PATIENCE
            result = self.run(command)
            while result.returncode and "wait" in block.words and time.monotonic() < deadline:
                time.sleep(2)
                result = self.run(command)
            assert 0 == result.returncode, f"$ {command}\n{result.stdout}{result.stderr}"
            done = result.stdout
        return done

    def write(self, block: Block) -> None:
        """Write a file, or one function of a file that is there."""
        path = self.root / block.words["file"]
        text = block.text
        if "replace" in block.words:
            whole = re.compile(rf"^def {block.words['replace']}\(.*?(?=^def |\Z)", re.MULTILINE | re.DOTALL)
            assert len(whole.findall(path.read_text())) == 1
            text = whole.sub(lambda _: block.text + "\n\n", path.read_text())
        path.write_text(text)

    def start(self, command: str) -> None:
        """Start what runs until Ctrl-C, and wait until it is up."""
        self.environment["SUNDIAL_PREFECT_PORT"] = str(free_port())
        self.environment["SUNDIAL_SERVE_PORT"] = str(find_ports(1))
        words = shlex.split(command)
        with self.log.open("w") as log:
            self.started.append(
                subprocess.Popen(words, cwd=self.root, env=self.environment, stdout=log, stderr=log, text=True)
            )
        deadline = time.monotonic() + PATIENCE
        while "Up. Ctrl-C" not in self.log.read_text():
            assert self.started[-1].poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    @property
    def log(self) -> Path:
        """What was started says here what it does."""
        return self.root / "up.log"


@contextmanager
def read_guide(folder: Path) -> Iterator[Reader]:
    """Give a reader a project with the tiny pipeline in it; what they start ends with the block."""
    root = copy_tiny(folder / "project")
    (root / "flows").symlink_to(ROOT / "flows")
    theirs = ("SUNDIAL_", "MLFLOW_TRACKING_URI", "MPLBACKEND")  # of whoever runs this, or of another test
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(theirs)},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SUNDIAL_ROOT": str(root),
        "SUNDIAL_ARTIFACTS": str(root / "artifacts"),
        "PYTHONPATH": str(root / "lib"),
    }
    reader = Reader(root, environment)
    try:
        yield reader
    finally:
        for process in reader.started:
            process.terminate()
            process.wait(60)
