"""The flow that ends a question: a failure that says who was not answered, or nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from flows.expiry import expiry
from sundial.release.approval import evidence_hash
from sundial.release.questions import ask_question
from sundial.runs import Run
from tests.release.conftest import fitted, judged, make_run, pipeline, run, settings  # noqa: F401  fixtures


@pytest.mark.parametrize(("seconds", "state"), [(-1, "Expired"), (60, "Completed")])
def test_an_unanswered_question_fails_its_alarm(
    judged: Run,  # noqa: F811  a fixture
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    state: str,
) -> None:
    """Expired, the flow ends as failed, which is told as every failure is; while there is time it is quiet."""
    monkeypatch.setenv("SUNDIAL_ARTIFACTS", str(judged.folder.parents[1]))
    evidence = evidence_hash(judged)
    ask_question(judged, "approval", evidence, timedelta(seconds=seconds))
    ended = expiry.fn("toy", judged.name, "approval", evidence)

    assert (state, state == "Expired") == (ended.name, ended.is_failed())
    assert ("nobody answered the question about the candidate" in ended.message) == (state == "Expired")
