"""comparison: when the soak is over, the shadow beside production on the same requests. Stage 10 and its gates."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.states import Completed, Failed

from flows.stages import fetch, show, stage, start, tell
from sundial.errors import GateFailedError
from sundial.execution.approval_page import render_approval
from sundial.operations.handover import is_candidate, wait_for_shadow
from sundial.pipeline import load_pipeline
from sundial.release.approval import evidence_hash
from sundial.release.steps import pass_gates


@flow(name="comparison", on_failure=[tell], on_crashed=[tell])
def comparison(pipeline: str, run: str, as_of: str, since: str = "") -> Any:
    """Compare the candidate of a run with production, and ask for its approval when the gates let it pass.

    Parameters
    ----------
    pipeline, run : str
        Names of the pipeline and of the candidate's run.
    as_of : str
        The day the soak is over; labels known later are not used.
    since : str
        First event time to compare; when the candidate went into the shadow by default.
    """
    declared, opened = load_pipeline(pipeline), fetch(pipeline, run)
    if not is_candidate(opened):
        return Completed(name="Superseded", message=f"{run} is no longer the candidate in shadow")
    wait_for_shadow(opened)
    stage(run, "10_compare_shadow", as_of=as_of, parameters={"since": since} if since else None)
    try:
        pass_gates(opened, declared, "comparison")
    except GateFailedError as error:
        return Failed(message=str(error))
    finally:
        show(opened)
    render_approval(opened, declared)
    evidence = evidence_hash(opened)
    asked = {"pipeline": pipeline, "run": run, "evidence": evidence, "as_of": as_of}
    start("promotion", opened, asked, key=f"promotion {run} {evidence}")
    return show(opened)
