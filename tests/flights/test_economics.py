"""Economics: values by hand, thresholds against trying all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flights.economics import (
    DEFAULT,
    Assumptions,
    best_threshold,
    break_even_precision,
    value,
    value_curve,
)
from sundial.pipeline import load_pipeline

ROWS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])), min_size=1, max_size=30)


def test_value_by_hand():
    """An alert earns for a late flight, costs for another, and no alert is nothing."""
    simple = Assumptions(
        seats=100,
        load_factor=1,
        connecting_share=0.1,
        at_risk_share=1,
        hour=40,
        handling=1,
        hours_saved=2,
        hours_lost=1,
    )

    assert simple.right_alert == 10 * (0.5 * 2 * 40 - 1)
    assert simple.wrong_alert == 10 * (0.5 * 1 * 40 + 1)
    np.testing.assert_array_equal(
        [simple.right_alert, -simple.wrong_alert, 0, 0], value([1, 0, 1, 0], [True, True, False, False], simple)
    )


def test_assumptions_make_sense():
    """A right alert pays, a wrong one costs, and breaking even needs more than one right alert in four."""
    assert DEFAULT.right_alert > DEFAULT.wrong_alert > 0
    assert 0.25 < break_even_precision() < 0.40


def test_break_even_earns_nothing():
    """With exactly the break-even share of right alerts, alerts earn nothing."""
    precision = break_even_precision()

    assert pytest.approx(0, abs=1e-9) == precision * DEFAULT.right_alert - (1 - precision) * DEFAULT.wrong_alert


def test_unknown_labels_are_refused():
    """A label that is missing has no value, and is not counted as on time."""
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        value([1.0, np.nan], [True, False])


def test_shapes_must_agree():
    """Labels and decisions of different length are refused."""
    with pytest.raises(ValueError, match="labels for"):
        value([1, 0], [True])


@given(ROWS)
def test_best_threshold_is_the_best_of_all(rows):
    """No threshold earns more than the best, and the best earns what it says."""
    label, score = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    best = best_threshold(label, score)
    tried = [value(label, score >= threshold).sum() for threshold in [*score, np.inf]]

    assert pytest.approx(max(tried)) == value(label, score >= best["threshold"]).sum()
    assert pytest.approx(1000 * max(tried) / len(rows)) == best["value_per_1000"]
    assert pytest.approx(np.mean(score >= best["threshold"])) == best["alert_share"]


@given(ROWS)
def test_value_curve_is_the_value_at_each_threshold(rows):
    """The curve has each score once, from high to low, and equal scores fall on the same side."""
    label, score = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    thresholds, total = value_curve(label, score)

    assert sorted(set(score), reverse=True) == thresholds.tolist()
    np.testing.assert_allclose(total, [value(label, score >= threshold).sum() for threshold in thresholds])


def test_no_alert_pays():
    """Where no flight was late the best threshold is out of reach."""
    assert {"threshold": np.inf, "value_per_1000": 0.0, "alert_share": 0.0} == best_threshold([0, 0], [0.2, 0.9])


def test_honest_scores_break_even_at_the_break_even_precision():
    """With scores that are true probabilities the best threshold is close to the break-even precision."""
    rng = np.random.default_rng(0)
    score = rng.uniform(size=200_000)
    label = rng.uniform(size=score.size) < score

    assert pytest.approx(break_even_precision(), abs=0.02) == best_threshold(label, score)["threshold"]


def test_no_rows_have_no_threshold():
    """A threshold cannot be chosen on nothing, or on scores that are missing."""
    with pytest.raises(ValueError, match="no rows"):
        best_threshold([], [])
    with pytest.raises(ValueError, match="must be a number"):
        best_threshold([1, 0], [0.5, np.nan])


@pytest.mark.parametrize("hook", ["labels", "requests", "value"])
def test_hooks_of_the_pipeline_exist(hook):
    """The functions that pipeline.yaml names can be imported."""
    assert callable(load_pipeline("flights").hook(hook))
