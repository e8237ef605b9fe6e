"""A question whose time is over is reported, unless somebody answered it or it became moot."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sundial.pipeline import Pipeline
from sundial.release.approval import Answer, evidence_hash, take_decision
from sundial.release.evidence import Kind
from sundial.release.expiry import describe_expired
from sundial.release.questions import MOST_REFUSALS, ask_question, refuse_answer
from sundial.runs import Run
from sundial.settings import Settings


def ask(run: Run, seconds: int, kind: Kind = "approval") -> str:
    """Ask about a run; give the hash of what is shown."""
    evidence = evidence_hash(run, kind=kind)
    ask_question(run, kind, evidence, timedelta(seconds=seconds))
    return evidence


def test_an_expired_question_is_described(judged: Run, settings: Settings) -> None:
    """Both questions say what was asked when, that nothing was promoted, and how it goes on."""
    said = describe_expired(judged, "approval", ask(judged, -1), settings)
    assert f"nobody answered the question about the candidate of 2013-09-30 ({judged.name}), asked at 2" in said
    assert "it was not promoted, production is what it was, and a newer release goes on by itself" in said
    assert f"run 'comparison {judged.name}' again in Prefect" in said

    said = describe_expired(judged, "review", ask(judged, -1, "review"), settings)
    assert "about production's performance" in said
    assert f"run 'monitoring {judged.name}' again in Prefect" in said


def test_a_question_that_may_still_be_answered_is_not_reported(judged: Run, settings: Settings) -> None:
    """While there is time there is nothing to report; nor about a question that was never asked."""
    assert "" == describe_expired(judged, "approval", ask(judged, 60), settings)
    assert "" == describe_expired(judged, "approval", "e" * 64, settings)


def test_an_answered_question_is_not_reported(judged: Run, pipeline: Pipeline, settings: Settings) -> None:
    """Also a rejection is an answer."""
    evidence = ask(judged, 2)
    assert "" == describe_expired(judged, "approval", evidence, settings)
    take_decision(judged, pipeline, "approval", evidence, Answer("reject", "ada", "not now"), settings=settings)
    path = judged.folder / "questions.json"
    path.write_text(path.read_text().replace('"expires_at": "2', '"expires_at": "1'))

    assert "" == describe_expired(judged, "approval", evidence, settings)


def test_what_was_reported_before_or_is_moot_is_not_reported(
    judged: Run, make_run: Callable[..., Run], settings: Settings
) -> None:
    """Guessing closed the question and failed the flow then; a newer candidate makes an older question moot."""
    evidence = ask(judged, -1)
    newer = make_run("2013-10-07")
    assert describe_expired(judged, "approval", evidence, settings)
    newer.update_stage("09_deploy_shadow", status="succeeded")
    assert "" == describe_expired(judged, "approval", evidence, settings)

    other = make_run("2013-10-14")
    evidence = ask(other, -1)
    for attempt in range(MOST_REFUSALS):
        assert describe_expired(other, "approval", evidence, settings)
        refuse_answer(other, "approval", evidence, attempt, "no such code")
    assert "" == describe_expired(other, "approval", evidence, settings)
