"""monitoring: when the labels of production's week are mature, stage 12 and its gates; then a person looks."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.states import Failed

from flows.stages import fetch, show, stage, start, tell
from sundial.errors import GateFailedError
from sundial.pipeline import load_pipeline
from sundial.release.approval import evidence_hash
from sundial.release.steps import pass_gates


@flow(name="monitoring", on_failure=[tell], on_crashed=[tell])
def monitoring(pipeline: str, run: str, as_of: str) -> Any:
    """Measure production on mature labels, and open the second human check, above all when a gate failed.

    Parameters
    ----------
    pipeline, run : str
        Names of the pipeline and of the run whose model is in production.
    as_of : str
        The day the labels are mature.
    """
    declared, opened = load_pipeline(pipeline), fetch(pipeline, run)
    stage(run, "12_monitor_production", as_of=as_of)
    failure = ""
    try:
        pass_gates(opened, declared, "monitoring")
    except GateFailedError as error:
        failure = str(error)
    evidence = evidence_hash(opened, kind="review")
    asked = {"pipeline": pipeline, "run": run, "evidence": evidence, "as_of": as_of}
    start("review", opened, asked, key=f"review {run} {evidence}")
    page = show(opened)
    return Failed(message=failure) if failure else page
