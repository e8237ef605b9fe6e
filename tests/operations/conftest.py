"""The toy pipeline of the releases' tests, with a registry, and a project that a server can be started in."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sundial.pipeline import Pipeline
from sundial.release.models import build_model_folder
from sundial.release.registry import Registry
from sundial.runs import Run
from sundial.settings import Settings
from tests.release.conftest import (  # noqa: F401  fixtures
    PIPELINE,
    _one_thread,
    empty_database,
    fitted,
    make_run,
    pipeline,
    registry,
    settings,
)

OFFSET = 3


@pytest.fixture
def toy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:  # noqa: F811  a fixture
    """Make the toy pipeline one that a server process finds."""
    folder = settings.notebooks / "toy"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(PIPELINE)
    monkeypatch.setenv("SUNDIAL_ROOT", str(settings.root))
    monkeypatch.setenv("SUNDIAL_ARTIFACTS", str(settings.artifacts))
    return settings


def find_ports(*offsets: int) -> int:
    """Find a port that is free, and so are those above it by these offsets."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            probes = [stack.enter_context(socket.socket()) for _ in (0, *offsets)]
            probes[0].bind(("127.0.0.1", 0))
            port = int(probes[0].getsockname()[1])
            for probe, offset in zip(probes[1:], offsets, strict=True):
                probe.bind(("127.0.0.1", port + offset))
            return port


@contextlib.contextmanager
def serving(toy: Settings) -> Iterator[str]:
    """Start the model server of the toys where pipeline.yaml and the settings say; give its address."""
    command = [sys.executable, "-m", "sundial", "serve", "--pipeline", "toy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=toy.root, env=dict(os.environ)) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().rpartition(" ")[2]
        process.terminate()


@pytest.fixture
def server(toy: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start the model server that answers callers, and name it in the settings; give its address."""
    monkeypatch.setenv("SUNDIAL_SERVE_PORT", str(find_ports()))
    with serving(toy) as address:
        yield address


@pytest.fixture
def server_beside(toy: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start it as one of several pipelines, three ports above that of the settings; give its address."""
    port = find_ports(OFFSET)
    monkeypatch.setenv("SUNDIAL_SERVE_PORT", str(port))
    (toy.notebooks / "toy" / "pipeline.yaml").write_text(f"{PIPELINE}serve_port_offset: {OFFSET}\n")
    with serving(toy) as address:
        assert f"http://127.0.0.1:{port + OFFSET}" == address
        yield address


@pytest.fixture
def register(
    registry: Registry,  # noqa: F811  a fixture
    make_run: Callable[..., Run],  # noqa: F811  a fixture
    pipeline: Pipeline,  # noqa: F811  a fixture
    tmp_path: Path,
) -> Callable[[int], int]:
    """Register another model with each seed."""

    def make(seed: int) -> int:
        run = make_run(f"2013-10-{7 * seed + 7:02}", seed=seed)
        return registry.register("toy", build_model_folder(run, tmp_path / f"servable-{seed}", pipeline=pipeline))

    return make
