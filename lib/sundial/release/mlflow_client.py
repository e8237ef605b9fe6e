"""The one place that imports MLflow: a client that is quiet, made once a process, whose errors are ours.

``import mlflow`` takes seconds, and any part of it imports all of it: so it happens when a registry is first asked.
"""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sundial.errors import RegistryError
from sundial.release.locks import hold_lock
from sundial.settings import Settings

if TYPE_CHECKING:
    from mlflow.tracking.client import MlflowClient

SQLITE = "sqlite:///"
SERVED = ("http://", "https://", "databricks")
# Read by MLflow when it is imported, or used; who sets one of them otherwise gets what they set.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def open_client(settings: Settings) -> MlflowClient:
    """Open the registry that the settings name, and make its database when there is none.

    Parameters
    ----------
    settings : Settings
        ``tracking_uri`` may be SQLite, another database, or a server.

    Returns
    -------
    MlflowClient
        One a process.

    Raises
    ------
    RegistryError
        When it cannot be reached, or its folder cannot be written.
    """
    # a client holds connections, which must not be shared with a forked child
    return _open(settings.tracking_uri, settings.artifacts, settings.registry_address, os.getpid())


@functools.lru_cache(maxsize=8)
def _open(uri: str, artifacts: Path, address: str, _process: int) -> MlflowClient:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        # in a notebook without widgets, the progress bars that MLflow imports say so, into a page that people sign
        warnings.filterwarnings("ignore", message="IProgress not found")
        from mlflow.tracking.client import MlflowClient

    # what MLflow and its migrations say at INFO is of no use to anybody here, whatever the root logger's level
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])
    with translate_errors(f"the model registry at {address} cannot be opened"):
        if uri.startswith(SERVED):
            return _ask(MlflowClient(uri, registry_uri=uri))
        # two processes that both find no tables would both make them
        with hold_lock(artifacts / "mlflow.lock"):
            if not uri.startswith(SQLITE):
                return _ask(MlflowClient(uri, registry_uri=uri))
            database = Path(uri.removeprefix(SQLITE))
            database.parent.mkdir(parents=True, exist_ok=True)
            # readers and the one writer do not wait for each other; the mode stays with the file
            with closing(sqlite3.connect(database, timeout=20)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            return _ask(MlflowClient(uri, registry_uri=uri))


def _ask(client: MlflowClient) -> MlflowClient:
    """Ask for something, since a client does not connect before it is asked."""
    client.search_registered_models(max_results=1)
    return client


@contextmanager
def translate_errors(message: str) -> Iterator[None]:
    """Turn what MLflow and what is below it raise into a RegistryError that says what was tried."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RegistryError(
            f"{message}: {first}", hint="check MLFLOW_TRACKING_URI, the server, and the disk"
        ) from error


def is_absent(error: Any) -> bool:
    """Tell whether MLflow says that a model, version or alias does not exist; stores word it differently."""
    absent = error.error_code == "RESOURCE_DOES_NOT_EXIST"
    return absent or (
        error.error_code == "INVALID_PARAMETER_VALUE" and "alias" in str(error) and "not found" in str(error)
    )
