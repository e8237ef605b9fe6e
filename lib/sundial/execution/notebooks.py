"""Execute one notebook with papermill: parameters checked before, evidence saved before any error leaves."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sundial.errors import KernelDiedError, StageFailedError, StageTimeoutError
from sundial.execution.engine import ENGINE, Job, SundialEngine, register
from sundial.execution.forkserver import KERNEL_DEFAULTS
from sundial.execution.parameters import (
    INJECTED_TAG,
    check_parameters,
    list_secrets,
    mask_secrets,
    mask_text,
    read_notebook,
)
from sundial.settings import Settings, load_settings, parse_duration

if TYPE_CHECKING:
    import nbformat

logger = logging.getLogger("sundial.execution")
Progress = Callable[[int, int], None]
START_SECONDS = 60.0
SOURCE_LINES = 5
SOURCE_WIDTH = 120


@dataclass(frozen=True)
class Execution:
    """What came of a notebook.

    Attributes
    ----------
    notebook : NotebookNode
        As executed and saved; secrets are masked.
    output : Path
        Where it is saved.
    seconds : float
        Wall time.
    kernel : str
        ``fork`` or ``process``.
    peak_mib : float
        Most memory that the kernel held.
    exit_code : int or None
        Of the kernel; negative for a signal.
    error : StageFailedError or None
        Why it failed, ready to be raised.
    """

    notebook: nbformat.NotebookNode
    output: Path
    seconds: float
    kernel: str
    peak_mib: float
    exit_code: int | None
    error: StageFailedError | None


def run_notebook(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    timeout: str | float | timedelta | None = None,
    cell_timeout: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Execution:
    """Execute a notebook and save what it shows.

    Parameters
    ----------
    notebook : Path
        The source; it is not changed.
    output : Path
        Where the executed notebook goes; it is there before any error is raised.
    parameters : mapping, optional
        Values for its ``parameters`` cell, checked before a kernel starts.
    name : str
        What to call it in the log and in errors; the file's name by default.
    timeout : str, float or timedelta, optional
        Deadline for the whole notebook; a number is in seconds.
    cell_timeout : float, optional
        Seconds for each cell.
    cwd : Path, optional
        Working directory of the kernel; that of the notebook by default.
    env : mapping, optional
        Environment of the kernel; that of this process by default.
    settings : Settings, optional
        Says which kind of kernel; read from the environment by default.
    progress : callable, optional
        Called with the number of cells done and of all cells.

    Returns
    -------
    Execution

    Raises
    ------
    ParameterError
        Before a kernel starts.
    StageFailedError
        When a cell raised; its children when the deadline passed or the kernel died.
    """
    execution = execute_notebook(
        notebook,
        output,
        parameters or {},
        name=name or notebook.stem,
        timeout=timeout,
        cell_timeout=cell_timeout,
        cwd=cwd,
        env=env,
        settings=settings or load_settings(),
        progress=progress,
    )
    if execution.error is not None:
        raise execution.error
    return execution


def execute_notebook(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    name: str,
    timeout: str | float | timedelta | None = None,
    cell_timeout: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    settings: Settings,
    progress: Progress | None = None,
) -> Execution:
    """Execute a notebook like :func:`run_notebook`, but return the error instead of raising it."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from sundial.execution.kernels import choose_socket

    register()
    # a notebook without a parameters cell may run, as long as it is given none
    checked = check_parameters(notebook, parameters) if parameters else {}
    source = read_notebook(notebook)
    job = Job(
        name=name,
        output=output,
        parameters=checked,
        cwd=cwd or notebook.parent,
        env={**KERNEL_DEFAULTS, **(os.environ if env is None else env)},
        deadline=_to_seconds(timeout),
        cell_timeout=cell_timeout,
        socket=choose_socket(settings),
        progress=progress,
    )
    began = time.monotonic()
    try:
        papermill.execute_notebook(
            source,
            None,  # the engine saves, as a whole and in time
            parameters=checked,
            engine_name=ENGINE,
            kernel_name=SundialEngine.nb_kernel_name(source),
            language=SundialEngine.nb_language(source),
            progress_bar=False,
            start_timeout=START_SECONDS,
            job=job,
        )
    except PapermillExecutionError:
        if job.failure is None:  # a cell that was allowed to raise; papermill does not know of that tag
            logger.debug("%s: a cell raised, as its tag allows", name)
    return Execution(
        notebook=mask_secrets(job.notebook or source, checked),
        output=output,
        seconds=time.monotonic() - began,
        kernel=job.kernel,
        peak_mib=round(job.peak_kib / 1024, 1),
        exit_code=job.exit_code,
        error=_explain(job),
    )


def _explain(job: Job) -> StageFailedError | None:
    """Put a failure into an error that names stage, cell, source and cause."""
    failure = job.failure
    if failure is None or job.notebook is None:
        return None
    cell, source, where = None, "", ""
    if failure.index is not None:
        cell = _number(job.notebook.cells, failure.index)
        source = mask_text(job.notebook.cells[failure.index].source, list_secrets(job.parameters))
        where = f" in cell {cell}"
    kinds = {"deadline": StageTimeoutError, "cell timeout": StageTimeoutError, "died": KernelDiedError}
    kind = kinds.get(failure.kind, KernelDiedError if failure.index is None else StageFailedError)
    return kind(
        f"{job.name} failed{where}: {failure.cause}" + (f"\n{_first_lines(source)}" if source else ""),
        stage=job.name,
        cell=cell,
        source=source,
        cause=failure.cause,
        report=str(job.output or ""),
        hint=f"open {job.output}",
    )


def find_cell(folder: Path, at: datetime | None = None) -> int | None:
    """Give the number of the cell at which a notebook was stopped, as a reader of the source counts it.

    Parameters
    ----------
    folder : Path
        Of the stage, with the notebook as far as it was executed.
    at : datetime, optional
        The cell that was under way then is asked for instead, also of a notebook that has ended since.

    Returns
    -------
    int or None
        None when there is no such cell, or no notebook.
    """
    from sundial.execution.journal import read_cells

    try:
        cells = read_cells(folder / "notebook.ipynb")
    except (OSError, ValueError):
        return None
    records = [cell.metadata.get("papermill", {}) for cell in cells]
    if at is not None:
        index = _index_at(records, at)
    else:
        index = next((index for index, item in enumerate(records) if item.get("status") in ("running", "failed")), None)
    return None if index is None else _number(cells, index)


def _index_at(records: Sequence[Mapping[str, Any]], at: datetime) -> int | None:
    """Find the cell that was under way at a moment, or that had just ended where others followed."""

    def moment(item: Mapping[str, Any], name: str) -> datetime | None:
        return datetime.fromisoformat(item[name]) if item.get(name) else None

    begun = {index: item for index, item in enumerate(records) if (start := moment(item, "start_time")) and start <= at}
    later = any((end := moment(item, "end_time")) is None or end >= at for item in records if item.get("start_time"))
    return max(begun) if begun and later else None


def _number(cells: Sequence[nbformat.NotebookNode], index: int) -> int:
    """Give the number of a cell as in the source notebook, which has no injected cell."""
    return index + 1 - sum(INJECTED_TAG in cell.metadata.get("tags", []) for cell in cells[:index])


def _first_lines(source: str) -> str:
    """Indent the first lines of a cell, cut to what a log can bear."""
    lines = source.strip().splitlines()
    shown = [line if len(line) <= SOURCE_WIDTH else line[: SOURCE_WIDTH - 1] + "…" for line in lines[:SOURCE_LINES]]
    more = [f"… {len(lines) - SOURCE_LINES} more lines"] if len(lines) > SOURCE_LINES else []
    return "\n".join(f"    {line}".rstrip() for line in [*shown, *more])


def _to_seconds(timeout: str | float | timedelta | None) -> float | None:
    if timeout is None or isinstance(timeout, int | float):
        return timeout
    return parse_duration(timeout).total_seconds()
