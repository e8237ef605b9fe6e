"""Versions of a model as the registry keeps them: what is asked about one, and what is written with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sundial.runs import Run


@dataclass(frozen=True)
class VersionInfo:
    """What the registry knows about a version.

    Attributes
    ----------
    pipeline : str
        Name of the model.
    version : int
        From 1.
    sha256, card_sha256 : str
        Of model.skops and of model.json; empty when the version was not registered by Sundial.
    run, as_of : str
        The run that made it, and its release date.
    source : str
        Where the files are.
    created : str
        When it was registered, in UTC, as ISO 8601.
    tags : dict of str to str
        All of them: also commit, notebooks, data, and decisions.
    aliases : tuple of str
        That point to it.
    """

    pipeline: str
    version: int
    sha256: str
    card_sha256: str
    run: str
    as_of: str
    source: str
    created: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]


def describe(version: Any, aliases: Iterable[str]) -> VersionInfo:
    """Read what MLflow answers about a version."""
    tags = dict(version.tags)
    return VersionInfo(
        pipeline=version.name,
        version=int(version.version),
        sha256=tags.get("sha256", ""),
        card_sha256=tags.get("card_sha256", ""),
        run=tags.get("run", ""),
        as_of=tags.get("as_of", ""),
        source=version.source,
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        tags=tags,
        aliases=tuple(sorted(aliases)),
    )


def as_texts(tags: Mapping[str, Any]) -> dict[str, str]:
    """Write tags as text, which is all that a tag can be; what is not text becomes JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in tags.items()}


def release_tags(run: Run) -> dict[str, Any]:
    """Gather what a version should say about the run that made it.

    Parameters
    ----------
    run : Run
        After its model was made.

    Returns
    -------
    dict
        ``run``, ``as_of``, ``commit``, ``dirty``; ``notebooks`` (stage to SHA-256 of the notebook in git) and ``data``
        (stage/output to SHA-256 of the file).
    """
    manifest, stages = run.manifest(), run.stages()
    return {
        "run": run.name,
        "as_of": run.as_of.isoformat(),
        "commit": manifest.get("commit", ""),
        "dirty": bool(manifest.get("dirty")),
        "notebooks": {
            stage: record["notebook_sha256"] for stage, record in stages.items() if "notebook_sha256" in record
        },
        "data": {
            f"{stage}/{name}": output["sha256"]
            for stage, record in stages.items()
            for name, output in record.get("outputs", {}).items()
        },
    }
