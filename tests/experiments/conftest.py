"""A project under git with a release in production, made once for all tests of a module."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sundial.execution.forkserver import start_kernel_server
from sundial.execution.runner import run_stage
from sundial.pipeline import load_pipeline
from sundial.release.models import build_model_folder
from sundial.release.registry import Registry, release_tags
from sundial.runs import Run, create_run
from sundial.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "tiny"
# What the notebooks of the tiny pipeline import; MLflow too, since one of them asks the registry.
PRELOAD = [
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "pydantic_settings",
    "yaml",
    "sklearn.linear_model",
    "sklearn.pipeline",
]


def git(root: Path, *words: str) -> None:
    """Run git in the project, as somebody."""
    command = ["git", "-C", str(root), "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *words]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make the project, committed, with a kernel server at hand."""
    folder = tmp_path_factory.mktemp("experiments") / "project"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    shutil.copytree(ROOT / "notebooks" / "lifecycle", folder / "notebooks" / "lifecycle")
    (folder / ".gitignore").write_text("/artifacts/\n__pycache__/\n")
    git(folder, "init", "--quiet")
    git(folder, "config", "user.name", "Ada")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "The tiny pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUNDIAL_ROOT", str(folder))
        patch.setenv("SUNDIAL_ARTIFACTS", str(folder / "artifacts"))
        patch.setenv("PYTHONPATH", str(folder / "lib"))
        patch.syspath_prepend(str(folder / "lib"))
        with start_kernel_server(PRELOAD):
            yield folder
    sys.modules.pop("tiny", None)


@pytest.fixture(scope="module")
def released(root: Path) -> Run:
    """Make a release, and put its model into production."""
    settings = load_settings()
    pipeline = load_pipeline("tiny", settings)
    run = create_run("tiny", "2013-10-07", started_by="test")
    for stage in pipeline.release_stages:
        run_stage(run, stage, reuse=True)
    registry = Registry(settings)
    folder = build_model_folder(run, run.folder / "servable", pipeline=pipeline)
    version = registry.register("tiny", folder, release_tags(run))
    registry.set_alias("tiny", "production", version, by="test", reason="first", as_of="2013-10-07")
    return run
