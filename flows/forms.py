"""The two forms that a person fills in. Every rule is in the schema, since a rule checked later fails the run."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field, create_model

from flows.stages import start
from sundial.errors import AnswerRefusedError, ApprovalError, ApprovalRefusedError
from sundial.operations.handover import end_expiry
from sundial.pipeline import Pipeline
from sundial.release.approval import (
    ANSWERS_TO,
    Answer,
    Decision,
    evidence_summary,
    take_decision,
    version_in_production,
)
from sundial.release.codes import needs_code
from sundial.release.evidence import Kind
from sundial.release.questions import Question, ask_question, find_question
from sundial.release.rules import read_rules
from sundial.runs import Run
from sundial.settings import Settings, load_settings

MARGIN = timedelta(seconds=15)  # an answer of the last second is being taken
QUESTIONS: dict[Kind, str] = {
    # Prefect's dialog closes a list that is opened beside its arrow
    "approval": "Promote the candidate? Evidence {evidence} (The list opens at its arrow.)",
    "review": "Is production's performance right? Evidence {evidence} (The list opens at its arrow.)",
}


def make_form(run: Run, pipeline: Pipeline, question: Question, settings: Settings) -> Any:
    """Build a form: a decision without a default, a name, a reason, and a code where an approver has a secret.

    Which names are good is in the schema only: the flow reads the answer again each time it is entered, and who was an
    approver then need not be one now. (A list of one is a choice too, where a literal would be a constant, which
    Prefect's UI lets nobody fill in.)
    """
    names: dict[str, Any] = {"json_schema_extra": {"enum": list(pipeline.approvers)}} if pipeline.approvers else {}
    fields: dict[str, Any] = {
        "decision": (
            Literal[ANSWERS_TO[question.kind]],
            Field(description=QUESTIONS[question.kind].format(evidence=question.evidence[:12])),
        ),
        "name": (str, Field(description="Your name, as it will stand in the record", max_length=80, **names)),
        "reason": (str, Field(min_length=2, max_length=2000, description="Why, for whoever reads this in a year")),
    }
    asked = [name for name in pipeline.approvers or settings.approver_secrets if needs_code(name, settings)]
    if asked:
        whose = f"Of {', '.join(asked)}: the six digits that your authenticator shows now"
        fields["code"] = (str, Field(default="", max_length=12, description=whose))
    shown = evidence_summary(run, pipeline, kind=question.kind, settings=settings)
    if question.refused:
        why = question.refused[-1].replace("\n", ". ")
        shown = f"**Asked again**, since the last answer does not count: {why}\n\n{shown}"
    form: type[RunInput] = create_model(question.kind.capitalize(), __base__=RunInput, **fields)
    return form.with_initial_data(description=shown)


def ask_person(run: Run, pipeline: Pipeline, kind: Kind, evidence: str) -> Decision:
    """Suspend the flow until a person has answered; an answer that does not count is asked for again.

    Resuming enters the flow from the top: each answer is read again, and refused or taken as it was the first time.
    When the time of the question is over without an answer, the flow ``expiry`` says so.

    Parameters
    ----------
    run : Run
        What is asked about.
    pipeline : Pipeline
        For its approvers, and for how long the question stands.
    kind : {'approval', 'review'}
        Which question.
    evidence : str
        Hash of what is shown.

    Returns
    -------
    Decision
        As recorded.

    Raises
    ------
    ApprovalError
        When no answer counts any more.
    """
    settings = load_settings()
    present = version_in_production(pipeline.name, settings)
    rules = read_rules(pipeline, settings)
    question = ask_question(run, kind, evidence, pipeline.schedule.approval_expires, production=present, rules=rules)
    asked = {"pipeline": pipeline.name, "run": run.name, "kind": kind, "evidence": evidence}
    expires = datetime.fromisoformat(question.expires_at) + MARGIN
    start("expiry", run, asked, key=f"expiry {kind} {run.name} {evidence}", at=expires)
    try:
        decision = _wait_for_answer(run, pipeline, question, settings)
    except ApprovalError:  # it ends here, and is told
        end_expiry(run, evidence, settings)
        raise
    end_expiry(run, evidence, settings)
    return decision


def _wait_for_answer(run: Run, pipeline: Pipeline, question: Question, settings: Settings) -> Decision:
    kind, evidence = question.kind, question.evidence
    attempt = 0
    while True:
        form = make_form(run, pipeline, question.before(attempt), settings)
        given = suspend_flow_run(
            key=f"{kind}-{attempt}" if attempt else kind, timeout=max(question.seconds_left, 1), wait_for_input=form
        )
        answer = Answer(given.decision, given.name, given.reason, getattr(given, "code", ""))
        try:
            return take_decision(run, pipeline, kind, evidence, answer, attempt=attempt, settings=settings)
        except AnswerRefusedError as error:
            attempt += 1
            question = find_question(run, kind, evidence)
            if question.is_closed:
                raise ApprovalRefusedError(
                    f"{attempt} answers did not count, and the question about {run.name} is closed; the last one: "
                    f"{error.message}",
                    hint="find out who is guessing, and run the comparison or monitoring again to ask anew",
                ) from error
