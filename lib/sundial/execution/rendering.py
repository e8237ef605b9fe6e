"""Renders the pages of stages beside the next stage: half a second each that no stage has to wait for.

One thread sees to it, in order. The work is done in a fork of the kernel server, which has imported what it takes;
where there is none, in the thread, at the price that the next notebook's messages wait for it now and then. What has
not been rendered when the process ends is rendered then. The pages that a killed process left out are made by
:func:`finish_pages`, when its run goes on and ends, or by ``sundial report``.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from sundial.execution.forkserver import KERNEL_DEFAULTS, ForkRefusedError, fork_kernel
from sundial.execution.kernels import choose_socket
from sundial.runs import Run, open_run
from sundial.settings import Settings, load_settings

__all__ = ["finish_pages", "finish_rendering", "is_followed", "render_beside", "render_now"]

logger = logging.getLogger("sundial.execution")
NICENESS = 10  # a stage is waited for, a page is not
SETTLE_SECONDS = 0.1  # a release reuses its next stage in a fifth of that
_lock = threading.Lock()
_renderer: ThreadPoolExecutor | None = None
_pending: dict[Path, Future[Path]] = {}
_awaited = threading.Event()


def render_now(run: Run, stage: str, settings: Settings) -> Path:
    """Render the page of a stage; a page that cannot be made hides no error of the stage.

    Parameters
    ----------
    run : Run
        The run.
    stage : str
        Name of the stage.
    settings : Settings
        Where things are.

    Returns
    -------
    Path
        The page, or the executed notebook when there is none.
    """
    from sundial.execution.report import render_stage

    try:
        return render_stage(run, stage, settings)
    except Exception:
        logger.exception("%s: the report could not be rendered", stage)
        return run.stage_folder(stage) / "notebook.ipynb"


def render_beside(run: Run, stage: str, settings: Settings, how: Callable[[], Path] | None = None) -> None:
    """Have the page of a stage rendered while this process goes on; :func:`finish_rendering` waits for it.

    Parameters
    ----------
    run : Run
        The run.
    stage : str
        Name of the stage.
    settings : Settings
        Where things are.
    how : callable, optional
        Makes the page, where it is not made from the executed notebook; raises nothing.
    """
    global _renderer
    with _lock:
        if _renderer is None:
            _renderer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sundial-pages")
        folder = run.stage_folder(stage)
        future = _renderer.submit(how or partial(_render_forked, run, stage, settings))
        _pending[folder] = future
    future.add_done_callback(lambda done: _forget(folder, done))


def finish_rendering(folder: Path | None = None) -> None:
    """Wait until what was begun is rendered.

    Parameters
    ----------
    folder : Path, optional
        Folder of one stage, which is about to change; all of them by default.
    """
    with _lock:
        waiting = [future for path, future in _pending.items() if folder in (None, path)]
    if waiting:
        _awaited.set()
    for future in waiting:
        future.result()
    _awaited.clear()


def is_followed(run: Run, stage: str) -> bool:
    """Tell, after a moment, whether another page of the run is to be made, and those above it again.

    Parameters
    ----------
    run : Run
        The run.
    stage : str
        Whose page has just been made.

    Returns
    -------
    bool
    """
    _awaited.wait(SETTLE_SECONDS)
    with _lock:
        return any(path.parent == run.folder and path.name != stage for path in _pending)


def finish_pages(run: Run, settings: Settings) -> None:
    """Have all pages of a run: wait for those begun, and make those that a killed process left out.

    Parameters
    ----------
    run : Run
        Of which people are about to be told.
    settings : Settings
        Where things are.
    """
    from sundial.execution.report import REPORT

    finish_rendering()
    for stage, record in run.stages().items():
        folder = run.stage_folder(stage)
        ended = record["status"] in ("succeeded", "failed") and (folder / "notebook.ipynb").is_file()
        if ended and not (folder / REPORT).is_file():
            render_now(run, stage, settings)


def _render_forked(run: Run, stage: str, settings: Settings) -> Path:
    """Render in a fork of the kernel server; what comes of it is the page, or the log of another try here."""
    from sundial.execution.report import REPORT

    page = run.stage_folder(stage) / REPORT
    environment = {
        **KERNEL_DEFAULTS,
        **os.environ,
        **settings.folders(),
    }
    if socket := choose_socket(settings):
        try:
            process = fork_kernel(
                socket,
                [str(run.folder.resolve()), stage],
                env=environment,
                cwd=str(settings.root),
                log=Path(os.devnull),
                module=__name__,
            )
        except ForkRefusedError as error:
            logger.debug("%s: its page is rendered here: %s", stage, error)
        else:
            if process.wait() == 0:
                return page
    return render_now(run, stage, settings)


def _main(folder: str, stage: str) -> int:
    """Render a page, as a program of its own."""
    from sundial.execution.report import render_stage

    os.nice(NICENESS)
    settings = load_settings()
    render_stage(open_run(folder, settings), stage, settings)
    return 0


def _forget(folder: Path, done: Future[Path]) -> None:
    with _lock:
        if _pending.get(folder) is done:
            del _pending[folder]


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
