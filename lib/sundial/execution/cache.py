"""Only what changed: a stage whose key is that of an earlier one is reused instead of run.

The runs themselves are what is kept. ``artifacts/cache/<key>/<run>`` only says where a key was made; what it says is
checked each time, so that it may be lost, and runs may be removed, at any moment. A reuse happens only if

- the key is the same (see ``ingredients``),
- every question that the notebook asked the outside is answered as it was then (see ``reads``),
- the record says that the stage succeeded, and the notebook and each output are there and hash as it says.

The files become part of the new run, as hard links where the disk allows it: removing either run leaves the other
whole. The executed notebook is the original one, with the run and the times it had: that is what happened. The record
says from which run it is, and so does the page.

A stage that declares no input and asked nothing has its data from somewhere that nobody can see: it is never reused.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from sundial.errors import SundialError
from sundial.execution.ingredients import Key
from sundial.execution.journal import journal_path
from sundial.execution.pages import mark_reused
from sundial.execution.rendering import is_followed, render_beside
from sundial.execution.report import REPORT, render_run, render_stage
from sundial.formats import hash_file, read_json, write_bytes_atomically, write_json_atomically
from sundial.reads import UNREPEATABLE, Reading, ask
from sundial.runs import Run, now, open_run
from sundial.settings import Settings

logger = logging.getLogger("sundial.execution")
NOTEBOOK = "notebook.ipynb"
# What a reused stage keeps of the original's record.
KEPT = ("parameters", "notebook_sha256", "executed_sha256", "kernel", "scraps", "observed", "key", "ingredients")
# Of an experiment, which works on the rows of a release: what has come since is no reason to make them anew.
PINNED = ("sundial.reads:", "sundial.stage:chosen_examples", UNREPEATABLE)


def cache_folder(settings: Settings) -> Path:
    """Give the folder that says where keys were made."""
    return settings.artifacts / "cache"


@contextmanager
def one_at_a_time(key: Key, settings: Settings) -> Iterator[None]:
    """Hold a key, so that of two runs that need the same stage the second waits for the first, and reuses it."""
    if not key.digest:
        yield
        return
    path = cache_folder(settings) / key.digest / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remember(run: Run, stage: str, key: Key, settings: Settings) -> None:
    """Note where a key was made, for those who come later."""
    record = run.stage_record(stage)
    if is_repeatable(record):
        write_json_atomically(cache_folder(settings) / key.digest / run.name, {"run": run.name, "stage": stage})


def is_repeatable(record: dict[str, Any]) -> bool:
    """Tell whether all that a stage read is known, so that another may stand on it."""
    observed = record.get("observed", {})
    known = bool(record.get("inputs") or observed)
    return known and not any(answer == UNREPEATABLE for answer in observed.values())


def reuse(
    run: Run, stage: str, key: Key, as_of: str, settings: Settings, *, base: Run | None = None
) -> dict[str, Any] | None:
    """Take a stage from an earlier run, if there is one that is the same.

    Parameters
    ----------
    run : Run
        Where to; what is in the stage's folder is replaced.
    stage : str
        Name of the stage.
    key : Key
        Of the stage in this run.
    as_of : str
        The date that it pretends it is.
    settings : Settings
        Where things are.
    base : Run, optional
        A run to look in first. Of it, what was read from files, databases and reviews counts as it was then.

    Returns
    -------
    dict or None
        The record of the stage; None when it has to be run.
    """
    if not key.digest:
        return None
    began = time.monotonic()
    reading = Reading(run.pipeline, as_of, run.folder, settings)
    for source in _list_sources(key, stage, settings, base):
        record = source.stage_record(stage)
        if record.get("key") != key.digest or record.get("status") != "succeeded":
            continue
        pinned = base is not None and source.name == base.name
        if _has_changed(record, reading, pinned=pinned) or not (pinned or is_repeatable(record)):
            continue
        if _take(run, stage, source, record):
            made = _write_record(run, stage, source, record, as_of, began)
            remember(run, stage, key, settings)
            render_beside(run, stage, settings, partial(_show, run, stage, source, settings))
            logger.info("%s: reused from %s", stage, made["reused"]["run"])
            return run.stage_record(stage)
    return None


def _list_sources(key: Key, stage: str, settings: Settings, base: Run | None) -> Iterator[Run]:
    """List runs that may hold the stage, newest first."""
    if base is not None:
        yield base
    folder = cache_folder(settings) / key.digest
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    for path in sorted(entries, key=lambda item: item.stat().st_mtime_ns, reverse=True):
        try:
            entry = read_json(path)
            source = open_run(entry["run"], settings)
        except (SundialError, KeyError, TypeError):
            path.unlink(missing_ok=True)  # that run was removed
            continue
        if entry.get("stage") == stage:
            yield source


def _has_changed(record: dict[str, Any], reading: Reading, *, pinned: bool) -> bool:
    """Ask again all that the notebook asked; whether an answer is another now."""
    for name, answer in record.get("observed", {}).items():
        if pinned and name.startswith(PINNED):
            continue
        try:
            if answer == UNREPEATABLE or ask(name, reading) != answer:
                return True
        except SundialError:  # what cannot be asked is not the same
            return True
    return False


def _take(run: Run, stage: str, source: Run, record: dict[str, Any]) -> bool:
    """Put the files of a stage into a run; False, with nothing left of them, when one is not what it was."""
    folder = run.stage_folder(stage)
    wanted = {source.stage_folder(stage) / NOTEBOOK: record.get("executed_sha256")}
    wanted |= {source.folder / output["path"]: output["sha256"] for output in record["outputs"].values()}
    if any(not path.is_file() for path in wanted):
        return False
    run.restart_stage(stage, status="running", started=now())
    clear_stage(folder)
    for path, sha256 in wanted.items():
        target = run.folder / path.relative_to(source.folder)
        _link(path, target)
        if hash_file(target) != sha256:
            clear_stage(folder)
            return False
    return True


def _write_record(
    run: Run, stage: str, source: Run, record: dict[str, Any], as_of: str, began: float
) -> dict[str, Any]:
    """Write the record of a reused stage: the original's, and where it is from."""
    origin = record.get("reused") or {"run": source.name, "seconds": record.get("seconds"), "at": record.get("started")}
    inputs = {}
    for name, item in record["inputs"].items():
        made_by, _, output = name.partition("/")
        inputs[name] = item if item["path"].startswith("..") else {**item, "path": _path_of(run, made_by, output, item)}
    return run.update_stage(
        stage,
        status="succeeded",
        as_of=as_of,
        seconds=round(time.monotonic() - began, 2),
        inputs=inputs,
        outputs=record["outputs"],
        reused=origin,
        **{name: record[name] for name in KEPT if name in record},
    )


def _path_of(run: Run, stage: str, output: str, item: dict[str, Any]) -> str:
    try:
        holder, found = run.find_output(stage, output)
    except SundialError:
        return str(item["path"])
    return os.path.relpath(holder.folder / found["path"], run.folder)


def _show(run: Run, stage: str, source: Run, settings: Settings) -> Path:
    """Make the page of a reused stage: the original's, with a line that says so."""
    page = source.stage_folder(stage) / REPORT
    origin = run.stage_record(stage)["reused"]["run"]
    try:
        marked = mark_reused(page.read_text(encoding="utf-8"), origin) if page.is_file() else ""
        if marked:
            write_bytes_atomically(run.stage_folder(stage) / REPORT, marked.encode())
            if not is_followed(run, stage):  # a release reuses stages faster than the pages above them are made
                render_run(run, settings)
        else:
            return render_stage(run, stage, settings)
    except Exception:
        logger.exception("%s: the report could not be rendered", stage)
    return run.stage_folder(stage) / REPORT


def clear_stage(folder: Path) -> None:
    """Remove what an earlier attempt left in the folder of a stage; its record is forgotten already."""
    for path in (folder / NOTEBOOK, journal_path(folder / NOTEBOOK), folder / REPORT):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "outputs", ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; where that cannot be, copy it, and let it appear as a whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        os.link(source, target)
        return
    temporary = target.with_name(f".{target.name}.copy")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
