"""The registry: versions of each pipeline's model in MLflow, and the aliases ``production`` and ``shadow``.

A version is an MLflow run that holds the servable folder, so that it works alike with SQLite and local files, with a
database, and with a server that keeps the files itself. What is loaded is checked against the hashes in its tags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import pandas as pd

from sundial.errors import ArtifactCorruptError, RegistryError, VersionNotFoundError
from sundial.formats import hash_file, read_json
from sundial.reads import observe_unrepeatable
from sundial.release.fetching import fetch_version, put_version
from sundial.release.history import (
    ALIASES,
    ROLLBACK,
    SHADOW,
    Move,
    check_alias,
    find_unrecorded,
    next_moment,
    read_moves,
    version_at,
)
from sundial.release.locks import hold_lock
from sundial.release.mlflow_client import is_absent, open_client, translate_errors
from sundial.release.models import CARD_FILE, MODEL_FILE, ServableModel, load_servable
from sundial.release.pointer import Pointer, RollbackOrder
from sundial.release.standing import load_production, refuse_experiments
from sundial.release.versions import VersionInfo, as_texts, describe, release_tags
from sundial.settings import Settings, load_settings

if TYPE_CHECKING:
    from mlflow.tracking.client import MlflowClient

__all__ = ["ALIASES", "Move", "Registry", "VersionInfo", "load_production", "release_tags"]


class Registry:
    """The model registry that the settings name.

    Parameters
    ----------
    settings : Settings, optional
        Read from the environment by default. Making the object costs nothing; the first question connects.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client, for what this class does not do."""
        return open_client(self.settings)

    def register(self, pipeline: str, folder: Path, tags: Mapping[str, Any] | None = None) -> int:
        """Make a version of a servable folder.

        Parameters
        ----------
        pipeline : str
            Name of the model.
        folder : Path
            Made by `build_model_folder`.
        tags : mapping, optional
            Kept with the version; see :func:`release_tags`. Hashes, run and as_of are added from the card.

        Returns
        -------
        int
            The version; the same one when this model of this run is there already.

        Raises
        ------
        ArtifactCorruptError
            When the folder is not what its card says.
        RegistryError
            When the registry cannot be written.
        """
        card = read_json(folder / CARD_FILE)
        if hash_file(folder / MODEL_FILE) != card["sha256"]:
            raise ArtifactCorruptError(f"{folder / MODEL_FILE} is not the model of its card", hint="build it again")
        own = {
            "pipeline": pipeline,
            "run": card["run"],
            "as_of": card["as_of"],
            "sha256": card["sha256"],
            "card_sha256": hash_file(folder / CARD_FILE),
        }
        client = self.client
        with self._writing(f"{pipeline} of {card['run']} cannot be registered"):
            self._ensure_model(client, pipeline)
            known = [item for item in self.versions(pipeline) if item.tags.items() >= own.items()]
            if known:
                return known[0].version
            experiment = self._ensure_experiment(client, pipeline)
            run = client.create_run(experiment, run_name=card["run"], tags=own)
            try:
                source = put_version(client, run, folder, self.settings)
            except BaseException:
                client.set_terminated(run.info.run_id, "FAILED")
                raise
            client.set_terminated(run.info.run_id)
            made = client.create_model_version(pipeline, source, run.info.run_id, tags={**as_texts(tags or {}), **own})
            return int(made.version)

    def alias(self, pipeline: str, alias: str) -> VersionInfo | None:
        """Find the version that an alias points to; asked anew each time, a few milliseconds on SQLite.

        Returns
        -------
        VersionInfo or None
            None when the alias points nowhere, or there is no such model yet.

        Raises
        ------
        RegistryError
            When there is no such alias, or the registry cannot be read.
        """
        check_alias(alias)
        found = self._find(lambda client: client.get_model_version_by_alias(pipeline, alias), f"{pipeline}@{alias}")
        order = Pointer(pipeline, self.settings).order() if alias == "production" else None
        if found is not None and order is not None and int(found.version) == order.away_from:
            return self.version(pipeline, order.to["version"])  # a rollback that was not recorded yet
        return None if found is None else describe(found, found.aliases)

    def record_rollback(self, pipeline: str, order: RollbackOrder) -> bool:
        """Move the alias ``production`` as a rollback has ordered, and remove the order; tell whether it was moved.

        An order that a newer move has overtaken is only removed.
        """
        why = {"by": order.by, "reason": f"rollback: {order.reason}", "evidence": "", "as_of": "", "kind": ROLLBACK}
        moved = self._move(pipeline, "production", int(order.to["version"]), only_from=order.away_from, **why)
        Pointer(pipeline, self.settings).withdraw(order)
        return moved is not None

    def shadows(self, pipeline: str) -> dict[str, VersionInfo]:
        """Find all versions in shadow, by alias: ``shadow`` first, then every ``shadow-NAME``."""
        model = self._find(lambda client: client.get_registered_model(pipeline), pipeline)
        names = sorted(name for name in (model.aliases if model else {}) if SHADOW.fullmatch(name))
        return {name: info for name in names if (info := self.alias(pipeline, name)) is not None}

    def versions(self, pipeline: str) -> list[VersionInfo]:
        """List the versions of a model, oldest first; none when there is no such model."""
        model = self._find(lambda client: client.get_registered_model(pipeline), pipeline)
        if model is None:
            return []
        found = self._find(lambda client: client.search_model_versions(f"name = '{pipeline}'"), pipeline)
        infos = [
            describe(item, [alias for alias, version in model.aliases.items() if int(version) == int(item.version)])
            for item in found or []
        ]
        return sorted(infos, key=lambda info: info.version)

    def version(self, pipeline: str, alias_or_version: str | int) -> VersionInfo:
        """Find a version by its number or an alias.

        Raises
        ------
        VersionNotFoundError
            When there is none; lists those there are.
        """
        if isinstance(alias_or_version, str) and not alias_or_version.isdecimal():
            info = self.alias(pipeline, alias_or_version)
        else:
            number = str(alias_or_version)
            found = self._find(lambda client: client.get_model_version(pipeline, number), f"{pipeline} {number}")
            info = None if found is None else describe(found, found.aliases)
        if info is None:
            known = ", ".join(str(item.version) for item in self.versions(pipeline))
            raise VersionNotFoundError(
                f"{pipeline} has no version {alias_or_version!r}",
                hint=f"there are versions {known}" if known else "no release was registered yet",
            )
        return info

    def set_alias(
        self,
        pipeline: str,
        alias: str,
        version: int,
        *,
        by: str = "",
        reason: str = "",
        evidence: str = "",
        as_of: str = "",
        kind: str = "",
    ) -> Move:
        """Point an alias to a version, and record who did it, when, why and on what.

        Doing it again changes nothing: after a crash in between it completes the record.

        Parameters
        ----------
        pipeline, alias : str
            Names of the model and of the alias.
        version : int
            Where to.
        by, reason, evidence : str
            For the record.
        as_of : str
            The date in the run's time, for data that is not of the present.
        kind : str
            See :class:`~sundial.release.history.Move`.

        Returns
        -------
        Move
            As recorded.

        Raises
        ------
        VersionNotFoundError
            When there is no such version.
        RegistryError
            When the registry cannot be written.
        """
        self.version(pipeline, version)
        self._record_pending(pipeline, alias)
        moved = self._move(pipeline, alias, version, by=by, reason=reason, evidence=evidence, as_of=as_of, kind=kind)
        assert moved is not None  # noqa: S101  it does not depend on where the alias is
        return moved

    def _record_pending(self, pipeline: str, alias: str) -> None:
        """Record a rollback that servers obey already, before production is moved on from it."""
        if alias == "production" and (order := Pointer(pipeline, self.settings).order()) is not None:
            self.record_rollback(pipeline, order)

    def delete_alias(
        self, pipeline: str, alias: str, *, by: str = "", reason: str = "", evidence: str = "", as_of: str = ""
    ) -> None:
        """Let an alias point nowhere, and record it; without the alias, do nothing."""
        if self.alias(pipeline, alias) is not None:
            self._move(pipeline, alias, None, by=by, reason=reason, evidence=evidence, as_of=as_of)

    def tag(self, pipeline: str, version: int, tags: Mapping[str, Any]) -> None:
        """Add tags to a version, such as the decision that was taken about it."""
        client = self.client
        with self._writing(f"{pipeline} {version} cannot be tagged"):
            for name, text in as_texts(tags).items():
                client.set_model_version_tag(pipeline, str(version), name, text)

    def history(self, pipeline: str, alias: str | None = "production") -> list[Move]:
        """List the moves of an alias (of all with None), oldest first.

        When the alias now points elsewhere than the last move says, it was moved without Sundial: that ends the list,
        dated when it is found, since nobody wrote down when it happened.
        """
        model = self._find(lambda client: client.get_registered_model(pipeline), pipeline)
        if model is None:
            return []
        moves = read_moves(model.tags, alias)
        for name in ALIASES if alias is None else (alias,):
            moves += find_unrecorded(name, moves, model.aliases)
        return moves

    def production_at(
        self, pipeline: str, moment: str | datetime | pd.Timestamp, *, in_run_time: bool = False
    ) -> VersionInfo | None:
        """Find the version that was in production at a moment.

        Parameters
        ----------
        pipeline : str
            Name of the model.
        moment : str, datetime or Timestamp
            UTC unless it says otherwise.
        in_run_time : bool
            Take the moment as one in the time of the data (``as_of`` of the promotions).

        Returns
        -------
        VersionInfo or None
            None when nothing was.
        """
        version = version_at(self.history(pipeline), moment, in_run_time=in_run_time)
        return None if version is None else self.version(pipeline, version)

    def previous_production(self, pipeline: str) -> VersionInfo | None:
        """Find the version that the present production version replaced when it was first promoted.

        So a rollback after a rollback goes one step further back, and not forward again.
        """
        moves = self.history(pipeline)
        present = moves[-1].version if moves else None
        previous = next((move.previous for move in moves if present is not None and move.version == present), None)
        return None if previous is None else self.version(pipeline, previous)

    def load(self, pipeline: str, alias_or_version: str | int) -> ServableModel:
        """Load a version, checked against the hashes in its tags.

        Raises
        ------
        VersionNotFoundError
            When there is none.
        ModelRefusedError, ArtifactCorruptError
            See `load_servable`.
        RegistryError
            When its files cannot be fetched, or it was not registered by Sundial.
        """
        return self.load_version(self.version(pipeline, alias_or_version))

    def load_version(self, info: VersionInfo) -> ServableModel:
        """Load a version that was asked for before, also while the registry is down; see :meth:`load`."""
        if not info.sha256 or not info.card_sha256:
            raise RegistryError(
                f"{info.pipeline} {info.version} has no sha256 tags: it was not registered by Sundial",
                hint="register it from its run: only files with a known hash are loaded",
            )
        return load_servable(
            fetch_version(info, self.settings, self._lock),
            expected_sha256=info.sha256,
            expected_card_sha256=info.card_sha256,
            version=info.version,
        )

    def _move(
        self, pipeline: str, alias: str, version: int | None, *, only_from: int | None = None, **why: str
    ) -> Move | None:
        check_alias(alias)
        client = self.client
        with self._writing(f"alias {alias} of {pipeline} cannot be moved"):
            model = client.get_registered_model(pipeline)
            moves = read_moves(model.tags, alias)
            recorded = moves[-1].version if moves else None
            current = int(model.aliases[alias]) if alias in model.aliases else None
            if only_from is not None and current != only_from:
                return None
            if current not in (recorded, version):  # moved without us: say so before it is overwritten
                outside = find_unrecorded(alias, moves, model.aliases)[0]
                client.set_registered_model_tag(pipeline, *outside.as_tag())
                moves.append(outside)
                recorded = current
            if version is None:
                client.delete_registered_model_alias(pipeline, alias)
            elif current != version:
                client.set_registered_model_alias(pipeline, alias, str(version))
            if recorded == version and moves:
                return moves[-1]
            move = Move(alias, version, recorded, next_moment(moves), **why)
            client.set_registered_model_tag(pipeline, *move.as_tag())
            return move

    def _ensure_model(self, client: MlflowClient, pipeline: str) -> None:
        if self._find(lambda asked: asked.get_registered_model(pipeline), pipeline) is None:
            client.create_registered_model(pipeline)

    def _ensure_experiment(self, client: MlflowClient, pipeline: str) -> str:
        """Find or make the experiment that holds the files of a model's versions."""
        name = f"sundial/{pipeline}"
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # a server decides for itself where files go; with a bare database MLflow would take the working directory
        served = urlparse(self.settings.tracking_uri).scheme in ("http", "https", "databricks")
        location = None if served else (self.settings.models / pipeline).as_uri()
        return str(client.create_experiment(name, artifact_location=location))

    @property
    def _lock(self) -> Path:
        return self.settings.artifacts / "registry.lock"

    @contextmanager
    def _writing(self, message: str) -> Iterator[None]:
        """One writer at a time on this machine, never an experiment, and MLflow's errors as ours."""
        refuse_experiments()
        with translate_errors(message), hold_lock(self._lock):
            yield

    def _find(self, ask: Callable[[MlflowClient], Any], what: str) -> Any:
        """Ask MLflow; None when what is asked for does not exist."""
        observe_unrepeatable("the model registry")
        client = self.client
        from mlflow.exceptions import MlflowException

        with translate_errors(f"{what} cannot be read from the model registry at {self.settings.registry_address}"):
            try:
                return ask(client)
            except MlflowException as error:
                if is_absent(error):
                    return None
                raise
