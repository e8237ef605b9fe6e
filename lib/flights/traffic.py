"""Replays real flights as the requests that a client would have sent."""

from __future__ import annotations

import pandas as pd

from flights.features import ASKED_AHEAD, ENTITY, EVENT_TIME, HISTORY, build_features
from flights.source import Moment, connect, query


def requests(start: Moment, end: Moment) -> pd.DataFrame:
    """Make one request a flight scheduled in ``[start, end)``, in the order they come; pipeline.yaml's requests hook.

    A client asks one hour before the scheduled departure, when nobody knows how the flight will end. So the flights
    that were cancelled or diverted are asked about too: they get a prediction, and never a label.

    Parameters
    ----------
    start, end : str or datetime
        New York time.

    Returns
    -------
    DataFrame
        ``request_id``, ``flight_id``, ``scheduled_departure`` and the features, each as known when it is asked for.
        The same flight has the same request id each time.
    """
    start, end = pd.Timestamp(start), pd.Timestamp(end)
    # the last question of the period is asked before its end, so nothing known later can be of use
    with connect(as_of=end) as warehouse:
        flights = query(
            warehouse,
            """
            SELECT * FROM schedule
            WHERE scheduled_departure >= $start AND scheduled_departure < $end
            ORDER BY scheduled_departure, flight_id
            """,
            start=start,
            end=end,
        )
        past = query(
            warehouse,
            """
            SELECT carrier, origin, dest, departure, dep_delay, late, label_known_at FROM flights
            WHERE scheduled_departure >= $since
            """,
            since=start - ASKED_AHEAD - HISTORY,
        )
        weather = query(
            warehouse, "SELECT * FROM weather WHERE time_hour >= $since", since=start - pd.Timedelta(hours=3)
        )
    features = build_features(flights, weather, past)
    features.insert(0, "request_id", "ask-" + features[ENTITY])
    return features.sort_values([EVENT_TIME, ENTITY], ignore_index=True)
