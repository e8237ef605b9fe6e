"""From one flow to the next: who is the candidate, who supersedes whom, what a person decided, and the way back."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from sundial.errors import RegistryError, ServiceError
from sundial.operations.prefect_api import PrefectApi
from sundial.pipeline import Pipeline
from sundial.release.approval import Decision, check_approval, decisions, record_decision
from sundial.release.registry import Registry
from sundial.runs import Run, now
from sundial.serving.shadow import wait_until_caught_up
from sundial.settings import Settings, load_settings

CATCH_UP = timedelta(minutes=30)


def is_candidate(run: Run, settings: Settings | None = None) -> bool:
    """Tell whether the version in shadow is the one that this run made."""
    shadow = Registry(settings or load_settings()).alias(run.pipeline, "shadow")
    return shadow is not None and shadow.run == run.name


def wait_for_shadow(run: Run, settings: Settings | None = None) -> None:
    """Wait until the scorer has answered every request logged so far.

    Raises
    ------
    ServiceError
        When the run has no version in shadow, or the scorer does not catch up.
    """
    settings = settings or load_settings()
    shadow = Registry(settings).alias(run.pipeline, "shadow")
    if shadow is None or shadow.run != run.name:
        raise ServiceError(f"{run.name} has no version in shadow")
    wait_until_caught_up(run.pipeline, shadow.version, timeout=CATCH_UP.total_seconds(), settings=settings)


def supersede(run: Run, settings: Settings | None = None) -> list[str]:
    """End the waits of older candidates: a newer one makes their comparisons and questions moot.

    Parameters
    ----------
    run : Run
        The newest candidate.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    list of str
        Names of the flow runs that were ended.
    """
    ended = []
    with PrefectApi(settings=settings) as api:
        for flow in ("comparison", "promotion"):
            for found in api.find(run.pipeline, flow=flow, states=["SCHEDULED", "PENDING", "PAUSED"]):
                if found.run != run.name:
                    api.set_state(found, "CANCELLED", name="Superseded", message=f"superseded by {run.name}")
                    ended.append(found.name)
    return ended


def take_decision(
    run: Run,
    pipeline: Pipeline,
    kind: Literal["approval", "review"],
    evidence: str,
    decision: str,
    name: str,
    reason: str,
) -> Decision:
    """Check that a person may decide this, on this evidence, and write down what they decided.

    A flow that is entered again after its decision was recorded gets the same decision back.

    Raises
    ------
    EvidenceChangedError
        When the evidence is no longer what was shown.
    ApprovalRefusedError
        When this person, or this moment, may not decide.
    """
    for earlier in decisions(run):
        if (earlier.kind, earlier.evidence, earlier.decision, earlier.name) == (kind, evidence, decision, name):
            return earlier
    check_approval(run, evidence, pipeline, name, kind=kind)
    taken = Decision(kind=kind, decision=decision, name=name, reason=reason, evidence=evidence, at=now())
    record_decision(run, taken)
    return taken


def withdraw(run: Run, decision: Decision, settings: Settings | None = None) -> None:
    """Take a rejected candidate out of shadow."""
    registry = Registry(settings or load_settings())
    shadow = registry.alias(run.pipeline, "shadow")
    if shadow is not None and shadow.run == run.name:
        registry.delete_alias(
            run.pipeline, "shadow", by=decision.name, reason=f"rejected: {decision.reason}", evidence=decision.evidence
        )


def roll_back(pipeline: str, name: str, reason: str, settings: Settings | None = None) -> str:
    """Put the version that was production before the present one back.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    name, reason : str
        Who says so, and why; both stand in the record.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    str
        One sentence that says what happened.

    Raises
    ------
    RegistryError
        When there is no production, or nothing before it.
    """
    registry = Registry(settings or load_settings())
    present = registry.alias(pipeline, "production")
    if present is None:
        raise RegistryError(f"{pipeline} has no version in production")
    previous = registry.previous_production(pipeline)
    if previous is None:
        raise RegistryError(
            f"version {present.version} is the first in production: there is nothing to roll back to",
            hint="stop the model server if it must not answer",
        )
    registry.set_alias(pipeline, "production", previous.version, by=name, reason=f"rollback: {reason}")
    return f"{pipeline}: version {previous.version} is production again, instead of version {present.version}"
