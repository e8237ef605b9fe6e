"""What happens between a candidate and a person: waiting, killing, rejecting, changing, superseding, rolling back."""

from __future__ import annotations

import os
import signal

import pandas as pd
import pyotp
import pytest

from sundial.cli import main
from sundial.errors import ApprovalRefusedError
from sundial.formats import read_json
from sundial.operations.rollback import roll_back
from sundial.operations.status import read_status, wait_for_version
from sundial.operations.system import check_schedule
from sundial.operations.traffic import Replay
from sundial.release.approval import decisions
from sundial.runs import latest_run, list_runs
from sundial.serving.predictions import read_log
from sundial.serving.shadow import read_shadow_scores
from tests.e2e.conftest import ENDED, SECRET, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ANSWER = {"decision": "approve", "name": "reviewer", "reason": "as the evidence says"}


def test_the_first_model_needs_no_comparison_but_an_approval(system: System, in_production: int):
    """Version 1 answers, and the decision stands in its run with name, reason, time and evidence."""
    run = latest_run("tiny", as_of="2013-09-30", settings=system.settings)

    assert 1 == in_production
    assert "10_compare_shadow" not in run.stages()
    (decision,) = decisions(run)
    assert ("approve", "reviewer", "the first model") == (decision.decision, decision.name, decision.reason)
    assert decision.at
    assert 64 == len(decision.evidence)


def test_the_schedule_has_produced_its_next_releases(system: System):
    """A release is scheduled for the coming Monday: the check that 'make up' makes."""
    assert 0 == check_schedule(system.settings, system.pipeline).starts.weekday()


def test_a_killed_worker_loses_no_question_and_promotion_loses_no_request(system: System, in_production: int):
    """Worker killed while a person thinks, started again, resumed: promoted under load without a failed request."""
    before = system.production()
    _, question = system.candidate("2013-10-07")
    worker = system.service("worker")
    os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    worker.start(system.settings.root)

    loop = system.loop("2013-10-07")
    day = pd.Timestamp("2013-10-14")
    # slow enough to last until the promotion, also on a busy machine; what is left goes at full speed
    replay = Replay(system.pipeline, day, day + pd.Timedelta("7 days"), system.settings.serve_url, rate=4)
    with loop.in_background(replay, "production week"):
        system.api.answer(question, ANSWER)
        ended = system.wait(question, ENDED)
        assert "COMPLETED" == ended.state, ended.message
        version = system.production()
        wait_for_version(system.settings, str(version))
        replay.rate = None

    assert version > before
    result = loop.replays["production week"]
    assert 0 == result.failed
    assert {str(before), str(version)} == set(result.versions)

    # the log holds every request once, each with the version that answered, and the shadow scored every one of its week
    week = read_log("tiny", start=pd.Timestamp("2013-10-07"), end=day, settings=system.settings)
    scores = read_shadow_scores("tiny", version, settings=system.settings)
    assert week["request_id"].is_unique
    assert len(system.pipeline.hook("requests")(pd.Timestamp("2013-10-07"), day)) == len(week)
    assert set(week["request_id"]) <= set(scores["request_id"])
    assert scores["request_id"].is_unique
    assert scores["error"].eq("").all()


def test_a_second_answer_to_the_same_question_is_refused(system: System, in_production: int):
    """A question that was answered asks nothing any more."""
    run = latest_run("tiny", as_of="2013-10-07", settings=system.settings)

    with pytest.raises(ApprovalRefusedError, match="not paused"):
        system.api.answer(system.flow_run("promotion", run), ANSWER)


def test_monitoring_and_review_write_what_the_next_release_trains_on(system: System, in_production: int):
    """With mature labels the second question is asked; its answer leaves hard examples with a reason."""
    loop = system.loop("2013-10-07")
    run = system.run_of("2013-10-07")
    loop.advance("monitoring", run)
    loop.sign("review", run, "keep", "it performs")

    assert run.succeeded("13_review_production")
    assert ["approve", "keep"] == [item.decision for item in decisions(run)]
    examples = pd.read_parquet(run.verify_output("13_review_production", "hard_examples"))
    assert len(examples) > 0
    assert examples["reason"].str.len().gt(0).all()


def test_a_rejected_candidate_ends_rejected_and_leaves_the_shadow(
    system: System, in_production: int, capsys: pytest.CaptureFixture[str]
):
    """Asked again after a wrong one-time code, then rejected with the right one: Rejected, and nothing else changed."""
    before = system.production()
    run, question = system.candidate("2013-10-28")

    ada = {**ANSWER, "name": "Ada Lovelace"}
    system.api.answer(question, {**ada, "code": "000000"})
    refusal = system.api.wait_for_refusal(question)
    assert "the one-time code is not one of Ada Lovelace's" in refusal
    assert [] == decisions(run)

    answer = ["--decision", "reject", "--name", "Ada Lovelace", "--reason", "not before the holidays"]
    assert 0 == main(["approve", run.name, *answer, "--code", pyotp.TOTP(SECRET).now()])
    assert refusal.partition(":")[0] in capsys.readouterr().out.replace("**", "")
    assert ["one-time code"] == [item.proof for item in decisions(run)]
    ended = system.wait(question, ENDED)

    assert ("COMPLETED", "Rejected") == (ended.state, ended.state_name)
    assert "not before the holidays" in ended.message
    assert before == system.production()
    assert system.registry.alias("tiny", "shadow") is None
    assert not run.succeeded("11_promote_model")


def test_changed_evidence_is_refused(system: System, in_production: int):
    """Approving what was changed since it was shown fails and promotes nothing."""
    before = system.production()
    run, question = system.candidate("2013-11-04")
    executed = run.stage_folder("07_evaluate_model") / "notebook.ipynb"
    whole = executed.read_bytes()
    executed.write_bytes(whole.replace(b"roc_auc", b"roc_AUC"))
    system.api.answer(question, ANSWER)
    ended = system.wait(question, ENDED)

    assert "FAILED" == ended.state
    assert "evidence" in ended.message
    assert before == system.production()

    executed.write_bytes(whole)


def test_a_question_that_nobody_answers_is_reported_and_a_newer_release_goes_on(system: System, in_production: int):
    """Compared again it is asked again; expired, that reaches a person like a failure, and the next candidate asks."""
    before = system.production()
    run = system.run_of("2013-11-04")
    path = system.settings.root / "notebooks" / "tiny" / "pipeline.yaml"
    whole = path.read_text()
    path.write_text(whole.replace('cron: "0 6 * * 1"', 'cron: "0 6 * * 1"\n  approval_expires: 1 s'))
    try:
        comparison = system.flow_run("comparison", run)
        system.now(comparison)
        assert "COMPLETED" == system.wait(comparison, ENDED).state
        question = system.flow_run("promotion", run)
        assert "FAILED" == system.wait(question, ENDED).state
    finally:
        path.write_text(whole)
    # it goes off by itself, seconds after the question is over; that of the question before was taken back
    (alarm,) = [item for item in system.api.find("tiny", flow="expiry", run=run.name) if item.state != "CANCELLED"]
    ended = system.wait(alarm, ENDED)

    assert ("FAILED", "Expired") == (ended.state, ended.state_name)
    said = f"nobody answered the question about the candidate of 2013-11-04 ({run.name})"
    assert said in ended.message
    assert system.wait_for_notice(said)
    assert any(said in item["message"] for item in read_status(system.settings, system.pipeline)["failed"])
    assert before == system.production()
    assert not run.succeeded("11_promote_model")

    newer, asks = system.candidate("2013-11-11")
    assert asks.waits_for_person
    assert newer.name == system.registry.alias("tiny", "shadow").run


def test_retrain_now_releases_at_once_and_supersedes(system: System, in_production: int):
    """A review's 'retrain now' starts a release as of the review's day; its candidate ends the wait of an older one."""
    older, waiting = system.run_of("2013-11-11"), system.flow_run("promotion", system.run_of("2013-11-11"))
    reviewed = system.run_of("2013-10-07")
    monitoring = system.flow_run("monitoring", reviewed)
    system.now(monitoring)
    assert "COMPLETED" == system.wait(monitoring, ENDED).state
    question = system.wait(system.flow_run("review", reviewed), ("PAUSED",))
    system.api.answer(question, {**ANSWER, "decision": "retrain now"})
    assert "COMPLETED" == system.wait(question, ENDED).state
    started = system.flow_run("release", reviewed)
    assert "COMPLETED" == system.wait(started, ENDED).state

    newer = next(item for item in list_runs("tiny", kind="release") if item.manifest()["key"] == started.id)
    assert question.parameters["as_of"] == f"{newer.as_of:%Y-%m-%d}" == "2013-10-23"
    learned = newer.stage_record("04_build_training_set")["inputs"]
    assert any(name.startswith(f"{reviewed.name}/13_review_production") for name in learned), "the examples are read"
    superseded = system.api.read(waiting)
    assert ("CANCELLED", "Superseded") == (superseded.state, superseded.state_name)
    assert newer.name in superseded.message
    assert system.registry.alias("tiny", "shadow").run == newer.name
    assert not older.succeeded("11_promote_model")
    left = system.api.find("tiny", flow="expiry", states=["SCHEDULED"])
    assert [] == [item.name for item in left], "what was answered or superseded sets off no alarm"


def test_a_rollback_needs_no_flow_and_says_who_and_why(system: System, in_production: int):
    """The version before is production again; the history says when, by whom and why; the server follows."""
    present, before = system.production(), system.registry.previous_production("tiny")
    said = roll_back("tiny", "Ada Lovelace", "alerts doubled overnight", system.settings)

    assert f"instead of version {present}" in said
    assert before.version == system.production() != present
    wait_for_version(system.settings, str(before.version))
    last = system.registry.history("tiny")[-1]
    assert "Ada Lovelace" in str(last)
    assert "alerts doubled overnight" in str(last)
    assert read_status(system.settings, system.pipeline)["aliases"]["production"]["version"] == before.version


def test_an_experiment_is_shipped_by_the_worker(system: System, in_production: int, capsys: pytest.CaptureFixture[str]):
    """The worker makes a release of it, proves its figures, hands it to the shadow; no alias moves before."""
    production, before = system.production(), system.registry.alias("tiny", "shadow")
    assert 0 == main(["experiment", "--set", "06_train_model.regularization=0.5", "--name", "softer", "--by", "Ada"])
    experiment = list_runs("tiny", kind="experiment", settings=system.settings)[-1]
    assert before == system.registry.alias("tiny", "shadow")

    capsys.readouterr()
    assert 0 == main(["ship", "softer"])
    assert "ship softer: http" in capsys.readouterr().out
    ended = system.wait(system.api.find("tiny", flow="release", run=experiment.name)[0], ENDED)
    assert "COMPLETED" == ended.state, ended.message

    shipped = system.run_of(f"{experiment.as_of:%Y-%m-%d}")
    certificate = read_json(shipped.folder / "parity.json")
    assert certificate["verdict"] in ("equal", "explained")
    assert all(item["equal"] or item["reason"] for item in certificate["items"])
    assert (experiment.name, "Ada") == tuple(shipped.manifest()[name] for name in ("experiment", "experimenter"))
    assert all("reused" not in record for record in shipped.stages().values())
    assert shipped.name == system.registry.alias("tiny", "shadow").run
    assert production == system.production()
