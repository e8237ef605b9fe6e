"""What all tests share: no telemetry, no window, no file outside of a temporary folder, and a tiny project."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.object_store import ObjectStore, running_object_store

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "tests" / "tiny"
# Their servers are the fixture `system`; in the order of the dates that they release.
SHARE_A_SYSTEM = ["test_decisions", "test_browser", "test_broken_weeks", "test_schedules"]
_scratch = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before anything is imported that reads it; processes that tests start inherit it."""
    scratch = Path(tempfile.mkdtemp(prefix="sundial-tests-"))
    config.stash[_scratch] = str(scratch)
    for name in [name for name in os.environ if name.startswith(("SUNDIAL_", "PREFECT_", "MLFLOW_"))]:
        del os.environ[name]  # a person's own servers and settings are none of the tests' business
    os.environ |= {
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(scratch / "prefect"),
        "SUNDIAL_ARTIFACTS": str(scratch / "artifacts"),  # a test that forgets its own folder harms nobody's runs
        "IPYTHONDIR": str(scratch / "ipython"),
        "JUPYTER_CONFIG_DIR": str(scratch / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "MPLBACKEND": "Agg",
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow end-to-end tests last, so that a plain mistake shows in seconds, and the longest of them first.

    With two at a time, one begins with the tests that share a system, which wait for it more than they work.
    """
    longest = ["test_demo", "test_guide", "test_production"]
    first = "PYTEST_XDIST_WORKER" in os.environ

    def rank(item: pytest.Item) -> tuple[int, int]:
        name = item.path.stem
        if name in SHARE_A_SYSTEM:
            return (-1 if first else 1, SHARE_A_SYSTEM.index(name))
        return ("e2e" in item.path.parts, (*longest, name).index(name))

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a file's tests to one worker, and the files that share a system to the same: it is started once."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return "system" if Path(path).stem in SHARE_A_SYSTEM else path

    return Scheduling(config, log)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the session left in its temporary folder."""
    shutil.rmtree(config.stash[_scratch], ignore_errors=True)


def copy_tiny(root: Path) -> Path:
    """Make a project there, with the tiny pipeline and the real lifecycle."""
    shutil.copytree(TINY, root, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    (root / "notebooks" / "lifecycle").symlink_to(ROOT / "notebooks" / "lifecycle")
    return root


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a project of its own with one tiny pipeline, ``tiny``, and the real lifecycle; give its root.

    Six notebooks that really train a model in a second or two, and their package; kernels find it too.
    """
    root = copy_tiny(tmp_path / "project")
    monkeypatch.setenv("SUNDIAL_ROOT", str(root))
    monkeypatch.setenv("SUNDIAL_ARTIFACTS", str(root / "artifacts"))
    monkeypatch.setenv("PYTHONPATH", str(root / "lib"))
    monkeypatch.syspath_prepend(str(root / "lib"))
    yield root
    sys.modules.pop("tiny", None)  # the next test has a folder of its own


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """Run a real S3 server."""
    with running_object_store() as found:
        yield found


@pytest.fixture
def bucket(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the URL of an empty bucket, and the environment that opens it."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    return object_store.make_bucket()
