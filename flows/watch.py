"""watch: the first hours after a promotion; beyond a bound the version before comes back, as loudly as a failure."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.states import Completed, Failed

from flows.stages import fetch, show, tell
from sundial.operations.watching import watch_production
from sundial.pipeline import load_pipeline


@flow(name="watch", on_failure=[tell], on_crashed=[tell])
def watch(pipeline: str, run: str) -> Any:
    """Watch what was promoted, and put the version before back when a bound of pipeline.yaml is broken.

    Parameters
    ----------
    pipeline, run : str
        Names of the pipeline and of the run whose model was promoted.
    """
    opened = fetch(pipeline, run)
    watched = watch_production(opened, load_pipeline(pipeline))
    show(opened)
    if watched.is_broken:
        return Failed(name=watched.state.capitalize(), message=watched.said)
    return Completed(name=watched.state.capitalize(), message=watched.said)
