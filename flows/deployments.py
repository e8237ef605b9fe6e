"""The worker: registers every flow of every pipeline, with the weekly schedule, and runs them; or joins another."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from contextlib import suppress
from typing import Any

from prefect import get_client, serve
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from flows.comparison import comparison
from flows.expiry import expiry
from flows.monitoring import monitoring
from flows.promotion import promotion
from flows.release import release
from flows.review import review
from flows.rollback import rollback
from flows.watch import watch
from sundial.execution.kernels import kernel_server
from sundial.pipeline import list_pipelines, load_pipeline
from sundial.settings import RELEASES, SERVING, Settings, load_settings

JOIN = "--join"


def main(arguments: list[str]) -> None:
    """Register the flows of these pipelines, and run them until stopped.

    Parameters
    ----------
    arguments : list of str
        Names of pipelines, all that there are when empty; or ``--join``, to register nothing and only take work from
        the pool, beside a machine that has registered them.
    """
    logging.getLogger("sundial").setLevel(logging.INFO)
    settings = load_settings()
    with kernel_server(settings):
        if settings.work_pool:
            if JOIN not in arguments:
                make_pool(settings.work_pool)
                for deployment in describe(arguments, settings):
                    deployment.apply()
            take_work(settings)
        else:
            # a clean stop must not switch the schedule off
            serve(*describe(arguments, settings), pause_on_shutdown=False, print_starting_message=False)


def describe(names: list[str], settings: Settings) -> list[RunnerDeployment]:
    """Describe every flow of every pipeline, with its schedule, and with a pool the queue that it waits in."""
    deployments = []

    def where(queue: str) -> dict[str, Any]:
        if not settings.work_pool:
            return {}
        # by module: each machine has the project at a place of its own
        by_module = {"entrypoint_type": EntrypointType.MODULE_PATH}
        return {"work_pool_name": settings.work_pool, "work_queue_name": queue, **by_module}

    for name in names or list_pipelines():
        schedule = load_pipeline(name).schedule
        weekly = Cron(schedule.cron, timezone=schedule.timezone)
        tags = [f"pipeline:{name}"]
        given: dict[str, Any] = {"schedule": weekly, "parameters": {"pipeline": name}, **where(RELEASES)}
        deployments.append(release.to_deployment(name, tags=[*tags, "flow:release"], **given))
        deployments += [
            flow.to_deployment(name, tags=[*tags, f"flow:{flow.name}"], **where(SERVING))
            for flow in (comparison, promotion, watch, monitoring, review, rollback, expiry)
        ]
    return deployments


def make_pool(name: str) -> None:
    """Make the work pool, unless it is there."""
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))


def take_work(settings: Settings) -> None:
    """Take flow runs from the pool until stopped, each in a process of its own."""
    name = f"{socket.gethostname()}-{os.getpid()}"
    taker = ProcessWorker(work_pool_name=settings.work_pool, work_queues=list(settings.work_queues), name=name)
    asyncio.run(taker.start(printer=logging.getLogger("sundial.flows").info))


if __name__ == "__main__":
    main(sys.argv[1:])
