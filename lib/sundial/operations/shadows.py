"""Further shadows beside the candidate: any registered version, under a name of its own."""

from __future__ import annotations

import getpass

from sundial.errors import RegistryError, nearest
from sundial.release.registry import Registry
from sundial.serving.predictions import log_position
from sundial.serving.shadowlog import read_beginning, shadow_folder
from sundial.settings import Settings, load_settings


def add_shadow(pipeline: str, name: str, version: int, settings: Settings | None = None) -> str:
    """Put a version in shadow as ``shadow-NAME``; it answers, unseen, what production is asked from now on.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    name : str
        In lowercase, with dashes.
    version : int
        In the registry.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    str
        One sentence that says what happened.

    Raises
    ------
    VersionNotFoundError
        When there is no such version.
    RegistryError
        When the name cannot be used, or the registry cannot be written.
    """
    settings = settings or load_settings()
    registry, alias = Registry(settings), f"shadow-{name}"
    info = registry.version(pipeline, version)
    if read_beginning(shadow_folder(pipeline, version, settings)) is None and "shadow_from" not in info.tags:
        registry.tag(pipeline, version, {"shadow_from": log_position(pipeline, settings)})
    registry.set_alias(pipeline, alias, version, by=getpass.getuser(), reason="sundial shadow --add")
    return f"{pipeline}: version {version} is in shadow as {alias}"


def remove_shadow(pipeline: str, name: str, settings: Settings | None = None) -> str:
    """Take ``shadow-NAME`` out of the shadow; its scores stay.

    Returns
    -------
    str
        One sentence that says what happened.

    Raises
    ------
    RegistryError
        When there is no such shadow.
    """
    registry, alias = Registry(settings or load_settings()), f"shadow-{name}"
    known = [item.removeprefix("shadow-") for item in registry.shadows(pipeline) if item != "shadow"]
    if name not in known:
        raise RegistryError(f"{pipeline} has no shadow called {name!r}", hint=nearest(name, known))
    registry.delete_alias(pipeline, alias, by=getpass.getuser(), reason="sundial shadow --remove")
    return f"{pipeline}: {alias} is out of the shadow; its scores stay"
