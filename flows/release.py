"""release: every week, from raw data to a candidate in shadow. Stages 01 to 08, their gates, then 09."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.stages import show, stage, start, tell, track
from sundial.errors import GateFailedError, ParityError
from sundial.execution.approval_page import render_approval
from sundial.experiments.shipping import carry, certify
from sundial.operations.handover import soak_on_log, supersede
from sundial.pipeline import Pipeline, load_pipeline
from sundial.release.approval import evidence_hash
from sundial.release.publishing import bring_in, publish_run
from sundial.release.registry import Registry
from sundial.release.steps import (
    begin_release,
    comparison_date,
    find_release,
    is_outdated,
    pass_gates,
    remaining_stages,
    wait_until,
)
from sundial.release.turns import take_turn
from sundial.runs import Run
from sundial.settings import load_settings


@flow(name="release", on_failure=[tell], on_crashed=[tell])
def release(pipeline: str, as_of: str = "", refresh: bool = False, experiment: str = "") -> Any:
    """Make this week's candidate.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    as_of : str
        Release date; empty for the one that this week's schedule stands for.
    refresh : bool
        Run every stage, also what an earlier run holds unchanged.
    experiment : str
        Run of an experiment to ship: what it changed is carried, and what it found must come out again.
    """
    declared, settings, key = load_pipeline(pipeline), load_settings(), str(flow_run.id or "")
    bring_in(pipeline, settings)
    with take_turn(pipeline, flow_run.name or "by hand", settings) as turn:
        due = flow_run.scheduled_start_time
        missed = "auto-scheduled" in flow_run.tags and find_release(pipeline, key) is None
        if missed and is_outdated(declared, due):
            return Completed(name="Superseded", message=f"a later release stands for that of {due:%Y-%m-%d %H:%M} UTC")
        run = begin_release(declared, as_of, started_by=f"flow run {flow_run.name}", key=key, scheduled=due)
        turn.note(run)
        publish_run(run, settings)
        return make_candidate(run, declared, refresh, experiment)


def make_candidate(run: Run, declared: Pipeline, refresh: bool, experiment: str) -> Any:
    """Run what has not succeeded yet, pass the gates, go to the shadow, and hand on."""
    pipeline = run.pipeline
    if experiment:
        carry(run, experiment, load_settings())
    for name in remaining_stages(run, declared.release_stages):
        stage(run.name, name, refresh=refresh or bool(experiment))
    try:
        if experiment:
            certify(run, declared, load_settings())
        pass_gates(run, declared, "release")
    except (GateFailedError, ParityError) as error:
        return Failed(message=str(error))
    finally:
        show(run)

    first = Registry(load_settings()).alias(pipeline, "production") is None
    for name in remaining_stages(run, ("09_deploy_shadow",)):
        stage(run.name, name)
    supersede(run)
    if first:  # nothing to compare with: the gates above and a person decide
        render_approval(run, declared)
        evidence = evidence_hash(run)
        asked = {"pipeline": pipeline, "run": run.name, "evidence": evidence, "as_of": f"{run.as_of:%Y-%m-%d}"}
        start("promotion", run, asked, key=f"promotion {run.name} {evidence}")
    elif declared.schedule.soak_on_log:
        since = soak_on_log(run, declared)
        asked = {"pipeline": pipeline, "run": run.name, "as_of": f"{run.as_of:%Y-%m-%d}", "since": since}
        start("comparison", run, asked, key=f"comparison {run.name}")
    else:
        date = f"{comparison_date(run, declared):%Y-%m-%d}"
        asked = {"pipeline": pipeline, "run": run.name, "as_of": date}
        start("comparison", run, asked, key=f"comparison {run.name}", at=wait_until(declared.schedule.soak))
    track(run)
    return show(run)
