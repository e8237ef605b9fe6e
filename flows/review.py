"""review: a person confirms production's performance, or does something about it; stage 13 writes what was learnt."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms import ask_person
from flows.stages import fetch, show, stage, start, tell
from sundial.pipeline import load_pipeline


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
    declared, opened = load_pipeline(pipeline), fetch(pipeline, run)
    decision = ask_person(opened, declared, "review", evidence)
    said = {"decision": decision.decision, "reviewer": decision.name, "reason": decision.reason}
    stage(run, "13_review_production", as_of=as_of, parameters=said)
    if decision.decision == "roll back":
        asked = {"pipeline": pipeline, "name": decision.name, "reason": decision.reason}
        start("rollback", opened, asked, key=f"rollback {run} {evidence}")
    elif decision.decision == "retrain now":
        # as of now, not of Monday: only so the newest labels and the examples that were just written are learned from
        start("release", opened, {"pipeline": pipeline, "as_of": as_of}, key=f"retrain {run} {evidence}")
    return show(opened)
