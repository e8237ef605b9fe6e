"""A model of one's own is a folder in notebooks/ and a package in lib/: the tiny one runs without a change to ours."""

from __future__ import annotations

import pytest

from sundial.evaluation.gates import judge_gates
from sundial.execution.runner import run_stage
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
