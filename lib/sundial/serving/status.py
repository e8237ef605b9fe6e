"""What the shadow scorer says of itself and of each shadow: a small file each, replaced as a whole."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from sundial.errors import ArtifactCorruptError, ArtifactNotFoundError
from sundial.formats import read_json, write_json_atomically
from sundial.serving.shadowlog import Totals, shadow_folder
from sundial.settings import Settings, load_settings

STATUS_FILE = "status.json"


def status_path(pipeline: str, settings: Settings | None = None) -> Path:
    """Give the path of the scorer's status file."""
    return (settings or load_settings()).predictions / pipeline / "shadow" / STATUS_FILE


def describe_shadow(
    version: int | None, totals: Totals | None, *, state: str, latency_ms: float = 0.0, error: str = ""
) -> dict[str, Any]:
    """Say how one shadow is.

    Parameters
    ----------
    version : int or None
        None when there is none.
    totals : Totals or None
        What it did so far.
    state : str
        ``loading``, ``scoring``, ``waiting``, ``failing`` or ``stopped``.
    latency_ms : float
        Milliseconds a row, of the last batch.
    error : str
        Why it is failing.

    Returns
    -------
    dict
        state, version, rows, errors, error_share (of the rows), lost_rows, position, latency_ms, error, pid, updated.
    """
    totals = totals or Totals()
    return {
        "state": "failing" if error and state != "stopped" else state,
        "version": version,
        "rows": totals.rows,
        "errors": totals.errors,
        "error_share": totals.errors / totals.rows if totals.rows else 0.0,
        "lost_rows": totals.lost_rows,
        "position": totals.position,
        "latency_ms": round(latency_ms, 6),
        "error": error,
        "pid": os.getpid(),
        "updated": time.time(),
    }


def write_shadow_status(pipeline: str, settings: Settings, status: Mapping[str, Any]) -> None:
    """Write what a shadow's own process says of it."""
    write_json_atomically(shadow_folder(pipeline, status["version"], settings) / STATUS_FILE, dict(status))


def read_shadow_status(pipeline: str, version: int, settings: Settings | None = None) -> dict[str, Any]:
    """Read what a shadow's own process last said; empty when it never did."""
    return _read(shadow_folder(pipeline, version, settings) / STATUS_FILE)


def write_status(
    pipeline: str, settings: Settings, shadows: Mapping[str, Mapping[str, Any]], *, state: str, error: str = ""
) -> None:
    """Write what the scorer says: of the alias ``shadow`` (or the first there is) at the top, of all by alias."""
    first = shadows.get("shadow") or next(iter(shadows.values()), None) or describe_shadow(None, None, state="idle")
    if state == "stopped":
        first = {**first, "state": "stopped"}
    elif error:
        first = {**first, "state": "failing", "error": error}
    about = {**first, "pid": os.getpid(), "updated": time.time(), "shadows": {k: dict(v) for k, v in shadows.items()}}
    write_json_atomically(status_path(pipeline, settings), about)


def read_status(pipeline: str, settings: Settings | None = None) -> dict[str, Any]:
    """Read what the scorer last said of itself.

    Returns
    -------
    dict
        What :func:`describe_shadow` gives, of the alias ``shadow``; ``shadows``, the same for each alias, with
        ``restarts`` and ``memory_bytes``; and ``running``: whether that process is there. Empty when no scorer ever
        ran.
    """
    status = _read(status_path(pipeline, settings))
    if not status:
        return {}
    return {**status, "running": status["state"] != "stopped" and psutil.pid_exists(status["pid"])}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except (ArtifactNotFoundError, ArtifactCorruptError):
        return {}
