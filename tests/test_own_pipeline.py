"""A model of one's own is a folder in notebooks/ and a package in lib/: the tiny one runs without a change to ours."""

from __future__ import annotations

import pandas as pd
import pytest

from sundial.evaluation.gates import judge_gates
from sundial.execution.runner import run_stage
from sundial.formats import hash_file, write_value
from sundial.pipeline import load_pipeline
from sundial.runs import create_run

pytestmark = pytest.mark.slow


def test_a_pipeline_of_ones_own_makes_a_candidate(project):
    """Its six notebooks run in order on made-up parcels, every declared output is there, and its gates pass."""
    tiny = load_pipeline("tiny")
    run = create_run("tiny", "2013-09-30")
    for stage in tiny.release_stages:
        record = run_stage(run, stage)
        assert record["status"] == "succeeded"
        assert set(tiny.stage(stage).outputs) == set(record["outputs"])

    results = judge_gates(tiny.gates.release, run.scraps())
    assert ["passed", "passed"] == [result.status for result in results], results


def test_the_next_release_learns_from_a_review_and_reports_whether_it_helped(project):
    """Chosen parcels count as the review says under a cap, none of the week judged on; 06 measures the help."""
    reviewed = create_run("tiny", "2013-09-16")
    import tiny as parcels_of

    chosen = parcels_of.parcels(pd.Timestamp("2013-09-02"), pd.Timestamp("2013-09-25"))
    chosen = chosen.assign(parcel_id=chosen["parcel_id"].astype(str), example_weight=4.0, reason="missed")
    path = write_value(reviewed.stage_folder("13_review_production") / "outputs", "hard_examples", chosen)
    entry = {"path": str(path.relative_to(reviewed.folder)), "sha256": hash_file(path)}
    reviewed.update_stage(
        "13_review_production", status="succeeded", as_of="2013-09-26T00:00:00", outputs={"hard_examples": entry}
    )

    run = create_run("tiny", "2013-09-30")
    for stage in ("01_query_data", "04_build_training_set", "05_build_evaluation_sets", "06_train_model"):
        run_stage(run, stage)

    training_set = pd.read_parquet(run.verify_output("04_build_training_set", "training_set"))
    judged = pd.read_parquet(run.verify_output("05_build_evaluation_sets", "evaluation_set"))
    heavy = training_set[training_set["count"] != 1.0]
    assert len(heavy) > 100
    assert heavy["count"].sum() <= 0.051 * len(training_set)
    assert set(chosen["parcel_id"]) & set(judged["parcel_id"].astype(str)), "some were chosen that are judged on now"
    assert set() == set(heavy["parcel_id"]) & set(judged["parcel_id"])
    helped = run.scraps()["06_train_model"]["examples_helped"]
    assert {"roc_auc", "log_loss"} == set(helped)
    assert all(estimate["low"] <= estimate["estimate"] <= estimate["high"] for estimate in helped.values())
    names = run.stage_record("04_build_training_set")["inputs"]
    assert any(name.startswith(reviewed.name) for name in names), "the review is an input on record"
