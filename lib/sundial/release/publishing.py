"""Runs on several machines: published to a store after each step, and brought in before one is gone on with.

<store>/runs/<pipeline>/<run>/      a shelf of its own for each run, whose list is ``run.json``
<store>/models/<pipeline>/<id>/     a registered model, see ``fetching``

Whoever works on a run brings it in first and publishes it afterwards; a flow run is one process, so nobody else works
on it meanwhile. A run that was published by another machine since is replaced by what that one made: what is not in the
store was never finished. A run that nobody else has touched is left as it is.
"""

from __future__ import annotations

import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from sundial.formats import read_json, write_json_atomically
from sundial.release.locks import hold_lock
from sundial.runs import Run, now
from sundial.settings import Settings
from sundial.shelf import Entry, Shelf

LIST = "run"
SEEN = ".published.json"  # which list of the store the folder stands on
LAST = "manifest.json"  # what makes a folder a run

logger = logging.getLogger("sundial.release")


def publish_run(run: Run, settings: Settings) -> bool:
    """Publish a run as it is now; tell whether there was anything new. Without a store, do nothing.

    Raises
    ------
    StoreError
        When the store cannot be written; the run's folder is whole all the same.
    """
    if not settings.store:
        return False
    shelf = _shelf(settings, run.pipeline, run.name)
    with hold_lock(run.folder / ".published.lock"):
        there = shelf.read(LIST)
        known = there[1] if there else {}
        files = shelf.keep({name: run.folder / name for name in _list_files(run.folder)}, known)
        if there and files == known:
            return False
        about = {"run": run.name, "pipeline": run.pipeline, "published": now(), "by": socket.gethostname()}
        revision = shelf.write(LIST, about, files)
        write_json_atomically(run.folder / SEEN, {"revision": revision})
    return True


def bring_in(pipeline: str, settings: Settings) -> list[str]:
    """Bring in the runs of a pipeline that other machines have published since; without a store, do nothing.

    Parameters
    ----------
    pipeline : str
        Its name.
    settings : Settings
        Where the store and the runs are.

    Returns
    -------
    list of str
        Names of the runs that are new or changed.

    Raises
    ------
    StoreError, ArtifactCorruptError
        When a run cannot be fetched whole; then its folder here is what it was, or not there.
    """
    if not settings.store:
        return []
    names = Shelf(settings.store).names(f"runs/{pipeline}")
    return [name for name in names if _bring_in(pipeline, name, settings)]


def unpublish_run(run: Run, settings: Settings) -> None:
    """Remove a run from the store, so that nobody brings it in again; without a store, do nothing."""
    if settings.store:
        shelf = _shelf(settings, run.pipeline, run.name)
        shelf.remove(LIST)
        shelf.sweep(set())


def _bring_in(pipeline: str, name: str, settings: Settings) -> bool:
    shelf = _shelf(settings, pipeline, name)
    there = shelf.read(LIST)
    if there is None:  # the first time it was published is not over, or it was removed
        return False
    _, files, revision = there
    folder = settings.runs / name
    if not folder.exists():
        waiting = settings.artifacts / ".bringing-in" / name  # a run is seen as a whole, or not at all
        shelf.fetch({waiting / path: entry for path, entry in files.items()})
        write_json_atomically(waiting / SEEN, {"revision": revision})
        folder.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(settings.artifacts / "bringing-in.lock"):
            if not folder.exists():
                waiting.rename(folder)
        shutil.rmtree(waiting, ignore_errors=True)
        logger.info("%s: brought in from %s", name, settings.store)
        return True
    with hold_lock(folder / ".published.lock"):
        if (folder / SEEN).is_file() and read_json(folder / SEEN)["revision"] == revision:
            return False
        records = [path for path in files if path == LAST or path.endswith("/stage.json")]
        outputs = {folder / path: entry for path, entry in files.items() if path not in records}
        shelf.fetch(outputs)
        _fetch_records(shelf, folder, files, records)
        for path in set(_list_files(folder)) - set(files):
            (folder / path).unlink(missing_ok=True)
        write_json_atomically(folder / SEEN, {"revision": revision})
    logger.info("%s: what another machine has published was brought in from %s", name, settings.store)
    return True


def _fetch_records(shelf: Shelf, folder: Path, files: dict[str, Entry], records: list[str]) -> None:
    """Fetch what says how it went, after what it speaks of, and the run's own manifest last."""
    shelf.fetch({folder / path: files[path] for path in records if path != LAST})
    shelf.fetch({folder / path: files[path] for path in records if path == LAST})


def _shelf(settings: Settings, pipeline: str, run: str) -> Shelf:
    return Shelf(f"{settings.store}/runs/{pipeline}/{run}")


def _list_files(folder: Path) -> Iterator[str]:
    """List the files of a run; those that begin with a dot are locks, journals, and half of something."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield str(name)
