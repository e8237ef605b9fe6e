"""The way back that needs no registry: what answers now, what answered before it, and an order to go back.

artifacts/serving/<pipeline>/
    standing.json   written by the model server whenever another version took over: that version, and the one to go
                    back to, with where their files are and how they hash
    rollback.json   an order of a person's: away from this version, to that one. Servers obey it within a tenth of a
                    second; it holds as long as the registry still says the version it leads away from, and is removed
                    once the registry was told, or says something newer

Nothing here imports MLflow or pandas: a rollback must be done in two seconds, imports included.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sundial.errors import ArtifactCorruptError, ArtifactNotFoundError, RegistryError
from sundial.formats import read_json, sync_file, write_json_atomically
from sundial.release.locks import hold_lock
from sundial.release.standing import refuse_experiments
from sundial.settings import Settings


@dataclass(frozen=True)
class Standing:
    """What a model server answers with, and what it would go back to.

    Attributes
    ----------
    production, previous : dict or None
        Fields of a `VersionInfo`; ``previous`` is None when there is nothing to go back to.
    """

    production: dict[str, Any]
    previous: dict[str, Any] | None = None


@dataclass(frozen=True)
class RollbackOrder:
    """An order to go back.

    Attributes
    ----------
    away_from : int
        The version that is production when the order is given; the order holds only against this one.
    to : dict
        Fields of the `VersionInfo` to go back to.
    by, reason : str
        Who says so, and why.
    at : str
        When, in UTC, as ISO 8601.
    """

    away_from: int
    to: dict[str, Any]
    by: str
    reason: str
    at: str


class Pointer:
    """The files of one pipeline.

    Parameters
    ----------
    pipeline : str
        Its name.
    settings : Settings
        Where artifacts are.
    """

    def __init__(self, pipeline: str, settings: Settings) -> None:
        self.folder = settings.artifacts / "serving" / pipeline
        self._order: tuple[object, RollbackOrder | None] = (None, None)

    @property
    def order_path(self) -> Path:
        """Where an order is."""
        return self.folder / "rollback.json"

    def standing(self) -> Standing | None:
        """Read what a server last answered with; None when none ever did."""
        found = _read(self.folder / "standing.json")
        return Standing(**found) if found else None

    def stand(self, standing: Standing) -> None:
        """Write what a server answers with now; a second server that says the same writes nothing."""
        if self.standing() != standing:
            write_json_atomically(self.folder / "standing.json", asdict(standing))

    def order(self) -> RollbackOrder | None:
        """Read the order that holds, if there is one; cheap enough to be asked ten times a second."""
        try:
            status = self.order_path.stat()
        except FileNotFoundError:
            return None
        state = (status.st_ino, status.st_mtime_ns)
        if self._order[0] != state:
            found = _read(self.order_path)
            self._order = (state, RollbackOrder(**found) if found else None)
        return self._order[1]

    def give_order(self, away_from: int, by: str, reason: str) -> RollbackOrder:
        """Order servers to go back from a version to the one that the standing names.

        The same order given twice is the first.

        Raises
        ------
        RegistryError
            When the version is no longer the one that answers, or there is nothing to go back to; in an experiment.
        """
        refuse_experiments()
        with hold_lock(self.folder / "rollback.lock"):
            standing, known = self.standing(), self.order()
            if known is not None and known.away_from == away_from:
                return known
            if standing is None or standing.production["version"] != away_from:
                raise RegistryError(f"version {away_from} is not the one that answers", hint="ask again")
            if standing.previous is None:
                raise RegistryError(
                    f"version {away_from} is the first in production: there is nothing to roll back to",
                    hint="stop the model server if it must not answer",
                )
            at = datetime.now(UTC).isoformat(timespec="microseconds")
            order = RollbackOrder(away_from, standing.previous, by, reason, at)
            write_json_atomically(self.order_path, asdict(order))
            sync_file(self.order_path)
            return order

    def withdraw(self, order: RollbackOrder) -> None:
        """Remove an order that was carried out, or that the registry has overtaken; a newer one stays."""
        with hold_lock(self.folder / "rollback.lock"):
            if self.order() == order:
                self.order_path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(read_json(path))
    except (ArtifactNotFoundError, ArtifactCorruptError):
        return None
