"""A person's signed decision, bound to the hash of the evidence they saw."""

from __future__ import annotations

from sundial.errors import AnswerRefusedError, ApprovalRefusedError, EvidenceChangedError
from sundial.pipeline import Pipeline
from sundial.release.codes import needs_code, use_code
from sundial.release.decisions import ANSWERS_TO, Answer, Decision, decided, decisions, record_decision
from sundial.release.evidence import SHORT, Kind, evidence_hash, evidence_parts, evidence_summary, experimenter
from sundial.release.questions import find_question, refuse_answer
from sundial.release.rules import find_changed, read_rules
from sundial.runs import Run, list_runs, now
from sundial.settings import Settings, load_settings

__all__ = [
    "ANSWERS_TO",
    "Answer",
    "Decision",
    "check_approval",
    "decisions",
    "evidence_hash",
    "evidence_parts",
    "evidence_summary",
    "experimenter",
    "find_approval",
    "record_decision",
    "superseding",
    "take_decision",
    "version_in_production",
]

# What makes the evidence of a question, and asks it.
BEFORE: dict[Kind, str] = {"approval": "comparison", "review": "monitoring"}
SHORTEST_REASON = 2


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
        When the files, or the rules of pipeline.yaml, are not what was shown; names those that changed.
    AnswerRefusedError
        When this person may not decide, and another may.
    ApprovalRefusedError
        When nobody may any more: a newer candidate is there, it was decided before, or the question has expired.
    """
    for earlier in decisions(run):
        if earlier.kind == kind and earlier.evidence == evidence:
            raise decided(run, earlier)
    if kind == "approval":
        if run.succeeded("11_promote_model"):
            raise ApprovalRefusedError(f"{run.name} was promoted already", hint="'sundial rollback' undoes a promotion")
        newer = superseding(run, settings)
        if newer is not None:
            raise ApprovalRefusedError(
                f"the candidate of {run.as_of:%Y-%m-%d} is superseded by that of {newer.as_of:%Y-%m-%d} ({newer.name})",
                hint="decide about the newer one",
            )
    _check_evidence(run, evidence, kind, settings)
    question = find_question(run, kind, evidence)
    if question.expires_at and not question.seconds_left:
        raise ApprovalRefusedError(
            f"the question about {run.name} expired at {question.expires_at}: it was asked at {question.asked_at}, and "
            "evidence grows old",
            hint=f"run the {BEFORE[kind]} again to ask anew",
        )
    changed = find_changed(question.rules, read_rules(pipeline, settings or load_settings()))
    if changed:
        raise EvidenceChangedError(
            f"the question about {run.name} was asked under other rules: {'; '.join(changed)}",
            hint=f"find out who changed pipeline.yaml or the settings, and run the {BEFORE[kind]} again to ask anew",
        )
    if kind == "approval" and question.production:
        present = version_in_production(run.pipeline, settings)
        if present != question.production:
            raise ApprovalRefusedError(
                f"production was version {question.production} when the evidence of {run.name} was shown and is "
                f"{present} now: it was compared with something else",
                hint="run the comparison again to ask anew",
            )
    _check_person(run, pipeline, name, kind)


def version_in_production(pipeline: str, settings: Settings | None = None) -> str:
    """Give the version in production as a question records it: its number, or ``none``."""
    from sundial.release.registry import Registry

    present = Registry(settings).alias(pipeline, "production")
    return str(present.version) if present else "none"


def _check_answer(answer: Answer, kind: Kind) -> None:
    """Refuse a form that is not filled in."""
    if answer.decision not in ANSWERS_TO[kind]:
        raise AnswerRefusedError(
            f"{answer.decision!r} is no answer to the {kind}", hint=f"answer {', '.join(map(repr, ANSWERS_TO[kind]))}"
        )
    if len(answer.reason.strip()) < SHORTEST_REASON:
        raise AnswerRefusedError("a decision needs a reason", hint="write why, for whoever reads it in a year")


def _check_evidence(run: Run, evidence: str, kind: Kind, settings: Settings | None) -> None:
    """Refuse evidence of another candidate, and evidence that changed since it was shown."""
    current = evidence_hash(run, kind=kind)
    if current == evidence:
        return
    known = find_question(run, kind, evidence)
    if not known.asked_at:
        for other in list_runs(run.pipeline, settings=settings):
            if other.name != run.name and find_question(other, kind, evidence).asked_at:
                raise ApprovalRefusedError(
                    f"evidence {evidence[:SHORT]} is that of {other.name}, and this is {run.name}: a decision holds "
                    "for the one candidate that it was taken about",
                    hint="look at the evidence of this one, and decide about it",
                )
    parts = evidence_parts(run, kind=kind)
    names = sorted(known.parts.keys() | parts.keys()) if known.parts else []
    changed = [name for name in names if known.parts.get(name) != parts.get(name)]
    what = f"{', '.join(changed)} changed" if changed else "a notebook, a model, a gate or a comparison was changed"
    raise EvidenceChangedError(
        f"the evidence of {run.name} was {evidence[:SHORT]} when it was shown and is {current[:SHORT]} now: "
        f"{what} in between",
        hint=f"find out what was changed, and run the {BEFORE[kind]} again to ask anew",
    )


def _check_person(run: Run, pipeline: Pipeline, name: str, kind: Kind) -> None:
    """Refuse who is none of the approvers, and who would sign their own work."""
    who = name.strip()
    if not who:
        raise AnswerRefusedError("a decision needs a name", hint="write the name of the person who decides")
    if pipeline.approvers and who not in pipeline.approvers:
        raise AnswerRefusedError(
            f"{who!r} may not decide about {pipeline.name}: {', '.join(pipeline.approvers)} may",
            hint=f"ask one of them; whom you add to approvers in {pipeline.folder / 'pipeline.yaml'} may answer "
            "the next question",
        )
    if kind == "approval" and who.casefold() == experimenter(run).casefold() and not pipeline.self_approval:
        raise AnswerRefusedError(
            f"{who} started the experiment that {run.name} was made from, and may not approve it",
            hint="ask another approver; where there is no other, 'self_approval: true' in pipeline.yaml says so openly",
        )


def take_decision(
    run: Run,
    pipeline: Pipeline,
    kind: Kind,
    evidence: str,
    answer: Answer,
    *,
    attempt: int = 0,
    settings: Settings | None = None,
) -> Decision:
    """Check that a person may decide this, on this evidence, and write down what they decided.

    Called again with the same answer it gives the same decision, or the same refusal.

    Parameters
    ----------
    run : Run
        What is decided about.
    pipeline : Pipeline
        For its approvers.
    kind : {'approval', 'review'}
        Which question.
    evidence : str
        Hash of what was shown.
    answer : Answer
        What the person filled in.
    attempt : int
        How many answers to this question there were before.
    settings : Settings, optional
        With the secrets of one-time codes; read from the environment by default.

    Returns
    -------
    Decision
        As recorded.

    Raises
    ------
    AnswerRefusedError
        When this answer does not count, and another may; that is recorded too.
    EvidenceChangedError
        When the evidence is no longer what was shown.
    ApprovalRefusedError
        When no answer counts any more.
    """
    settings = settings or load_settings()
    name = answer.name.strip()
    refused = find_question(run, kind, evidence).refused
    if attempt < len(refused):
        raise AnswerRefusedError(refused[attempt])
    for earlier in decisions(run):
        if (earlier.kind, earlier.evidence, earlier.decision, earlier.name) == (kind, evidence, answer.decision, name):
            return earlier
    proof = "name only"
    try:
        _check_answer(answer, kind)
        check_approval(run, evidence, pipeline, name, kind=kind, settings=settings)
        if needs_code(name, settings):
            use_code(name, answer.code, answer=f"{run.name} {kind} {evidence} {attempt}", settings=settings)
            proof = "one-time code"
    except AnswerRefusedError as error:
        refuse_answer(run, kind, evidence, attempt, str(error))
        raise
    taken = Decision(kind, answer.decision, name, answer.reason.strip(), evidence, now(), run.name, proof)
    return record_decision(run, taken)


def find_approval(run: Run, name: str, evidence: str, settings: Settings | None = None) -> Decision:
    """Find the approval that a promotion rests on, and check once more that it holds.

    Parameters
    ----------
    run : Run
        The candidate's.
    name : str
        Who approved.
    evidence : str
        Hash of what they saw.
    settings : Settings, optional
        Where other runs are; read from the environment by default.

    Returns
    -------
    Decision

    Raises
    ------
    ApprovalRefusedError
        When there is none by this person of this evidence, or it was given for another candidate.
    EvidenceChangedError
        When the evidence is no longer what they saw.
    """
    signed = [
        item
        for item in decisions(run)
        if (item.kind, item.decision, item.name, item.evidence) == ("approval", "approve", name, evidence)
    ]
    if not signed:
        raise ApprovalRefusedError(
            f"{run.name} holds no approval by {name!r} of evidence {evidence[:SHORT]!r}",
            hint="answer the question in Prefect, or with 'sundial approve'",
        )
    if signed[-1].run not in ("", run.name):
        raise ApprovalRefusedError(
            f"the approval by {name} was given for {signed[-1].run} and holds for that candidate, not for {run.name}",
            hint="find out who copied it here",
        )
    _check_evidence(run, evidence, "approval", settings)
    return signed[-1]


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
