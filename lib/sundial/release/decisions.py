"""What people decided about a run: kept in its ``decisions.json``, where nothing is ever removed."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sundial.errors import ApprovalError, ApprovalRefusedError
from sundial.formats import read_json, write_json_atomically
from sundial.release.evidence import Kind
from sundial.release.locks import hold_lock
from sundial.runs import Run

ANSWERS_TO: dict[Kind, tuple[str, ...]] = {
    "approval": ("approve", "reject"),
    "review": ("keep", "roll back", "retrain now"),
}


@dataclass(frozen=True)
class Answer:
    """What a person filled in.

    Attributes
    ----------
    decision, name, reason : str
        The answer, who gives it, and why.
    code : str
        The one-time code of an approver who has a secret.
    """

    decision: str
    name: str
    reason: str
    code: str = ""


@dataclass(frozen=True)
class Decision:
    """What a person answered.

    Attributes
    ----------
    kind : str
        ``approval`` of a candidate, or ``review`` of production.
    decision : str
        The answer, such as ``approve`` or ``reject``.
    name, reason : str
        Who, and why.
    evidence : str
        Hash of what they were shown.
    at : str
        When, in UTC, as ISO 8601.
    run : str
        The one run that it holds for; empty in records of before there was this field.
    proof : str
        What shows that it was them: ``one-time code``, or ``name only``, which shows nothing.
    """

    kind: Kind
    decision: str
    name: str
    reason: str
    evidence: str
    at: str
    run: str = ""
    proof: str = "name only"

    def __post_init__(self) -> None:
        if self.kind == "approval" and self.decision not in ("approve", "reject"):
            raise ApprovalError(f"{self.decision!r} is no answer to an approval", hint="answer 'approve' or 'reject'")


def decisions(run: Run) -> list[Decision]:
    """Read what was decided about a run, oldest first."""
    path = run.folder / "decisions.json"
    return [Decision(**item) for item in read_json(path)] if path.exists() else []


def record_decision(run: Run, decision: Decision) -> Decision:
    """Write a decision down in the run's decisions.json, where nothing is ever removed.

    Parameters
    ----------
    run : Run
        What was decided about.
    decision : Decision
        What was decided.

    Returns
    -------
    Decision
        As recorded: the same answer of the same person to the same evidence is recorded once.

    Raises
    ------
    ApprovalRefusedError
        When another decision was taken on this evidence.
    """
    with hold_lock(run.folder / ".decisions.lock"):
        known = decisions(run)
        for earlier in known:
            if (earlier.kind, earlier.evidence) == (decision.kind, decision.evidence):
                if (earlier.decision, earlier.name) == (decision.decision, decision.name):
                    return earlier
                raise decided(run, earlier)
        everything = [asdict(item) for item in [*known, decision]]
        write_json_atomically(run.folder / "decisions.json", everything, durable=True)
    return decision


def decided(run: Run, earlier: Decision) -> ApprovalRefusedError:
    """Say that a decision stands."""
    return ApprovalRefusedError(
        f"{run.name} was decided already: {earlier.decision!r} by {earlier.name} at {earlier.at}",
        hint="a decision stands; make a new release, or 'sundial rollback'",
    )
