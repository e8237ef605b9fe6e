"""A task runs a notebook; the rest is what every flow needs: links, failures that reach a person, the next flow."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import Flow, FlowRun, State, TaskRun
from prefect.tasks import Task

from sundial.errors import KernelDiedError, RegistryError
from sundial.execution.runner import finish_pages, run_stage
from sundial.experiments.tracking import track_run
from sundial.operations.alarms import raise_alarms
from sundial.operations.faults import find_flow_faults
from sundial.operations.prefect_api import PrefectApi
from sundial.pipeline import find_serve_url
from sundial.release.publishing import bring_in, publish_run
from sundial.runs import Run, open_run
from sundial.settings import load_settings

log = logging.getLogger("sundial.flows")


async def kernel_died(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Retry only where it can help: a kernel that was killed may live next time; an error in a cell comes again."""
    return isinstance(await state.aresult(raise_on_failure=False), KernelDiedError)


@task(task_run_name="{stage}", cache_policy=NO_CACHE, retries=1, retry_delay_seconds=5, retry_condition_fn=kernel_died)
def stage(
    run: str, stage: str, as_of: str = "", parameters: dict[str, Any] | None = None, refresh: bool = False
) -> str:
    """Run one stage notebook, and link its page from Prefect's.

    Parameters
    ----------
    run, stage : str
        Names of the run and of the stage.
    as_of : str
        The date that the stage pretends it is; that of the run by default.
    parameters : dict, optional
        Values for the notebook beside those of pipeline.yaml.
    refresh : bool
        Run it even when an earlier run holds the same.

    Returns
    -------
    str
        Address of the rendered notebook.
    """
    try:
        run_stage(open_run(run), stage, as_of=as_of or None, parameters=parameters, reuse=not refresh)
    finally:
        page = show(open_run(run), stage)
    return page


def fetch(pipeline: str, run: str) -> Run:
    """Open a run, as whatever machine worked on it last has left it."""
    bring_in(pipeline, load_settings())
    return open_run(run)


def show(run: Run, stage: str = "") -> str:
    """Leave a link to a page of the run beside the flow run, publish the run, and give the page's address."""
    if not stage:  # whoever follows a link to the whole run finds all of it
        finish_pages(run, load_settings())
    address = find_serve_url(run.pipeline, load_settings())
    page = f"{address}/reports/{run.name}/{f'{stage}/report' if stage else 'index'}.html"
    key = f"{run.pipeline}-{stage or 'run'}".lower().replace("_", "-")  # Prefect takes lowercase, digits and dashes
    create_markdown_artifact(f"[{stage or run.name}]({page})", key=key, description=run.name)
    publish_run(run, load_settings())
    return page


def track(run: Run) -> None:
    """Copy a run into MLflow, for those who look there; a copy that cannot be made fails nothing."""
    try:
        track_run(run, load_settings())
    except RegistryError as error:
        log.warning("%s", error)


def start(flow: str, run: Run, parameters: dict[str, Any], *, key: str, at: datetime | None = None) -> None:
    """Hand on to another flow, now or later; a second hand-over with the same key is the first."""
    with PrefectApi() as api:
        started = api.start(flow, run.pipeline, parameters, run=run.name, name=f"{flow} {run.name}", at=at, key=key)
        log.info("%s starts %s: %s", flow, f"at {at:%Y-%m-%d %H:%M} UTC" if at else "now", api.link(started))


def tell(flow: Flow, flow_run: FlowRun, state: State[Any]) -> None:
    """Let a failure reach a person: the log, sundial status, and the ways of telling that the settings name."""
    settings = load_settings()
    given = flow_run.parameters or {}
    raise_alarms(find_flow_faults(str(flow_run.id), flow_run.name, given, state.message or "", settings), settings)
