"""One model on its own answers."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from sundial.evaluation.measurement import (
    compare_estimates,
    measure_days,
    measure_model,
    measure_segments,
    write_numbers,
)
from sundial.evaluation.metrics import METRICS


def value(label: np.ndarray, decision: np.ndarray) -> np.ndarray:
    """Gain 10 for a right alert, lose 3 for a wrong one."""
    return np.where(decision, np.where(label == 1, 10.0, -3.0), 0.0)


def make_answers(rows: int = 1400) -> pd.DataFrame:
    """Make a week of answers; the last hundred have no label yet."""
    rng = np.random.default_rng(0)
    score = rng.beta(1, 4, rows)
    label = (rng.random(rows) < score).astype(float)
    label[-100:] = np.nan
    return pd.DataFrame(
        {
            "event_time": pd.Timestamp("2020-01-06") + pd.to_timedelta(np.sort(rng.uniform(0, 7, rows)), unit="D"),
            "place": np.where(np.arange(rows) % 10 == 0, "rare", "usual"),
            "score": score,
            "decision": score >= 0.3,
            "outcome": label,
        }
    )


def test_all_metrics_on_labelled_rows():
    """Each metric is there, on the 1,300 rows with a label; money too."""
    answers = make_answers()
    found = measure_model(answers, label="outcome", value=value)
    known = answers.dropna()

    assert {1300} == {estimate["rows"] for estimate in found.values()}
    assert METRICS["roc_auc"](known["outcome"], known["score"]) == found["roc_auc"]["estimate"]
    assert found["value"]["estimate"] == pytest.approx(
        1000 * value(known["outcome"].to_numpy(), known["decision"].to_numpy()).mean()
    )


def test_nothing_known_is_undefined():
    """Without labels each estimate is undefined, and nothing raises."""
    found = measure_model(make_answers().assign(outcome=np.nan), label="outcome", value=value)

    assert all(math.isnan(estimate["estimate"]) for estimate in found.values())


def test_no_rows_are_undefined():
    """An empty frame measures as undefined everywhere."""
    nothing = make_answers().head(0)

    assert math.isnan(measure_model(nothing, label="outcome")["roc_auc"]["estimate"])
    assert measure_segments(nothing, ["place"], label="outcome").empty
    assert measure_days(nothing, label="outcome").empty


def test_small_segments_are_marked():
    """A segment of 140 rows has sizes and no metric."""
    table = measure_segments(make_answers(), ["place"], label="outcome", value=value)

    assert table["note"].to_dict() == {("place", "usual"): "", ("place", "rare"): "too small"}
    assert math.isnan(table.loc[("place", "rare"), "roc_auc"])
    assert table.loc[("place", "usual"), "low"] < table.loc[("place", "usual"), "roc_auc"]


def test_days_without_labels_have_rows():
    """A day whose labels are not mature has rows and no figure."""
    answers = make_answers()
    last = answers["event_time"].dt.normalize().max()
    answers.loc[answers["event_time"] >= last, "outcome"] = np.nan
    table = measure_days(answers, label="outcome")

    assert len(table) == 7
    assert table.loc[last, "mature"] == 0
    assert math.isnan(table.loc[last, "roc_auc"])
    assert table["rows"].sum() == 1400


def test_two_weeks_are_compared_metric_by_metric():
    """What both have is compared, in the direction of each metric, and a verdict needs the interval."""

    def estimate(value: float, reach: float) -> dict:
        ends = {"low": value - reach, "high": value + reach}
        return {"estimate": value, **ends, "confidence": 0.95, "rows": 100, "method": ""}

    later = {
        "recall": estimate(0.5, 0.01),
        "log_loss": estimate(0.5, 0.01),
        "alert_share": estimate(0.2, 0.01),
        "brier": estimate(0.38, 0.1),
        "value": estimate(math.nan, math.nan),
        "roc_auc": estimate(0.8, 0.1),
    }
    earlier = {name: estimate(0.4 if name != "alert_share" else 0.1, 0.01) for name in later if name != "roc_auc"}
    table = compare_estimates(later, earlier)

    assert table["verdict"].to_dict() == {
        "recall": "better",
        "log_loss": "worse",
        "alert_share": "changed",
        "brier": "unclear",
        "value": "undefined",
    }
    assert table.loc["log_loss", "difference"] == pytest.approx(-0.1)
    assert table.loc["recall", ["earlier", "later"]].tolist() == [0.4, 0.5]


def test_numbers_are_written_as_people_read_them():
    """Shares have four decimals and money none; what is no number stays, and what is missing is blank."""
    table = write_numbers(pd.DataFrame({"a": [0.12345, 49_012.9, math.nan], "b": ["worse", "", "as is"], "c": 3}))

    assert table["a"].tolist() == ["0.1235", "49,013", ""]
    assert (table["b"].tolist(), table["c"].tolist()) == (["worse", "", "as is"], [3, 3, 3])
