"""Shares of segments over weeks."""

from __future__ import annotations

import pandas as pd
import pytest

from sundial.monitoring.shift import OTHERS, count_segments, measure_shift, share_by_week

WEEKS = pd.to_datetime(["2013-03-11"] * 4 + ["2013-03-18"] * 4)
ANSWERS = pd.DataFrame({"shop": ["books", "books", "shoes", None, "books", "shoes", "shoes", "plants"]})


@pytest.fixture
def counted() -> pd.DataFrame:
    """Count two weeks of eight requests."""
    return count_segments(ANSWERS, pd.Series(WEEKS), ["shop"])


def test_a_value_is_new_in_the_week_it_appears(counted):
    """Plants are new in the second week; in the first nothing is, and a missing value is a value."""
    assert [("2013-03-18", "plants")] == [
        (f"{row.week:%Y-%m-%d}", row.value) for row in counted[counted.new].itertuples()
    ]
    assert {"books", "shoes", "(missing)", "plants"} == set(counted["value"])


def test_shares_add_up_with_the_small_ones_pooled(counted):
    """Two values have a column of their own, the rest is one more."""
    shares = share_by_week(counted, "shop", shown=2)

    assert ["books", "shoes", OTHERS] == list(shares)
    assert [1.0, 1.0] == pytest.approx(shares.sum(axis=1).tolist())
    assert 0.5 == shares.iloc[0]["books"]


def test_the_first_week_is_no_shift(counted):
    """The distance from itself is 0, and from a week of other shares it is more."""
    distance = measure_shift(counted, "shop")

    assert 0.0 == distance.iloc[0]
    assert distance.iloc[1] > 0.1
