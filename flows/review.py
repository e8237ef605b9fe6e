"""review: a person confirms production's performance, or does something about it; stage 13 writes what was learnt."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.flow_runs import suspend_flow_run

from flows.forms import review_form
from flows.stages import show, stage, start, tell
from sundial.operations.handover import take_decision
from sundial.pipeline import load_pipeline
from sundial.runs import open_run


@flow(name="review", on_failure=[tell], on_crashed=[tell])
def review(pipeline: str, run: str, evidence: str, as_of: str) -> Any:
    """Ask a person about production, write the examples for the next training set, and do what they say.

    Parameters
    ----------
    pipeline, run : str
        Names of the pipeline and of the run whose model is in production.
    evidence : str
        Hash of what the person is asked about.
    as_of : str
        The day the labels are mature.
    """
    declared, opened = load_pipeline(pipeline), open_run(run)
    expires = int(declared.schedule.approval_expires.total_seconds())
    answer = suspend_flow_run(key="review", timeout=expires, wait_for_input=review_form(opened, declared, evidence))

    decision = take_decision(opened, declared, "review", evidence, answer.decision, answer.name, answer.reason)
    said = {"decision": decision.decision, "reviewer": decision.name, "reason": decision.reason}
    stage(run, "13_review_production", as_of=as_of, parameters=said)
    if decision.decision == "roll back":
        asked = {"pipeline": pipeline, "name": decision.name, "reason": decision.reason}
        start("rollback", opened, asked, key=f"rollback {run} {evidence}")
    elif decision.decision == "retrain now":
        start("release", opened, {"pipeline": pipeline}, key=f"retrain {run} {evidence}")
    return show(opened)
