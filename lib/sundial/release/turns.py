"""One release of a pipeline at a time, and who is at it: a lock that its process holds, and that ends with it.

A second release waits for the first. The lock is the kernel's, so it says more than any record: a run that is not done,
and at which nobody is, was left by a process that died.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sundial.formats import write_json_atomically
from sundial.runs import Run, now
from sundial.settings import Settings


@dataclass
class Turn:
    """The turn of one release.

    Attributes
    ----------
    path : Path
        Where it stands whose turn it is.
    said : dict
        ``by``, ``pid``, ``since`` and, once it is known, the name of the run.
    run : Run or None
        What it works on, once that is known.
    """

    path: Path
    said: dict[str, Any] = field(default_factory=dict)
    run: Run | None = None

    def note(self, run: Run) -> None:
        """Say which run the release works on; the run is under way until the turn ends well."""
        self.run = run
        self.said["run"] = run.name
        write_json_atomically(self.path, self.said)
        run.update(under_way=True)


@contextmanager
def take_turn(pipeline: str, by: str, settings: Settings) -> Iterator[Turn]:
    """Wait until no other release of the pipeline is under way, then hold the others up.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    by : str
        Who releases, such as the name of a flow run.
    settings : Settings
        Where things are.
    """
    with _open_lock(pipeline, settings) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        turn = Turn(_holder_path(pipeline, settings), {"by": by, "pid": os.getpid(), "since": now()})
        write_json_atomically(turn.path, turn.said)
        try:
            yield turn
            # one that ends by an error stays under way: nobody is at it, and it has not ended
            if turn.run is not None:
                turn.run.update(under_way=False)
        finally:
            turn.path.unlink(missing_ok=True)


def whose_turn(pipeline: str, settings: Settings) -> dict[str, Any] | None:
    """Tell which release of a pipeline is under way; None when none is, whatever a dead one left written."""
    with _open_lock(pipeline, settings) as lock:
        if _is_free(lock):
            return None
    try:
        return dict(json.loads(_holder_path(pipeline, settings).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}  # somebody has just taken it, or let go


def was_left(run: Run, settings: Settings) -> bool:
    """Tell whether the release that a run is of stopped without an end: by an error, killed, or with its machine."""
    if not run.manifest().get("under_way"):
        return False
    holder = whose_turn(run.pipeline, settings)
    if holder is not None and holder.get("run") in (run.name, None):  # None: it is just beginning
        return False
    return bool(run.manifest().get("under_way"))  # not one that ended while we looked


def is_running(run: Run, stage: str) -> bool:
    """Tell whether a process is at a stage, which holds its lock; see `execution.runner`."""
    path = run.folder / f".{stage}.lock"
    if not path.exists():
        return False
    with path.open("r") as lock:
        return not _is_free(lock)


def _is_free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


def _open_lock(pipeline: str, settings: Settings) -> IO[str]:
    settings.runs.mkdir(parents=True, exist_ok=True)
    return (settings.runs / f".release-{pipeline}.lock").open("a")


def _holder_path(pipeline: str, settings: Settings) -> Path:
    return settings.runs / f".release-{pipeline}.json"
