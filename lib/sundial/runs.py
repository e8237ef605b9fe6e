"""Run folders: one folder a release, experiment or scratch run, with a manifest that says what succeeded.

artifacts/runs/<run>/
    manifest.json           who this run is: pipeline, as_of, kind, commit
    gates.json              verdicts, by step
    decisions.json          what people answered
    index.html              the run as a page
    <stage>/stage.json      what the stage read, made and recorded, each file with its SHA-256
    <stage>/notebook.ipynb  the notebook as executed
    <stage>/report.html     the same as a page
    <stage>/outputs/        what the stage saved
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sundial.errors import ArtifactCorruptError, ArtifactNotFoundError, RunNotFoundError, nearest
from sundial.formats import hash_file, read_json, write_json_atomically
from sundial.settings import Settings, load_settings

if TYPE_CHECKING:  # a second to import, which a command that only looks at files has not
    import pandas as pd

SCHEMA = 1
Kind = Literal["release", "experiment", "scratch"]
# Fields of a stage's record to which a notebook adds one by one.
MERGED = ("inputs", "outputs", "observed")


def now() -> str:
    """Give the present time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Run:
    """The folder of one release, experiment or scratch run.

    Attributes
    ----------
    folder : Path
        Where it is.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Name of the run, which is that of its folder."""
        return self.folder.name

    @property
    def pipeline(self) -> str:
        """Name of the pipeline."""
        return str(self.manifest()["pipeline"])

    @property
    def kind(self) -> str:
        """One of ``release``, ``experiment`` and ``scratch``."""
        return str(self.manifest()["kind"])

    @property
    def as_of(self) -> pd.Timestamp:
        """Release date of the run."""
        import pandas as pd

        return pd.Timestamp(self.manifest()["as_of"])

    @property
    def base(self) -> Run | None:
        """The run below this one, whose outputs it reads; only scratch runs and experiments have one."""
        base = self.manifest().get("base")
        return Run(self.folder.parent / base) if base else None

    def manifest(self) -> dict[str, Any]:
        """Read who this run is.

        Raises
        ------
        RunNotFoundError
            When the folder has no manifest.
        """
        try:
            return dict(read_json(self.folder / "manifest.json"))
        except ArtifactNotFoundError as error:
            raise RunNotFoundError(f"{self.folder} is not a run: it has no manifest.json") from error

    def update(self, **fields: Any) -> None:
        """Merge fields into the manifest of the run, atomically."""
        with self._locked():
            write_json_atomically(self.folder / "manifest.json", {**self.manifest(), **fields})

    def stage_folder(self, stage: str) -> Path:
        """Give the folder of a stage, which need not exist."""
        return self.folder / stage

    def stage_record(self, stage: str) -> dict[str, Any]:
        """Read what a stage did; an empty dict when it never ran in this run."""
        path = self.stage_folder(stage) / "stage.json"
        return dict(read_json(path)) if path.exists() else {}

    def update_stage(self, stage: str, **fields: Any) -> dict[str, Any]:
        """Merge fields into the record of a stage, atomically.

        Dicts are merged one level deep, so that an output more does not forget the others.

        Returns
        -------
        dict
            The record as it is now.
        """
        self.stage_folder(stage).mkdir(parents=True, exist_ok=True)
        with self._locked():
            record = self.stage_record(stage) or {"stage": stage, "inputs": {}, "outputs": {}}
            for name, value in fields.items():
                merge = isinstance(value, dict) and isinstance(record.get(name), dict) and name in MERGED
                record[name] = {**record[name], **value} if merge else value
            write_json_atomically(self.stage_folder(stage) / "stage.json", record)
        return record

    def restart_stage(self, stage: str, **fields: Any) -> dict[str, Any]:
        """Begin the record of a stage anew, forgetting an earlier attempt's inputs and outputs."""
        self.stage_folder(stage).mkdir(parents=True, exist_ok=True)
        with self._locked():
            record = {"stage": stage, "inputs": {}, "outputs": {}, **fields}
            write_json_atomically(self.stage_folder(stage) / "stage.json", record)
        return record

    def stages(self) -> dict[str, dict[str, Any]]:
        """Read the records of all stages that ran, by name, in order."""
        paths = sorted(self.folder.glob("*/stage.json"))
        return {path.parent.name: dict(read_json(path)) for path in paths}

    def succeeded(self, stage: str) -> bool:
        """Tell whether a stage succeeded, as its record says; the notebook file proves nothing."""
        return self.stage_record(stage).get("status") == "succeeded"

    def scraps(self) -> dict[str, dict[str, Any]]:
        """Collect the scraps of all stages, by stage; undefined numbers are NaN."""
        from sundial.scraps import from_plain

        return {name: from_plain(record.get("scraps", {})) for name, record in self.stages().items()}

    def find_output(self, stage: str, name: str) -> tuple[Run, dict[str, Any]]:
        """Find an output in this run, or in the one below it.

        Returns
        -------
        tuple of Run and dict
            The run that holds it, and its record: path (in that run's folder), sha256, rows.

        Raises
        ------
        ArtifactNotFoundError
            When no run holds it.
        """
        run: Run | None = self
        while run is not None:
            found = run.stage_record(stage).get("outputs", {}).get(name)
            if found:
                return run, dict(found)
            run = run.base
        raise ArtifactNotFoundError(
            f"run {self.name} holds no output {stage}/{name}",
            hint=f"run {stage} first: sundial run {stage} --run {self.name}",
        )

    def verify_output(self, stage: str, name: str) -> Path:
        """Find an output and check that its bytes are those that were recorded.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ArtifactNotFoundError
            When it is not there.
        ArtifactCorruptError
            When it was changed since.
        """
        run, record = self.find_output(stage, name)
        path: Path = run.folder / record["path"]
        if not path.exists():
            raise ArtifactNotFoundError(f"{path} is gone", hint=f"run {stage} again")
        if hash_file(path) != record["sha256"]:
            raise ArtifactCorruptError(
                f"{path} is not what {stage} wrote: its SHA-256 differs from the manifest's",
                hint=f"run {stage} again, and find out who changed the file",
            )
        return path

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the run's lock, so that a notebook and its runner do not lose each other's fields."""
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def commit_of(root: Path) -> tuple[str, bool]:
    """Read the git commit of the project.

    Returns
    -------
    tuple of str and bool
        The commit, or an empty string outside of git; and whether tracked files differ from it.
    """
    command = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S603  fixed words
        status = subprocess.run(  # noqa: S603  fixed words
            [*command, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git on this machine
        return "", False
    return (head.stdout.strip(), bool(status.stdout.strip())) if head.returncode == 0 else ("", False)


def create_run(
    pipeline: str,
    as_of: str | pd.Timestamp,
    *,
    kind: Kind = "release",
    base: str = "",
    started_by: str = "",
    settings: Settings | None = None,
) -> Run:
    """Make the folder of a new run.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    as_of : str or Timestamp
        Release date.
    kind : {'release', 'experiment', 'scratch'}
        Scratch runs and experiments never touch aliases.
    base : str
        Name of the run whose outputs this one reads where it has none of its own.
    started_by : str
        Who or what started it.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    Run
        Named pipeline, as_of, UTC time and five digits of a hash, so that names sort by time and never clash.
    """
    settings = settings or load_settings()
    import pandas as pd

    stamp = pd.Timestamp(as_of)
    moment = datetime.now(UTC)
    salt = hashlib.sha256(f"{pipeline}{stamp}{moment.timestamp()}{os.getpid()}".encode() + os.urandom(8)).hexdigest()
    prefix = "" if kind == "release" else f"{kind}-"
    run = Run(settings.runs / f"{prefix}{pipeline}-{stamp:%Y-%m-%d}-{moment:%Y%m%dT%H%M%SZ}-{salt[:5]}")
    commit, dirty = commit_of(settings.root)
    run.folder.mkdir(parents=True)
    write_json_atomically(
        run.folder / "manifest.json",
        {
            "schema": SCHEMA,
            "run": run.name,
            "pipeline": pipeline,
            "as_of": stamp.isoformat(),
            "kind": kind,
            "base": base,
            "created": moment.isoformat(timespec="milliseconds"),  # orders runs of one second
            "started_by": started_by,
            "commit": commit,
            "dirty": dirty,
        },
    )
    return run


def open_run(name: str | Path, settings: Settings | None = None) -> Run:
    """Open a run by its name, or by the path of its folder.

    Raises
    ------
    RunNotFoundError
        When there is none; gives the nearest name.
    """
    settings = settings or load_settings()
    run = Run(settings.runs / name)  # an absolute path stays what it is
    if not (run.folder / "manifest.json").is_file():
        known = [item.name for item in list_runs(settings=settings)]
        raise RunNotFoundError(f"no run {str(name)!r} under {settings.runs}", hint=nearest(str(name), known[-5:]))
    return run


def list_runs(pipeline: str | None = None, *, kind: Kind | None = None, settings: Settings | None = None) -> list[Run]:
    """List the runs, oldest first.

    Parameters
    ----------
    pipeline : str, optional
        Only of this pipeline.
    kind : str, optional
        Only of this kind.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    list of Run
    """
    settings = settings or load_settings()
    found = []
    for path in settings.runs.glob("*/manifest.json"):
        run = Run(path.parent)
        manifest = run.manifest()
        if pipeline in (None, manifest["pipeline"]) and kind in (None, manifest["kind"]):
            found.append((manifest["created"], manifest["as_of"], run))
    return [run for *_, run in sorted(found, key=lambda item: (item[0], item[1], item[2].name))]


def latest_run(
    pipeline: str,
    *,
    kind: Kind = "release",
    as_of: str | pd.Timestamp | None = None,
    having: str | None = None,
    settings: Settings | None = None,
) -> Run:
    """Find the newest run of a pipeline.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    kind : str
        Kind of run.
    as_of : str or Timestamp, optional
        Only runs of this release date, or earlier.
    having : str, optional
        Only runs in which this stage succeeded.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    Run
        The one with the latest release date, and of these the one made last.

    Raises
    ------
    RunNotFoundError
        When there is none.
    """
    settings = settings or load_settings()
    runs = list_runs(pipeline, kind=kind, settings=settings)
    import pandas as pd

    limit = pd.Timestamp(as_of) if as_of is not None else None
    fitting = [
        run for run in runs if (limit is None or run.as_of <= limit) and (having is None or run.succeeded(having))
    ]
    if not fitting:
        known = f"; there are releases as of {', '.join(sorted({f'{run.as_of:%Y-%m-%d}' for run in runs}))}"
        raise RunNotFoundError(
            f"{pipeline} has no {kind}"
            + (f" as of {limit:%Y-%m-%d} or earlier" if limit is not None else "")
            + (f" in which {having} succeeded" if having else "")
            + (known if runs else ""),
            hint="make one with 'make demo', or 'sundial release'",
        )
    # list_runs is oldest first, and max keeps the first of equals
    return max(reversed(fitting), key=lambda run: run.as_of)
