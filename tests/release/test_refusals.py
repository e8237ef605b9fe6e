"""Bad approvals: each kind is refused, each with a sentence of its own, and none changes anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pyotp
import pytest
from pydantic import SecretStr

from sundial.errors import AnswerRefusedError, ApprovalError, ApprovalRefusedError, EvidenceChangedError
from sundial.formats import read_json, write_json_atomically
from sundial.pipeline import Pipeline
from sundial.release.approval import (
    Answer,
    Decision,
    check_approval,
    decisions,
    evidence_hash,
    find_approval,
    record_decision,
    take_decision,
)
from sundial.release.codes import PERIOD, WINDOW, use_code
from sundial.release.questions import MOST_REFUSALS, ask_question, find_question
from sundial.release.registry import Registry
from sundial.runs import Run, create_run
from sundial.settings import Settings

WEEK = timedelta(days=7)
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"  # noqa: S105  nobody's
APPROVE = Answer("approve", "ada", "better on all sets")


@pytest.fixture
def pipeline(pipeline: Pipeline) -> Pipeline:
    """Let two people approve."""
    return pipeline.model_copy(update={"approvers": ("ada", "grace")})


@pytest.fixture
def secured(settings: Settings) -> Settings:
    """Give one of them a secret."""
    return settings.model_copy(update={"approver_secrets": {"ada": SecretStr(SECRET)}})


def ask(run: Run, lasts: timedelta = WEEK) -> str:
    """Ask about a run, as the flow does; give the hash of what is shown."""
    evidence = evidence_hash(run)
    ask_question(run, "approval", evidence, lasts)
    return evidence


def code(at: float = 0.0) -> str:
    """Give ada's code of a moment, or of now."""
    return pyotp.TOTP(SECRET).at(at or datetime.now(UTC).timestamp())


def test_a_good_answer_is_taken_and_may_be_read_again(judged: Run, pipeline: Pipeline, settings: Settings) -> None:
    """What one of the approvers answers in time is recorded once, however often the flow is entered again."""
    evidence = ask(judged)
    first = take_decision(judged, pipeline, "approval", evidence, APPROVE, settings=settings)
    again = take_decision(judged, pipeline, "approval", evidence, APPROVE, settings=settings)

    assert first == again
    assert [first] == decisions(judged)
    assert (judged.name, "name only") == (first.run, first.proof)
    assert first == find_approval(judged, "ada", evidence, settings)


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("06_train_model/outputs/model.skops", "06_train_model/model changed in between"),
        ("07_evaluate_model/notebook.ipynb", "07_evaluate_model/notebook.ipynb changed in between"),
        ("08_evaluate_business/outputs/policy.json", "08_evaluate_business/policy changed in between"),
        ("10_compare_shadow/outputs/comparison.json", "10_compare_shadow/comparison changed in between"),
        ("gates.json", "gates/comparison changed in between"),
        ("10_compare_shadow/stage.json", "10_compare_shadow/record changed in between"),
        ("manifest.json", "manifest changed in between"),
        ("environment.json", "environment.json changed in between"),
        ("parity.json", "parity.json changed in between"),
    ],
)
def test_each_bound_file_is_named_when_it_changed(
    judged: Run, pipeline: Pipeline, settings: Settings, file: str, part: str
) -> None:
    """Each that is shown, from the model to the parity certificate: exchanged after the question, it is named."""
    for name in ("environment.json", "parity.json"):
        write_json_atomically(judged.folder / name, {})
    evidence = ask(judged)
    path = judged.folder / file
    if file == "gates.json":
        verdicts = read_json(path)
        verdicts["comparison"]["results"][0]["observed"] = 0.5
        write_json_atomically(path, verdicts)
    elif file == "manifest.json":
        judged.update(started_by="somebody else")
    elif file.endswith("stage.json"):
        judged.update_stage("10_compare_shadow", scraps={"completeness": 0.5})
    else:
        path.write_bytes(path.read_bytes() + b" ")

    with pytest.raises(EvidenceChangedError, match=part):
        take_decision(judged, pipeline, "approval", evidence, APPROVE, settings=settings)
    assert [] == decisions(judged)


def test_a_late_answer_is_refused(judged: Run, pipeline: Pipeline, settings: Settings) -> None:
    """After its time a question takes no answer, whatever the orchestrator still lets through."""
    evidence = ask(judged, timedelta(seconds=-1))

    with pytest.raises(ApprovalRefusedError, match=r"expired at .* evidence grows old"):
        take_decision(judged, pipeline, "approval", evidence, APPROVE, settings=settings)


def test_an_approval_is_not_replayed_on_another_candidate(
    judged: Run, make_run: Callable[..., Run], pipeline: Pipeline, settings: Settings
) -> None:
    """Evidence of one candidate approves no other; nor does a decision that was copied into its folder."""
    evidence = ask(judged)
    take_decision(judged, pipeline, "approval", evidence, APPROVE, settings=settings)
    other = make_run("2013-10-07")

    with pytest.raises(ApprovalRefusedError, match=f"is that of {judged.name}"):
        take_decision(other, pipeline, "approval", evidence, APPROVE, settings=settings)
    shutil.copy(judged.folder / "decisions.json", other.folder / "decisions.json")
    with pytest.raises(ApprovalRefusedError, match=f"was given for {judged.name} and holds for that candidate"):
        find_approval(other, "ada", evidence, settings)


def test_what_was_compared_must_still_be_in_production(
    judged: Run, registry: Registry, pipeline: Pipeline, settings: Settings
) -> None:
    """Rolled back between the question and the answer, the comparison is with something else, and is refused."""
    evidence = evidence_hash(judged)
    ask_question(judged, "approval", evidence, WEEK, production="3")

    with pytest.raises(ApprovalRefusedError, match="production was version 3 when .* and is none now"):
        take_decision(judged, pipeline, "approval", evidence, APPROVE, settings=settings)


def test_nobody_signs_their_own_experiment(judged: Run, pipeline: Pipeline, settings: Settings) -> None:
    """Who started the experiment is refused, whatever the case of the letters, unless a setting says so openly."""
    experiment = create_run("toy", "2013-09-30", kind="experiment", started_by="Ada", settings=settings)
    judged.update(experiment=experiment.name)
    evidence = ask(judged)

    with pytest.raises(AnswerRefusedError, match="ada started the experiment that .* may not approve it"):
        check_approval(judged, evidence, pipeline, "ada", settings=settings)
    check_approval(judged, evidence, pipeline, "grace", settings=settings)
    alone = pipeline.model_copy(update={"approvers": ("ada",), "self_approval": True})
    check_approval(judged, evidence, alone, "ada", settings=settings)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer("approve", "mallory", "let me in"), "'mallory' may not decide about toy: ada, grace may"),
        (Answer("approve", "  ", "let me in"), "a decision needs a name"),
        (Answer("approve", "ada", " "), "a decision needs a reason"),
        (Answer("maybe", "ada", "not sure"), "'maybe' is no answer to the approval"),
    ],
)
def test_a_bad_answer_is_asked_for_again(
    judged: Run, pipeline: Pipeline, settings: Settings, answer: Answer, sentence: str
) -> None:
    """Unknown approver, no name, no reason, no decision: it does not count, that is recorded, and the next may."""
    evidence = ask(judged)
    for _ in range(2):  # the flow is entered again from the top
        with pytest.raises(AnswerRefusedError, match=sentence):
            take_decision(judged, pipeline, "approval", evidence, answer, settings=settings)

    assert 1 == len(find_question(judged, "approval", evidence).refused)
    assert sentence in find_question(judged, "approval", evidence).refused[0]
    assert "ada" == take_decision(judged, pipeline, "approval", evidence, APPROVE, attempt=1, settings=settings).name


def test_what_was_rejected_is_not_approved(judged: Run, pipeline: Pipeline, settings: Settings) -> None:
    """A rejection stands, whoever approves afterwards."""
    evidence = ask(judged)
    take_decision(judged, pipeline, "approval", evidence, Answer("reject", "grace", "not now"), settings=settings)

    with pytest.raises(ApprovalRefusedError, match="was decided already: 'reject' by grace"):
        take_decision(judged, pipeline, "approval", evidence, APPROVE, settings=settings)
    with pytest.raises(ApprovalRefusedError, match="holds no approval by 'ada'"):
        find_approval(judged, "ada", evidence, settings)


def test_of_two_answers_at_once_one_counts(judged: Run, pipeline: Pipeline, settings: Settings) -> None:
    """Of approve and reject in the same moment one is recorded, and the other is told which."""
    evidence = ask(judged)

    def decide(answer: Answer) -> Any:
        try:
            return take_decision(judged, pipeline, "approval", evidence, answer, settings=settings)
        except ApprovalError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(decide, [APPROVE, Answer("reject", "grace", "not now")]))

    (taken,) = decisions(judged)
    (refused,) = [item for item in results if isinstance(item, ApprovalRefusedError)]
    assert f"decided already: {taken.decision!r} by {taken.name}" in refused.message


def test_a_promoted_candidate_is_not_approved_again(judged: Run, pipeline: Pipeline, settings: Settings) -> None:
    """After its promotion a candidate takes no decision any more."""
    evidence = ask(judged)
    judged.update_stage("11_promote_model", status="succeeded")

    with pytest.raises(ApprovalRefusedError, match="was promoted already"):
        take_decision(judged, pipeline, "approval", evidence, APPROVE, settings=settings)


@pytest.mark.parametrize(
    ("given", "sentence"), [("", "no one-time code was given"), ("000000", "not one of ada's of the last minute")]
)
def test_without_its_code_a_name_proves_nothing(
    judged: Run, pipeline: Pipeline, secured: Settings, given: str, sentence: str
) -> None:
    """Where an approver has a secret, the name alone or with a wrong code is refused; without a secret it is taken."""
    evidence = ask(judged)
    assert "000000" not in {code(datetime.now(UTC).timestamp() + 30 * step) for step in range(-3, 4)}

    with pytest.raises(AnswerRefusedError, match=sentence):
        take_decision(judged, pipeline, "approval", evidence, Answer("approve", "ada", "why", given), settings=secured)
    taken = take_decision(
        judged, pipeline, "approval", evidence, Answer("approve", "grace", "why"), attempt=1, settings=secured
    )
    assert "name only" == taken.proof


def test_a_used_code_is_useless(
    judged: Run, make_run: Callable[..., Run], pipeline: Pipeline, secured: Settings
) -> None:
    """A code approves once: seen over a shoulder, it approves nothing else; the same answer read again still counts."""
    digits = code()
    evidence = ask(judged)
    answer = Answer("reject", "ada", "why", digits)
    taken = take_decision(judged, pipeline, "approval", evidence, answer, settings=secured)
    assert "one-time code" == taken.proof
    assert taken == take_decision(judged, pipeline, "approval", evidence, answer, settings=secured)

    newer = make_run("2013-10-07")
    again = Answer("approve", "ada", "why", digits)
    with pytest.raises(AnswerRefusedError, match="this one-time code of ada, or a later one, was used before"):
        take_decision(newer, pipeline, "approval", ask(newer), again, settings=secured)
    assert SECRET not in (secured.artifacts / "codes.json").read_text()


def test_an_older_code_is_as_useless_as_the_used_one(secured: Settings) -> None:
    """Codes from before the last one used do not count, though their time is not over; a later one does."""
    moment = 1_000_000 * PERIOD
    use_code("ada", code(moment), answer="a", settings=secured, at=moment)
    with pytest.raises(AnswerRefusedError, match="was used before"):
        use_code("ada", code(moment - PERIOD), answer="b", settings=secured, at=moment)
    use_code("ada", code(moment + PERIOD), answer="b", settings=secured, at=moment)
    with pytest.raises(AnswerRefusedError, match="not one of"):
        use_code("ada", code(moment), answer="c", settings=secured, at=moment + (WINDOW + 1) * PERIOD)


def test_a_crash_between_code_and_decision_loses_nothing(secured: Settings) -> None:
    """Used for an answer, a code counts for that same answer again, also when its time is over."""
    moment = 1_000_000 * PERIOD
    use_code("ada", code(moment), answer="a", settings=secured, at=moment)
    use_code("ada", code(moment), answer="a", settings=secured, at=moment)
    use_code("ada", code(moment), answer="a", settings=secured, at=moment + 3600)


def test_one_code_at_once_is_used_once(secured: Settings) -> None:
    """Of eight answers with one code in the same moment one counts."""
    moment = 1_000_000 * PERIOD

    def attempt(index: int) -> bool:
        try:
            use_code("ada", code(moment), answer=str(index), settings=secured, at=moment)
        except AnswerRefusedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert 1 == sum(pool.map(attempt, range(8)))


def test_guessing_closes_the_question(judged: Run, pipeline: Pipeline, secured: Settings) -> None:
    """After five refused answers the question is closed."""
    evidence = ask(judged)
    for attempt in range(MOST_REFUSALS):
        assert not find_question(judged, "approval", evidence).is_closed
        guess = Answer("approve", "ada", "why", f"{attempt:06}")
        with pytest.raises(AnswerRefusedError):
            take_decision(judged, pipeline, "approval", evidence, guess, attempt=attempt, settings=secured)

    assert find_question(judged, "approval", evidence).is_closed


def test_a_question_keeps_its_time(judged: Run) -> None:
    """Asked again about the same evidence, a question expires when it would have."""
    evidence = ask(judged, timedelta(hours=1))
    first = find_question(judged, "approval", evidence)
    ask(judged, timedelta(days=30))

    assert first == find_question(judged, "approval", evidence)
    assert 3500 < first.seconds_left <= 3600


def test_records_of_before_are_read(judged: Run, settings: Settings) -> None:
    """A decision that was recorded before it named its run still counts."""
    evidence = evidence_hash(judged)
    record_decision(judged, Decision("approval", "approve", "ada", "why", evidence, "2013-10-14T09:00:00+00:00"))
    old: list[dict[str, str]] = read_json(judged.folder / "decisions.json")
    for name in ("run", "proof"):
        del old[0][name]
    write_json_atomically(judged.folder / "decisions.json", old)

    assert "ada" == find_approval(judged, "ada", evidence, settings).name
