"""expiry: when the time of a question is over; one that nobody answered is reported as loudly as a failure.

Prefect itself fails the flow run that waited, but runs none of its hooks then: nobody would hear of it.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.states import Completed, Failed

from flows.stages import fetch, tell
from sundial.release.evidence import Kind
from sundial.release.expiry import describe_expired


@flow(name="expiry", on_failure=[tell], on_crashed=[tell])
def expiry(pipeline: str, run: str, kind: Kind, evidence: str) -> Any:
    """Tell people that a question has expired, unless it was answered or became moot.

    Parameters
    ----------
    pipeline, run : str
        Names of the pipeline and of the run that was asked about.
    kind : {'approval', 'review'}
        Which question.
    evidence : str
        Hash of what was shown.
    """
    said = describe_expired(fetch(pipeline, run), kind, evidence)
    return Failed(name="Expired", message=said) if said else Completed(message="nothing waits for an answer any more")
