"""Questions to a person: what was shown, until when an answer counts, and which answers did not.

A question is written into the run's ``questions.json`` when it is asked. So a late answer is late whatever clock the
orchestrator goes by, a refusal names the very file that changed, and a flow that is entered again from the top meets
the refusals that it has already given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta

from sundial.formats import read_json, write_json_atomically
from sundial.release.evidence import Kind, evidence_parts
from sundial.release.locks import hold_lock
from sundial.runs import Run

# Answers that do not count until the question is closed: a six-digit code is guessed once in 50,000 questions, four
# codes being good at a time.
MOST_REFUSALS = 5


@dataclass(frozen=True)
class Question:
    """One question about one piece of evidence.

    Attributes
    ----------
    kind : {'approval', 'review'}
        Which.
    evidence : str
        Hash of what is shown.
    asked_at, expires_at : str
        In UTC, as ISO 8601; empty when the question was never asked.
    parts : dict of str to str
        Hash of each part of the evidence when it was asked.
    refused : tuple of str
        Why answers did not count, in their order.
    production : str
        The version in production that the candidate was shown beside, or ``none``; empty when it was not recorded.
    rules : dict of str to str
        What was shown of pipeline.yaml and the settings; see `sundial.release.rules`.
    """

    kind: Kind
    evidence: str
    asked_at: str = ""
    expires_at: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    production: str = ""
    rules: dict[str, str] = field(default_factory=dict)

    @property
    def seconds_left(self) -> int:
        """Seconds until it expires, not below 0."""
        return max(int((datetime.fromisoformat(self.expires_at) - datetime.now(UTC)).total_seconds()), 0)

    def before(self, attempt: int) -> Question:
        """Give the question as it stood before an attempt, with the refusals of then."""
        return replace(self, refused=self.refused[:attempt])

    @property
    def is_closed(self) -> bool:
        """Whether too many answers were refused."""
        return len(self.refused) >= MOST_REFUSALS


def read_questions(run: Run) -> list[Question]:
    """Read what was asked about a run, oldest first."""
    path = run.folder / "questions.json"
    items = read_json(path) if path.exists() else []
    return [Question(**{**item, "refused": tuple(item["refused"])}) for item in items]


def find_question(run: Run, kind: Kind, evidence: str) -> Question:
    """Find a question by what was shown; one without a time when it was never asked."""
    found = [item for item in read_questions(run) if (item.kind, item.evidence) == (kind, evidence)]
    return found[0] if found else Question(kind, evidence)


def ask_question(
    run: Run,
    kind: Kind,
    evidence: str,
    lasts: timedelta,
    *,
    production: str = "",
    rules: Mapping[str, str] | None = None,
) -> Question:
    """Write down that a question is asked; asked again about the same evidence, it stays as it was.

    Parameters
    ----------
    run : Run
        What is asked about.
    kind : {'approval', 'review'}
        Which question.
    evidence : str
        Hash of what is shown.
    lasts : timedelta
        How long an answer counts.
    production : str
        The version in production now, or ``none``.
    rules : mapping, optional
        What is shown of pipeline.yaml and the settings.

    Returns
    -------
    Question
    """
    with hold_lock(run.folder / ".questions.lock"):
        found = find_question(run, kind, evidence)
        if found.asked_at:
            return found
        moment = datetime.now(UTC)
        asked = Question(
            kind,
            evidence,
            moment.isoformat(timespec="seconds"),
            (moment + lasts).isoformat(timespec="seconds"),
            evidence_parts(run, kind=kind),
            production=production,
            rules=dict(rules or {}),
        )
        _write(run, [*read_questions(run), asked])
    return asked


def refuse_answer(run: Run, kind: Kind, evidence: str, attempt: int, reason: str) -> Question:
    """Write down that an answer does not count, and why; the same attempt is refused once.

    Parameters
    ----------
    run : Run
        What was asked about.
    kind, evidence
        Which question.
    attempt : int
        Number of the answer, from 0.
    reason : str
        For whoever answers next.

    Returns
    -------
    Question
        As it is now.
    """
    with hold_lock(run.folder / ".questions.lock"):
        question = find_question(run, kind, evidence)
        if attempt < len(question.refused):
            return question
        question = replace(question, refused=(*question.refused, reason))
        others = [item for item in read_questions(run) if (item.kind, item.evidence) != (kind, evidence)]
        _write(run, [*others, question])
    return question


def _write(run: Run, questions: list[Question]) -> None:
    write_json_atomically(run.folder / "questions.json", [asdict(item) for item in questions], durable=True)
