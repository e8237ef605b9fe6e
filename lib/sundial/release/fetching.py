"""The files of a registered version: where they are, or a copy that is kept when they are elsewhere.

With a store they are kept there, and not where MLflow would: any machine that reads the registry can then fetch them
with the credentials that it has for the store.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from sundial.errors import RegistryError
from sundial.formats import hash_file
from sundial.release.locks import hold_lock
from sundial.release.mlflow_client import translate_errors
from sundial.release.models import CARD_FILE, MODEL_FILE
from sundial.release.versions import VersionInfo
from sundial.settings import Settings
from sundial.shelf import Shelf

ARTIFACT = "model"


def put_version(client: Any, run: Any, folder: Path, settings: Settings) -> str:
    """Put the files of a version where they are kept from now on.

    Parameters
    ----------
    client : MlflowClient
        Puts them, where there is no store.
    run : mlflow.entities.Run
        The MLflow run that stands for the version's files.
    folder : Path
        Servable.
    settings : Settings
        Names the store.

    Returns
    -------
    str
        Where they are.

    Raises
    ------
    StoreError
        When the store cannot be written.
    """
    if not settings.store:
        client.log_artifacts(run.info.run_id, str(folder), ARTIFACT)
        return f"{run.info.artifact_uri}/{ARTIFACT}"
    shelf = Shelf(f"{settings.store}/models/{run.data.tags['pipeline']}/{run.info.run_id}")
    files = shelf.keep({name: folder / name for name in (MODEL_FILE, CARD_FILE)})
    shelf.write(ARTIFACT, {"run": run.data.tags["run"]}, files)
    return shelf.place


def fetch_version(info: VersionInfo, settings: Settings, lock: Path | None = None) -> Path:
    """Find the files of a version.

    Parameters
    ----------
    info : VersionInfo
        Which.
    settings : Settings
        Where copies are kept.
    lock : Path, optional
        Held while a copy is put in its place; the registry's by default.

    Returns
    -------
    Path
        Its servable folder.

    Raises
    ------
    RegistryError
        When it cannot be fetched.
    """
    copy = find_folder(info, settings)
    if _is_elsewhere(info, settings) and not _is_whole(copy, info):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with (
            translate_errors(f"{info.pipeline} {info.version} cannot be fetched from {info.source}"),
            tempfile.TemporaryDirectory(dir=copy.parent, prefix=".fetching-") as temporary,
        ):
            got = _download(info, settings, Path(temporary))
            with hold_lock(lock or settings.artifacts / "registry.lock"):
                if not _is_whole(copy, info):
                    shutil.rmtree(copy, ignore_errors=True)
                    Path(got).replace(copy)
    return copy


def find_folder(info: VersionInfo, settings: Settings) -> Path:
    """Give the folder on this machine that is, or will be, a version's: its own, or that of its copy."""
    if _is_elsewhere(info, settings):
        return settings.models / "fetched" / info.card_sha256[:16]
    return Path(unquote(urlparse(info.source).path))


def _is_elsewhere(info: VersionInfo, settings: Settings) -> bool:
    return urlparse(info.source).scheme not in ("", "file") or _is_stored(info, settings)


def _is_stored(info: VersionInfo, settings: Settings) -> bool:
    """Tell whether a version was put into the store, which may be a folder too."""
    return bool(settings.store) and info.source.startswith(f"{Shelf(settings.store).place}/models/")


def _download(info: VersionInfo, settings: Settings, folder: Path) -> Path:
    """Fetch the files of a version into an empty folder; give the one that they are in."""
    if not _is_stored(info, settings):
        from mlflow.artifacts import download_artifacts

        return Path(
            download_artifacts(artifact_uri=info.source, dst_path=str(folder), tracking_uri=settings.tracking_uri)
        )
    shelf = Shelf(info.source)
    found = shelf.read(ARTIFACT)
    if found is None:
        raise RegistryError(
            f"{info.pipeline} {info.version} is not at {info.source}", hint="register it again from its run"
        )
    target = folder / ARTIFACT
    shelf.fetch({target / name: entry for name, entry in found[1].items()})
    return target


def _is_whole(copy: Path, info: VersionInfo) -> bool:
    """Tell whether a fetched copy has the bytes that were registered; a damaged one is fetched again."""
    wanted = {MODEL_FILE: info.sha256, CARD_FILE: info.card_sha256}
    return all((copy / name).is_file() and hash_file(copy / name) == sha256 for name, sha256 in wanted.items())
