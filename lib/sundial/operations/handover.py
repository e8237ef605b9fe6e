"""From one flow to the next: who is the candidate, who supersedes whom, and the way back."""

from __future__ import annotations

from datetime import timedelta

from sundial.errors import ServiceError
from sundial.operations.prefect_api import PrefectApi
from sundial.pipeline import Pipeline
from sundial.release.approval import Decision
from sundial.release.registry import Registry
from sundial.runs import Run
from sundial.serving.replaying import replay_shadow
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


def soak_on_log(run: Run, pipeline: Pipeline, settings: Settings | None = None) -> str:
    """Let the candidate score the traffic that is logged already, as far back as the schedule says.

    Parameters
    ----------
    run : Run
        That made the candidate, which is in shadow.
    pipeline : Pipeline
        Its schedule says how far back.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    str
        First day of the events that were scored, for the comparison.
    """
    first = run.as_of - pipeline.schedule.soak_on_log
    replay_shadow(run.pipeline, first.date(), settings or load_settings())
    return f"{first:%Y-%m-%d}"


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
        for flow in ("comparison", "promotion", "expiry"):
            for found in api.find(run.pipeline, flow=flow, states=["SCHEDULED", "PENDING", "PAUSED"]):
                if found.run != run.name and found.parameters.get("kind") != "review":
                    api.set_state(found, "CANCELLED", name="Superseded", message=f"superseded by {run.name}")
                    ended.append(found.name)
    return ended


def withdraw(run: Run, decision: Decision, settings: Settings | None = None) -> None:
    """Take a rejected candidate out of shadow."""
    registry = Registry(settings or load_settings())
    shadow = registry.alias(run.pipeline, "shadow")
    if shadow is not None and shadow.run == run.name:
        registry.delete_alias(
            run.pipeline, "shadow", by=decision.name, reason=f"rejected: {decision.reason}", evidence=decision.evidence
        )


def end_expiry(run: Run, evidence: str, settings: Settings | None = None) -> None:
    """Take back the alarm that was set for the end of a question, since it has been answered."""
    with PrefectApi(settings=settings) as api:
        for found in api.find(run.pipeline, flow="expiry", run=run.name, states=["SCHEDULED", "PENDING"]):
            if found.parameters.get("evidence") == evidence:
                api.set_state(found, "CANCELLED", name="Answered", message="the question was answered in time")
