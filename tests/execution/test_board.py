"""The week board and the figures of delivery, on runs written down by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from sundial.execution.board import list_rows, read_board, show_board
from sundial.execution.delivery import measure_delivery
from sundial.execution.report import render_index
from sundial.formats import write_json_atomically
from sundial.pipeline import load_pipeline
from sundial.runs import Run, create_run
from sundial.settings import load_settings


def release(as_of: str, *, until: str, failed: bool = False, kind: str = "release") -> Run:
    """Write down a release that went as far as a stage."""
    run = create_run("tiny", as_of, kind=kind)
    for stage in load_pipeline("tiny").stages:
        last = stage == until
        error = {"error": {"cell": 4, "cause": "KeyError: 'weight'", "source": "", "message": "it failed"}}
        run.restart_stage(stage, status="failed" if last and failed else "succeeded", seconds=1.5, as_of=as_of)
        run.update_stage(stage, **(error if last and failed else {}))
        if last:
            break
    return run


def judge(run: Run, **steps: str) -> None:
    """Write verdicts of one gate a step."""
    verdicts = {
        step: {"at": "", "results": [{"gate": "a gate", "status": status, "sentence": f"a gate {status}"}]}
        for step, status in steps.items()
    }
    write_json_atomically(run.folder / "gates.json", verdicts)


def decide(run: Run, **answers: str) -> None:
    """Write decisions of a policy."""
    items = [
        {"kind": kind, "decision": answer, "name": "policy: passing", "reason": "why", "evidence": "", "at": ""}
        for kind, answer in answers.items()
    ]
    write_json_atomically(run.folder / "decisions.json", items)


def board(**options: object):
    """Read the board of the tiny pipeline, as a page in the folder of reports would show it."""
    settings = load_settings()
    return read_board(load_pipeline("tiny"), settings, start=settings.reports, **options)


def test_rows_are_the_stages_with_gates_and_decisions_between(project):
    """The two human decisions stand before what they let happen."""
    rows = list_rows(load_pipeline("tiny"))

    assert ("10_compare_shadow", "comparison gates", "APPROVE", "11_promote_model") == rows[8:12]
    assert ("12_monitor_production", "REVIEW", "13_review_production") == rows[12:]


def test_a_failed_stage_is_the_first_thing_seen(project):
    """Its cell says where and why, and leads to the failing cell; what was not reached is empty."""
    run = release("2013-09-30", until="06_train_model", failed=True)
    week = board().weeks[0]

    assert "06_train_model" == week.first_failure
    cell = week.cells["06_train_model"]
    assert ("failed", "06_train_model failed in cell 4: KeyError: 'weight'") == (cell.status, cell.title)
    assert f"../runs/{run.name}/06_train_model/report.html#cell-4" == cell.href
    assert "" == week.cells["07_evaluate_model"].status
    assert "succeeded" == week.cells["04_build_training_set"].status


def test_a_week_without_a_release_is_a_column(project):
    """The week in the middle, which nobody started, is there and missing in every row; so is one at the end."""
    release("2013-09-30", until="01_query_data")
    release("2013-10-14", until="01_query_data")
    found = board(until=pd.Timestamp("2013-10-21"))

    assert ["", "missing", "", "missing"] == [week.cells["06_train_model"].status for week in found.weeks]
    assert ["2013-10-14", "2013-10-21"] == [
        f"{week.as_of:%Y-%m-%d}" for week in board(weeks=2, until=found.weeks[-1].as_of).weeks
    ]


def test_a_candidate_that_nobody_has_decided_about_waits(project):
    """A first one at once, later ones once they were compared, and only the newest; an answer says whose it is."""
    release("2013-09-23", until="09_deploy_shadow")
    assert ["waiting"] == [week.cells["APPROVE"].status for week in board().weeks]
    release("2013-09-23", until="11_promote_model")
    old = release("2013-09-30", until="10_compare_shadow")
    judge(old, comparison="passed")
    assert ["", "waiting"] == [week.cells["APPROVE"].status for week in board().weeks]
    new = release("2013-10-07", until="09_deploy_shadow")
    assert ["", "", ""] == [week.cells["APPROVE"].status for week in board().weeks]
    new.update_stage("10_compare_shadow", status="succeeded", seconds=1.0)
    judge(new, comparison="passed")
    assert ["", "", "waiting"] == [week.cells["APPROVE"].status for week in board().weeks]
    decide(new, approval="reject")
    cell = board().weeks[-1].cells["APPROVE"]
    assert ("failed", "reject", "reject by policy: passing: why") == (cell.status, cell.text, cell.title)


def test_failed_gates_and_reused_stages_show(project):
    """A gate that failed is a failed cell with its sentence; a stage that was reused is neither green nor red."""
    run = release("2013-09-30", until="08_evaluate_business")
    run.update_stage("01_query_data", reused={"run": "an earlier one"})
    judge(run, release="failed")
    cells = board().weeks[0].cells

    assert ("failed", "a gate failed") == (cells["release gates"].status, cells["release gates"].title)
    assert ("reused", "01_query_data was reused from an earlier one") == (
        cells["01_query_data"].status,
        cells["01_query_data"].title,
    )


def test_of_a_week_released_twice_the_last_is_shown(project):
    """Experiments and scratch runs are not on the board."""
    release("2013-09-30", until="01_query_data", failed=True)
    last = release("2013-09-30", until="02_" if False else "01_query_data")
    release("2013-10-07", until="01_query_data", kind="experiment")
    found = board()

    assert [(last.name, 2)] == [(week.run, week.attempts) for week in found.weeks]
    assert last.name == show_board(found)["weeks"][0]["run"]


def test_delivery_counts_as_dora_does(project):
    """Four weeks: promoted, failed in production, stopped before it, promoted. The stopped one has not failed."""
    assert measure_delivery("tiny", load_settings()) is None
    for as_of, promoted, review in (
        ("2013-09-30", "2013-10-07", "keep"),
        ("2013-10-07", "2013-10-14", "retrain now"),
        ("2013-10-21", "2013-10-28", ""),
    ):
        run = release(as_of, until="11_promote_model")
        run.update_stage("11_promote_model", as_of=promoted)
        decide(run, approval="approve", **({"review": review} if review else {}))
    judge(release("2013-10-14", until="08_evaluate_business"), release="failed")
    found = measure_delivery("tiny", load_settings())

    assert (4, 4, 3, 1) == (found.weeks, found.started, found.promoted, found.stopped)
    assert (0.75, 7.0, 14.0) == (found.per_week, found.lead_days, found.longest_gap_days)
    assert (2, 1, 14.0) == (found.reviewed, found.failed, found.restore_days)
    assert found.failed_share == pytest.approx(0.5)


def test_the_report_index_opens_with_the_board(project):
    """The board stands above the list of runs, and links into them."""
    run = release("2013-09-30", until="06_train_model", failed=True)
    html = render_index().read_text()

    assert html.index('class="board"') < html.index('class="runs"')
    assert f"../runs/{run.name}/06_train_model/report.html#cell-4" in html
