"""A whole release tried here and now: no server, no schedule, nothing registered; for a pipeline that is being made."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from sundial.errors import GateFailedError
from sundial.evaluation.gates import GateResult
from sundial.execution.kernels import kernel_server
from sundial.execution.report import render_run
from sundial.execution.runner import finish_rendering, run_stage
from sundial.pipeline import Pipeline
from sundial.release.steps import pass_gates
from sundial.runs import Run, create_run
from sundial.settings import Settings


def try_release(
    pipeline: Pipeline, as_of: str | pd.Timestamp, settings: Settings, *, say: Callable[[str], None]
) -> tuple[Run, list[GateResult]]:
    """Run the stages that make a candidate in a scratch run, and judge the gates of a release.

    Parameters
    ----------
    pipeline : Pipeline
        What is tried.
    as_of : str or Timestamp
        The date to pretend it is.
    settings : Settings
        Where things are.
    say : callable
        Told of each stage when it is done.

    Returns
    -------
    tuple of Run and list of GateResult
        The run, and the verdicts when all gates passed.

    Raises
    ------
    StageFailedError
        When a notebook failed; what it wrote is in the run.
    GateFailedError
        When a gate failed.
    """
    run = create_run(pipeline.name, as_of, kind="scratch", started_by="sundial try", settings=settings)
    with kernel_server(settings) as serving:
        for stage in pipeline.release_stages:
            record = run_stage(run, stage, settings=serving)
            peak = record["kernel"]["peak_mib"]
            say(f"{stage:<28} {record['seconds']:6.1f} s  {peak:6,.0f} MiB")
    try:
        return run, pass_gates(run, pipeline, "release")
    except GateFailedError as error:
        error.hint = f"see {run.folder / 'index.html'}"
        raise
    finally:
        finish_rendering()
        render_run(run, settings)
