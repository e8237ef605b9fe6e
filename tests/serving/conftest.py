"""Models, settings and servers that the tests of serving share."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # folder_source and processes are run as scripts, too

from folder_source import FolderSource, build_version
from logwriter import Writer
from processes import Process, running

from sundial.settings import Settings


@pytest.fixture(scope="session")
def built_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build versions 1 and 2 alike, 3 that raises for unknown carriers, 4 that takes one feature more."""
    root = tmp_path_factory.mktemp("models")
    build_version(root, 1)
    build_version(root, 2)
    build_version(root, 3, strict=True)
    build_version(root, 4, extra={"wind": 3.5})
    return root


@pytest.fixture
def models(built_models: Path, tmp_path: Path) -> FolderSource:
    """Give models of which version 1 is in production."""
    source = FolderSource(Path(shutil.copytree(built_models, tmp_path / "models")))
    source.point("production", 1)
    return source


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Give settings with artifacts of their own."""
    (tmp_path / "artifacts").mkdir(exist_ok=True)
    return Settings(artifacts=tmp_path / "artifacts")


@pytest.fixture
def writer(settings: Settings) -> Iterator[Writer]:
    """Open a prediction log."""
    made = Writer(settings)
    yield made
    made.log.close()


@dataclass(frozen=True)
class Shared:
    """A server process that the tests of a module share, with its models and settings."""

    process: Process
    models: FolderSource
    settings: Settings

    @property
    def url(self) -> str:
        """Address of the server."""
        return self.process.url


@pytest.fixture(scope="module")
def shared(built_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Run a server process that the tests of a module share, with version 1 in production."""
    folder = tmp_path_factory.mktemp("shared")
    source = FolderSource(Path(shutil.copytree(built_models, folder / "models")))
    source.point("production", 1)
    settings = Settings(artifacts=folder / "artifacts")
    with running("server", settings.artifacts, source.root) as process:
        process.wait_ready()
        yield Shared(process, source, settings)
