"""Changing the future changes nothing that was known before."""

from __future__ import annotations

import io

import pandas as pd

from flights.features import ASKED_AHEAD, HISTORY, build_features
from flights.source import connect, known_labels, query, visible_flights, visible_weather
from flights.traffic import requests

AS_OF = "2013-10-07"
START = "2013-09-23"


def to_bytes(table: pd.DataFrame) -> bytes:
    """Write a table as Parquet, so that a difference in the last bit or in a type shows."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def read_all(as_of: str) -> dict[str, bytes]:
    """Collect what the stages and hooks see at a moment."""
    flights = visible_flights(as_of, pd.Timestamp(START) - HISTORY)
    weather = visible_weather(as_of, pd.Timestamp(START) - HISTORY)
    wanted = flights[flights["scheduled_departure"] >= START]
    with connect(as_of) as warehouse:
        summary = query(warehouse, "SELECT outcome, count(*), avg(late) FROM flights GROUP BY 1 ORDER BY 1")
    return {
        "flights": to_bytes(flights),
        "weather": to_bytes(weather),
        "features": to_bytes(build_features(wanted, weather, flights)),
        "labels": to_bytes(known_labels(as_of, START, "2013-12-31")),
        "summary": to_bytes(summary),
        "requests": to_bytes(requests(START, as_of)),
    }


def test_future_does_not_matter(change_future):
    """Query, features, labels and past requests are byte for byte the same when all that came later is different."""
    before = read_all(AS_OF)

    change_future(AS_OF)

    assert before == read_all(AS_OF)


def test_past_matters(change_future):
    """The same comparison notices a change of what was known, so that it proves something."""
    before = read_all(AS_OF)

    change_future("2013-10-04")

    after = read_all(AS_OF)
    assert [name for name in before if before[name] == after[name]] == []


def test_requests_use_what_was_known_when_asked(change_future):
    """Requests asked before noon of a Wednesday do not change with what happened after it."""
    noon = pd.Timestamp("2013-10-09 12:00")
    before = requests("2013-10-07", "2013-10-14")

    change_future(str(noon))
    after = requests("2013-10-07", "2013-10-14")

    asked = before["scheduled_departure"] - ASKED_AHEAD <= noon
    assert to_bytes(before[asked]) == to_bytes(after[asked])
    assert not before[~asked].equals(after[~asked])


def test_outcomes_are_hidden_until_known():
    """At as_of every flight has departed or was cancelled, and none has an outcome that came later."""
    flights = visible_flights(AS_OF, START)
    pending = flights[flights["outcome"] == "pending"]

    assert flights["departure"].fillna(flights["scheduled_departure"]).max() < pd.Timestamp(AS_OF)
    assert flights["label_known_at"].max() <= pd.Timestamp(AS_OF)
    assert len(pending) > 500
    assert pending[["arr_delay", "air_time", "late", "label_known_at"]].isna().all(axis=None)
    assert pending["departure"].notna().all()


def test_labels_come_a_day_after_arrival():
    """A flight that landed on Sunday has a label on Tuesday, not on Monday at midnight."""
    sunday, monday = "2013-10-06", "2013-10-07"

    assert len(known_labels(monday, sunday, monday)) == 0
    assert len(known_labels("2013-10-09", sunday, monday)) > 800


def test_labels_arrive_once_and_stay():
    """A label known at one date is known at every later date, unchanged."""
    early = known_labels("2013-10-04", START, "2013-10-07").set_index("flight_id")
    late = known_labels("2013-10-16", START, "2013-10-07").set_index("flight_id")

    assert len(early) < len(late)
    assert early.equals(late.loc[early.index])


def test_labels_fill_the_maturity():
    """Two days after the scheduled departure, the maturity of pipeline.yaml, every label that will come is known."""
    mature = known_labels("2013-10-09", START, "2013-10-07")
    final = known_labels("2013-12-31", START, "2013-10-07")

    assert len(final) == len(mature)
