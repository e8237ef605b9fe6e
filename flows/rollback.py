"""rollback: the version before the present one is production again. It needs no notebook, so that it needs no time."""

from __future__ import annotations

from prefect import flow

from flows.stages import tell
from sundial.operations.rollback import roll_back


@flow(name="rollback", on_failure=[tell], on_crashed=[tell])
def rollback(pipeline: str, name: str, reason: str) -> str:
    """Put the previous production version back.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    name, reason : str
        Who says so, and why; both stand in the version's record.
    """
    return roll_back(pipeline, name, reason)
