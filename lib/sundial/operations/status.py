"""Where the pipeline stands: what answers, what waits for whom, what failed."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pandas as pd

from sundial.errors import ServiceError
from sundial.execution.delivery import describe_weeks
from sundial.monitoring.watch import read_watch
from sundial.monitoring.weeks import list_weeks
from sundial.operations.alarms import read_standing
from sundial.operations.notices import read_notices
from sundial.operations.prefect_api import PrefectApi
from sundial.pipeline import Pipeline
from sundial.release.registry import Registry
from sundial.runs import list_runs
from sundial.settings import Settings

WEEKS_SHOWN = 8  # what a terminal is wide enough for
STARTED = timedelta(days=1)  # how long after its Monday began a week's release surely has


def wait_for_version(
    settings: Settings, version: str, *, pipeline: Pipeline | None = None, timeout: float = 60
) -> None:
    """Wait until the model server, of this pipeline where one is named, answers with a version.

    Raises
    ------
    ServiceError
        When it still answers with another.
    """
    address = pipeline.serve_url(settings) if pipeline else settings.serve_url
    deadline = time.monotonic() + timeout
    found: Any = None
    while time.monotonic() < deadline:
        health = read_health(settings, address)
        found = health.get("version")
        everybody = {worker["version"] for worker in health.get("workers", {}).values()}
        if {str(found), *everybody} == {version}:
            return
        time.sleep(0.2)
    raise ServiceError(
        f"the model server answers with version {found}, not {version}, after {timeout:.0f} s",
        hint=f"see {address}/health and {settings.logs}",
    )


def read_health(settings: Settings, address: str = "") -> dict[str, Any]:
    """Ask the model server at an address how it is; an empty dict when it does not answer."""
    try:
        url, headers = f"{address or settings.serve_url}/health", settings.token_headers
        return dict(httpx.get(url, headers=headers, timeout=5, trust_env=False).json())
    except (httpx.HTTPError, ValueError):
        return {}


def read_status(settings: Settings, pipeline: Pipeline) -> dict[str, Any]:
    """Collect where a pipeline stands.

    Parameters
    ----------
    settings : Settings
        Where things are.
    pipeline : Pipeline
        Which.

    Returns
    -------
    dict
        ``aliases``, ``server`` (its health, empty when down), ``prefect`` (bool), ``questions``, ``scheduled`` and
        ``failed`` flow runs, ``alarms`` that stand, ``weeks`` (when labels are mature, and reviews that are open or
        overdue), ``runs``, ``notices`` and ``board`` (the last weeks, stage by stage, and how they were delivered); all
        JSON.
    """
    registry = Registry(settings)
    aliases = {}
    for alias in ("production", "shadow"):
        found = registry.alias(pipeline.name, alias)
        aliases[alias] = None if found is None else {"version": found.version, "run": found.run, "as_of": found.as_of}
    promoted = list_runs(pipeline.name, kind="release", settings=settings)[-8:]
    runs = [
        {
            "run": run.name,
            "as_of": f"{run.as_of:%Y-%m-%d}",
            "kind": run.kind,
            "stages": {name: item.get("status") for name, item in run.stages().items()},
        }
        for run in list_runs(pipeline.name, settings=settings)
        if run.kind != "scratch"
    ]
    # of data that ends, a calendar says which week today stands for; there the last release is the last week
    until = pd.Timestamp(pipeline.as_of(datetime.now(UTC) - STARTED)) if pipeline.calendar is None else None
    result: dict[str, Any] = {
        "pipeline": pipeline.name,
        "board": describe_weeks(pipeline, settings, weeks=WEEKS_SHOWN, until=until),
        "aliases": aliases,
        "server": read_health(settings, pipeline.serve_url(settings)),
        "address": pipeline.serve_url(settings),
        "prefect": False,
        "questions": [],
        "scheduled": [],
        "failed": [],
        "weeks": [week.as_dict() for week in list_weeks(pipeline, settings)[-4:]],
        "runs": runs[-8:],
        "alarms": [asdict(alarm) for alarm in read_standing(settings).alarms.values()],
        "notices": read_notices(settings, last=5),
        "watch": next((seen for run in reversed(promoted) if (seen := read_watch(run))), {}),
    }
    with PrefectApi(settings=settings) as api:
        result["prefect"] = api.is_healthy()
        if result["prefect"]:
            for flow_run in api.find(pipeline.name):
                entry = {
                    "name": flow_run.name,
                    "flow": flow_run.flow,
                    "run": flow_run.run,
                    "at": str(flow_run.starts or ""),
                    "state": flow_run.state_name,
                    "message": flow_run.message,
                    "link": api.link(flow_run),
                }
                if flow_run.waits_for_person:
                    result["questions"].append(entry)
                elif flow_run.state == "SCHEDULED":
                    result["scheduled"].append(entry)
                elif flow_run.state in ("FAILED", "CRASHED"):
                    result["failed"].append(entry)
    result["scheduled"].sort(key=lambda entry: entry["at"])
    return result
