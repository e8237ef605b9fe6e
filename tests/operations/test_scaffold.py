"""A pipeline of one's own is written whole or not at all, runs before a line of it is changed, and is clean."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import nbformat
import pytest

import sundial
from sundial.cli import main
from sundial.errors import PipelineError
from sundial.operations import scaffold
from sundial.operations.scaffold import make_pipeline
from sundial.pipeline import list_pipelines, load_pipeline

ROOT = Path(__file__).resolve().parents[2]


def files(folder: Path) -> list[str]:
    """List all files of a project, with their folders."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def written(project):
    """Write a pipeline named fraud into the project."""
    make_pipeline("fraud", as_of=date(2026, 1, 5))
    return project


def test_writes_notebooks_package_and_tests(written):
    """Eight notebooks that open on the date, a package, a pipeline.yaml that reads, and tests."""
    pipeline = load_pipeline("fraud")

    assert ["fraud", "tiny"] == list_pipelines()
    assert ("Fraud", 8) == (pipeline.title, len(pipeline.release_stages))
    assert all(pipeline.notebook(stage).is_file() for stage in pipeline.stages)
    assert 'as_of: str = "2026-01-05"' in (written / "notebooks" / "fraud" / "01_query_data.ipynb").read_text().replace(
        '\\"', '"'
    )
    assert (written / "lib" / "fraud" / "source.py").is_file()
    assert (written / "tests" / "fraud" / "test_fraud.py").is_file()
    assert [] == [name for name in files(written) if "new_model" in name or name.endswith(".txt")]


def test_its_model_server_has_a_port_of_its_own(written):
    """No two pipelines that were written get one port, also when there are more of them."""
    make_pipeline("churn")

    assert [0, 1, 2] == sorted(load_pipeline(name).serve_port_offset for name in ("tiny", "fraud", "churn"))


def test_every_notebook_says_what_to_replace(written):
    """The first cell of each has one TODO, of one line."""
    for path in sorted((written / "notebooks" / "fraud").glob("*.ipynb")):
        first = nbformat.read(path, as_version=4).cells[0].source
        assert 1 == len(re.findall(r"^TODO: \w.+\.$", first, re.MULTILINE)), path.name


@pytest.mark.parametrize("name", ["fraud", "zebra_crossing"])
def test_what_it_writes_is_clean(project, name):
    """Lint and format have nothing to say, wherever the name stands in the alphabet."""
    make_pipeline(name)
    shutil.copy(ROOT / "pyproject.toml", project)
    (project / "lib" / "sundial").symlink_to(ROOT / "lib" / "sundial")  # so that its imports count as the project's own
    folders = [str(project / folder / name) for folder in ("lib", "notebooks", "tests")]
    for words in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", "--quiet", *folders]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert (0, "") == (done.returncode, done.stdout + done.stderr)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Fraud Model", "fraud_model"),
        ("2fast", "fast"),
        ("", "my_model"),
        ("../outside", "outside"),
        ("class", "class_model"),
        ("pandas", "pandas_model"),
        ("lifecycle", "choose another"),
        ("x" * 50, "x" * 40),
        ("tiny", "choose another"),
    ],
)
def test_refuses_a_name_that_cannot_be(project, name, hint):
    """A bad name, a module's name, or one that is there already: an error with a hint, and nothing is written."""
    before = files(project)

    with pytest.raises(PipelineError) as caught:
        make_pipeline(name)

    assert hint in caught.value.hint
    assert before == files(project)


def test_writes_all_or_nothing(project, monkeypatch):
    """When the last step fails, what was written before is taken back."""
    before = files(project)

    def fail(*_: object) -> None:
        raise PipelineError("no")

    monkeypatch.setattr(scaffold, "load_pipeline", lambda name, _: fail() if name == "fraud" else load_pipeline(name))
    with pytest.raises(PipelineError):
        make_pipeline("fraud")

    assert before == [name for name in files(project) if name != "tests"]


def test_the_command_says_what_it_wrote(project, capsys):
    """The command line lists the files and what to do next; a bad date is an error of ours."""
    assert 1 == main(["new", "fraud", "--as-of", "monday"])
    assert "not a date" in capsys.readouterr().err
    assert 0 == main(["new", "fraud"])

    told = capsys.readouterr().out
    assert "notebooks/fraud/" in told
    assert "06_train_model.ipynb" in told
    assert "sundial try --pipeline fraud" in told


@pytest.mark.slow
def test_runs_at_once(written, monkeypatch, capsys):
    """Unchanged, it makes a candidate on the made-up table, and the gates of a release pass."""
    assert 0 == main(["try", "--pipeline", "fraud", "--as-of", "2026-01-05"])

    told = capsys.readouterr()
    assert 8 == len(re.findall(r"^0\d_\w+ +\d+\.\d s", told.err, re.MULTILINE))
    assert 3 == len(re.findall("^passed ", told.out, re.MULTILINE))
    assert Path(told.out.splitlines()[-1]).is_file()


@pytest.mark.slow
def test_its_own_tests_pass(written):
    """The tests that come with it pass unchanged, all but the one that runs the release again."""
    shutil.copy(ROOT / "pyproject.toml", written)
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", "-m", "not slow"]
    environment = os.environ | {"SUNDIAL_ARTIFACTS": str(written / "artifacts")}
    done = subprocess.run(
        [*command, str(written / "tests" / "fraud")], cwd=written, env=environment, capture_output=True, text=True
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_templates_travel_with_the_package():
    """What is written comes out of the package, not out of the project."""
    assert scaffold.TEMPLATES.is_relative_to(Path(sundial.__file__).parent)
    assert 16 == len([path for path in scaffold.TEMPLATES.rglob("*") if path.is_file()])
