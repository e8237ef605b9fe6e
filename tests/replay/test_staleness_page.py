"""The sentence that prices waiting, as it is quoted."""

from __future__ import annotations

from sundial.evaluation.intervals import Estimate, undefined
from sundial.replay.staleness_page import say_cost


def change(estimate: float, low: float, high: float) -> Estimate:
    """Make up what a month changes in a metric."""
    return Estimate(estimate=estimate, low=low, high=high, confidence=0.95, rows=1000, method="made up")


def test_what_is_lost_is_counted_up():
    """A fall of the metric is a cost, a rise a negative one, and the lower end of each interval stands first."""
    months = {
        "roc_auc": change(-0.0052, -0.0094, -0.001),
        "recall": change(0.012, -0.003, 0.027),
        "value": change(-310.4, -740.0, 119.6),
    }

    said = say_cost(months, "USD")

    assert "costs 0.52 (0.10 to 0.94) points of ROC AUC" in said
    assert "−1.2 (−2.7 to 0.3) points of recall" in said
    assert "310 (−120 to 740) USD per 1,000 requests" in said


def test_too_few_weeks_give_no_price():
    """The sentence says what is missing instead of a number."""
    said = say_cost({"roc_auc": undefined(0, "undefined: 3 weeks, and two blocks of 4 are needed")}, "USD")

    assert "not known yet, undefined: 3 weeks" in said
