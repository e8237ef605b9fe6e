"""Backups, made beside a running system: whole, checked by hash, and cheap to repeat.

<place>/
    objects/...                     bytes, named by their SHA-256; each once, in however many backups it is
    backups/20260105T060004Z.json   what there was at that time; written last, so that a backup is there or is not
"""

from __future__ import annotations

import platform
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sundial.errors import BackupError, SettingsError
from sundial.recovery.contents import TURNS, holds_anything, is_database, list_elsewhere, list_left_out, list_turn
from sundial.release.locks import hold_lock
from sundial.serving.archive import Archive
from sundial.settings import Settings
from sundial.shelf import Entry, Files, Shelf

SCHEMA = 1
FOLDER = "backups"
TRIES = 5


@dataclass(frozen=True)
class Backup:
    """One backup.

    Attributes
    ----------
    name : str
        When it was begun, in UTC.
    files : dict of str to Entry
        Path below artifacts to what was there.
    about : dict
        ``schema``, ``created``, ``artifacts`` (where they were), ``elsewhere`` (what it does not hold), ``left_out``
        (runs), ``python``.
    """

    name: str
    files: Files
    about: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(entry.bytes for entry in self.files.values())


def find_place(settings: Settings, place: str = "") -> str:
    """Give the place of backups: the one that was named, or a folder of the store.

    Raises
    ------
    SettingsError
        When there is neither.
    """
    if place:
        return place
    if not settings.store:
        raise SettingsError("no place for backups", hint="name a folder on another disk, or a URL such as s3://bucket")
    return f"{settings.store}/backup"


def make_backup(settings: Settings, place: str, *, keep_runs: int = 20) -> Backup:
    """Make a backup; what runs meanwhile goes on.

    Parameters
    ----------
    settings : Settings
        Where artifacts are.
    place : str
        A folder or a URL; made when missing.
    keep_runs : int
        Newest runs of each pipeline to hold, beside all that something stands on.

    Returns
    -------
    Backup

    Raises
    ------
    BackupError
        When there is nothing to keep, or the place is inside of artifacts.
    StoreError
        When the place cannot be written; it holds what it held before.
    """
    shelf = Shelf(place)
    if shelf.place.startswith(f"{settings.artifacts.as_uri()}/"):
        raise BackupError(f"{place} is inside of {settings.artifacts}", hint="a backup belongs on another disk")
    if not holds_anything(settings):
        raise BackupError(f"{settings.artifacts} holds nothing to keep", hint="see SUNDIAL_ARTIFACTS")
    with hold_lock(settings.artifacts / "backup.lock"):
        names = shelf.names(FOLDER)
        last = read_backup(shelf, names[-1]).files if names else {}
        began = datetime.now(UTC)
        left_out = list_left_out(settings, keep_runs)
        files: dict[str, Entry] = {}
        for turn in TURNS:  # what is there is listed anew each time
            files |= _keep(shelf, list_turn(settings, turn, left_out), last)
        files |= _keep_archives(shelf, settings, last)
        about = {
            "schema": SCHEMA,
            "created": began.isoformat(timespec="seconds"),
            "artifacts": str(settings.artifacts),
            "elsewhere": list_elsewhere(settings),
            "left_out": left_out,
            "python": platform.python_version(),
        }
        name = f"{began:%Y%m%dT%H%M%SZ}"
        while name in names:  # two in one second
            name += "x"
        shelf.write(f"{FOLDER}/{name}", about, files)
    return Backup(name, files, about)


def list_backups(place: str) -> list[Backup]:
    """List the backups of a place, oldest first."""
    shelf = Shelf(place)
    return [read_backup(shelf, name) for name in shelf.names(FOLDER)]


def read_backup(shelf: Shelf, name: str = "") -> Backup:
    """Read what a backup holds; the newest when none is named.

    Raises
    ------
    BackupError
        When it is not there, or was made by a newer Sundial.
    """
    names = shelf.names(FOLDER)
    found = shelf.read(f"{FOLDER}/{name or names[-1]}") if names else None
    if found is None:
        hint = f"there are {', '.join(names[-5:])}" if names else "make one with 'sundial backup'"
        raise BackupError(f"no backup {name!r} at {shelf.place}" if name else f"no backup at {shelf.place}", hint=hint)
    about, files, _ = found
    if about.get("schema") != SCHEMA:
        raise BackupError(
            f"backup {name or names[-1]} has schema {about.get('schema')}, and this Sundial reads {SCHEMA}"
        )
    return Backup(name or names[-1], files, about)


def forget_backups(place: str, keep: int) -> tuple[list[str], int]:
    """Remove all but the newest backups of a place, and the bytes that no other holds.

    Not while another machine makes one at the same place.

    Parameters
    ----------
    place : str
        Where they are.
    keep : int
        How many stay; 1 at least.

    Returns
    -------
    tuple of list of str and int
        Names of the backups that are gone, and how many files.
    """
    if keep < 1:
        raise SettingsError(f"--keep {keep} would leave no backup", hint="keep 1 at least")
    shelf = Shelf(place)
    names = shelf.names(FOLDER)
    for name in names[:-keep]:
        shelf.remove(f"{FOLDER}/{name}")
    staying = [read_backup(shelf, name) for name in names[-keep:]]
    return names[:-keep], shelf.sweep({entry.sha256 for backup in staying for entry in backup.files.values()})


def _keep(shelf: Shelf, paths: dict[str, Path], last: Files) -> dict[str, Entry]:
    """Keep files, and of databases what they hold at one moment, also while they are written."""
    with tempfile.TemporaryDirectory(prefix="sundial-backup-") as folder:
        copies: dict[str, Path] = {}
        for number, (name, path) in enumerate(paths.items()):
            if is_database(path):
                copies[name] = Path(folder) / f"{number}.db"
                with (
                    closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60)) as source,
                    closing(sqlite3.connect(copies[name])) as copy,
                ):
                    source.backup(copy)
        return shelf.keep(paths | copies, {name: entry for name, entry in last.items() if name not in copies})


def _keep_archives(shelf: Shelf, settings: Settings, last: Files) -> dict[str, Entry]:
    """Keep the Parquet that each ledger of a log names, all of one moment: retention may remove some meanwhile."""
    files: dict[str, Entry] = {}
    for log in sorted(settings.predictions.glob("*/production")):
        archive = Archive(log)
        if not archive.ledger_path.is_file():
            continue
        for _ in range(TRIES):
            before = archive.ledger_path.read_bytes()
            named = [archive.ledger_path, *(archive.folder / file.path for file in archive.ledger().files)]
            kept = shelf.keep({str(path.relative_to(settings.artifacts)): path for path in named}, last)
            if before == archive.ledger_path.read_bytes() and len(kept) == len(named):
                files |= kept
                break
        else:
            raise BackupError(f"{archive.folder} changes faster than it is copied", hint="try again in a while")
    return files
