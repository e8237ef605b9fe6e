"""A question that nobody answered in time: who waited for whom, and how it goes on."""

from __future__ import annotations

from sundial.release.approval import superseding
from sundial.release.decisions import decisions
from sundial.release.evidence import Kind
from sundial.release.questions import find_question
from sundial.runs import Run
from sundial.settings import Settings


def describe_expired(run: Run, kind: Kind, evidence: str, settings: Settings | None = None) -> str:
    """Say that a question expired without an answer.

    Parameters
    ----------
    run : Run
        What was asked about.
    kind : {'approval', 'review'}
        Which question.
    evidence : str
        Hash of what was shown.
    settings : Settings, optional
        Where other runs are; read from the environment by default.

    Returns
    -------
    str
        What was asked when, what holds now, and how it goes on. Empty while there is time, after an answer, after too
        many answers that did not count (which was reported then), and where a newer candidate made it moot.
    """
    question = find_question(run, kind, evidence)
    answered = any((item.kind, item.evidence) == (kind, evidence) for item in decisions(run))
    if not question.asked_at or question.seconds_left or question.is_closed or answered:
        return ""
    if kind == "approval" and superseding(run, settings) is not None:
        return ""
    about = f"the candidate of {run.as_of:%Y-%m-%d}" if kind == "approval" else "production's performance"
    holds = (
        "it was not promoted, production is what it was, and a newer release goes on by itself"
        if kind == "approval"
        else "production is what it was, and the next release learns nothing from this week"
    )
    before = "comparison" if kind == "approval" else "monitoring"
    return (
        f"nobody answered the question about {about} ({run.name}), asked at {question.asked_at}; it expired at "
        f"{question.expires_at}: {holds}. To ask again, run '{before} {run.name}' again in Prefect"
    )
