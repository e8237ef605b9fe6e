"""Settings: where things are and how they run, from the environment or a ``.env`` file.

Every field can be set by an environment variable with the prefix ``SUNDIAL_``; secrets belong there and nowhere else.
"""

from __future__ import annotations

import base64
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableError

from sundial.errors import SettingsError, nearest

SHORTEST_TOKEN = 16
# Say that there is none, also where a .env file names one: an empty variable would leave that to the file.
FILES, NO_STORE = "files", "none"
# Of the work pool. What looks at the model server, its shadow or its files belongs on the machine that serves.
RELEASES, SERVING = "releases", "serving"
QUEUES = (RELEASES, SERVING)
SECRET_BYTES = 16  # RFC 4226, requirement 6: a shared secret has at least 128 bits
UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}


def parse_duration(text: str | timedelta) -> timedelta:
    """Read a duration written for people.

    Parameters
    ----------
    text : str or timedelta
        Such as ``"90 s"``, ``"15 minutes"``, ``"12 hours"``, ``"7 days"`` or ``"10 weeks"``.

    Returns
    -------
    timedelta

    Raises
    ------
    SettingsError
        When there is no number, or no unit that is known.

    Examples
    --------
    >>> parse_duration("7 days").days
    7
    """
    if isinstance(text, timedelta):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", str(text))
    unit = match[2] if match else ""
    unit = unit if unit in UNITS else unit.removesuffix("s")
    if match is None or unit not in UNITS:
        raise SettingsError(
            f"{text!r} is not a duration",
            hint="write a number and a unit, such as '90 s', '15 minutes' or '7 days'",
        )
    return float(match[1]) * UNITS[unit]


def find_root() -> Path:
    """Find the project: the folder that holds ``notebooks/``.

    Returns
    -------
    Path
        The folder of this installation when it is editable (``lib/`` beside ``notebooks/``), else the nearest
        folder at or above the working directory that holds ``notebooks/``, else the working directory.
    """
    home = Path(__file__).resolve().parents[2]
    if (home / "notebooks").is_dir():
        return home
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "notebooks").is_dir()), here)


class Settings(BaseSettings):
    """Where things are and how they run.

    Attributes
    ----------
    root : Path
        The project: the folder that holds ``notebooks/`` and ``flows/``.
    artifacts : Path
        All that is made by running; ``root/artifacts`` by default.
    notebooks : Path
        One folder a pipeline, and ``lifecycle``; ``root/notebooks`` by default.
    host : str
        What our servers bind to; loopback unless told otherwise.
    serve_port, prefect_port : int
        Ports of the model server and of a Prefect server that we start.
    serve_workers : int
        Processes that answer behind the model server's port.
    kernel : str
        How notebooks get their process: ``fork``, ``process`` or ``auto`` (fork where it is sound).
    kernel_socket : str
        Socket of the kernel server that a worker started; set by the worker.
    notification_block : str
        Prefect notification block that failures are sent to, as ``type/name``; empty for none.
    notification_url : SecretStr
        Where alarms are sent without Prefect's help, in Apprise's form, such as ``mailto://…``; empty for none.
    watchdog_seconds : int
        How often the watchdog looks.
    token : SecretStr
        What callers of the model server must send as ``Authorization: Bearer``; empty lets everybody in.
    predictions_url : SecretStr, optional
        PostgreSQL database for the prediction log, as ``postgresql://user:password@host/name``; files under artifacts
        without it.
    log_sync_ms : int
        Longest time, in milliseconds, that a power cut can take from the prediction log; 0 syncs before
        each answer.
    log_failure : str
        What becomes of requests while the prediction log cannot be written: ``refuse`` answers 503, ``answer``
        answers all the same, and counts the rows as unlogged.
    log_keep_days, log_keep_mb : int
        How long, and how much of, the prediction log is kept once it is compacted; 0 for all of it. What a shadow has
        yet to score is kept in any case.
    log_compact_seconds : int
        How often the shadow scorer compacts the log; 0 for never.
    shadow_deadline_ms : int
        Longest time that a shadow may take over a batch, or over a single row, before its process is killed.
    shadow_memory_mb : int
        Most memory, in MiB, that the process of a shadow may take.
    approver_secrets : dict of str to SecretStr
        Secrets of one-time codes, base32, by the approver's name; who has one is asked for a code. As JSON, such as
        ``{"Ada Lovelace": "JBSW..."}``; notebooks never see it.
    dask_scheduler : str
        Address of a Dask scheduler that the steps of a replay are spread over; empty for processes of this machine.
    replay_workers : int
        Steps of a replay at a time; 0 is one a processor of this machine.
    store : str
        Folder or URL, such as ``s3://bucket/prefix``, that several machines share: runs are published there and
        registered models kept there; empty for this machine alone. Credentials are the environment's.
    work_pool : str
        Name of the Prefect work pool that workers of several machines take flow runs from; empty for one worker.
    work_queues : tuple of str
        What the worker of ``sundial up`` takes from it: ``releases``, ``serving`` or both, with a comma between.
    """

    model_config = SettingsConfigDict(
        env_prefix="SUNDIAL_", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    root: Path = Field(default_factory=find_root)
    artifacts: Path = Path()
    notebooks: Path = Path()
    host: str = "127.0.0.1"
    serve_port: int = Field(default=8010, ge=1, le=65535)
    prefect_port: int = Field(default=4200, ge=1, le=65535)
    serve_workers: int = Field(default=1, ge=1, le=64)
    kernel: Literal["auto", "fork", "process"] = "auto"
    kernel_socket: str = ""
    notification_block: str = ""
    notification_url: SecretStr = SecretStr("")
    watchdog_seconds: int = Field(default=15, ge=1, le=3600)
    token: SecretStr = SecretStr("")
    predictions_url: SecretStr | None = None
    log_sync_ms: int = Field(default=50, ge=0, le=10_000)
    log_failure: Literal["refuse", "answer"] = "refuse"
    log_keep_days: int = Field(default=0, ge=0)
    log_keep_mb: int = Field(default=0, ge=0)
    log_compact_seconds: int = Field(default=300, ge=0)
    shadow_deadline_ms: int = Field(default=10_000, ge=100)
    shadow_memory_mb: int = Field(default=2048, ge=64)
    approver_secrets: dict[str, SecretStr] = Field(default_factory=dict)
    dask_scheduler: str = ""
    replay_workers: int = Field(default=0, ge=0)
    store: str = ""
    work_pool: str = ""
    work_queues: Annotated[tuple[str, ...], NoDecode] = QUEUES

    @model_validator(mode="before")
    @classmethod
    def _place_folders(cls, values: dict[str, object]) -> dict[str, object]:
        root = Path(str(values.get("root") or find_root())).expanduser().resolve()
        values["root"] = root
        for name in ("artifacts", "notebooks"):
            values[name] = root / Path(str(values.get(name) or name)).expanduser()
        if values.get("predictions_url") == FILES:
            values["predictions_url"] = None
        store = str(values.get("store") or NO_STORE)
        values["store"] = "" if store == NO_STORE else store if "://" in store else str(root / Path(store).expanduser())
        return values

    @field_validator("work_queues", mode="before")
    @classmethod
    def _split_queues(cls, queues: object) -> object:
        names = tuple(part.strip() for part in queues.split(",")) if isinstance(queues, str) else queues
        if not isinstance(names, tuple) or not names or not set(names) <= set(QUEUES):
            raise ValueError(f"name one or more of {', '.join(QUEUES)}, with a comma between")
        return names

    @field_validator("store")
    @classmethod
    def _check_store(cls, store: str) -> str:
        if urlsplit(store).password is not None:  # it stands in the registry and in messages
            raise ValueError("an address with a password is no setting; leave the credentials in the environment")
        return store.rstrip("/")

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: SecretStr) -> SecretStr:
        text = token.get_secret_value()
        if text and not (len(text) >= SHORTEST_TOKEN and text.isascii() and text.isprintable() and " " not in text):
            # says nothing of the token itself: this goes to screens and logs
            raise ValueError(f"a token has at least {SHORTEST_TOKEN} printable ASCII characters and no space")
        return token

    def folders(self) -> dict[str, str]:
        """Give the variables by which a process finds the folders of this one."""
        folders = {"ROOT": self.root, "ARTIFACTS": self.artifacts, "NOTEBOOKS": self.notebooks}
        return {f"SUNDIAL_{name}": str(path) for name, path in folders.items()}

    @property
    def token_headers(self) -> dict[str, str]:
        """What our own clients send to the model server."""
        token = self.token.get_secret_value()
        return {"Authorization": f"Bearer {token}"} if token else {}

    @field_validator("approver_secrets")
    @classmethod
    def _check_secrets(cls, secrets: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in secrets.items():
            try:
                text = secret.get_secret_value()
                length = len(base64.b32decode(text + "=" * (-len(text) % 8), casefold=True))
            except ValueError:
                length = 0
            if length < SECRET_BYTES:  # never say what it was
                raise ValueError(f"the secret of {name!r} is not base32 of {SECRET_BYTES} bytes or more")
        return secrets

    @property
    def runs(self) -> Path:
        """Folder of release, experiment and scratch runs."""
        return self.artifacts / "runs"

    @property
    def models(self) -> Path:
        """Folder of registered models."""
        return self.artifacts / "models"

    @property
    def predictions(self) -> Path:
        """Folder of prediction logs and shadow scores."""
        return self.artifacts / "predictions"

    @property
    def reports(self) -> Path:
        """Folder of the report index."""
        return self.artifacts / "reports"

    @property
    def warehouse(self) -> Path:
        """Folder of the data that ships."""
        return self.artifacts / "warehouse"

    @property
    def logs(self) -> Path:
        """Folder of the servers' logs."""
        return self.artifacts / "logs"

    @property
    def tracking_uri(self) -> str:
        """Address of the model registry: ``MLFLOW_TRACKING_URI``, or SQLite under artifacts."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.artifacts / 'mlflow.db'}"

    @property
    def registry_address(self) -> str:
        """The same as people may see it: without a password."""
        return re.sub(r"(?<=://)[^@/]*@", "***@", self.tracking_uri)

    @property
    def serve_url(self) -> str:
        """Address of the model server."""
        return f"http://{self.host}:{self.serve_port}"

    @property
    def prefect_api_url(self) -> str:
        """Address of Prefect's API: ``PREFECT_API_URL``, or a server that we start."""
        return os.environ.get("PREFECT_API_URL") or f"http://{self.host}:{self.prefect_port}/api"


def load_settings() -> Settings:
    """Read the settings as the environment has them now.

    Returns
    -------
    Settings

    Raises
    ------
    SettingsError
        When a variable cannot be used; names it.
    """
    file = Path(os.environ.get("SUNDIAL_ROOT") or find_root()).expanduser() / ".env"
    known = {f"SUNDIAL_{name.upper()}" for name in Settings.model_fields}
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    given = {name for name in os.environ if name.startswith("SUNDIAL_")}
    given |= set(re.findall(r"^\s*(?:export\s+)?(SUNDIAL_\w+)", text, re.MULTILINE))
    for name in sorted(given - known):
        raise SettingsError(f"{name} is not a setting", hint=nearest(name, sorted(known)))
    try:
        return Settings(_env_file=file)
    except UnreadableError as error:  # without its cause, which holds what was written there
        name = next((name for name in sorted(known) if f'"{name.removeprefix("SUNDIAL_").lower()}"' in str(error)), "")
        raise SettingsError(f"{name or 'a setting'} is not JSON", hint='write {"name": "value"}') from None
    except ValidationError as error:
        first = error.errors()[0]
        name = f"SUNDIAL_{'_'.join(str(part) for part in first['loc']).upper()}"
        raise SettingsError(f"{name} cannot be used: {first['msg']}", hint="correct or unset it") from error
