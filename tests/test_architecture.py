"""The house rules: imports point one way, importing does nothing, rooms are small, and the framework knows no model."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIB = ROOT / "lib"
FRAMEWORK = sorted((LIB / "sundial").rglob("*.py"))
MODULES = [*sorted(LIB.rglob("*.py")), *sorted((ROOT / "flows").glob("*.py"))]

# Each may import from its own line and from the lines above it.
LAYERS = (
    ("errors", "syntax"),
    ("settings", "declarations", "pipeline", "scraps", "formats", "reads", "shelf"),
    ("runs",),
    ("stage", "soundness"),
    ("evaluation",),
    ("execution", "release"),
    ("serving",),
    ("monitoring",),
    ("operations",),
    ("experiments",),
    ("recovery",),
    ("replay",),
    ("cli", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def name_of(path: Path) -> str:
    """Give a path as a test's name."""
    return str(path.relative_to(ROOT))


def imported(path: Path) -> set[str]:
    """List all modules that a file imports, wherever in it; members of ``sundial`` as ``sundial.member``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    """List the rooms of the framework, such as ``runs`` or ``serving``, that a file imports."""
    names = {name.split(".")[1] for name in imported(path) if re.match(r"sundial\.\w", name)}
    # what sundial itself offers comes from stage
    return {name if (LIB / "sundial" / name).exists() or name in LEVEL else "stage" for name in names}


def room(path: Path) -> str:
    """Give the room that a file of the framework is in."""
    return path.relative_to(LIB / "sundial").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FRAMEWORK, ids=name_of)
def test_imports_point_one_way(path):
    """A room imports from those below it, never from above, also not inside of a function."""
    own = "stage" if room(path) == "__init__" else room(path)
    assert own in LEVEL, f"{own} is a new room: give it a line in LAYERS"
    upwards = {name for name in rooms(path) if LEVEL.get(name, 99) > LEVEL[own]}

    assert set() == upwards


def test_no_two_rooms_import_each_other():
    """Rooms of one line may use each other in one direction only."""
    graph: dict[str, set[str]] = {}
    for path in FRAMEWORK:
        graph.setdefault(room(path), set()).update(rooms(path) - {room(path)})

    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_framework_knows_neither_orchestrator_nor_model(path):
    """Neither lib imports Prefect or the flows, and lib/sundial no pipeline's package."""
    banned = {"lib/sundial": {"prefect", "flows", "flights"}, "lib/flights": {"prefect", "flows"}}
    packages = {name.partition(".")[0] for name in imported(path)}

    assert set() == packages & banned.get("/".join(path.relative_to(ROOT).parts[:2]), set())


# What is about the model that ships. A word that means something else too stands with that meaning in HARMLESS.
MODEL_WORDS = re.compile(r"flight|airport|airline|carrier|departure|runway|tailnum|nycflights|weather", re.IGNORECASE)
HARMLESS = re.compile(r"\bin[- ]flight\b|Monthly Weather Review|with the season and the weather", re.IGNORECASE)
# The lifecycle's notebooks open on the model that ships when nobody names another: a notebook needs a default to run.
DEFAULT = re.compile(r'pipeline: str = \\?"flights\\?"  # what is \w+')


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in (LIB / "sundial", ROOT / "notebooks" / "lifecycle", ROOT / "flows")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc" and ".ipynb_checkpoints" not in path.parts
    ],
    ids=name_of,
)
def test_the_framework_has_no_word_of_the_model_that_ships(path):
    """What is about the model that ships is in its own folders; only a default of the lifecycle names it."""
    text = HARMLESS.sub("", path.read_text(encoding="utf-8"))
    if path.parent.name == "lifecycle":
        text = DEFAULT.sub("", text)

    assert [] == [line for line in text.splitlines() if MODEL_WORDS.search(line)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_are_small(path):
    """A module that outgrows 400 lines is split by noun."""
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_is_public_is_documented(path):
    """Every module, public class, function and method has a docstring."""
    tree = ast.parse(path.read_bytes())
    bare = [] if ast.get_docstring(tree) else ["the module"]

    def walk(node: ast.AST) -> None:
        for item in ast.iter_child_nodes(node):
            kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            if isinstance(item, kinds) and not item.name.startswith("_"):
                # an inherited method says what it does where it is declared first
                overrides = any(isinstance(mark, ast.Name) and mark.id == "override" for mark in item.decorator_list)
                if not ast.get_docstring(item) and not overrides:
                    bare.append(item.name)
                if isinstance(item, ast.ClassDef):
                    walk(item)

    walk(tree)
    assert bare == []


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in an empty folder that is also home and temporary folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SUNDIAL_", "PYTHON", "XDG_"))}
    env |= {"HOME": str(folder), "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": ""}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, env=env, capture_output=True, text=True
    )


def test_importing_does_nothing(tmp_path):
    """Importing every module of lib/sundial makes no file, prints nothing, and sets up no logging."""
    names = [
        ".".join(path.relative_to(LIB).with_suffix("").parts).removesuffix(".__init__")
        for path in FRAMEWORK
        if path.name != "__main__.py"
    ]
    code = (
        "import importlib, logging, os, signal, threading\n"
        "before = signal.getsignal(signal.SIGTERM), dict(os.environ)\n"
        f"for name in {names!r}:\n    importlib.import_module(name)\n"
        "assert not logging.getLogger().handlers, 'logging was set up'\n"
        "assert before == (signal.getsignal(signal.SIGTERM), dict(os.environ)), 'the process was changed'\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    done = run_python(code, tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["sundial", "sundial.cli", "sundial.operations.rollback"])
def test_importing_is_quick(tmp_path, module):
    """A notebook's handle, the command line and a rollback load none of the slow libraries before they are needed."""
    slow = (
        "pandas",
        "papermill",
        "scrapbook",
        "mlflow",
        "matplotlib",
        "sklearn",
        "skops",
        "prefect",
        "nbconvert",
        "IPython",
    )
    done = run_python(f"import sys, {module}; print([name for name in {slow} if name in sys.modules])", tmp_path)

    assert (done.stdout, done.stderr) == ("[]\n", "")
