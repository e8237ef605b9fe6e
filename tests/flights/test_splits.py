"""Splits: by date alone, disjoint, and never judged on what an older model learned from."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from flights.features import FEATURES
from flights.splits import (
    ROLES,
    add_feedback,
    build_training_set,
    find_roles,
    find_windows,
    is_held_out_day,
)

MATURITY = timedelta(days=2)
AS_OF = pd.Timestamp("2013-10-28")


def make_features(times: pd.Series) -> pd.DataFrame:
    """Make a table of features with one flight a time; what is in them does not matter here."""
    table = pd.DataFrame({"flight_id": "flight " + times.astype(str), "scheduled_departure": times})
    columns = {name: "AA" if dtype == "str" else np.ones(1, dtype)[0] for name, dtype in FEATURES.items()}
    return table.assign(**columns, late=(times.dt.day % 5 == 0).astype(float))


@pytest.fixture
def times() -> pd.Series:
    """Two flights a day for fifteen weeks."""
    return pd.Series(pd.date_range("2013-07-15 06:00", AS_OF, freq="12h"))


def test_windows_of_the_first_release():
    """As of 30 September judging ends with the 27th, its week begins on the 21st, learning ten weeks before."""
    windows = find_windows(pd.Timestamp("2013-09-30"), MATURITY)

    expected = ["2013-07-13", "2013-08-31", "2013-09-21", "2013-09-28"]
    assert [windows.learn_from, windows.month_from, windows.week_from, windows.cutoff] == [
        pd.Timestamp(day) for day in expected
    ]


def test_held_out_days_are_every_fourth(times):
    """A day is held out exactly when its ordinal is a multiple of four."""
    expected = [date.toordinal(time) % 4 == 0 for time in times]

    assert expected == is_held_out_day(times).tolist()


def test_roles_cover_every_flight(times):
    """Each flight has one role, and each role comes from its window."""
    windows = find_windows(AS_OF, MATURITY)
    roles = find_roles(times, windows)
    counts = roles.value_counts()

    assert set(ROLES) == set(counts.index)
    assert 14 == counts["last week"]
    assert 2 * 5 <= counts["held out"] <= 2 * 6
    assert 2 * 70 == counts["learn"] + counts["held out"]
    assert times[roles == "too young"].min() >= windows.cutoff


def test_no_model_is_judged_on_what_an_older_one_learned(times):
    """Whatever week production was trained in, its days to learn from never meet the candidate's days to judge on."""
    judged = set(times[find_roles(times, find_windows(AS_OF, MATURITY)).isin(["held out", "last week"])])
    for weeks_older in range(6):
        older = find_windows(AS_OF - pd.Timedelta(weeks=weeks_older), MATURITY)
        learned = set(times[find_roles(times, older) == "learn"])

        assert not judged & learned


def test_training_set_has_known_labels_and_weight_one(times):
    """Flights whose label never came are left out, the others count once."""
    features = make_features(times)
    features.loc[features["scheduled_departure"].dt.hour == 18, "late"] = np.nan

    training = build_training_set(features, find_windows(AS_OF, MATURITY))

    assert {6} == set(training["scheduled_departure"].dt.hour)
    assert "int8" == training["late"].dtype
    assert (training["weight"] == 1.0).all()


def test_without_examples_nothing_changes(times):
    """No review, an empty one, and a cap of nothing leave the training set as it is."""
    windows = find_windows(AS_OF, MATURITY)
    training = build_training_set(make_features(times), windows)
    examples = training.head(3).assign(weight=5.0)

    for same in (
        add_feedback(training, None, cap=0.1),
        add_feedback(training, examples.head(0), cap=0.1),
        add_feedback(training, examples, cap=0.0),
    ):
        assert training.assign(example=False).equals(same)


def test_examples_are_weighted_lapse_and_are_kept_out(times):
    """An example inside counts more; an older one has lapsed, and one that is for judging does not enter."""
    windows = find_windows(AS_OF, MATURITY)
    features = make_features(times)
    training = build_training_set(features, windows)
    roles = find_roles(features["scheduled_departure"], windows)
    examples = pd.concat([features[roles == role].head(1) for role in ROLES]).assign(weight=3.0, reason="missed")

    result = add_feedback(training, examples, cap=0.5)

    chosen = result[result["example"]]
    assert features.loc[roles == "learn", "flight_id"].head(1).tolist() == chosen["flight_id"].tolist()
    assert [3.0] == chosen["weight"].tolist()
    assert training["flight_id"].tolist() == result["flight_id"].tolist()
    assert dict(training.dtypes) == {name: result.dtypes[name] for name in training}


def test_examples_cannot_take_over(times):
    """However heavy the examples are, their share of the weight is the cap."""
    windows = find_windows(AS_OF, MATURITY)
    training = build_training_set(make_features(times), windows)
    examples = training.head(40).assign(weight=50.0)

    result = add_feedback(training, examples, cap=0.1)

    assert pytest.approx(0.1) == result.loc[result["example"], "weight"].sum() / result["weight"].sum()
    assert 1 == result.loc[result["example"], "weight"].nunique()


@pytest.mark.parametrize("cap", [-0.1, 1.0])
def test_a_cap_is_a_share(times, cap):
    """A cap below 0 or of 1 is refused."""
    windows = find_windows(AS_OF, MATURITY)
    training = build_training_set(make_features(times), windows)

    with pytest.raises(ValueError, match="cap must be"):
        add_feedback(training, training.head(1), cap=cap)
