"""Metrics agree with scikit-learn, and with themselves under weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from sundial.evaluation.metrics import (
    METRICS,
    alert_share_at,
    calibration_table,
    find_metric,
    precision_at,
    recall_at,
    value_at,
)

REFERENCES = {
    "roc_auc": reference.roc_auc_score,
    "average_precision": reference.average_precision_score,
    "log_loss": reference.log_loss,
    "brier": reference.brier_score_loss,
}


def make_rows(rows: int = 400, *, digits: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make labels, scores (few digits make ties) and integer weights."""
    rng = np.random.default_rng(seed)
    score = np.clip(np.round(rng.beta(2, 5, rows), digits), 0.02, 0.98)
    label = (rng.random(rows) < score).astype(float)
    return label, score, rng.integers(0, 4, rows).astype(float)


@pytest.mark.parametrize("digits", [1, 8])
@pytest.mark.parametrize("name", REFERENCES)
def test_agrees_with_scikit_learn(name, digits):
    """The same figure as scikit-learn's, with and without ties, with and without weights."""
    label, score, weight = make_rows(digits=digits)

    assert REFERENCES[name](label, score) == pytest.approx(METRICS[name](label, score), abs=1e-12)
    assert REFERENCES[name](label, score, sample_weight=weight) == pytest.approx(
        METRICS[name](label, score, weight), abs=1e-12
    )


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.31])
def test_thresholds_agree_with_scikit_learn(threshold):
    """A score that reaches the threshold is an alert, also when it is equal to it."""
    label, score, weight = make_rows()
    decision = score >= threshold

    assert reference.recall_score(label, decision, sample_weight=weight) == pytest.approx(
        recall_at(threshold)(label, score, weight)
    )
    assert reference.precision_score(label, decision, sample_weight=weight) == pytest.approx(
        precision_at(threshold)(label, score, weight)
    )
    assert np.average(decision, weights=weight) == pytest.approx(alert_share_at(threshold)(label, score, weight))


@pytest.mark.parametrize("name", METRICS)
def test_integer_weight_is_repetition(name):
    """A row of weight three counts as three rows."""
    label, score, weight = make_rows()
    repeated = np.repeat(np.arange(len(label)), weight.astype(int))

    assert METRICS[name](label[repeated], score[repeated]) == pytest.approx(METRICS[name](label, score, weight))


@pytest.mark.parametrize("name", METRICS)
def test_replicates_are_single_calls(name):
    """Many resamples at once give what one call each gives."""
    label, score, _ = make_rows(60)
    weights = np.random.default_rng(1).poisson(1.0, (12, 60)).astype(float)

    expected = [METRICS[name](label, score, row) for row in weights]

    assert expected == pytest.approx(METRICS[name].replicates(label, score)(weights).tolist(), nan_ok=True)


@pytest.mark.parametrize(
    ("label", "score"),
    [([], []), ([1, 0], [0.5, np.nan]), ([np.nan, 1, 0], [0.1, 0.2, 0.3])],
    ids=["no rows", "a missing score", "a missing label"],
)
@pytest.mark.parametrize("name", METRICS)
def test_undefined_is_nan(name, label, score):
    """No rows, or a missing value among them, is NaN without a warning."""
    assert math.isnan(METRICS[name](label, score))


def test_one_class_is_undefined_where_two_are_needed():
    """Ranking needs both classes, recall a positive, precision an alert; the rest stays defined."""
    zeros, scores = [0, 0, 0], [0.1, 0.2, 0.3]

    undefined = {name for name, metric in METRICS.items() if math.isnan(metric(zeros, scores))}

    assert {"roc_auc", "average_precision", "recall", "precision"} == undefined
    assert math.isnan(METRICS["roc_auc"]([1, 1], [0.1, 0.2]))
    assert METRICS["average_precision"]([1, 1], [0.1, 0.2]) == 1.0


def test_zero_weight_rows_do_not_count():
    """With no weight at all everything is undefined."""
    for metric in METRICS.values():
        assert math.isnan(metric([0, 1], [0.1, 0.9], [0, 0]))


def test_certain_and_wrong_is_finite():
    """A score of exactly 1 for a label of 0 costs a lot and not infinitely much."""
    assert 30 < METRICS["log_loss"]([0, 1], [1.0, 1.0]) * 2 < 40


def test_calibration_error_of_known_bins():
    """Two bins, off by 0.12 and 0.1, with three rows and one row."""
    label, score = [0, 0, 1, 1], [0.21, 0.21, 0.22, 0.9]

    expected = (3 * abs((0.21 + 0.21 + 0.22) / 3 - 1 / 3) + 0.1) / 4

    assert expected == pytest.approx(METRICS["calibration_error"](label, score))
    table = calibration_table(label, score)
    assert table["rows"] == [3.0, 1.0]
    assert pytest.approx(table["label_share"]) == [1 / 3, 1.0]


def test_value_is_money_per_thousand_rows():
    """Two right alerts of 10, one wrong one of -3, one row left alone: 17 for 4 rows."""
    value = value_at(lambda label, decision: np.where(decision, np.where(label == 1, 10.0, -3.0), 0.0), 0.5)

    assert pytest.approx(value([1, 1, 0, 0], [0.9, 0.5, 0.7, 0.1])) == 17 / 4 * 1000
    assert math.isnan(value([], []))


def test_labels_must_be_zero_or_one():
    """A label of 2 is a mistake of the caller, not an undefined figure."""
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        METRICS["brier"]([0, 2], [0.1, 0.2])


def test_lengths_must_agree():
    """Rows that do not pair up are refused."""
    with pytest.raises(ValueError, match="2 labels for 1 scores"):
        METRICS["brier"]([0, 1], [0.1])
    with pytest.raises(ValueError, match="1 weights for 2 rows"):
        METRICS["brier"]([0, 1], [0.1, 0.2], [1.0])


def test_unknown_metric_lists_the_known():
    """A wrong name is answered with the right ones."""
    with pytest.raises(KeyError, match="roc_auc, average_precision"):
        find_metric("auc")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30))
def test_roc_auc_counts_pairs(rows):
    """ROC AUC is the share of pairs in the right order, ties half, for any rows."""
    label = np.array([float(late) for late, _ in rows])
    score = np.array([value / 6 for _, value in rows])
    gaps = score[label == 1][:, None] - score[label == 0][None, :]

    expected = float(np.mean((gaps > 0) + 0.5 * (gaps == 0))) if gaps.size else math.nan

    assert expected == pytest.approx(METRICS["roc_auc"](label, score), nan_ok=True)
