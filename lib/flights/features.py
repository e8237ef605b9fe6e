"""Features of a flight, as they can be known one hour before its scheduled departure.

One code path: the training set, the evaluation sets and the requests of production all come out of
:func:`build_features`, and a test holds them equal to the last bit. Each feature uses only what was known when the
question is asked:

- the schedule, published months ahead;
- the weather of the last hour that was over by then;
- the departure board: how late the airport's flights of the last hours have left, as far as they had left by then;
- late shares of labels that were known at the start of that day. They move once a day, as if a nightly job made them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

ENTITY = "flight_id"
EVENT_TIME = "scheduled_departure"

ASKED_AHEAD = pd.Timedelta(hours=1)
BOARD_HOURS = 2
CARRIER_BOARD_HOURS = 4
LATE_DEPARTURE = 30  # minutes
ROUTE_DAYS = 14
CARRIER_DAYS = 7
# Every label in the data is known within two days of the scheduled departure: this much history fills all windows.
HISTORY = pd.Timedelta(days=ROUTE_DAYS + 3)
# Shares of few flights are pulled towards the share of all flights as if this many average flights had been added.
PRIOR_FLIGHTS = 20.0

# name in the features -> name in the weather table, with units
WEATHER = {
    "temperature": "temp",  # degrees Fahrenheit
    "humidity": "humid",  # percent
    "wind_direction": "wind_dir",  # degrees
    "wind_speed": "wind_speed",  # miles an hour
    "wind_gust": "wind_gust",  # miles an hour; missing when there is none
    "precipitation": "precip",  # inches in that hour
    "pressure": "pressure",  # millibars
    "visibility": "visib",  # miles, 10 at most
}

CATEGORIES = ("carrier", "origin", "dest")
# What the model takes, in order: name -> dtype.
FEATURES: dict[str, str] = {
    **dict.fromkeys(CATEGORIES, "str"),
    "distance": "float64",  # miles
    "scheduled_minute": "int64",  # of the local day
    "weekday": "int64",  # Monday is 0
    **dict.fromkeys(WEATHER, "float64"),
    "recent_departures": "int64",  # from the airport in the last 2 hours, a sign of trouble when few
    "recent_delay": "float64",  # their mean delay in minutes
    "recent_late_share": "float64",  # share of them that left more than 30 minutes late
    "carrier_recent_delay": "float64",  # mean delay of the carrier's own there in the last 4 hours
    "route_late_share": "float64",  # of the route's labels that became known in the last 14 days
    "carrier_late_share": "float64",  # of the carrier's at this airport, in the last 7 days
}


def build_features(flights: pd.DataFrame, weather: pd.DataFrame, past: pd.DataFrame) -> pd.DataFrame:
    """Compute the features of flights.

    Parameters
    ----------
    flights : DataFrame of n rows
        ``flight_id``, ``scheduled_departure``, ``carrier``, ``origin``, ``dest``, ``distance``; nothing else is read.
    weather : DataFrame
        One row an ``origin`` and ``time_hour``.
    past : DataFrame
        Flights as the warehouse shows them, cancelled and diverted ones too: ``carrier``, ``origin``, ``dest``,
        ``departure``, ``dep_delay``, ``late`` and ``label_known_at``. Give :data:`HISTORY` before the first flight. It
        may hold the very flights that are asked about: what became known after a flight's question is not used.

    Returns
    -------
    DataFrame of n rows
        ``flight_id``, ``scheduled_departure`` and the columns of :data:`FEATURES`, in the order of ``flights``. What is
        not known is NaN.
    """
    scheduled = flights[EVENT_TIME]
    asked = scheduled - ASKED_AHEAD
    features = flights[[ENTITY, EVENT_TIME, *CATEGORIES]].reset_index(drop=True)
    features["distance"] = flights["distance"].to_numpy("float64")
    features["scheduled_minute"] = (scheduled.dt.hour * 60 + scheduled.dt.minute).to_numpy("int64")
    features["weekday"] = scheduled.dt.day_of_week.to_numpy("int64")
    features = pd.concat([features, find_weather(flights["origin"], asked, weather)], axis="columns")
    departed = past[past["departure"].notna()]
    count, delay, late = read_board(flights, asked, departed, by=["origin"], hours=BOARD_HOURS)
    features["recent_departures"], features["recent_delay"], features["recent_late_share"] = count, delay, late
    _, delay, _ = read_board(flights, asked, departed, by=["carrier", "origin"], hours=CARRIER_BOARD_HOURS)
    features["carrier_recent_delay"] = delay
    known = past[past["label_known_at"].notna()]
    features["route_late_share"] = late_share(flights, asked, known, by=["origin", "dest"], days=ROUTE_DAYS)
    features["carrier_late_share"] = late_share(flights, asked, known, by=["carrier", "origin"], days=CARRIER_DAYS)
    return features[[ENTITY, EVENT_TIME, *FEATURES]]


def find_weather(origin: pd.Series, asked: pd.Series, weather: pd.DataFrame) -> pd.DataFrame:
    """Look up the last full hour of weather that was over when each question was asked.

    Parameters
    ----------
    origin, asked : Series of n values
        Airport, and moment of the question.
    weather : DataFrame
        One row an ``origin`` and ``time_hour``.

    Returns
    -------
    DataFrame of n rows
        The columns of :data:`WEATHER`; NaN where the station did not report that hour.
    """
    # at 10:20 the hour that began at 9:00 is over; the one that began at 10:00 is not
    hour = asked.dt.floor("h") - pd.Timedelta(hours=1)
    wanted = pd.DataFrame({"origin": origin.to_numpy(), "time_hour": hour.to_numpy()})
    report = weather[["origin", "time_hour", *WEATHER.values()]]
    found = wanted.merge(report, on=["origin", "time_hour"], how="left", validate="many_to_one")
    return found[list(WEATHER.values())].set_axis(list(WEATHER), axis="columns").astype("float64")


def read_board(
    flights: pd.DataFrame, asked: pd.Series, departed: pd.DataFrame, *, by: list[str], hours: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Read off the departure board how late the group's flights have left before each question.

    Parameters
    ----------
    flights : DataFrame of n rows
        With the columns of ``by``.
    asked : Series of n timestamps
        Moment of each question. Departures count from ``hours`` before it on, and strictly before it.
    departed : DataFrame
        With the columns of ``by``, ``departure`` and ``dep_delay`` in minutes.
    by : list of str
        What makes a group.
    hours : int
        Length of the window.

    Returns
    -------
    count : int64 array of shape (n,)
        Departures in the window.
    delay, late : float64 arrays of shape (n,)
        Their mean delay in minutes, and the share that left more than :data:`LATE_DEPARTURE` minutes late; NaN without
        departures.
    """
    group, group_departed = _number_groups(flights, departed, by)
    moment, left = _minute_number(asked), _minute_number(departed["departure"])
    if len(moment) == 0:
        return np.empty(0, "int64"), np.empty(0), np.empty(0)
    # one sorted line of minutes for all groups, each in a stretch of its own
    first = min(moment.min(), left.min(initial=moment.min())) - 60 * hours
    stretch = max(moment.max(), left.max(initial=moment.max())) - first + 1
    line = group_departed * stretch + (left - first)
    order = np.argsort(line, kind="stable")
    delays = departed["dep_delay"].to_numpy("float64")[order]
    to = np.searchsorted(line[order], group * stretch + (moment - first), side="left")
    since = np.searchsorted(line[order], group * stretch + (moment - first) - 60 * hours, side="left")

    def mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # whole numbers, so sums are exact and do not depend on how much history there is
        total = np.concatenate([[0.0], np.cumsum(values)])
        return np.asarray(np.divide(total[to] - total[since], count, out=np.full(len(count), np.nan), where=count > 0))

    count = (to - since).astype(np.int64)
    return count, mean(delays), mean((delays > LATE_DEPARTURE).astype("float64"))


def late_share(
    flights: pd.DataFrame, asked: pd.Series, labels: pd.DataFrame, *, by: list[str], days: int
) -> npt.NDArray[np.float64]:
    """Compute the share of late flights among recent labels of the same group.

    Parameters
    ----------
    flights : DataFrame of n rows
        With the columns of ``by``.
    asked : Series of n timestamps
        Moment of each question. Its day's midnight is the last moment at which a label counts, and ``days`` days before
        that the first.
    labels : DataFrame
        With the columns of ``by``, ``late`` (0 or 1) and ``label_known_at``.
    by : list of str
        What makes a group.
    days : int
        Length of the window.

    Returns
    -------
    float64 array of shape (n,)
        ``(late + PRIOR_FLIGHTS * overall) / (labels + PRIOR_FLIGHTS)``, where ``overall`` is the share of all groups in
        the same window; NaN when the window holds no label at all.
    """
    group, group_labels = _number_groups(flights, labels, by)
    asked_day = _day_number(asked.dt.floor("D"))
    # a label counts from the first midnight at which it is known
    known_day = _day_number(labels["label_known_at"].dt.ceil("D"))
    if len(asked_day) == 0:
        return np.empty(0)
    first = min(asked_day.min(), known_day.min(initial=asked_day.min())) - days - 1
    last = max(asked_day.max(), known_day.max(initial=asked_day.max()))
    groups, span = int(max(group.max(), group_labels.max(initial=0))) + 1, int(last - first) + 1

    cell = group_labels * span + (known_day - first)
    late = labels["late"].to_numpy("float64")
    # whole numbers, so sums are exact and do not depend on how much history there is
    total = np.bincount(cell, minlength=groups * span).reshape(groups, span).cumsum(axis=1)
    total_late = np.bincount(cell, weights=late, minlength=groups * span).reshape(groups, span).cumsum(axis=1)

    to = asked_day - first
    count = total[group, to] - total[group, to - days]
    count_late = total_late[group, to] - total_late[group, to - days]
    overall, overall_late = total.sum(axis=0), total_late.sum(axis=0)
    window = (overall[to] - overall[to - days]).astype("float64")
    base = np.divide(overall_late[to] - overall_late[to - days], window, out=np.full(len(to), np.nan), where=window > 0)
    return np.asarray((count_late + PRIOR_FLIGHTS * base) / (count + PRIOR_FLIGHTS))


def _number_groups(
    flights: pd.DataFrame, others: pd.DataFrame, by: list[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give the groups of two frames one numbering."""
    keys = pd.concat([flights[by], others[by]], ignore_index=True)
    number = np.asarray(keys.groupby(by, sort=False).ngroup(), dtype=np.int64)
    return number[: len(flights)], number[len(flights) :]


def _minute_number(times: pd.Series) -> npt.NDArray[np.int64]:
    return times.to_numpy("datetime64[m]").astype("int64")


def _day_number(midnights: pd.Series) -> npt.NDArray[np.int64]:
    return midnights.to_numpy("datetime64[D]").astype("int64")
