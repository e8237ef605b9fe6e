"""The way back: a backup becomes artifacts/ again, here or at another place, and is checked byte for byte on the way.

Everything is fetched into ``artifacts/.restoring`` first and put in its place at the end, so that a restore may be
killed at any moment and begun again, and nobody ever sees half of one.
"""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sundial.errors import BackupError, SundialError
from sundial.execution.report import render_index
from sundial.formats import read_json, write_json_atomically
from sundial.pipeline import list_pipelines
from sundial.recovery.backup import Backup, read_backup
from sundial.recovery.contents import is_database
from sundial.release.locks import hold_lock
from sundial.release.registry import Registry
from sundial.runs import list_runs
from sundial.serving.predictions import read_log
from sundial.settings import Settings
from sundial.shelf import Shelf

WAITING = ".restoring"
STATE = "state.json"


@dataclass(frozen=True)
class Restored:
    """What is there again.

    Attributes
    ----------
    backup : Backup
        Which was restored.
    moved_from : str
        Where artifacts were when it was made, if that was elsewhere.
    """

    backup: Backup
    moved_from: str = ""


def restore_backup(settings: Settings, place: str, name: str = "") -> Restored:
    """Restore a backup into artifacts, which must not hold any of it.

    Parameters
    ----------
    settings : Settings
        Where artifacts are; another place than before will do.
    place : str
        Where the backup is.
    name : str
        Which; the newest by default.

    Returns
    -------
    Restored

    Raises
    ------
    BackupError
        When there is no such backup, or something is in its way: nothing is overwritten.
    ArtifactCorruptError
        When a file of it is damaged; nothing is put in its place then.
    StoreError
        When it cannot be fetched.
    """
    shelf = Shelf(place)
    backup = read_backup(shelf, name)
    waiting = settings.artifacts / WAITING
    with hold_lock(settings.artifacts / "backup.lock"):
        state = read_json(waiting / STATE) if (waiting / STATE).is_file() else {}
        begun = state.get("backup") == backup.name
        tops = sorted({Path(path).parts[0] for path in backup.files})
        in_the_way = [top for top in tops if (settings.artifacts / top).exists()]
        if in_the_way and not (begun and state["fetched"]):
            raise BackupError(
                f"{settings.artifacts} already holds {', '.join(in_the_way)}",
                hint="stop what runs there and move the folder away: a restore overwrites nothing",
            )
        if not (begun and state["fetched"]):
            if not begun:
                shutil.rmtree(waiting, ignore_errors=True)
            write_json_atomically(waiting / STATE, {"backup": backup.name, "fetched": False})
            shelf.fetch({waiting / "files" / path: entry for path, entry in backup.files.items()})
            _relocate(waiting / "files", Path(backup.about["artifacts"]), settings.artifacts)
            write_json_atomically(waiting / STATE, {"backup": backup.name, "fetched": True})
        for top in tops:  # what is not there any more was put in its place before we were killed
            with suppress(FileNotFoundError):
                (waiting / "files" / top).rename(settings.artifacts / top)
        shutil.rmtree(waiting)
    render_index(settings)
    before = str(backup.about["artifacts"])
    return Restored(backup, before if before != str(settings.artifacts) else "")


def describe_restored(settings: Settings) -> dict[str, dict[str, Any]]:
    """Say by pipeline what is there: versions, aliases, runs, logged predictions, decisions."""
    registry = Registry(settings)
    found = {}
    for pipeline in list_pipelines(settings):
        runs = list_runs(pipeline, settings=settings)
        versions = registry.versions(pipeline)
        try:
            predictions: object = len(read_log(pipeline, settings=settings))
        except SundialError as error:  # a log in a database that is not there yet is no reason to say nothing
            predictions = error.message
        found[pipeline] = {
            "versions": len(versions),
            "aliases": {alias: item.version for item in versions for alias in item.aliases},
            "runs": len(runs),
            "decisions": sum(len(read_json(run.folder / "decisions.json")) for run in runs if _decided(run.folder)),
            "predictions": predictions,
        }
    return found


def _decided(folder: Path) -> bool:
    return (folder / "decisions.json").is_file()


def _relocate(folder: Path, before: Path, now: Path) -> None:
    """Let the registry, and what servers wrote down, name the files where they are now."""
    if before == now:
        return
    pairs = [(f"{before.as_uri()}/", f"{now.as_uri()}/"), (f"{before}/", f"{now}/")]
    for path in folder.iterdir():
        if path.is_file() and is_database(path):
            _relocate_database(path, pairs)
    for path in (folder / "serving").rglob("*.json"):
        write_json_atomically(path, _relocate_value(read_json(path), pairs))


def _relocate_value(value: Any, pairs: list[tuple[str, str]]) -> Any:
    if isinstance(value, dict):
        return {name: _relocate_value(each, pairs) for name, each in value.items()}
    found = next((pair for pair in pairs if isinstance(value, str) and value.startswith(pair[0])), None)
    return found[1] + value[len(found[0]) :] if found else value


def _relocate_database(path: Path, pairs: list[tuple[str, str]]) -> None:
    """Replace the beginning of each address, in every column of text."""
    with closing(sqlite3.connect(path)) as connection, connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")') if _is_text(row[2])]
            for column, (old, new) in itertools.product(columns, pairs):
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '  # noqa: S608  names of its schema
                    f'WHERE substr("{column}", 1, ?) = ?',
                    (new, len(old) + 1, len(old), old),
                )


def _is_text(kind: str) -> bool:
    return any(word in kind.upper() for word in ("CHAR", "TEXT", "CLOB"))
