"""What a stage made, as small facts that can be compared between two releases of two pipelines."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from sundial.runs import Run

ROW_NAMES = ("request_id", "event_id")  # rows of a log come in the order of their answers


def describe(run: Run, stage: str) -> dict[str, str]:
    """Describe the outputs and scraps of a stage.

    Parameters
    ----------
    run : Run
        A release.
    stage : str
        One that succeeded.

    Returns
    -------
    dict of str to str
        By column of a table, value of a document, and member of a model file; names of run and pipeline left out.
    """
    record = run.stage_record(stage)
    names = {run.name: "RUN", run.pipeline: "PIPELINE"}
    found = {f"scraps{key}": value for key, value in _leaves(record.get("scraps", {}), names)}
    for name, output in record.get("outputs", {}).items():
        path = run.folder / output["path"]
        found |= {f"{name}{key}": value for key, value in _describe_file(path, names)}
    return found


def _describe_file(path: Path, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    if path.suffix == ".parquet":
        yield from _describe_table(pd.read_parquet(path))
    elif path.suffix == ".json":
        yield from _leaves(json.loads(path.read_text()), names)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as members:
            for member in sorted(members.namelist()):
                yield f"/{_neutral(member, names)}", _hash(_neutral_bytes(members.read(member), names))
    else:
        yield "", _hash(_neutral_bytes(path.read_bytes(), names))


def _describe_table(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    key = next((name for name in ROW_NAMES if name in table.columns), None)
    ordered = table.sort_values(key, ignore_index=True) if key else table
    yield ".rows", str(len(table))
    for column in ordered.columns:
        texts = "\n".join(map(repr, ordered[column].tolist()))
        yield f".{column}", _hash(texts.encode())


def _leaves(value: Any, names: dict[str, str], path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, names, f"{path}.{_neutral(str(key), names)}")
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, names, f"{path}[{index}]")
    else:
        yield path, _neutral(json.dumps(value), names)


def _neutral(text: str, names: dict[str, str]) -> str:
    for name, word in names.items():
        text = text.replace(name, word)
    return text


def _neutral_bytes(content: bytes, names: dict[str, str]) -> bytes:
    for name, word in names.items():
        content = content.replace(name.encode(), word.encode())
    return content


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """List the facts in which two descriptions differ; numbers to nine digits, since a sum depends on its order."""
    return sorted(key for key in {*one, *other} if not _is_same(one.get(key, "missing"), other.get(key, "missing")))


def _is_same(one: str, other: str) -> bool:
    try:
        return one == other or math.isclose(float(one), float(other), rel_tol=1e-9)
    except ValueError:
        return False
