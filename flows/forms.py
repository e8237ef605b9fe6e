"""The two forms that a person fills in. Every rule is in the schema, since a rule checked later fails the run."""

from __future__ import annotations

from typing import Any, Literal

from prefect.input import RunInput
from pydantic import Field, create_model

from sundial.pipeline import Pipeline
from sundial.release.approval import evidence_summary
from sundial.runs import Run


def _as_choice(schema: dict[str, Any]) -> None:
    """Make a choice of one a choice: what the schema calls a constant, Prefect's UI lets nobody fill in."""
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]


def _form(name: str, pipeline: Pipeline, decisions: tuple[str, ...], question: str) -> type[RunInput]:
    """Build a form: a decision without a default, a name (one of the approvers, where they are named), a reason."""
    question = f"{question} (The list opens at its arrow.)"  # Prefect's dialog closes one opened beside it
    who: Any = Literal[pipeline.approvers] if pipeline.approvers else str
    rules: dict[str, Any] = {"min_length": 2, "max_length": 80}
    if pipeline.approvers:
        rules = {"json_schema_extra": _as_choice}
    return create_model(
        name,
        __base__=RunInput,
        decision=(Literal[decisions], Field(description=question)),
        name=(who, Field(description="Your name, as it will stand in the record", **rules)),
        reason=(str, Field(min_length=2, max_length=2000, description="Why, for whoever reads this in a year")),
    )


def approval_form(run: Run, pipeline: Pipeline, evidence: str) -> Any:
    """Build the form that asks whether a candidate may become production, with its evidence above it."""
    form = _form("Approval", pipeline, ("approve", "reject"), f"Promote the candidate? Evidence {evidence[:12]}")
    return form.with_initial_data(description=evidence_summary(run, pipeline))


def review_form(run: Run, pipeline: Pipeline, evidence: str) -> Any:
    """Build the form that asks whether production performs as it should."""
    decisions = ("keep", "roll back", "retrain now")
    form = _form("Review", pipeline, decisions, f"Is production's performance right? Evidence {evidence[:12]}")
    return form.with_initial_data(description=evidence_summary(run, pipeline, kind="review"))
