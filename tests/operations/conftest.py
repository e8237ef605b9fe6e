"""The toy pipeline of the releases' tests, with a registry, and a project that a server can be started in."""

from __future__ import annotations

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


@pytest.fixture
def toy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:  # noqa: F811  a fixture
    """Make the toy pipeline one that a server process finds."""
    folder = settings.notebooks / "toy"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(PIPELINE)
    monkeypatch.setenv("SUNDIAL_ROOT", str(settings.root))
    monkeypatch.setenv("SUNDIAL_ARTIFACTS", str(settings.artifacts))
    return settings


@pytest.fixture
def server(toy: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start the model server that answers callers, and name it in the settings; give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    monkeypatch.setenv("SUNDIAL_SERVE_PORT", port)
    command = [sys.executable, "-m", "sundial", "serve", "--pipeline", "toy", "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=toy.root, env=dict(os.environ)) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().rpartition(" ")[2]
        process.terminate()


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
