"""The folder of a replay, and what it was asked to do.

artifacts/replays/<name>/
    replay.json             pipeline, weeks, approval policy, the notebooks it began with
    server.json             where the model server answers that promotions are rehearsed on, while there is one
    steps/<week>-<kind>.json  what each step came to; a step that has one is never done again
    runs/ models/ predictions/ mlflow.db   as under artifacts/, and of this replay only
    warehouse               a link to the real one: the data are read, and never written
    tables/ reports/        what came out
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sundial.errors import RunError, RunNotFoundError, SettingsError, nearest
from sundial.formats import hash_file, read_json, write_json_atomically
from sundial.pipeline import Pipeline, load_pipeline
from sundial.replay.policies import find_policy
from sundial.runs import commit_of, now
from sundial.scraps import from_plain, to_plain
from sundial.settings import FILES, NO_STORE, Settings, load_settings

SCHEMA = 1
WEEK = pd.Timedelta(days=7)

SERVER = "server.json"
NOBODY = 1  # a port on which no model server answers: a promotion then starts one for its rehearsal

_environment = threading.RLock()


@dataclass(frozen=True)
class Replay:
    """One replay.

    Attributes
    ----------
    folder : Path
        Where all of it is.
    pipeline : Pipeline
        What is released.
    weeks : tuple of Timestamp
        The release dates, a week apart.
    approve : str
        Name of the approval policy that stands in for the person.
    plant : int
        In how many weeks bad releases are planted, beside the real one and for the back-test of the gates only.
    settings : Settings
        As everywhere, but with the replay's folder for artifacts.
    """

    folder: Path
    pipeline: Pipeline
    weeks: tuple[pd.Timestamp, ...]
    approve: str
    plant: int
    settings: Settings

    @property
    def name(self) -> str:
        """Name of the replay, which is that of its folder."""
        return self.folder.name

    @property
    def end(self) -> pd.Timestamp:
        """The moment up to which requests are replayed: a week after the last release date."""
        return self.weeks[-1] + WEEK

    @property
    def tables(self) -> Path:
        """Folder of the Parquet files behind the pages."""
        return self.folder / "tables"


def find_weeks(first: str, last: str) -> tuple[pd.Timestamp, ...]:
    """List the release dates from a first to a last one.

    Raises
    ------
    SettingsError
        When one is no date, or they are not whole weeks apart.
    """
    try:
        begin, end = pd.Timestamp(first), pd.Timestamp(last)
    except ValueError as error:
        raise SettingsError(f"{first!r} to {last!r} are not two dates", hint="write them as 2013-03-11") from error
    if pd.isna(begin) or pd.isna(end) or end < begin:
        raise SettingsError(f"{first} to {last} is no range of weeks", hint="give the earlier date first")
    if (end - begin) % WEEK != pd.Timedelta(0) or begin != begin.normalize():
        raise SettingsError(
            f"{first} and {last} are not whole weeks apart",
            hint=f"the last week before {last} begins on {begin + (end - begin) // WEEK * WEEK:%Y-%m-%d}",
        )
    return tuple(pd.date_range(begin, end, freq="7D"))


def begin_replay(
    pipeline: Pipeline,
    first: str,
    last: str,
    *,
    approve: str,
    name: str = "",
    plant: int = 0,
    settings: Settings | None = None,
) -> Replay:
    """Make the folder of a replay, or find the one that was begun with the same words.

    Parameters
    ----------
    pipeline : Pipeline
        What is released.
    first, last : str
        First and last release date, whole weeks apart.
    approve : str
        Name of an approval policy.
    name : str
        Of the replay; made from the others by default, so that the same command goes on where it was.
    plant : int
        In how many weeks bad releases are planted, to see which gates stop them.
    settings : Settings, optional
        The real ones; read from the environment by default.

    Returns
    -------
    Replay

    Raises
    ------
    SettingsError
        When dates, policy, name or schedule cannot be used.
    RunError
        When a replay of that name was asked for something else, or its notebooks were changed since.
    """
    settings = settings or load_settings()
    weeks = find_weeks(first, last)
    find_policy(approve)
    if pipeline.schedule.soak > WEEK:
        raise SettingsError(
            f"{pipeline.name} keeps candidates in shadow for {pipeline.schedule.soak.days} days, so that each weekly "
            "release supersedes the one before it and none is ever decided",
            hint=f"a soak of at most 7 days in {pipeline.folder / 'pipeline.yaml'}",
        )
    if not 0 <= plant <= len(weeks):
        raise SettingsError(f"{plant} of {len(weeks)} weeks cannot be planted", hint="give a number of the weeks")
    name = name or f"{pipeline.name}-{weeks[0]:%Y-%m-%d}-{weeks[-1]:%Y-%m-%d}-{approve}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise SettingsError(f"{name!r} is no name for a replay", hint="letters, digits, dots, dashes")
    folder = settings.artifacts / "replays" / name
    asked = {
        "schema": SCHEMA,
        "pipeline": pipeline.name,
        "first": f"{weeks[0]:%Y-%m-%d}",
        "last": f"{weeks[-1]:%Y-%m-%d}",
        "approve": approve,
        "plant": plant,
        "notebooks": hash_notebooks(pipeline),
    }
    path = folder / "replay.json"
    if path.exists():
        known = read_json(path)
        changed = [key for key, value in asked.items() if known.get(key) != value]
        if changed:
            raise RunError(
                f"replay {name} was begun with other {' and '.join(changed)}: "
                + ", ".join(f"{key} {str(known.get(key))[:12]}, now {str(asked[key])[:12]}" for key in changed),
                hint="give this one a name of its own with --name, or remove that folder",
            )
    else:
        commit, dirty = commit_of(settings.root)
        folder.mkdir(parents=True, exist_ok=True)
        settings.warehouse.mkdir(parents=True, exist_ok=True)
        link = folder / "warehouse"
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(settings.warehouse, folder))
        write_json_atomically(path, {**asked, "commit": commit, "dirty": dirty, "created": now()})
    return open_replay(folder, settings)


def open_replay(folder: Path | str, settings: Settings | None = None) -> Replay:
    """Open a replay by its folder, or by its name.

    Raises
    ------
    RunNotFoundError
        When there is none; gives the nearest name.
    """
    settings = settings or load_settings()
    home = settings.artifacts / "replays"
    path = home / folder  # an absolute path stays what it is
    if not (path / "replay.json").is_file():
        known = [item.parent.name for item in home.glob("*/replay.json")]
        raise RunNotFoundError(f"no replay {str(folder)!r} under {home}", hint=nearest(str(folder), known))
    asked = read_json(path / "replay.json")
    return Replay(
        folder=path,
        pipeline=load_pipeline(asked["pipeline"], settings),
        weeks=find_weeks(asked["first"], asked["last"]),
        approve=asked["approve"],
        plant=asked["plant"],
        # a prediction log in PostgreSQL, a store, and a model server that answers, are the real ones
        settings=settings.model_copy(
            update={"artifacts": path, "predictions_url": None, "store": "", "serve_port": _find_serve_port(path)}
        ),
    )


def _find_serve_port(folder: Path) -> int:
    """Give the port of the replay's own model server; while there is none, one on which nobody answers."""
    path = folder / SERVER
    return int(read_json(path)["serve_port"]) if path.exists() else NOBODY


def hash_notebooks(pipeline: Pipeline) -> str:
    """Hash what decides a release beside its data: pipeline.yaml and all of its notebooks."""
    files = [pipeline.folder / "pipeline.yaml", *(pipeline.notebook(stage) for stage in pipeline.stages)]
    return hashlib.sha256("".join(hash_file(path) for path in files).encode()).hexdigest()


def own_environment(settings: Settings) -> dict[str, str]:
    """Give the variables by which a process sees only this folder and its registry, and nothing of the real ones."""
    return {
        **settings.folders(),
        "SUNDIAL_PREDICTIONS_URL": FILES,
        "SUNDIAL_STORE": NO_STORE,
        "SUNDIAL_SERVE_PORT": str(settings.serve_port),
        "MLFLOW_TRACKING_URI": f"sqlite:///{settings.artifacts / 'mlflow.db'}",
    }


@contextmanager
def isolate(settings: Settings) -> Iterator[None]:
    """Let all that reads the environment see only this folder and its registry, and nothing of the real ones.

    The environment is one for all threads: in a process with several, such as a Dask worker's, they take turns.
    """
    own = own_environment(settings)
    with _environment:
        before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


@contextmanager
def claim(replay: Replay) -> Iterator[None]:
    """Hold a replay, so that no two processes go on with it at once.

    Raises
    ------
    RunError
        When another one does.
    """
    with (replay.folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"replay {replay.name} is under way already", hint="wait for it, or stop it") from error
        yield


def read_records(replay: Replay) -> dict[tuple[int, str], dict[str, Any]]:
    """Read what the steps so far came to, by number of the week and kind."""
    found = {}
    for path in (replay.folder / "steps").glob("*.json"):
        record = from_plain(read_json(path))
        found[int(record["week"]), str(record["kind"])] = record
    return found


def write_record(replay: Replay, record: dict[str, Any]) -> None:
    """Write what a step came to; from then on it is done."""
    week = replay.weeks[record["week"]]
    name = f"{week:%Y-%m-%d}-{record['kind'].replace(' ', '-')}"
    write_json_atomically(replay.folder / "steps" / f"{name}.json", to_plain(record, name=name))
