"""Run experiments: everything above a change is taken from production's last release, the rest runs on its rows."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sundial.errors import RunNotFoundError, StageFailedError
from sundial.execution.kernels import kernel_server
from sundial.execution.report import render_run
from sundial.execution.runner import run_stage
from sundial.experiments.changes import Arm
from sundial.experiments.comparing import compare_runs
from sundial.formats import write_json_atomically
from sundial.pipeline import Pipeline
from sundial.release.registry import Registry
from sundial.runs import Run, create_run, latest_run, list_runs, open_run
from sundial.settings import Settings

COMPARISON = "comparison.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What came of an experiment.

    Attributes
    ----------
    run : Run
        Its folder.
    base : Run or None
        The release it stands beside.
    comparison : dict
        See :func:`compare_runs`; empty when it failed, or there is no release of its date.
    seconds : float
        From start to comparison.
    error : str
        Why it failed; empty when it did not.
    """

    run: Run
    base: Run | None
    comparison: dict[str, Any]
    seconds: float
    error: str = ""


def find_base(pipeline: Pipeline, as_of: str, settings: Settings) -> Run | None:
    """Find the release that an experiment stands beside.

    Parameters
    ----------
    pipeline : Pipeline
        What is experimented with.
    as_of : str
        Release date; empty for that of production.
    settings : Settings
        Where the runs are.

    Returns
    -------
    Run or None
        Without a date, the release that made the production version, or before the first promotion the newest whole
        release. With a date, the newest whole release of exactly that date; None when there is none.

    Raises
    ------
    RunNotFoundError
        Without a date, when there is no whole release.
    """
    last = pipeline.release_stages[-1]
    if as_of:
        runs = [
            run
            for run in list_runs(pipeline.name, kind="release", settings=settings)
            if run.as_of == pd.Timestamp(as_of) and run.succeeded(last)
        ]
        return runs[-1] if runs else None
    production = Registry(settings).alias(pipeline.name, "production")
    if production is not None:
        try:
            made = open_run(production.run, settings)
        except RunNotFoundError:  # it may have been pruned by hand, or be on another machine
            made = None
        if made is not None and made.succeeded(last):
            return made
    return latest_run(pipeline.name, having=last, settings=settings)


def who_am_i(settings: Settings) -> str:
    """Name the person at the keyboard: as git knows them, else as the machine does."""
    try:
        asked = subprocess.run(  # noqa: S603  fixed words
            ["git", "-C", str(settings.root), "config", "user.name"],  # noqa: S607  whichever git the person uses
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return getpass.getuser()
    return asked.stdout.strip() or getpass.getuser()


def run_experiments(
    arms: list[Arm], pipeline: Pipeline, settings: Settings, *, by: str = "", base: Run | None = None, say: Say = print
) -> list[Result]:
    """Run experiments, as many at once as there are cores, and compare each with its release.

    Parameters
    ----------
    arms : list of Arm
        What to run.
    pipeline : Pipeline
        What pipeline.yaml declares.
    settings : Settings
        Where things are.
    by : str
        Who starts them, for the record; see :func:`who_am_i`.
    base : Run, optional
        A run whose stages count as they are, such as a scratch run; that of :func:`find_base` by default.
    say : callable
        Told of each stage when it is done.

    Returns
    -------
    list of Result
        In the order of the arms. One that fails ends alone.
    """
    by = by or who_am_i(settings)
    with kernel_server(settings) as serving, ThreadPoolExecutor(_count_workers(len(arms))) as pool:
        # asked while the server imports what notebooks need; one thread, since all arms of a date share the answer
        bases = {arm.as_of: base or find_base(pipeline, arm.as_of, settings) for arm in arms}
        waiting = [
            pool.submit(_in_thread, arm, pipeline, bases[arm.as_of], serving, by, _named(say, arm, len(arms)))
            for arm in arms
        ]
        return [item.result() for item in waiting]


def _count_workers(arms: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(arms, cores))


def _named(say: Say, arm: Arm, arms: int) -> Say:
    return say if arms == 1 else lambda line: say(f"{arm.name} {arm.as_of[:10]}: {line}")


def _in_thread(*given: Any) -> Result:
    """Run an arm in a thread of the pool, and close the event loop that Jupyter's client opens for a thread."""
    try:
        return _run_arm(*given)
    finally:
        with contextlib.suppress(RuntimeError):  # no notebook was run, so there is none
            asyncio.get_event_loop().close()
            asyncio.set_event_loop(None)


def _run_arm(arm: Arm, pipeline: Pipeline, base: Run | None, settings: Settings, by: str, say: Say) -> Result:
    """Run the stages of one experiment, and compare it."""
    began = time.monotonic()
    as_of = arm.as_of or (base.as_of.isoformat() if base is not None else "")
    run = create_run(
        pipeline.name,
        as_of,
        kind="experiment",
        base=base.name if base is not None else "",
        started_by=by,
        settings=settings,
    )
    run.update(name=arm.name, parameters=arm.parameters, notebooks=arm.notebooks)
    try:
        for stage in pipeline.release_stages:
            record = run_stage(run, stage, reuse=True, base=base, settings=settings)
            origin = (record.get("reused") or {}).get("run")
            say(f"{stage:<28} " + (f"reused from {origin}" if origin else f"{record['seconds']:6.1f} s"))
    except StageFailedError as error:
        render_run(run, settings)
        return Result(run, base, {}, time.monotonic() - began, str(error))
    found = compare_runs(run, base, pipeline, settings) if base is not None else {}
    write_json_atomically(run.folder / COMPARISON, found)
    return Result(run, base, found, time.monotonic() - began)
