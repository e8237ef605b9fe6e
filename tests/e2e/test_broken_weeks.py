"""A week that breaks in every flow, and is mended each time: what fails, what it says, and that it goes on."""

from __future__ import annotations

import httpx
import pandas as pd
import pytest

from sundial.formats import read_json
from sundial.operations.status import wait_for_version
from tests.e2e.conftest import ENDED, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ANSWER = {"name": "reviewer", "reason": "as the evidence says"}


def assert_broken(system: System, flow_run, stage: str) -> None:
    """Check that a flow run failed for this stage, says so, left a report, and reached a person."""
    ended = system.wait(flow_run, ENDED)
    assert "FAILED" == ended.state
    assert stage in ended.message
    assert "sabotage in the cell" in ended.message
    run = system.run_of("2013-12-02")
    record = run.stage_record(stage)
    assert "failed" == record["status"]
    assert "raise RuntimeError" in record["error"]["source"]
    assert b"sabotage" in (run.stage_folder(stage) / "report.html").read_bytes()
    assert system.wait_for_notice(stage)
    address = f"{system.settings.serve_url}/reports/{run.name}/{stage}/report.html"
    page = httpx.get(address, follow_redirects=True, trust_env=False)
    assert 200 == page.status_code


def test_every_flow_fails_with_stage_cell_and_report_and_goes_on_when_mended(system: System, in_production: int):
    """06, 10, 11, 12 and 13 fail in turn, each named; mended, each goes on, up to the rollback a review asks for."""
    before = system.production()
    released = None
    with system.sabotaged("06_train_model"):
        released = system.start_release("2013-12-02")
        assert_broken(system, released, "06_train_model")
    run = system.run_of("2013-12-02")
    untouched = read_json(run.stage_folder("01_query_data") / "stage.json")["started"]
    system.now(released)
    assert "COMPLETED" == system.wait(released, ENDED).state
    assert [run.name] == [item.name for item in [system.run_of("2013-12-02")]]
    assert untouched == read_json(run.stage_folder("01_query_data") / "stage.json")["started"], "01 ran again"

    loop = system.loop("2013-12-02")
    day = pd.Timestamp("2013-12-02")
    loop.replay(day, day + system.pipeline.schedule.soak, "shadow week")
    comparison = system.flow_run("comparison", run)
    with system.sabotaged("10_compare_shadow"):
        system.now(comparison)
        assert_broken(system, comparison, "10_compare_shadow")
    system.now(comparison)
    assert "COMPLETED" == system.wait(comparison, ENDED).state

    question = system.wait(system.flow_run("promotion", run), ("PAUSED",))
    with system.sabotaged("11_promote_model"):
        system.api.answer(question, {**ANSWER, "decision": "approve"})
        assert_broken(system, question, "11_promote_model")
    assert before == system.production()
    system.now(question)
    assert "COMPLETED" == system.wait(question, ENDED).state
    assert before < system.production()

    loop.replay(day + pd.Timedelta("7 days"), day + pd.Timedelta("14 days"), "production week")
    monitoring = system.flow_run("monitoring", run)
    with system.sabotaged("12_monitor_production"):
        system.now(monitoring)
        assert_broken(system, monitoring, "12_monitor_production")
    system.now(monitoring)
    assert "COMPLETED" == system.wait(monitoring, ENDED).state

    question = system.wait(system.flow_run("review", run), ("PAUSED",))
    with system.sabotaged("13_review_production"):
        system.api.answer(question, {**ANSWER, "decision": "roll back"})
        assert_broken(system, question, "13_review_production")
    assert before < system.production(), "nothing is put back before the answer's stage has succeeded"
    system.now(question)
    assert "COMPLETED" == system.wait(question, ENDED).state
    assert run.succeeded("13_review_production")

    # the answer was 'roll back': the version before answers again, in the reviewer's name
    assert "COMPLETED" == system.wait(system.flow_run("rollback", run), ENDED).state
    assert before == system.production()
    wait_for_version(system.settings, str(before))
    last = system.registry.history("tiny")[-1]
    assert ("reviewer", "rollback: as the evidence says") == (last.by, last.reason)


def test_a_failed_gate_stops_the_release_with_one_sentence(system: System, in_production: int):
    """Failed, with gate, number and bound; the stages stand, and nothing was deployed."""
    before = system.production()
    shadow = system.registry.alias("tiny", "shadow")
    path = system.settings.root / "notebooks" / "tiny" / "pipeline.yaml"
    whole = path.read_text()
    path.write_text(whole.replace("at_least: 500", "at_least: 5000000"))
    try:
        ended = system.wait(system.start_release("2013-12-09"), ENDED)
    finally:
        path.write_text(whole)

    assert "FAILED" == ended.state
    assert "enough parcels to learn from fails" in ended.message
    assert "5,000,000" in ended.message
    run = system.run_of("2013-12-09")
    assert run.succeeded("08_evaluate_business")
    assert "09_deploy_shadow" not in run.stages()
    assert before == system.production()
    assert shadow == system.registry.alias("tiny", "shadow")
