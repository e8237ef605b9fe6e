"""What was installed when a run began: the same notebooks on the same data may differ for it."""

from __future__ import annotations

import platform
from importlib.metadata import distributions
from typing import Any

from sundial.formats import read_json, write_json_atomically
from sundial.runs import Run

FILE = "environment.json"


def record_environment(run: Run) -> dict[str, Any]:
    """Write down interpreter, machine and installed packages; written once a run.

    Parameters
    ----------
    run : Run
        Which.

    Returns
    -------
    dict
        ``python``, ``machine`` and ``packages`` (name to version).
    """
    path = run.folder / FILE
    if not path.exists():
        found = {str(item.metadata["Name"]).lower().replace("_", "-"): item.version for item in distributions()}
        about = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
        write_json_atomically(path, about | {"packages": dict(sorted(found.items()))})
    return read_environment(run)


def read_environment(run: Run) -> dict[str, Any]:
    """Read what :func:`record_environment` wrote; empty where nothing was recorded."""
    path = run.folder / FILE
    return dict(read_json(path)) if path.exists() else {}
