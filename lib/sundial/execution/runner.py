"""Run a stage of a run: the one way in for flows, the command line and tests.

:func:`run_stage` checks the parameters, keeps the record, verifies the outputs, and only then raises, with the report
rendered. The report of a stage that succeeded is rendered beside the next one; :func:`finish_rendering` waits for it.
:func:`run_notebook` executes a single file, and knows of no run.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from sundial.errors import (
    ArtifactCorruptError,
    ArtifactNotFoundError,
    RunError,
    ScrapError,
    StageFailedError,
)
from sundial.execution.cache import clear_stage, one_at_a_time, remember
from sundial.execution.cache import reuse as take_over
from sundial.execution.ingredients import Key, find_key
from sundial.execution.journal import LOST, journal_path, recover
from sundial.execution.notebooks import Execution, Progress, execute_notebook, find_cell, run_notebook
from sundial.execution.parameters import check_parameters, mask_parameters, read_parameters
from sundial.execution.rendering import finish_pages, finish_rendering, render_beside, render_now
from sundial.formats import hash_file
from sundial.pipeline import Pipeline, StageSpec, load_pipeline
from sundial.runs import Run, now
from sundial.scraps import read_scraps, to_plain
from sundial.settings import Settings, load_settings

__all__ = ["Execution", "finish_pages", "finish_rendering", "recover_run", "run_notebook", "run_stage"]

# Of no use in a notebook, and its outputs are for everybody's eyes.
SECRETS = (
    "SUNDIAL_APPROVER_SECRETS",
    "SUNDIAL_NOTIFICATION_URL",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_API_KEY",
)
LOCK_ATTEMPTS = 4  # who only asks whether a stage is running holds its lock for microseconds

logger = logging.getLogger("sundial.execution")


def run_stage(
    run: Run,
    stage: str,
    *,
    as_of: str | pd.Timestamp | None = None,
    parameters: Mapping[str, Any] | None = None,
    timeout: str | float | timedelta | None = None,
    reuse: bool = False,
    base: Run | None = None,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Run one stage of a run.

    Its folder then holds the executed notebook and the outputs, soon the report, and ``stage.json`` says how it went.
    What an earlier attempt left there is forgotten first, so that it can be run again at any time.

    Parameters
    ----------
    run : Run
        Where it reads and writes.
    stage : str
        Such as ``06_train_model``.
    as_of : str or Timestamp, optional
        The date to pretend it is; the run's by default.
    parameters : mapping, optional
        On top of those in pipeline.yaml, and of those that the run carries for this stage.
    timeout : str, float or timedelta, optional
        Deadline; that of pipeline.yaml by default.
    reuse : bool
        Take it from an earlier run instead, when nothing that it depends on has changed; see ``cache``.
    base : Run, optional
        Of reuse: a run to look in first, whose rows count as they were.
    progress : callable, optional
        Called with the number of cells done and of all cells.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    dict
        The record of the stage, as in ``stage.json``.

    Raises
    ------
    PipelineError, ParameterError
        Before anything is touched.
    RunError
        When the stage is running already.
    StageFailedError
        Naming stage, cell, source, cause and report; also when a declared output is not there.
    """
    settings = settings or load_settings()
    pipeline = load_pipeline(run.pipeline, settings)
    spec, source = pipeline.stage(stage), notebook_of(run, stage, pipeline, settings)
    date = run.as_of if as_of is None else pd.Timestamp(as_of)
    given = {**parameters_of(run, stage, pipeline, source, settings, date), **(parameters or {})}
    checked = check_parameters(source, given)

    def key_now() -> Key:
        if run.kind == "scratch":
            return Key("", {}, "a scratch run is for looking, not for keeping")
        return find_key(run, stage, source, checked, date.isoformat(), pipeline, settings)

    key = key_now()
    with _only_once(run, stage), one_at_a_time(key if reuse else Key("", {}), settings):
        finish_rendering(run.stage_folder(stage))  # of an earlier attempt, which is about to go
        if reuse and (found := take_over(run, stage, key, date.isoformat(), settings, base=base)):
            return found
        limit = timeout or spec.timeout
        try:
            record = _run_stage(run, stage, spec, source, date, checked, key, limit, progress, settings)
        except StageFailedError:  # one of them is an OSError too
            raise
        except OSError as error:  # a full disk takes not even the record
            raise _explain_disk(stage, error) from error
        if key.digest and key_now().digest == key.digest:  # else somebody changed something while it ran
            remember(run, stage, key, settings)
        return record


def parameters_of(
    run: Run, stage: str, pipeline: Pipeline, notebook: Path, settings: Settings, as_of: pd.Timestamp | None = None
) -> dict[str, Any]:
    """Give the values that a stage is run with: date and run, those of pipeline.yaml, those that the run carries."""
    date = run.as_of if as_of is None else as_of
    given: dict[str, Any] = {
        "as_of": date.strftime("%Y-%m-%d") if date == date.normalize() else date.isoformat(),
        "run": run.name if run.folder.parent == settings.runs else str(run.folder),
        **pipeline.stage(stage).parameters,
        **run.manifest().get("parameters", {}).get(stage, {}),
    }
    if "pipeline" in read_parameters(notebook):  # the lifecycle's notebooks are the same for every pipeline
        given["pipeline"] = run.pipeline
    return given


def notebook_of(run: Run, stage: str, pipeline: Pipeline, settings: Settings) -> Path:
    """Give the notebook of a stage: the pipeline's, or the one that the run carries in its place."""
    other = run.manifest().get("notebooks", {}).get(stage)
    return settings.root / other if other else pipeline.notebook(stage)


def _run_stage(
    run: Run,
    stage: str,
    spec: StageSpec,
    source: Path,
    date: pd.Timestamp,
    parameters: dict[str, Any],
    key: Key,
    timeout: str | float | timedelta,
    progress: Progress | None,
    settings: Settings,
) -> dict[str, Any]:
    """Run a stage whose parameters are known to be right."""
    folder = run.stage_folder(stage)
    defaults = {name: declared.default for name, declared in read_parameters(source).items()}
    run.restart_stage(
        stage,
        status="running",
        started=now(),
        as_of=date.isoformat(),
        parameters=mask_parameters({**defaults, **parameters}),
        notebook_sha256=hash_file(source),
        **({"key": key.digest, "ingredients": key.short} if key.digest else {"not_reusable": key.reason}),
    )
    clear_stage(folder)
    logger.info("%s: starts, as of %s, in %s", stage, f"{date:%Y-%m-%d}", run.name)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in SECRETS},
        **settings.folders(),
    }
    try:
        execution = execute_notebook(
            source,
            folder / "notebook.ipynb",
            parameters,
            name=stage,
            timeout=timeout,
            cwd=source.parent,
            env=environment,
            settings=settings,
            progress=progress,
        )
        error = execution.error or _find_missing(run, stage, spec, execution)
    except BaseException as interruption:  # Ctrl-C too: nothing may be left "running"
        cell = find_cell(folder)
        where = f" in cell {cell}" if cell else ""
        stopped = _describe(cell, "", repr(interruption), f"{stage} was stopped{where}: its process was ended")
        with suppress(OSError):  # on a full disk: what stopped it says more
            run.update_stage(stage, status="failed", error=stopped)
        if isinstance(interruption, OSError) and not isinstance(interruption, StageFailedError):
            raise _explain_disk(stage, interruption, cell) from interruption
        raise
    try:
        run.update_stage(
            stage,
            status="failed" if error else "succeeded",
            seconds=round(execution.seconds, 2),
            executed_sha256=hash_file(execution.output),
            kernel={"kind": execution.kernel, "exit_code": execution.exit_code, "peak_mib": execution.peak_mib},
            scraps=_collect_scraps(execution),
            **({"error": _describe(error.cell, error.source, error.cause, error.message)} if error else {}),
        )
    except OSError as full:  # what the notebook says comes first
        error = error or _explain_disk(stage, full)
    if error is not None:
        finish_rendering()  # whoever is told of the failure finds all pages
        report = render_now(run, stage, settings)
        error.report = str(report)
        error.hint = f"open {report}"
        logger.error("%s: %s", stage, error)
        raise error
    render_beside(run, stage, settings)
    logger.info("%s: succeeded in %.1f s", stage, execution.seconds)
    return run.stage_record(stage)


def _explain_disk(stage: str, error: OSError, cell: int | None = None) -> StageFailedError:
    """Say that artifacts cannot be written, where there is not even room to write that down."""
    where = f" in cell {cell}" if cell else ""
    return StageFailedError(
        f"{stage} failed{where}: artifacts cannot be written: {error}",
        stage=stage,
        cell=cell,
        cause=f"{type(error).__name__}: {error}",
        hint="make room, then resume",
    )


def _find_missing(run: Run, stage: str, spec: StageSpec, execution: Execution) -> StageFailedError | None:
    """Say which declared output is not there or not what was saved, or which scrap is bad; None when all is well."""
    saved = run.stage_record(stage)["outputs"]
    missing = [output for output in spec.outputs if output not in saved]
    cause = f"did not save {' and '.join(map(repr, missing))}, which pipeline.yaml declares" if missing else ""
    try:
        for output in () if missing else spec.outputs:
            run.verify_output(stage, output)
        read_scraps(execution.notebook)
    except (ArtifactNotFoundError, ArtifactCorruptError, ScrapError) as error:
        cause = cause or error.message
    return StageFailedError(f"{stage} failed: {cause}", stage=stage, cause=cause) if cause else None


def _collect_scraps(execution: Execution) -> dict[str, Any]:
    """Read the scraps of the executed notebook, those glued by scrapbook itself too."""
    try:
        return {name: to_plain(value, name=name) for name, value in read_scraps(execution.notebook).items()}
    except ScrapError:
        return {}


def _describe(cell: int | None, source: str, cause: str, message: str) -> dict[str, Any]:
    return {"cell": cell, "source": source, "cause": cause, "message": message}


def recover_run(run: Run, settings: Settings | None = None) -> list[str]:
    """Mark as failed what a killed process left running in a run, with the outputs that its notebooks had shown.

    Parameters
    ----------
    run : Run
        The run.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    list of str
        Names of the stages that were marked; none that is really running.
    """
    found = []
    for stage, record in run.stages().items():
        notebook = run.stage_folder(stage) / "notebook.ipynb"
        if record["status"] != "running" or not journal_path(notebook).exists():
            continue
        try:
            with _only_once(run, stage):
                recover(notebook)
                run.update_stage(stage, status="failed", error=_describe(None, "", LOST, f"{stage} failed: {LOST}"))
        except RunError:  # it is running, and its journal is in use
            continue
        render_now(run, stage, settings or load_settings())
        found.append(stage)
    return found


@contextmanager
def _only_once(run: Run, stage: str) -> Iterator[None]:
    """Hold a stage, so that two runners cannot write into the same folder.

    Raises
    ------
    RunError
        When another process runs it.
    """
    with (run.folder / f".{stage}.lock").open("w") as file:
        for attempt in range(LOCK_ATTEMPTS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if attempt == LOCK_ATTEMPTS - 1:
                    raise RunError(
                        f"{stage} of run {run.name} is running already", hint="wait for it, or stop the other process"
                    ) from error
            time.sleep(0.1)
        yield
