"""Where models come from: the registry, seen through as little as a server needs of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from sundial.formats import hash_file, read_json
from sundial.release.fetching import find_folder
from sundial.release.models import CARD_FILE
from sundial.release.pointer import RollbackOrder
from sundial.release.versions import VersionInfo
from sundial.serving.reader import Reader
from sundial.serving.schema import Schema
from sundial.settings import Settings

REFRESH_SECONDS = 5.0  # an alias is asked for at least this often, whatever the files say


class Servable(Protocol):
    """A loaded model; :class:`sundial.release.models.ServableModel` is one."""

    @property
    def threshold(self) -> float:
        """Scores at or above it are alerts."""

    @property
    def features(self) -> Mapping[str, str]:
        """Dtype by name, in the model's order."""

    @property
    def card(self) -> Mapping[str, Any]:
        """What is known of the model."""

    @property
    def sha256(self) -> str:
        """Hash of its file."""

    def score(self, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Compute a score a row."""

    def decide(self, scores: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Turn scores into decisions."""


class Version(Protocol):
    """What an alias points to; :class:`sundial.release.registry.VersionInfo` is one."""

    @property
    def version(self) -> int:
        """Number of the version."""

    @property
    def tags(self) -> Mapping[str, str]:
        """Tags of the version."""


class ModelSource(Protocol):
    """Gives aliases and models of one pipeline."""

    def alias(self, name: str) -> Version | None:
        """Say what an alias points to now."""

    def shadows(self) -> Mapping[str, Version]:
        """Say which versions are in shadow, by alias: ``shadow`` and every ``shadow-NAME``."""

    def version(self, number: int) -> Version:
        """Find a version by its number."""

    def load(self, version: Version) -> Servable:
        """Load a version."""

    def previous(self) -> Version | None:
        """Say which version a rollback goes back to; None when there is none."""

    def record(self, order: RollbackOrder) -> None:
        """Record a rollback that was carried out already, and remove its order."""

    def remember(self, fields: Mapping[str, Any]) -> Version:
        """Make a version of the fields that were written down when its alias could be read."""

    def features(self, version: Version) -> Mapping[str, str]:
        """Read the dtypes of a version's features without loading it; empty when they cannot be had cheaply."""


class RegistrySource:
    """Models from the registry.

    Parameters
    ----------
    pipeline : str
        Name of the model.
    settings : Settings
        Where the registry is.
    """

    def __init__(self, pipeline: str, settings: Settings) -> None:
        from sundial.release.registry import Registry

        self._pipeline = pipeline
        self._settings = settings
        self._registry = Registry(settings)
        self._known: dict[str, tuple[object, float, Any]] = {}

    def alias(self, name: str) -> VersionInfo | None:
        """Say what an alias points to now.

        Asking MLflow holds up the server's answers for some milliseconds; with SQLite, files that did not change say
        that there is nothing to ask.
        """
        found: VersionInfo | None = self._ask(name, lambda: self._registry.alias(self._pipeline, name))
        return found

    def shadows(self) -> Mapping[str, VersionInfo]:
        """Say which versions are in shadow, by alias."""
        found: Mapping[str, VersionInfo] = self._ask("shadow*", lambda: self._registry.shadows(self._pipeline))
        return found

    def version(self, number: int) -> VersionInfo:
        """Find a version by its number."""
        return self._registry.version(self._pipeline, number)

    def _ask(self, what: str, ask: Callable[[], Any]) -> Any:
        state, moment = self._database_state(), time.monotonic()
        known = self._known.get(what)
        if known and state is not None and known[0] == state and moment - known[1] < REFRESH_SECONDS:
            return known[2]
        found = ask()
        self._known[what] = (state, moment, found)
        return found

    def load(self, version: Version) -> Servable:
        """Load a version, checked against the hashes that the registry holds."""
        assert isinstance(version, VersionInfo)  # noqa: S101  alias() or remember() gave it
        return self._registry.load_version(version)

    def previous(self) -> VersionInfo | None:
        """Say which version a rollback goes back to."""
        found: VersionInfo | None = self._ask("previous", lambda: self._registry.previous_production(self._pipeline))
        return found

    def record(self, order: RollbackOrder) -> None:
        """Record a rollback that was carried out already."""
        self._registry.record_rollback(self._pipeline, order)

    def remember(self, fields: Mapping[str, Any]) -> VersionInfo:
        """Make a version of what was written down of it."""
        return VersionInfo(**{**fields, "aliases": tuple(fields["aliases"])})

    def features(self, version: Version) -> Mapping[str, str]:
        """Read the dtypes of a version's features from its card, where that is on this machine."""
        assert isinstance(version, VersionInfo)  # noqa: S101  alias() gave it
        path = find_folder(version, self._settings) / CARD_FILE
        if not path.is_file() or hash_file(path) != version.card_sha256:
            return {}
        return {name: str(feature["dtype"]) for name, feature in read_json(path)["features"].items()}

    def _database_state(self) -> object:
        """Tell apart the states of a SQLite registry; None for any other."""
        uri = self._settings.tracking_uri
        if not uri.startswith("sqlite:///"):
            return None
        database = uri.removeprefix("sqlite:///")
        found: list[tuple[int, int, int] | None] = []
        for name in (database, f"{database}-wal"):
            try:
                status = Path(name).stat()
            except OSError:
                found.append(None)
                continue
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)


class ScoringPath(Protocol):
    """A way to a model's scores; :class:`sundial.serving.fastpath.FastPath` is one."""

    def score(self, columns: Sequence[Sequence[Any]]) -> npt.NDArray[np.float64]:
        """Compute a score a row, from checked values in the schema's order."""

    def describe(self) -> dict[str, Any]:
        """Say which way is taken, and why not a faster one."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model ready to answer: one immutable object, read once a batch.

    Attributes
    ----------
    version : int
        In the registry.
    model : Servable
        The model.
    schema : Schema
        What it takes.
    threshold : float
        Scores at or above it are alerts.
    loaded_at : float
        Seconds since 1970.
    path : ScoringPath or None
        A faster way to its scores; None when the model itself computes them from data frames.
    """

    version: int
    model: Servable
    schema: Schema
    threshold: float
    loaded_at: float
    path: ScoringPath | None = None

    @cached_property
    def reader(self) -> Reader:
        """What reads the requests for it."""
        return Reader(self.schema)

    def score(self, columns: Sequence[Sequence[Any]]) -> npt.NDArray[np.float64]:
        """Compute a score a row, from checked values in the schema's order."""
        if self.path is not None:
            return self.path.score(columns)
        return self.model.score(self.schema.frame(columns))
