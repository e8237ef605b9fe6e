"""What waiting costs, on tables whose slope is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sundial.monitoring.staleness import (
    AGES,
    WEEK,
    WEEKS_A_MONTH,
    compare_strategies,
    estimate_ages,
    estimate_month,
    follow_strategies,
    measure_week,
)

START = pd.Timestamp("2013-03-11")


def measured(weeks: int, slope: float, noise: float = 0.0) -> pd.DataFrame:
    """Make up measurements that fall by `slope` a week of age, with week effects that all models share."""
    rng = np.random.default_rng(0)
    lines = []
    for week in range(weeks):
        hard = rng.normal(0, 0.05)
        for age in range(week + 1):
            auc = 0.7 + hard + slope * age + rng.normal(0, noise) if noise else 0.7 + hard + slope * age
            lines.append((START + week * WEEK, START + (week - age) * WEEK, age, 1000, auc))
    return pd.DataFrame(lines, columns=["week", "model", "age", "rows", "roc_auc"])


def test_a_line_without_noise_is_found_exactly():
    """The slope of a month is that which was put in, though weeks differ by much more, and the interval is a point."""
    found = estimate_month(measured(40, -0.001), "roc_auc")

    assert found["estimate"] == pytest.approx(-0.001 * WEEKS_A_MONTH)
    assert found["low"] == pytest.approx(found["high"])
    assert "jackknife over 9 blocks of 4 weeks, t with 8 degrees" in found["method"]


def test_without_drift_the_interval_holds_zero():
    """Noise alone gives an interval around zero that is no point."""
    found = estimate_month(measured(40, 0.0, noise=0.01), "roc_auc")

    assert found["low"] < 0 < found["high"]


def test_too_few_weeks_are_undefined():
    """Six weeks that can be compared give no interval, and the method says why."""
    found = estimate_month(measured(8, -0.001), "roc_auc")

    assert np.isnan(found["estimate"])
    assert "6 weeks" in found["method"]


def test_each_age_is_measured_without_a_line():
    """The mean difference at an age is the slope times the weeks it is older; no line is assumed."""
    found = estimate_ages(measured(40, -0.001), "roc_auc")

    assert [age for age in AGES if age != 1] == list(found.index)
    assert found.loc[13, "estimate"] == pytest.approx(-0.012)
    assert 27 == found.loc[13, "weeks"]


def test_strategies_take_the_newest_of_their_releases():
    """Weekly is always a week old, monthly one to four, never as old as the year; and they are compared in pairs."""
    followed = follow_strategies(
        measured(10, -0.001).assign(roc_auc=lambda rows: -rows["age"].astype(float)), "roc_auc"
    )

    assert [-1.0] * 9 == followed["weekly"].tolist()
    assert [-1, -2, -3, -4, -1, -2, -3, -4, -1] == followed["monthly"].tolist()
    assert list(range(-1, -10, -1)) == followed["never retrained"].tolist()
    assert compare_strategies(followed)["never retrained"]["estimate"] == pytest.approx(-4.0)


def test_a_week_is_measured_with_the_threshold_of_production():
    """Recall and money go by production's threshold, not by a model's own."""
    table = pd.DataFrame(
        {"late": [0, 0, 1, 1], "threshold": 0.5, "old": [0.1, 0.6, 0.4, 0.9], "new": [0.1, 0.2, 0.8, 0.9]}
    )
    found = measure_week(
        table,
        START + 2 * WEEK,
        {"old": START, "new": START + WEEK},
        label="late",
        value=lambda label, alert: np.where(alert, 10.0 * label - 4.0, 0.0),
    ).set_index("age")

    assert [0.5, 1.0] == found.loc[[2, 1], "recall"].tolist()
    assert [500.0, 3000.0] == found.loc[[2, 1], "value"].tolist()
    assert 1.0 == found.loc[1, "roc_auc"]
