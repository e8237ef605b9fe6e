"""The files of a registered version: where they are, or a copy that is kept when they are elsewhere."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlparse

from sundial.formats import hash_file
from sundial.release.locks import hold_lock
from sundial.release.mlflow_client import translate_errors
from sundial.release.models import CARD_FILE, MODEL_FILE
from sundial.release.versions import VersionInfo
from sundial.settings import Settings


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
    address = urlparse(info.source)
    if address.scheme in ("", "file"):
        return Path(unquote(address.path))
    copy = settings.models / "fetched" / info.card_sha256[:16]
    if not _is_whole(copy, info):
        from mlflow.artifacts import download_artifacts

        copy.parent.mkdir(parents=True, exist_ok=True)
        with (
            translate_errors(f"{info.pipeline} {info.version} cannot be fetched from {info.source}"),
            tempfile.TemporaryDirectory(dir=copy.parent, prefix=".fetching-") as temporary,
        ):
            got = download_artifacts(artifact_uri=info.source, dst_path=temporary, tracking_uri=settings.tracking_uri)
            with hold_lock(lock or settings.artifacts / "registry.lock"):
                if not _is_whole(copy, info):
                    shutil.rmtree(copy, ignore_errors=True)
                    Path(got).replace(copy)
    return copy


def _is_whole(copy: Path, info: VersionInfo) -> bool:
    """Tell whether a fetched copy has the bytes that were registered; a damaged one is fetched again."""
    wanted = {MODEL_FILE: info.sha256, CARD_FILE: info.card_sha256}
    return all((copy / name).is_file() and hash_file(copy / name) == sha256 for name, sha256 in wanted.items())
