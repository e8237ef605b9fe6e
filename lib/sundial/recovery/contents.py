"""What a backup holds: everything under ``artifacts/`` but what can be made again.

What is not known to be so is kept, so that nothing is lost because somebody forgot to name it here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

from sundial.experiments.keeping import choose_removable
from sundial.pipeline import list_pipelines
from sundial.settings import Settings

# Folders of artifacts/ that are made again, or are of this machine only.
MADE_AGAIN: Mapping[str, str] = {
    "bench": "figures of benchmarks",
    "cache": "where equal stages were made: found again as stages run",
    "logs": "what servers say",
    "replays": "past weeks, which can be replayed again",
    "reports": "the index of runs, rendered when a backup is restored",
    "warehouse": "the data that ships, and what else hooks keep there",
}
# Of a database that is in use; its own backup has what they hold.
BESIDE_DATABASES = ("-wal", "-shm", "-journal")
Turn = Literal["databases", "shadows", "segments", "rest"]
TURNS: tuple[Turn, ...] = ("databases", "shadows", "segments", "rest")
SQLITE_MAGIC = b"SQLite format 3\0"


def holds_anything(settings: Settings) -> bool:
    """Tell whether there is a file to keep, without opening, or making, a registry."""
    return next(_walk(settings.artifacts, ()), None) is not None


def list_left_out(settings: Settings, keep_runs: int) -> list[str]:
    """List the runs that a backup leaves out, as ``sundial rm --keep`` would remove them.

    Raises
    ------
    SettingsError
        When keep_runs is negative.
    RegistryError
        When the registry, which knows what made a version, cannot be read.
    """
    found = [choose_removable(pipeline, keep_runs, settings)[0] for pipeline in list_pipelines(settings)]
    return sorted(run.name for runs in found for run in runs)


def list_turn(settings: Settings, turn: Turn, left_out: Collection[str]) -> dict[str, Path]:
    """List the files that are copied in one turn, as they are there now.

    What speaks of others is copied before them, so that it never speaks of nothing:

    - databases first: models, runs and questions have their files before a database names them
    - the scores of shadows before the log that they are scores of
    - segments of the log before their Parquet (see ``backup``): what is compacted meanwhile is in both, and read once
    - then all the rest

    Parameters
    ----------
    settings : Settings
        Where artifacts are.
    turn : {'databases', 'shadows', 'segments', 'rest'}
        Which.
    left_out : collection of str
        Names of runs.

    Returns
    -------
    dict of str to Path
        Path below artifacts to file.
    """
    found = {str(path.relative_to(settings.artifacts)): path for path in _walk(settings.artifacts, left_out)}
    return {name: path for name, path in sorted(found.items()) if _turn_of(name, path) == turn}


def is_database(path: Path) -> bool:
    """Tell whether a file is a SQLite database, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except FileNotFoundError:
        return False


def list_elsewhere(settings: Settings) -> dict[str, str]:
    """Name what is kept by databases of their own, and so is not under artifacts, with what backs it up."""
    found = {}
    own = f"sqlite:///{settings.artifacts}"
    if not settings.tracking_uri.startswith(own):
        found["model registry"] = "MLFLOW_TRACKING_URI names another place: back up that database, or that server"
    if os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_API_DATABASE_CONNECTION_URL"):
        found["Prefect"] = "questions that wait and schedules are in the database of its server: pg_dump"
    if settings.predictions_url is not None:
        found["prediction log"] = "SUNDIAL_PREDICTIONS_URL names a database: pg_dump, or its own replication"
    if settings.store:
        found["registered models and published runs"] = "SUNDIAL_STORE has them too: versioning of the bucket"
    return found


def _turn_of(name: str, path: Path) -> Turn | None:
    """Say when a file's turn is; None for an archive of the log, which is copied by its ledger."""
    top, *rest = Path(name).parts
    if top == "predictions":
        inside = rest[1:2]
        if inside == ["production"]:
            return None if rest[2:3] == ["compacted"] else "segments"
        return "shadows"
    return "databases" if top not in ("runs", "models") and is_database(path) else "rest"


def _walk(artifacts: Path, left_out: Collection[str]) -> Iterator[Path]:
    """List files, also behind links to other disks; hidden ones are locks, journals, and half of something."""
    seen = set()
    for folder, below, names in os.walk(artifacts, followlinks=True):
        here = Path(folder)
        if here.resolve() in seen:
            below.clear()
            continue
        seen.add(here.resolve())
        parts = here.relative_to(artifacts).parts
        below[:] = [
            name
            for name in below
            if not name.startswith(".")
            and not (not parts and name in MADE_AGAIN)
            and not (parts == ("runs",) and name in left_out)
        ]
        for name in names:
            if not name.startswith(".") and not name.endswith((".lock", *BESIDE_DATABASES)) and (here / name).is_file():
                yield here / name
