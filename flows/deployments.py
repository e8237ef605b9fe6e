"""The worker: registers every flow of every pipeline, with the weekly schedule, and runs them."""

from __future__ import annotations

import logging
import sys

from prefect import serve
from prefect.schedules import Cron

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
from sundial.settings import load_settings


def main(names: list[str]) -> None:
    """Serve the flows of these pipelines until stopped.

    Parameters
    ----------
    names : list of str
        Names of pipelines; all that there are when empty.
    """
    logging.getLogger("sundial").setLevel(logging.INFO)
    deployments = []
    for name in names or list_pipelines():
        schedule = load_pipeline(name).schedule
        weekly = Cron(schedule.cron, timezone=schedule.timezone)
        tags = [f"pipeline:{name}"]
        deployments.append(
            release.to_deployment(name, schedule=weekly, parameters={"pipeline": name}, tags=[*tags, "flow:release"])
        )
        deployments += [
            flow.to_deployment(name, tags=[*tags, f"flow:{flow.name}"])
            for flow in (comparison, promotion, watch, monitoring, review, rollback, expiry)
        ]
    with kernel_server(load_settings()):
        # a clean stop must not switch the schedule off
        serve(*deployments, pause_on_shutdown=False, print_starting_message=False)


if __name__ == "__main__":
    main(sys.argv[1:])
