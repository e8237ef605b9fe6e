"""A person's signed decision, bound to the hash of the evidence they saw."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sundial.errors import ApprovalError, ApprovalRefusedError, EvidenceChangedError
from sundial.formats import read_json, write_json_atomically
from sundial.pipeline import Pipeline
from sundial.release.evidence import SHORT, Kind, evidence_hash, evidence_parts, evidence_summary
from sundial.release.locks import hold_lock
from sundial.runs import Run, list_runs
from sundial.settings import Settings

__all__ = [
    "Decision",
    "check_approval",
    "decisions",
    "evidence_hash",
    "evidence_parts",
    "evidence_summary",
    "record_decision",
    "superseding",
]


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
    """

    kind: Kind
    decision: str
    name: str
    reason: str
    evidence: str
    at: str

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
                raise _decided(run, earlier)
        write_json_atomically(run.folder / "decisions.json", [asdict(item) for item in [*known, decision]])
    return decision


def check_approval(
    run: Run, evidence: str, pipeline: Pipeline, name: str, *, kind: Kind = "approval", settings: Settings | None = None
) -> None:
    """Check that this person may decide this now, on what they were shown.

    Parameters
    ----------
    run : Run
        What is decided about.
    evidence : str
        Hash of what was shown.
    pipeline : Pipeline
        For its approvers.
    name : str
        Who decides.
    kind : {'approval', 'review'}
        Which question.
    settings : Settings, optional
        Where other runs are; read from the environment by default.

    Raises
    ------
    EvidenceChangedError
        When the files are not what was shown.
    ApprovalRefusedError
        When the person is not one of the approvers, a newer candidate is there, or it was decided before.
    """
    who = name.strip()
    if not who:
        raise ApprovalRefusedError("a decision needs a name", hint="write the name of the person who decides")
    if pipeline.approvers and who not in pipeline.approvers:
        raise ApprovalRefusedError(
            f"{who!r} may not decide about {pipeline.name}: {', '.join(pipeline.approvers)} may",
            hint=f"ask one of them, or add the name to approvers in {pipeline.folder / 'pipeline.yaml'}",
        )
    for earlier in decisions(run):
        if earlier.kind == kind and earlier.evidence == evidence:
            raise _decided(run, earlier)
    if kind == "approval":
        if run.succeeded("11_promote_model"):
            raise ApprovalRefusedError(f"{run.name} was promoted already", hint="'sundial rollback' undoes a promotion")
        newer = superseding(run, settings)
        if newer is not None:
            raise ApprovalRefusedError(
                f"the candidate of {run.as_of:%Y-%m-%d} is superseded by that of {newer.as_of:%Y-%m-%d} ({newer.name})",
                hint="decide about the newer one",
            )
    current = evidence_hash(run, kind=kind)
    if current != evidence:
        raise EvidenceChangedError(
            f"the evidence of {run.name} was {evidence[:SHORT]} when it was shown and is {current[:SHORT]} now: "
            "a notebook, a model, a gate or a comparison was changed in between",
            hint="find out what was changed, and run the comparison again to ask anew"
            if kind == "approval"
            else "find out what was changed, and run the monitoring again to ask anew",
        )


def superseding(run: Run, settings: Settings | None = None) -> Run | None:
    """Find the newest release that made a candidate after this one.

    Parameters
    ----------
    run : Run
        A release.
    settings : Settings, optional
        Where the runs are; read from the environment by default.

    Returns
    -------
    Run or None
        None when this one's candidate was made last, and so is the one in shadow. The release date says nothing: a
        calendar begins anew after its last week, and a week may be released again.
    """
    releases = list_runs(run.pipeline, kind="release", settings=settings)  # those made last last
    candidates = [item for item in releases if item.name == run.name or item.succeeded("09_deploy_shadow")]
    return None if not candidates or candidates[-1].name == run.name else candidates[-1]


def _decided(run: Run, earlier: Decision) -> ApprovalRefusedError:
    return ApprovalRefusedError(
        f"{run.name} was decided already: {earlier.decision!r} by {earlier.name} at {earlier.at}",
        hint="a decision stands; make a new release, or 'sundial rollback'",
    )
