"""Set-up files: pyproject.toml is the only list, constraints.txt the only lock, and no file names a registry."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [Requirement(text) for text in PROJECT["dependencies"]]
DEV = [Requirement(text) for text in PROJECT["optional-dependencies"]["dev"]]
# what a setting asks for, imported only then
OPTIONAL = [
    Requirement(text) for name, extra in PROJECT["optional-dependencies"].items() if name != "dev" for text in extra
]
LOCKED = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.strip() and not line.lstrip().startswith("#")
]
GIT = shutil.which("git")
# what a declared dependency is made of
PART_OF = {
    "IPython": "ipykernel",
    "zmq": "jupyter-client",
    "bs4": "nbconvert",
    "jinja2": "nbconvert",
    "markupsafe": "nbconvert",
}


def committed() -> list[Path]:
    """List the files that git has, or would have after an add; those of a plain copy without git too."""
    if GIT and (ROOT / ".git").exists():
        command = [GIT, "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
        return [ROOT / name for name in names if name and (ROOT / name).is_file()]
    skipped = {".venv", "artifacts", "__pycache__", ".git"}
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not any(part in skipped or part.endswith("_cache") for part in path.parts)
    ]


def test_the_lock_pins_exactly():
    """Each line of constraints.txt is one package and one version, for some machines or for all."""
    assert [] == [str(item) for item in LOCKED if not re.fullmatch(r"==[^=*,]+", str(item.specifier))]


@pytest.mark.parametrize("requirement", [*NEEDED, *DEV], ids=str)
def test_the_lock_pins_what_is_needed(requirement):
    """Everything that pyproject.toml names is pinned, within its floor and cap, on every Python that it allows."""
    pins = [item for item in LOCKED if canonicalize_name(item.name) == canonicalize_name(requirement.name)]

    for python in ("3.11.0", "3.12.3", "3.13.1"):
        machine = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
        fitting = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(machine)]
        assert len(fitting) == 1, f"{requirement.name} has {len(fitting)} pins on Python {python}: make lock"
        assert requirement.specifier.contains(next(iter(fitting[0].specifier)).version)


@pytest.mark.parametrize("requirement", NEEDED, ids=str)
def test_what_is_installed_is_what_is_pinned(requirement):
    """The tests run on the versions of the lock, so that what passes here is what people get."""
    pins = [item for item in LOCKED if canonicalize_name(item.name) == canonicalize_name(requirement.name)]
    (pin,) = [item for item in pins if item.marker is None or item.marker.evaluate()]

    assert pin.specifier.contains(version(requirement.name), prereleases=True)


def test_every_dependency_has_a_floor_and_stands_once():
    """A dependency without a floor installs something from years ago; one that stands twice gets two answers."""
    assert [] == [str(item) for item in NEEDED if not any(part.operator == ">=" for part in item.specifier)]
    names = [canonicalize_name(item.name) for item in (*NEEDED, *DEV)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "allowed", "refused", "why"),
    [
        ("fastapi", "0.150", "0.155", "every flow of Prefect 3.8 dies"),
        ("sqlalchemy", "2.0.58", "2.1", "Prefect's scheduler creates no runs"),
        ("prefect", "3.8.8", "3.9", "its parts are pinned to what was measured"),
        ("scrapbook", "0.5.0", "0.4", "older ones do not read our scraps"),
        ("mlflow-skinny", "3.17.2", "2.22", "aliases and skops need MLflow 3"),
    ],
)
def test_versions_that_do_not_work_are_refused(name, allowed, refused, why):
    """What is known to break is kept out by a floor or a cap."""
    (requirement,) = [item for item in NEEDED if item.name == name]

    assert requirement.specifier.contains(allowed)
    assert not requirement.specifier.contains(refused), why


def test_what_others_forget_to_declare_is_declared():
    """Scrapbook imports six, and mlflow-skinny's store alembic, without saying so."""
    assert {"six", "alembic"} <= {item.name for item in NEEDED}


def test_what_is_imported_is_declared():
    """Everything that lib, flows and notebooks import is ours, Python's own, or a declared dependency."""
    from importlib.metadata import packages_distributions

    declared = {canonicalize_name(item.name) for item in (*NEEDED, *OPTIONAL)}
    ours = {path.name for path in (ROOT / "lib").iterdir()} | {"flows"} | set(sys.stdlib_module_names)
    providers = packages_distributions()
    missing = {}
    for path in [*(ROOT / "lib").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for package in {name.partition(".")[0] for name in names} - ours:
                sources = [*providers.get(package, [package]), PART_OF.get(package, package)]
                if not declared & {canonicalize_name(item) for item in sources}:
                    missing.setdefault(package, str(path.relative_to(ROOT)))

    assert missing == {}


def test_conda_uses_the_same_two_files():
    """environment.yml gives Python and pip, and leaves the rest to pyproject.toml and constraints.txt."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())

    assert environment["dependencies"] == ["python=3.11", "pip", {"pip": ["-c constraints.txt", "-e .[dev]"]}]
    assert environment["channels"] == ["conda-forge"]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains("3.11")


def test_no_committed_file_names_a_registry():
    """Where packages come from is the machine's business: no index in any file, and no second lock that has one."""
    hosts = re.compile("|".join(["pypi" + r"\.(org|python)", "pythonhosted" + r"\.org", "files\\.python" + "hosted"]))
    options = re.compile(r"^\s*(-i|--(extra-)?index-url|--find-links|--trusted-host)\b", re.MULTILINE)
    found = []
    for path in committed():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        if hosts.search(text) or (path.suffix in {".txt", ".yml", ".toml"} and options.search(text)):
            found.append(str(path.relative_to(ROOT)))

    assert found == []
    assert not {"uv.lock", "poetry.lock", "Pipfile.lock"} & {path.name for path in committed()}


@pytest.mark.skipif(not GIT or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_git_keeps_lib():
    """Many a .gitignore has lib/ in it; then git tracks nothing there and the wheel is empty."""
    for name in ("lib", "lib/sundial/runs.py", "notebooks/flights/pipeline.yaml", "flows", ".ci/run"):
        done = subprocess.run([GIT, "-C", str(ROOT), "check-ignore", "-q", name])
        assert done.returncode == 1, f"{name} is ignored"
    for name in ("artifacts/runs", ".venv", ".env"):
        assert subprocess.run([GIT, "-C", str(ROOT), "check-ignore", "-q", name]).returncode == 0


def test_no_committed_file_is_large():
    """Artifacts, data and databases stay out of git."""
    assert [] == [str(path) for path in committed() if path.stat().st_size > 1_000_000]
    assert [] == [str(path) for path in committed() if path.suffix in {".parquet", ".db", ".skops", ".pkl", ".duckdb"}]


def test_the_version_stands_once():
    """pyproject.toml and the package say the same version."""
    import sundial

    assert PROJECT["version"] == sundial.__version__
    assert Version(PROJECT["version"])


@pytest.mark.parametrize("name", [".ci/run", ".ci/setup"])
def test_scripts_can_be_run(name):
    """Scripts are executable and stop at their first error."""
    path = ROOT / name

    assert os.access(path, os.X_OK)
    assert re.search(r"^set -eu", path.read_text(), re.MULTILINE)


def test_bare_make_explains_itself():
    """Alone, lists each target with half a sentence, and makes nothing."""
    make = shutil.which("make")
    assert make, "make is what everybody starts with"
    done = subprocess.run([make, "-C", str(ROOT), "--no-print-directory"], capture_output=True, text=True)
    targets = dict(re.findall(r"^  make (\w+)\s+(\S.*)$", done.stdout, re.MULTILINE))

    assert list(targets) == ["setup", "demo", "test", "lab", "up", "check", "format", "lock", "clean"]
    assert done.stdout.count("\n") == len(targets)


@pytest.mark.parametrize(
    ("approve", "expected"),
    [(None, ".venv/bin/sundial demo"), ("reviewer", '.venv/bin/sundial demo --approve "$APPROVE"')],
)
def test_make_demo_can_answer(approve, expected):
    """APPROVE names who answers; without it the demo asks."""
    command = ["make", "-C", str(ROOT), "--no-print-directory", "--dry-run", "--assume-old=.venv/.ready", "demo"]
    done = subprocess.run([*command, *([f"APPROVE={approve}"] if approve else [])], capture_output=True, text=True)

    assert expected == done.stdout.strip().splitlines()[-1]
