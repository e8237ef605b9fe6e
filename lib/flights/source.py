"""What was known when: DuckDB views over the warehouse that hide everything learnt after a date.

A connection belongs to one ``as_of``. Its views ``flights`` and ``weather`` hold what a person could have known at that
moment, so that a query cannot see the future however it is written:

- a flight is there once it has departed, or, cancelled, was due to depart (a cancellation is public by then);
- its outcome, air time, delay on arrival and label are NULL, and its outcome ``pending``, until it has arrived and the
  label delay of pipeline.yaml has passed;
- an hour's weather is there once the hour is over.

The view ``schedule`` holds every flight at any date: airlines publish it months ahead.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pandas as pd

from flights.warehouse import TABLES, find_warehouse
from sundial.pipeline import load_pipeline
from sundial.reads import observe_file
from sundial.settings import Settings, load_settings

Moment: TypeAlias = str | datetime | pd.Timestamp

PIPELINE = "flights"
LABEL = "late"
LATE_MINUTES = 30

VIEWS = """
CREATE VIEW schedule AS
SELECT flight_id, scheduled_departure, carrier, flight, origin, dest, distance
FROM all_flights;

CREATE VIEW flights AS
SELECT
    flight_id, scheduled_departure, carrier, flight, tailnum, origin, dest, distance, departure, dep_delay,
    CASE WHEN is_known THEN outcome ELSE 'pending' END                AS outcome,
    CASE WHEN is_known THEN air_time END                              AS air_time,
    CASE WHEN is_known THEN arr_delay END                             AS arr_delay,
    CASE WHEN is_known AND arr_delay IS NOT NULL THEN known_at END    AS label_known_at,
    CASE WHEN is_known THEN CAST(arr_delay > {late} AS DOUBLE) END    AS late
FROM (
    SELECT *, known_at <= {as_of} AS is_known
    FROM (
        SELECT *, outcome_at + CASE WHEN outcome = 'cancelled' THEN INTERVAL 0 SECOND ELSE {delay} END AS known_at
        FROM all_flights
        WHERE visible_from < {as_of}
    )
);

CREATE VIEW weather AS
SELECT * FROM all_weather WHERE known_at <= {as_of};
"""


def label_delay(settings: Settings | None = None) -> timedelta:
    """Give the time from an arrival to the day its label is known, as pipeline.yaml says."""
    return load_pipeline(PIPELINE, settings).label.delay


def connect(as_of: Moment, settings: Settings | None = None) -> duckdb.DuckDBPyConnection:
    """Open the warehouse as it was at a moment, building it on first use.

    Parameters
    ----------
    as_of : str or datetime
        New York time.
    settings : Settings, optional
        Where artifacts are; read from the environment by default.

    Returns
    -------
    DuckDBPyConnection
        With the views ``schedule``, ``flights``, ``weather``, ``airlines`` and ``airports``; in memory, for reading.
    """
    settings = settings or load_settings()
    folder = find_warehouse(settings)
    warehouse = duckdb.connect()
    for table in TABLES:
        prefix = "all_" if table in ("flights", "weather") else ""
        path = folder / f"{table}.parquet"
        observe_file(path)  # DuckDB opens it, and nobody sees that
        warehouse.execute(f"CREATE VIEW {prefix}{table} AS FROM read_parquet({_quote(path)})")
    warehouse.execute(
        VIEWS.format(
            as_of=f"TIMESTAMP '{pd.Timestamp(as_of).isoformat(sep=' ')}'",
            delay=f"INTERVAL {int(label_delay(settings).total_seconds())} SECOND",
            late=LATE_MINUTES,
        )
    )
    return warehouse


def _quote(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def query(warehouse: duckdb.DuckDBPyConnection, sql: str, **values: Any) -> pd.DataFrame:
    """Run a query and return its rows.

    Parameters
    ----------
    warehouse : DuckDBPyConnection
        From :func:`connect`.
    sql : str
        May name values as ``$name``. Give it an ORDER BY: only then is the order the same each time.
    **values
        What the names stand for; timestamps of pandas are welcome.

    Returns
    -------
    DataFrame
    """
    plain = {
        name: value.to_pydatetime() if isinstance(value, pd.Timestamp) else value for name, value in values.items()
    }
    return warehouse.execute(sql, plain).df()


def visible_flights(
    as_of: Moment, start: Moment, end: Moment | None = None, settings: Settings | None = None
) -> pd.DataFrame:
    """Read the flights scheduled in ``[start, end)`` as they were known at ``as_of``.

    Parameters
    ----------
    as_of, start, end : str or datetime
        New York time; ``end`` is ``as_of`` by default.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    DataFrame
        The columns of the view ``flights``, ordered by ``scheduled_departure`` and ``flight_id``. A flight that left
        ahead of its time is there as soon as it left.
    """
    with connect(as_of, settings) as warehouse:
        return query(
            warehouse,
            """
            SELECT * FROM flights
            WHERE scheduled_departure >= $start AND scheduled_departure < $end
            ORDER BY scheduled_departure, flight_id
            """,
            start=pd.Timestamp(start),
            end=pd.Timestamp(as_of if end is None else end),
        )


def visible_weather(as_of: Moment, start: Moment, settings: Settings | None = None) -> pd.DataFrame:
    """Read the weather from ``start`` on as it was known at ``as_of``, ordered by airport and hour."""
    with connect(as_of, settings) as warehouse:
        return query(
            warehouse,
            "SELECT * FROM weather WHERE time_hour >= $start ORDER BY origin, time_hour",
            start=pd.Timestamp(start),
        )


def known_labels(as_of: Moment, start: Moment, end: Moment) -> pd.DataFrame:
    """Read the labels known at ``as_of`` of the flights scheduled in ``[start, end)``; pipeline.yaml's labels hook.

    Parameters
    ----------
    as_of, start, end : str or datetime
        New York time.

    Returns
    -------
    DataFrame
        ``flight_id``, ``late`` (0 or 1, int8) and ``label_known_at``. Cancelled and diverted flights never get one.
    """
    with connect(as_of) as warehouse:
        return query(
            warehouse,
            """
            SELECT flight_id, CAST(late AS TINYINT) AS late, label_known_at
            FROM flights
            WHERE late IS NOT NULL AND scheduled_departure >= $start AND scheduled_departure < $end
            ORDER BY scheduled_departure, flight_id
            """,
            start=pd.Timestamp(start),
            end=pd.Timestamp(end),
        )
