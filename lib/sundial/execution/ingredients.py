"""The key of a stage: a hash over everything that decides what its notebook makes.

===============  ====================================================================================================
cells            the code cells, their order and tags. Prose is left out: it changes no output, and the executed
                 notebook of a reused stage is the original, with the prose that it had
parameters       as the notebook gets them; ``as_of`` included, the run's name left out
inputs, outputs  the declared inputs with the hashes of their files, verified; the names of the outputs
code             SHA-256 of each module of the project that the notebook imports, and of what these import in turn
pipeline         what pipeline.yaml says, but not what no stage reads: other stages, gates, approvers, times of day.
                 These count too where the notebook, or code of the user's, mentions one of them by name
environment      Python, the platform, and the version of every installed package
===============  ====================================================================================================

What a stage reads beside its inputs is no part of the key; it is asked for when a reuse is considered (see ``reads``).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from sundial.declarations import LIFECYCLE
from sundial.errors import ArtifactCorruptError, ArtifactNotFoundError
from sundial.execution.forkserver import installed_key
from sundial.execution.imports import Source, read_source, trace_imports
from sundial.execution.parameters import looks_secret, read_notebook
from sundial.pipeline import Pipeline
from sundial.runs import Run
from sundial.settings import Settings
from sundial.syntax import parse_python

# A new number makes every key another.
SCHEMA = 1
# Of pipeline.yaml, and read by no stage unless its code names it.
UNREAD = ("stages", "gates", "approvers", "title", "question", "calendar")
UNREAD_TIMES = ("cron", "timezone", "approval_expires")
SHORT = 16


@dataclass(frozen=True)
class Key:
    """What a stage is known by.

    Attributes
    ----------
    digest : str
        64 hexadecimal digits; empty when the stage cannot be known by its ingredients.
    ingredients : dict
        Name to value; see the module.
    reason : str
        Why there is no digest.
    """

    digest: str
    ingredients: Mapping[str, Any]
    reason: str = ""

    @property
    def short(self) -> dict[str, Any]:
        """The ingredients as they are kept in a record: hashes, short enough to be compared by eye."""
        named = ("inputs", "code")
        return {
            name: {item: sha256[:SHORT] for item, sha256 in value.items()} if name in named else _hash(value)[:SHORT]
            for name, value in self.ingredients.items()
        }


def find_key(
    run: Run,
    stage: str,
    notebook: Path,
    parameters: Mapping[str, Any],
    as_of: str,
    pipeline: Pipeline,
    settings: Settings,
) -> Key:
    """Compute the key of a stage that is about to run.

    Parameters
    ----------
    run : Run
        Where its inputs are.
    stage : str
        Name of the stage.
    notebook : Path
        Its source.
    parameters : mapping
        What it is given.
    as_of : str
        The date that it pretends it is.
    pipeline : Pipeline
        What pipeline.yaml declares.
    settings : Settings
        Where things are.

    Returns
    -------
    Key
        Without a digest for a stage of the lifecycle, which acts on the outside; for one that is given a secret, whose
        hash must not be kept; for code that cannot be read; and while an input is missing.
    """
    spec = pipeline.stage(stage)
    if stage in LIFECYCLE:
        return Key("", {}, "it acts on the outside")
    if any(looks_secret(name) for name in parameters):
        return Key("", {}, "it is given a secret")
    content = read_notebook(notebook)
    cells = [cell for cell in content.cells if cell.cell_type == "code"]
    hooks = {name: str(target).partition(":")[0] for name, target in pipeline.hooks.model_dump().items()}
    try:
        code = _read_code([cell.source for cell in cells])
        trace = trace_imports(code, notebook.parent, settings, hooks)
        inputs = {item: _hash_input(run, item) for item in spec.inputs}
    except (SyntaxError, UnicodeDecodeError) as error:
        return Key("", {}, f"its code cannot be read: {error}")
    except (ArtifactNotFoundError, ArtifactCorruptError) as error:
        return Key("", {}, error.message)
    ingredients = {
        "schema": [SCHEMA, pipeline.name, stage, content.metadata.get("kernelspec", {}).get("name")],
        "cells": [[cell.source, sorted(cell.metadata.get("tags", []))] for cell in cells],
        "parameters": {"as_of": as_of, **{name: value for name, value in parameters.items() if name != "run"}},
        "inputs": inputs,
        "outputs": list(spec.outputs),
        "code": trace.files,
        "pipeline": _describe_pipeline(pipeline, trace.attributes),
        "environment": describe_environment(),
    }
    return Key(_hash(ingredients), ingredients)


def compare_ingredients(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Say which ingredients differ between two records of a stage.

    Parameters
    ----------
    before, after : mapping
        ``ingredients`` of two stage.json.

    Returns
    -------
    list of str
        Such as ``parameters`` or ``code: shop/features.py``.
    """
    found = []
    for name in sorted(set(before) | set(after)):
        ours, theirs = before.get(name), after.get(name)
        if ours == theirs:
            continue
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            changed = [item for item in sorted(set(ours) | set(theirs)) if ours.get(item) != theirs.get(item)]
            found.append(f"{name}: {', '.join(changed)}")
        else:
            found.append(name)
    return found


def describe_environment() -> dict[str, Any]:
    """Describe what is installed: Python, the platform, and the version of every package."""
    return dict(_describe_environment(installed_key()))


@functools.lru_cache(maxsize=2)
def _describe_environment(_installed: str) -> dict[str, Any]:
    about = [item.metadata for item in importlib.metadata.distributions()]  # read and parsed anew at each access
    packages = sorted(
        f"{item['Name']}=={item['Version']}".lower()
        for item in about
        if item["Name"] and item["Name"].lower() != "sundial"  # its code is hashed
    )
    return {"python": sys.version, "platform": [platform.system(), platform.machine()], "packages": packages}


def _describe_pipeline(pipeline: Pipeline, mentioned: set[str]) -> dict[str, Any]:
    """Give what a stage may read of pipeline.yaml."""
    described = pipeline.model_dump(exclude={"folder", *(name for name in UNREAD if name not in mentioned)})
    for name in UNREAD_TIMES:
        if name not in mentioned:
            described["schedule"].pop(name)
    return described


def _hash_input(run: Run, item: str) -> str:
    """Verify an input, and give the hash of its file."""
    source, _, output = item.partition("/")
    run.verify_output(source, output)
    return str(run.find_output(source, output)[1]["sha256"])


def _read_code(cells: Sequence[str]) -> Source:
    """Read the code of all cells; only cells with IPython's own commands need to be translated."""
    try:
        return read_source("\n\n".join(cells))
    except SyntaxError:
        return read_source("\n\n".join(map(_to_python, cells)))


def _to_python(source: str) -> str:
    """Turn a cell into Python, if it is none."""
    try:
        parse_python(source)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

        return str(TransformerManager().transform_cell(source))  # type: ignore[no-untyped-call]
    return source


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, date | Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()
