"""Going back to the version before, at once: also while the registry, or Prefect, is down.

Where a model server runs on this machine's artifacts, it is ordered to go back by a small file (`release/pointer.py`),
has the version loaded already, and tells the registry as soon as that can be reached. Without one the alias is moved
in the registry. What is slow to import is imported only then.
"""

from __future__ import annotations

import http.client
import json
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from sundial.errors import RegistryError, ServiceError
from sundial.pipeline import find_serve_url
from sundial.release.pointer import Pointer, RollbackOrder
from sundial.settings import Settings, load_settings

ACKNOWLEDGE_SECONDS = 5.0
RECORD_SECONDS = 0.5  # that a rollback waits for the registry to be told, when it is done already
ASK_SECONDS = 2.0


def roll_back(pipeline: str, name: str, reason: str, settings: Settings | None = None) -> str:
    """Put the version that was production before the present one back.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    name, reason : str
        Who says so, and why; both stand in the record.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    str
        One sentence that says what happened.

    Raises
    ------
    RegistryError
        When there is no production, or nothing before it.
    ServiceError
        When a server was ordered to go back and does not.
    """
    settings = settings or load_settings()
    pointer = Pointer(pipeline, settings)
    standing = pointer.standing()
    address = find_serve_url(pipeline, settings)
    answering = read_answering(pipeline, settings, address)
    if answering is None or standing is None or answering != standing.production["version"]:
        return _move_alias(pipeline, name, reason, settings)
    order = pointer.give_order(answering, name, reason)
    version = int(order.to["version"])
    done = f"{pipeline}: version {version} is production again, instead of version {order.away_from}"
    _wait_for_answer(pipeline, version, settings, address)
    if _wait_for_record(pointer, order):
        return done
    return f"{done}; the registry cannot be told yet: the model server does so as soon as it can be reached"


def read_answering(pipeline: str, settings: Settings, address: str = "") -> int | None:
    """Ask the model server at an address which version answers; None when none runs, or it serves another pipeline."""
    connection = http.client.HTTPConnection(urlsplit(address or settings.serve_url).netloc, timeout=ASK_SECONDS)
    try:
        token = settings.token.get_secret_value()
        connection.request("GET", "/version", headers={"Authorization": f"Bearer {token}"} if token else {})
        found: dict[str, Any] = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    with suppress(TypeError, ValueError):
        return int(found["version"]) if found.get("pipeline") == pipeline else None
    return None


def _wait_for_answer(pipeline: str, version: int, settings: Settings, address: str) -> None:
    """Wait until the server answers with a version; of several workers, as many in a row as would be chance."""
    deadline = time.monotonic() + ACKNOWLEDGE_SECONDS
    needed = 1 if settings.serve_workers == 1 else 4 * settings.serve_workers
    agreeing = 0
    while agreeing < needed:
        if read_answering(pipeline, settings, address) == version:
            agreeing += 1
            continue
        agreeing = 0
        if time.monotonic() > deadline:
            raise ServiceError(
                f"the model server does not answer with version {version} after {ACKNOWLEDGE_SECONDS:.0f} s",
                hint=f"see {address}/health; the order stays, and is obeyed once that version can be loaded",
            )
        time.sleep(0.02)


def _wait_for_record(pointer: Pointer, order: RollbackOrder) -> bool:
    """Wait a moment until the registry was told; tell whether it was."""
    deadline = time.monotonic() + RECORD_SECONDS
    while pointer.order() == order:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _move_alias(pipeline: str, name: str, reason: str, settings: Settings) -> str:
    """Move the alias in the registry; servers follow it."""
    from sundial.release.history import ROLLBACK
    from sundial.release.registry import Registry

    registry = Registry(settings)
    present = registry.alias(pipeline, "production")
    if present is None:
        raise RegistryError(f"{pipeline} has no version in production")
    previous = registry.previous_production(pipeline)
    if previous is None:
        raise RegistryError(
            f"version {present.version} is the first in production: there is nothing to roll back to",
            hint="stop the model server if it must not answer",
        )
    why = {"by": name, "reason": f"rollback: {reason}", "kind": ROLLBACK}
    registry.set_alias(pipeline, "production", previous.version, **why)
    return f"{pipeline}: version {previous.version} is production again, instead of version {present.version}"
