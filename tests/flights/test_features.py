"""Features: against slow and obvious references, and equal for training and requests."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from flights.features import (
    ASKED_AHEAD,
    FEATURES,
    HISTORY,
    PRIOR_FLIGHTS,
    WEATHER,
    build_features,
    late_share,
    read_board,
)
from flights.source import visible_flights, visible_weather
from flights.traffic import requests

AS_OF = "2013-10-16"
START, END = "2013-10-07", "2013-10-14"


@pytest.fixture(scope="module")
def week(built) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Flights of a week, the weather, and the flights whose labels fill the windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUNDIAL_ARTIFACTS", str(built))
        history = visible_flights(AS_OF, pd.Timestamp(START) - HISTORY)
        weather = visible_weather(AS_OF, pd.Timestamp(START) - HISTORY)
    inside = history["scheduled_departure"].between(START, END, inclusive="left")
    return history[inside], weather, history


def test_requests_equal_training_features(week):
    """A request carries, to the last bit, what the training set has for the same flight, though it was made earlier."""
    flights, weather, history = week
    trained = build_features(flights, weather, history).set_index("flight_id")
    asked = requests(START, END).set_index("flight_id")

    assert trained[list(FEATURES)].equals(asked.loc[trained.index, list(FEATURES)])


def test_history_beyond_the_windows_changes_nothing(week):
    """Features do not depend on how much more history than needed is given, or on the order of it."""
    flights, weather, history = week
    last = flights[flights["scheduled_departure"] >= "2013-10-13"]
    enough = history[history["scheduled_departure"] >= last["scheduled_departure"].min() - HISTORY]

    assert build_features(last, weather, history).equals(
        build_features(last, weather, enough.sample(frac=1.0, random_state=0))
    )


def test_types_are_as_declared(week):
    """FEATURES names the columns, in order, with the dtypes that the frame has."""
    features = build_features(*week)

    assert {name: str(dtype) for name, dtype in features.dtypes.items() if name in FEATURES} == FEATURES
    assert ["flight_id", "scheduled_departure", *FEATURES] == list(features)


def test_no_flights_give_no_features(week):
    """An empty frame gives an empty frame with all columns."""
    flights, weather, history = week

    assert (0, len(FEATURES) + 2) == build_features(flights.head(0), weather, history).shape


def test_weather_is_the_last_full_hour_before_the_question(week):
    """For a sample of flights the weather is that of the hour that ended last, an hour before departure."""
    flights, weather, history = week
    sample = flights.sample(60, random_state=3)
    features = build_features(sample, weather, history)

    for position, flight in enumerate(sample.itertuples()):
        asked = flight.scheduled_departure - ASKED_AHEAD
        over = weather["time_hour"] + pd.Timedelta(hours=1) <= asked
        latest = over & (weather["time_hour"] + pd.Timedelta(hours=2) > asked)
        report = weather[latest & (weather["origin"] == flight.origin)]
        expected = report[list(WEATHER.values())].to_numpy().ravel() if len(report) else [np.nan] * len(WEATHER)
        np.testing.assert_array_equal(expected, features.loc[position, list(WEATHER)].to_numpy(float))


def test_a_missing_report_is_missing(week):
    """A flight whose hour was not reported has no weather; an older report is not passed off as new."""
    flights, weather, history = week
    flight = flights.iloc[[1000]]
    hour = (flight["scheduled_departure"].iloc[0] - ASKED_AHEAD).floor("h") - pd.Timedelta(hours=1)

    features = build_features(flight, weather[weather["time_hour"] != hour], history)

    assert features[list(WEATHER)].isna().all(axis=None)


@pytest.mark.parametrize(
    ("column", "by", "days"),
    [("route_late_share", ["origin", "dest"], 14), ("carrier_late_share", ["carrier", "origin"], 7)],
)
def test_late_share_equals_a_slow_count(week, column, by, days):
    """For a sample of flights the share is what counting labels one by one gives."""
    flights, weather, history = week
    sample = flights.sample(40, random_state=7)
    features = build_features(sample, weather, history)

    for position, flight in enumerate(sample.itertuples()):
        midnight = (flight.scheduled_departure - ASKED_AHEAD).floor("D")
        known = history["label_known_at"]
        window = history[(known <= midnight) & (known > midnight - pd.Timedelta(days=days))]
        same = window[(window[by] == [getattr(flight, name) for name in by]).all(axis=1)]
        expected = (same["late"].sum() + PRIOR_FLIGHTS * window["late"].mean()) / (len(same) + PRIOR_FLIGHTS)
        assert pytest.approx(expected, rel=1e-12) == features.loc[position, column]


@pytest.mark.parametrize(
    ("column", "by", "hours"), [("recent_delay", ["origin"], 2), ("carrier_recent_delay", ["carrier", "origin"], 4)]
)
def test_board_equals_a_slow_count(week, column, by, hours):
    """For a sample of flights the mean delay is that of the departures one can find one by one."""
    flights, weather, history = week
    sample = flights.sample(40, random_state=11)
    features = build_features(sample, weather, history)

    for position, flight in enumerate(sample.itertuples()):
        asked = flight.scheduled_departure - ASKED_AHEAD
        left = history["departure"]
        window = history[(left < asked) & (left >= asked - pd.Timedelta(hours=hours))]
        same = window[(window[by] == [getattr(flight, name) for name in by]).all(axis=1)]
        assert features.loc[position, column] == pytest.approx(same["dep_delay"].mean(), nan_ok=True)
        if column == "recent_delay":
            assert features.loc[position, "recent_departures"] == len(same)
            assert features.loc[position, "recent_late_share"] == pytest.approx(
                (same["dep_delay"] > 30).mean(), nan_ok=True
            )


def test_board_counts_from_the_first_minute_and_before_the_last():
    """A departure two hours before the question counts; one in the minute of the question does not."""
    asked = pd.Timestamp("2013-10-07 09:00")
    times = asked - pd.to_timedelta([121, 120, 60, 0], unit="min")
    departed = pd.DataFrame({"origin": "EWR", "departure": times, "dep_delay": [99.0, 40.0, 2.0, 99.0]})
    flights = pd.DataFrame({"origin": ["EWR", "LGA"]})

    count, delay, late = read_board(flights, pd.Series([asked, asked]), departed, by=["origin"], hours=2)

    np.testing.assert_array_equal(count, [2, 0])
    np.testing.assert_array_equal(delay, [21.0, np.nan])
    np.testing.assert_array_equal(late, [0.5, np.nan])


def test_late_share_of_an_unknown_group_is_the_overall_share():
    """A route without labels gets the share of all; without any label in the window it gets NaN."""
    midnight = pd.Timestamp("2013-10-07")
    labels = pd.DataFrame(
        {"carrier": "UA", "late": [1.0, 0.0, 0.0, 0.0], "label_known_at": midnight - pd.Timedelta(days=1)}
    )
    flights = pd.DataFrame({"carrier": ["XX", "XX"]})
    asked = pd.Series([midnight + pd.Timedelta(hours=9), midnight + pd.Timedelta(days=30)])

    share = late_share(flights, asked, labels, by=["carrier"], days=7)

    np.testing.assert_array_equal([0.25, np.nan], share)


def test_late_share_counts_midnight_and_nothing_after():
    """A label known exactly at midnight counts that day; one known a second later does not."""
    midnight = pd.Timestamp("2013-10-07")
    times = [midnight - pd.Timedelta(days=1), midnight, midnight + pd.Timedelta(seconds=1)]
    labels = pd.DataFrame({"carrier": "UA", "late": [0.0, 1.0, 1.0], "label_known_at": times})
    flights = pd.DataFrame({"carrier": ["UA"]})

    share = late_share(flights, pd.Series([midnight + pd.Timedelta(hours=20)]), labels, by=["carrier"], days=7)

    assert share[0] == 0.5


def test_requests_come_in_order_and_include_every_scheduled_flight(week):
    """There is one request a scheduled flight, cancelled and diverted ones too, each id once, in order of departure."""
    flights, _, _ = week
    asked = requests(START, END)

    assert set(flights["flight_id"]) == set(asked["flight_id"])
    assert {"cancelled", "diverted"} < set(flights["outcome"])
    assert asked["request_id"].is_unique
    assert asked["scheduled_departure"].is_monotonic_increasing
    assert ["request_id", "flight_id", "scheduled_departure", *FEATURES] == list(asked)


def test_requests_of_parts_are_the_requests_of_the_whole():
    """Two halves of a day make the same requests as the day."""
    halves = [requests("2013-10-07", "2013-10-07 12:00"), requests("2013-10-07 12:00", "2013-10-08")]

    assert requests("2013-10-07", "2013-10-08").equals(pd.concat(halves, ignore_index=True))
