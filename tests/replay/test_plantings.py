"""The planted faults do what their names say, and no more."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sundial.errors import DataError
from sundial.replay.plantings import (
    choose_weeks,
    drop_segment,
    freeze_feature,
    learn_the_future,
    shift_labels,
    strongest_feature,
)

FEATURES = ("strong", "weak", "shop")


@pytest.fixture
def frame() -> pd.DataFrame:
    """Make rows of which one feature goes with the label, one hardly, and some labels are not known yet."""
    rng = np.random.default_rng(0)
    late = (rng.random(500) < 0.3).astype("float64")
    frame = pd.DataFrame(
        {
            "strong": late + rng.normal(size=500),
            "weak": 0.1 * late + rng.normal(size=500),
            "shop": rng.choice(["books", "shoes"], 500, p=[0.7, 0.3]),
            "late": late,
        }
    )
    frame.loc[490:, "late"] = np.nan
    return frame


def test_the_strongest_feature_is_the_one_that_goes_with_the_label(frame):
    """Texts are passed over; without a number among the features there is none."""
    assert "strong" == strongest_feature(frame, "late", FEATURES)
    with pytest.raises(DataError, match="no feature is a number"):
        strongest_feature(frame, "late", ["shop"])


def test_shifted_labels_are_those_of_the_next_row(frame):
    """Each row has the label of the row after it; features stay."""
    shifted = shift_labels(frame, "late", FEATURES, "shop")

    assert frame["late"].iloc[1:490].tolist() == shifted["late"].iloc[:489].tolist()
    pd.testing.assert_frame_equal(frame.drop(columns="late"), shifted.drop(columns="late"))


def test_a_frozen_feature_has_one_value(frame):
    """One that it really had; the others are as before."""
    frozen = freeze_feature(frame, "late", FEATURES, "shop")

    assert 1 == frozen["strong"].nunique()
    assert frozen["strong"].iloc[0] in set(frame["strong"])
    pd.testing.assert_frame_equal(frame.drop(columns="strong"), frozen.drop(columns="strong"))


def test_a_dropped_segment_is_the_largest(frame):
    """No row of it is left, and every row of the others."""
    assert {"shoes"} == set(drop_segment(frame, "late", FEATURES, "shop")["shop"])


def test_the_future_is_learnt_without_a_trace_in_the_distribution(frame):
    """The feature has the same values, and now they rank the known labels without an error."""
    leaking = learn_the_future(frame, "late", FEATURES, "shop")
    known = leaking[leaking["late"].notna()]

    assert sorted(frame["strong"]) == sorted(leaking["strong"])
    assert known.loc[known["late"] == 1, "strong"].min() > known.loc[known["late"] == 0, "strong"].max()


@pytest.mark.parametrize(("weeks", "plant"), [(40, 6), (3, 1), (5, 3), (40, 0), (2, 1)])
def test_planted_weeks_have_a_week_before_and_after(weeks, plant):
    """Neither the first nor the last is chosen, and no more than were asked for."""
    chosen = choose_weeks(weeks, plant)

    assert len(chosen) <= plant
    assert all(0 < week < weeks - 1 for week in chosen)
