"""What a stage reads beside its declared inputs, as questions that can be asked again.

A stage may be reused only while everything it read still says the same. Its declared inputs are known by their hashes.
All else (which version is in production, what reviews have chosen, a file of somebody's own) is written down while the
notebook runs, each as a question and the answer it got: the question names a function, ``module:function``, that takes
an argument and a :class:`Reading` and answers with a text. Before a stage is reused, every question is asked again.

Files and folders that a notebook opens by itself are noted without its help, by an audit hook of the interpreter, and
so are connections, which nobody can ask again: a stage that made one is never reused. What the hook cannot see are
files that a library opens in machine code (DuckDB, Arrow): whoever reads so says so, with :func:`observe_file`.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sundial.errors import SundialError
from sundial.formats import hash_file
from sundial.settings import Settings

# Holds whatever answer it got: nothing can ask again, so the stage is never reused.
UNREPEATABLE = "unrepeatable"
FILE, FOLDER = "sundial.reads:file", "sundial.reads:folder"
MISSING = "missing"
CODE_SUFFIXES = (".py", ".pyc", ".pyd", ".so", ".ipynb")
SYSTEM_FOLDERS = (
    "/usr",
    "/etc",
    "/proc",
    "/dev",
    "/sys",
    "/lib",
    "/lib64",
    "/bin",
    "/var/cache",
    "/Library",
    "/System",
)


@dataclass(frozen=True)
class Reading:
    """Who asks.

    Attributes
    ----------
    pipeline : str
        Name of the pipeline.
    as_of : str
        The date that the stage pretends it is, ISO 8601.
    run : Path
        Folder of the run.
    settings : Settings
        Where things are.
    """

    pipeline: str
    as_of: str
    run: Path
    settings: Settings


Note = Callable[[str, str], None]


@dataclass
class _Recorder:
    """The one stage whose notebook this process runs."""

    reading: Reading
    stage: str
    note: Note | None
    known: set[str]


_recorder: _Recorder | None = None
_inside = threading.local()


def begin(reading: Reading, stage: str, note: Note | None) -> None:
    """Write down from now on what this process reads; for a kernel, which runs one stage and ends.

    Parameters
    ----------
    reading : Reading
        Who reads.
    stage : str
        Name of the stage; its own folder is no outside.
    note : callable or None
        Keeps a question and its answer; None for a stage that is never reused, of which nothing is noted.
    """
    global _recorder
    first = _recorder is None
    _recorder = _Recorder(reading, stage, note, set())
    if first and note is not None:
        sys.addaudithook(_audit)


def acting_run() -> Path | None:
    """Give the folder of the run whose stage this process is the kernel of; None elsewhere."""
    return _recorder.reading.run if _recorder is not None else None


@contextmanager
def covered() -> Iterator[None]:
    """Leave out what is read within: a declared input, or what one question stands for as a whole."""
    _inside.covered = getattr(_inside, "covered", 0) + 1
    try:
        yield
    finally:
        _inside.covered -= 1


def _is_covered() -> bool:
    """Tell whether this thread is within a covered read; what other threads do meanwhile is their own."""
    return getattr(_inside, "covered", 0) > 0


def observe(question: str, argument: str = "") -> None:
    """Note an outside read by the question that can be asked again; outside of a kernel, do nothing.

    Parameters
    ----------
    question : str
        ``module:function`` of a function that takes the argument and a :class:`Reading`, and gives a text.
    argument : str
        What the function is asked about.
    """
    if _recorder is None or _recorder.note is None or _is_covered():
        return
    name = f"{question} {argument}".strip()
    if name not in _recorder.known:
        _recorder.known.add(name)
        with covered():
            _recorder.note(name, ask(name, _recorder.reading))


def observe_file(path: Path) -> None:
    """Note that a file is read, for readers that the audit hook cannot see."""
    observe(FILE, str(path))


def observe_unrepeatable(what: str) -> None:
    """Note a read that nobody can ask about again, such as a database's; the stage is then never reused."""
    observe(UNREPEATABLE, what)


def ask(name: str, reading: Reading) -> str:
    """Ask a noted question.

    Parameters
    ----------
    name : str
        The question, and behind a space its argument.
    reading : Reading
        Who asks.

    Returns
    -------
    str
        The answer as of now.

    Raises
    ------
    SundialError
        When the question names no function.
    """
    question, _, argument = name.partition(" ")
    if question == UNREPEATABLE:
        return UNREPEATABLE
    module, _, function = question.partition(":")
    try:
        asked = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise SundialError(f"{question!r} names no function: {error}", hint="write it as module:function") from error
    with covered():
        return str(asked(argument, reading))


def file(path: str, reading: Reading) -> str:
    """Answer with the SHA-256 of a file."""
    found = reading.settings.root / path  # an absolute path stays what it is
    return hash_file(found) if found.is_file() else MISSING


def folder(path: str, reading: Reading) -> str:
    """Answer with a hash of the names in a folder."""
    found = reading.settings.root / path
    if not found.is_dir():
        return MISSING
    return hashlib.sha256("\n".join(sorted(item.name for item in found.iterdir())).encode()).hexdigest()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what the interpreter opens, lists or connects to; called for every event, so it decides quickly."""
    if event not in ("open", "os.listdir", "os.scandir", "socket.connect", "sqlite3.connect"):
        return
    if _is_covered() or getattr(_inside, "busy", False) or sys.is_finalizing():
        return
    _inside.busy = True
    try:
        if event == "socket.connect":
            observe_unrepeatable(f"a connection to {arguments[1]}")
        elif event == "sqlite3.connect":
            _note_database(arguments[0])
        elif event == "open":
            _note_path(arguments[0], FILE, arguments[2] or 0)
        else:
            _note_path(arguments[0], FOLDER, 0)
    finally:
        _inside.busy = False


def _note_database(path: Any) -> None:
    # a shell keeps its history in one; nothing else of ours opens one outside of a covered read
    if isinstance(path, str | os.PathLike) and "history" not in str(path) and ":memory:" not in str(path):
        observe_unrepeatable(f"the database {os.fspath(path)}")


def _note_path(path: Any, question: str, flags: int) -> None:
    """Note a file or a folder, unless it is written, or is code, or belongs to the system or to the stage itself."""
    if not isinstance(path, str | bytes | os.PathLike) or flags & (os.O_CREAT | os.O_WRONLY):
        return
    text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  for every file that is opened: no Path, no disk
    if _recorder is None or text.endswith(CODE_SUFFIXES) or f"{text}{os.sep}".startswith(_skipped()):
        return
    settings, own = _recorder.reading.settings, f"{_recorder.reading.run}{os.sep}"
    if question == FOLDER and (
        text in map(os.path.abspath, sys.path) or text.startswith(f"{settings.root}{os.sep}lib")
    ):
        return  # the import system looks for modules
    if text.startswith(own):
        if not text.startswith(f"{own}{_recorder.stage}{os.sep}") and not text.endswith(".lock"):
            # in another run the same question would be about another run's file
            observe_unrepeatable(f"{text.removeprefix(own)} of its own run")
    elif not text.endswith((".lock", f"{os.sep}pipeline.yaml", f"{os.sep}.env")):
        observe(question, text.removeprefix(f"{settings.root}{os.sep}"))


def _skipped() -> tuple[str, ...]:
    """List what is known by other means: the environment by its versions, code by its hash, caches by nobody."""
    global _prefixes
    if not _prefixes:
        home = Path.home()
        hidden = [home / ".cache", home / ".config", home / ".ipython", home / ".jupyter", home / ".local"]
        named = [
            os.environ.get(name, "")
            for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
        ]
        folders = [sys.prefix, sys.base_prefix, *SYSTEM_FOLDERS, *map(str, hidden), *filter(None, named)]
        _prefixes = (*(f"{folder}{os.sep}" for folder in folders), f"{tempfile.gettempdir()}{os.sep}matplotlib-")
    return _prefixes


_prefixes: tuple[str, ...] = ()
