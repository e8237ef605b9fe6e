"""Each kind of gate passes and fails, and every failure says what it is."""

from __future__ import annotations

import json
import math

import pytest

from sundial.evaluation.gates import judge_gate, judge_gates
from sundial.pipeline import Gate


def estimate(low: float, middle: float, high: float, rows: int = 6_402) -> dict:
    """Make an estimate as a notebook records it."""
    return {"estimate": middle, "low": low, "high": high, "confidence": 0.95, "rows": rows, "method": "bootstrap"}


def guardrail(groups: dict, *, judged: int = 2, too_small: int = 0) -> dict:
    """Make one figure of a comparison of segments as a notebook records it."""
    counts = {"judged": judged, "too_small": too_small, "worse": 0, "better": 0, "rows": 1_000, "days": 7}
    return {**counts, "method": "all sign patterns of 7 days", "groups": groups}


SCRAPS = {
    "07_evaluate_model": {
        "rows": 6_402,
        "plain": 0.613,
        "nothing": None,
        "yes": True,
        "text": "0.7",
        "undefined": math.nan,
        "metrics": {
            "last_week": {
                "roc_auc": estimate(0.613, 0.63, 0.65),
                "log_loss": estimate(0.38, 0.40, 0.42),
                "unknown": {**estimate(math.nan, 0.7, math.nan), "method": "undefined: one class only"},
            }
        },
        "against_production": {
            "worse": estimate(-0.031, -0.012, 0.004),
            "near": estimate(-0.015, -0.002, 0.011),
            "better": estimate(0.002, 0.01, 0.02),
        },
        "first": "no production model",
        "excuse": "no production model today",
    },
    "10_compare_shadow": {
        "completeness": 1.0,
        "money": -12_345.6,
        "guardrail": {
            "recall": guardrail({"shop books": estimate(-0.02, 0.01, 0.04), "shop shoes": estimate(-0.3, -0.2, -0.1)}),
            "value": guardrail({"shop books": estimate(-40.0, -5.0, 30.0)}, too_small=3),
        },
        "many": guardrail({f"shop {number}": estimate(-0.3, -0.2, -0.1) for number in range(12)}),
        "unjudged": guardrail({}, judged=0),
        "broken": guardrail({"shop books": {"estimate": 0.1, "low": 0.0, "high": math.nan}}),
        "odd": guardrail({"shop books": "fine"}),
    },
}


def judge(scrap: str, stage: str = "07_evaluate_model", **bounds):
    """Judge one gate on a scrap of the table above."""
    return judge_gate(Gate(gate="the gate", scrap=f"{stage}.{scrap}", **bounds), SCRAPS)


@pytest.mark.parametrize(
    ("scrap", "bounds", "observed"),
    [
        ("plain", {"at_least": 0.6}, 0.613),
        ("plain", {"at_least": 0.613}, 0.613),
        ("plain", {"at_most": 0.7, "at_least": 0.6}, 0.613),
        ("rows", {"equals": 6402}, 6402),
        ("metrics.last_week.roc_auc", {"at_least": 0.6, "min_rows": 6402}, 0.613),
        ("metrics.last_week.log_loss", {"at_most": 0.42}, 0.42),
        ("against_production.near", {"allowed_drop": 0.02}, -0.015),
        ("against_production.better", {"allowed_drop": 0.0}, 0.002),
        ("against_production.better", {"at_least": 0.0}, 0.002),
    ],
)
def test_passes(scrap, bounds, observed):
    """A number within its bounds passes; of an estimate, the end that is nearer to failing is judged."""
    result = judge(scrap, **bounds)

    assert ("passed", observed) == (result.status, result.observed)
    assert result.passed


@pytest.mark.parametrize(
    ("scrap", "bounds", "sentence"),
    [
        ("plain", {"at_least": 0.65}, "the gate fails: plain 0.613 is 0.037 below 0.650"),
        ("plain", {"at_most": 0.6}, "the gate fails: plain 0.613 is 0.013 above 0.600"),
        ("rows", {"equals": 6403}, "the gate fails: rows is 6,402, not 6,403"),
        (
            "metrics.last_week.roc_auc",
            {"at_least": 0.62},
            "the gate fails: the low end of roc_auc (0.630 on its own), 0.613 is 0.007 below 0.620 (rows 6,402)",
        ),
        (
            "metrics.last_week.log_loss",
            {"at_most": 0.41},
            "the gate fails: the high end of log_loss (0.400 on its own), 0.420 is 0.010 above 0.410 (rows 6,402)",
        ),
        (
            "against_production.worse",
            {"allowed_drop": 0.02},
            "the gate fails: worse may be 0.031 worse than production (estimate -0.012), "
            "0.011 more than the allowed 0.020 (rows 6,402)",
        ),
        (
            "metrics.last_week.roc_auc",
            {"at_least": 0.6, "min_rows": 7000},
            "the gate fails: roc_auc rests on 6,402 rows, fewer than 7,000 (rows 6,402)",
        ),
        (
            "plain",
            {"at_least": 0.6, "min_rows": 10},
            "the gate fails: plain does not say how many rows it rests on, and 10 are needed",
        ),
        ("undefined", {"at_least": 0.0}, "the gate fails: undefined is undefined"),
        ("undefined", {"equals": 0.0}, "the gate fails: undefined is undefined"),
        (
            "metrics.last_week.unknown",
            {"at_least": 0.1},
            "the gate fails: unknown.low is undefined (undefined: one class only) (rows 6,402)",
        ),
        ("nothing", {"at_least": 0.1}, "the gate fails: nothing is nothing, not a number"),
        ("yes", {"equals": 1.0}, "the gate fails: yes is the truth value True, not a number"),
        ("text", {"at_least": 0.1}, "the gate fails: text is str '0.7', not a number"),
        ("excuse", {"at_least": 0.1}, "the gate fails: excuse is str 'no production model today', not a number"),
        ("metrics", {"at_least": 0.1}, "the gate fails: metrics is a table and not an estimate: it has no 'low'"),
        (
            "plain",
            {"allowed_drop": 0.1},
            "the gate fails: plain is float 0.613 and not an estimate, so the drop has no interval",
        ),
        (
            "metrics.last_weak.roc_auc",
            {"at_least": 0.1},
            "the gate fails: 07_evaluate_model.metrics has no 'last_weak'. Did you mean 'last_week'?",
        ),
        (
            "plain.roc_auc",
            {"at_least": 0.1},
            "the gate fails: 07_evaluate_model.plain is float 0.613, so it has no 'roc_auc'",
        ),
    ],
)
def test_fails_with_its_own_sentence(scrap, bounds, sentence):
    """Out of bounds, undefined, missing, too few rows, wrong type: each fails in words of its own."""
    result = judge(scrap, **bounds)

    assert sentence == result.sentence
    assert result.status == "failed"
    assert not result.passed


@pytest.mark.parametrize(
    ("scrap", "bounds", "sentence"),
    [
        (
            "guardrail",
            {"allowed_harm": 0.0},
            "the gate fails: one segment is worse off: shop shoes, recall -0.200 (-0.300 to -0.100) (rows 1,000)",
        ),
        (
            "guardrail.recall",
            {"allowed_harm": 0.05},
            "the gate fails: one segment is worse off by more than the allowed 0.050: shop shoes, recall -0.200 "
            "(-0.300 to -0.100) (rows 1,000)",
        ),
        (
            "unjudged",
            {"allowed_harm": 0.0},
            "the gate fails: unjudged could be judged in no segment (all sign patterns of 7 days) (rows 1,000)",
        ),
        (
            "guardrail.value",
            {"allowed_harm": 0.0, "min_rows": 2000},
            "the gate fails: value rests on 1,000 rows, fewer than 2,000 (rows 1,000)",
        ),
        (
            "broken",
            {"allowed_harm": 0.0},
            "the gate fails: broken of shop books.high is undefined (rows 1,000)",
        ),
        (
            "odd",
            {"allowed_harm": 0.0},
            "the gate fails: odd of shop books is str 'fine', not a number (rows 1,000)",
        ),
        (
            "completeness",
            {"allowed_harm": 0.0},
            "the gate fails: completeness is float 1.0 and not a comparison of segments: it has no 'groups'",
        ),
    ],
)
def test_a_guardrail_names_who_is_harmed(scrap, bounds, sentence):
    """A segment whose whole interval lies below what is allowed fails the gate by name, and so does judging nothing."""
    result = judge(scrap, stage="10_compare_shadow", **bounds)

    assert sentence == result.sentence
    assert result.status == "failed"


def test_a_guardrail_names_the_first_of_many():
    """Of twelve harmed segments eight are named and four counted."""
    result = judge("many", stage="10_compare_shadow", allowed_harm=0.0)

    assert "12 segments are worse off: shop 0, many -0.200 (-0.300 to -0.100); shop 1, many" in result.sentence
    assert "shop 7, many -0.200 (-0.300 to -0.100); and 4 more" in result.sentence


def test_a_guardrail_passes_and_says_what_it_could_not_judge():
    """Harm within what is allowed passes, and the sentence counts the segments that were too small."""
    result = judge("guardrail.recall", stage="10_compare_shadow", allowed_harm=0.1)
    value = judge("guardrail.value", stage="10_compare_shadow", allowed_harm=0.0, min_rows=1000)

    assert (result.status, result.observed) == ("passed", -0.1)
    assert value.sentence == (
        "the gate: none is shown to be worse off, value in 2 segments (3 too small to judge), "
        "asked no segment worse than production, on 1,000 rows or more (rows 1,000)"
    )


def test_stage_that_recorded_nothing_fails():
    """A stage that never ran cannot let a release pass."""
    result = judge("plain", stage="08_evaluate_business", at_least=0.1)

    assert "the gate fails: stage 08_evaluate_business recorded nothing. " in result.sentence


@pytest.mark.parametrize("path", ["first", "first.last_week.roc_auc"])
def test_no_production_skips(path):
    """Only the recorded words 'no production model' skip a gate."""
    result = judge(path, allowed_drop=0.02)

    assert result.sentence == "the gate: skipped, there is no production model to compare with"
    assert result.status == "skipped"
    assert result.passed


def test_passing_sentence_names_number_and_bound():
    """A pass can be read as well as a failure."""
    result = judge("metrics.last_week.roc_auc", at_least=0.6, min_rows=2000)

    assert result.sentence == (
        "the gate: roc_auc 0.630 (0.613 to 0.650), asked at least 0.600, on 2,000 rows or more (rows 6,402)"
    )


def test_large_numbers_are_readable():
    """Money has separators."""
    sentence = judge("money", stage="10_compare_shadow", at_least=0.0).sentence

    assert sentence == "the gate fails: money -12,345.6 is 12,345.6 below 0"


def test_all_gates_are_judged_and_can_be_written():
    """A failure does not stop the rest, the order stays, and the results are JSON."""
    gates = [
        Gate(gate="a", scrap="07_evaluate_model.plain", at_least=0.9),
        Gate(gate="b", scrap="10_compare_shadow.completeness", equals=1.0),
        Gate(gate="c", scrap="07_evaluate_model.undefined", at_least=0.9),
    ]
    results = judge_gates(gates, SCRAPS)

    assert [(result.gate, result.status) for result in results] == [("a", "failed"), ("b", "passed"), ("c", "failed")]
    assert json.loads(json.dumps([result.as_dict() for result in results], allow_nan=False))[2]["gate"] == "c"
