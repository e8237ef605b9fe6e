"""Which of the project's own code a notebook runs: its imports, and theirs, followed without running anything.

Followed are modules in ``lib/``, beside the notebook, on ``PYTHONPATH``, in other folders outside of the environment
that Python searches, and Sundial itself. What is installed in the environment is known by its version instead. An
import counts wherever it stands, in a function too. ``importlib.import_module`` with a name that is not written out
could mean anything: whoever calls it depends on all of ``lib/``.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

import sundial
from sundial.settings import Settings
from sundial.syntax import parse_python

OWN = "sundial"
# Compiled or temporary, made anew from what is hashed.
UNWANTED = ("__pycache__", ".ipynb_checkpoints")


@dataclass(frozen=True)
class Source:
    """What one module, or the code of a notebook, says of itself.

    Attributes
    ----------
    sha256 : str
        Of its text.
    imports : frozenset of str
        Names that it may import; a name of ``from a import b`` stands as ``a.b``, which need not be a module.
    attributes : frozenset of str
        Names behind a dot, whatever of.
    hooks : frozenset of str
        Hooks of the pipeline that it asks for by ``.hook("name")``; ``*`` for a name that is not written out.
    dynamic : bool
        Whether it imports what is not written out.
    """

    sha256: str
    imports: frozenset[str]
    attributes: frozenset[str]
    hooks: frozenset[str]
    dynamic: bool


@dataclass
class Trace:
    """All that a notebook's code leads to.

    Attributes
    ----------
    files : dict of str to str
        File, from the folder it was found in, to its SHA-256.
    attributes, hooks : set of str
        Of the notebook and of all modules but Sundial's own.
    """

    files: dict[str, str] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)
    hooks: set[str] = field(default_factory=set)


def read_source(text: str, package: str = "") -> Source:
    """Read what a piece of code imports and asks for.

    Parameters
    ----------
    text : str
        Python.
    package : str
        What relative imports start from.

    Returns
    -------
    Source

    Raises
    ------
    SyntaxError
        When it is not Python.
    """
    imports: set[str] = set()
    attributes: set[str] = set()
    hooks: set[str] = set()
    dynamic = False
    for node in _walk(parse_python(text)):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if node.level else []
            base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            imports |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0] if node.args else None
            said = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
            if called == "hook":
                hooks.add(said or "*")
            elif called in ("import_module", "__import__"):
                imports |= {said} if said and not said.startswith(".") else set()
                dynamic = dynamic or not said or said.startswith(".")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Source(digest, frozenset(imports), frozenset(attributes), frozenset(hooks), dynamic)


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Give all nodes of a tree, as :func:`ast.walk` does in twice the time."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                waiting += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST):
                waiting.append(value)


def trace_imports(code: Source, beside: Path, settings: Settings, hooks: dict[str, str]) -> Trace:
    """Follow the imports of a notebook's code.

    Parameters
    ----------
    code : Source
        Of all its cells.
    beside : Path
        The notebook's folder, where Python looks first.
    settings : Settings
        Where ``lib/`` is.
    hooks : dict of str to str
        Name of each hook of the pipeline to its module.

    Returns
    -------
    Trace

    Raises
    ------
    SyntaxError
        When a module is not Python.
    """
    roots, listed = _list_roots(beside, settings), functools.cache(_list_names)
    trace = Trace(attributes=set(code.attributes), hooks=set(code.hooks))
    waiting, seen = _widen(code.imports), set[str]()
    if code.dynamic:
        waiting |= _all_modules(settings.root / "lib")
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = _find_module(name, roots, listed)
        if found is None:
            continue
        root, path = found
        source = _read_module(path, name, root)
        own = name.partition(".")[0] == OWN
        trace.files[f"{path.relative_to(root)}"] = source.sha256
        waiting |= _widen(source.imports)
        trace.hooks |= source.hooks
        if not own:
            trace.attributes |= source.attributes
            trace.files |= _hash_data(path, root)
            if source.dynamic:
                waiting |= _all_modules(settings.root / "lib")
        for hook in trace.hooks:
            waiting |= _widen(set(hooks.values()) if hook == "*" else {hooks[hook]} if hook in hooks else set())
    return trace


def _widen(names: Iterable[str]) -> set[str]:
    """Add the packages around each module: Python runs their ``__init__.py`` too."""
    return {".".join(parts[: end + 1]) for parts in (name.split(".") for name in names) for end in range(len(parts))}


def _list_roots(beside: Path, settings: Settings) -> list[Path]:
    """List where modules are looked for, in Python's order, leaving out the environment."""
    given = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    searched = [Path(entry) for entry in sys.path if entry]
    environment = (Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve())
    outside = [
        entry
        for entry in (settings.root / "lib", *searched)
        if entry.is_dir() and not any(entry.resolve().is_relative_to(folder) for folder in environment)
    ]
    return list(dict.fromkeys([beside, *given, *outside]))


def _list_names(folder: Path) -> frozenset[str]:
    """List a folder once a trace: nearly all names that code imports are no module, and asking of each is slow."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208  names, and no paths, of which to make many is slow
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def _find_module(name: str, roots: Iterable[Path], listed: Callable[[Path], Set[str]]) -> tuple[Path, Path] | None:
    """Find the file of a module, and the folder it was found in; None for what is installed, or no module."""
    *packages, last = parts = name.split(".")
    for root in [Path(sundial.__file__).parents[1]] if parts[0] == OWN else roots:
        if packages and packages[0] not in listed(root):
            continue
        folder = root.joinpath(*packages)
        if last in listed(folder) and (package := folder / last / "__init__.py").is_file():
            return root, package
        if f"{last}.py" in listed(folder) and (module := folder / f"{last}.py").is_file():
            return root, module
    return None


def _read_module(path: Path, name: str, root: Path) -> Source:
    state = path.stat()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return _read_file(path, package, state.st_mtime_ns, state.st_size, state.st_ino)


@functools.lru_cache(maxsize=2048)
def _read_file(path: Path, package: str, *_state: int) -> Source:
    """Read a module; again only when the file is another."""
    return read_source(path.read_text(encoding="utf-8"), package)


def _hash_data(path: Path, root: Path) -> dict[str, str]:
    """Hash what lies beside a module in its package and is no module: tables, templates, compiled code."""
    if path.parent == root:
        return {}
    files = [item for item in path.parent.iterdir() if item.is_file() and item.suffix not in (".py", ".pyc")]
    return {f"{item.relative_to(root)}": hashlib.sha256(item.read_bytes()).hexdigest() for item in sorted(files)}


def _all_modules(lib: Path) -> set[str]:
    return set(_iterate_modules(lib))


def _iterate_modules(lib: Path) -> Iterator[str]:
    for path in sorted(lib.rglob("*.py")):
        if not set(path.parts) & set(UNWANTED):
            yield ".".join(path.relative_to(lib).with_suffix("").parts).removesuffix(".__init__")
