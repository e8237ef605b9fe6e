"""promotion: a person looks at the evidence and signs; only then does stage 11 move the alias.

The flow's first act is the suspend, so that nothing is held while people sleep. Resuming enters it again from the top.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from prefect import flow
from prefect.states import Completed

from flows.forms import ask_person
from flows.stages import fetch, show, stage, start, tell
from sundial.operations.handover import withdraw
from sundial.pipeline import load_pipeline
from sundial.release.steps import monitoring_date, wait_until


@flow(name="promotion", on_failure=[tell], on_crashed=[tell])
def promotion(pipeline: str, run: str, evidence: str, as_of: str) -> Any:
    """Ask a person, and do what they say.

    Parameters
    ----------
    pipeline, run : str
        Names of the pipeline and of the candidate's run.
    evidence : str
        Hash of what the person is asked about; if it is another by the time they answer, the answer is refused.
    as_of : str
        The date that it is in the run's time.
    """
    declared, opened = load_pipeline(pipeline), fetch(pipeline, run)
    decision = ask_person(opened, declared, "approval", evidence)
    if decision.decision == "reject":
        withdraw(opened, decision)
        show(opened)
        return Completed(name="Rejected", message=f"{decision.name}: {decision.reason}")
    signed = {"approver": decision.name, "reason": decision.reason, "evidence": evidence}
    stage(run, "11_promote_model", as_of=as_of, parameters=signed)
    if declared.watch_bounds is not None:
        start("watch", opened, {"pipeline": pipeline, "run": run}, key=f"watch {run}")
    date = monitoring_date(pd.Timestamp(as_of), declared)
    asked = {"pipeline": pipeline, "run": run, "as_of": f"{date:%Y-%m-%d}"}
    later = wait_until(declared.schedule.watch + declared.label.maturity)
    start("monitoring", opened, asked, key=f"monitoring {run}", at=later)
    return show(opened)
