"""What tables look like at the borders: the query's rows, the features, the training set.

A table is checked whole (lazily, in pandera's words), and what is refused is refused with everything that is wrong with
it in one message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from flights.features import ENTITY, EVENT_TIME
from sundial.errors import DataError, nearest

if TYPE_CHECKING:
    import pandera.pandas as pa

AIRPORTS = ("EWR", "JFK", "LGA")
OUTCOMES = ("arrived", "cancelled", "diverted", "pending")
# What can be wrong with a table is shown up to this many lines: a reader needs the first few.
MOST_LINES = 8


def check(table: pd.DataFrame, schema: str) -> pd.DataFrame:
    """Check a table against a schema.

    Parameters
    ----------
    table : DataFrame
        Is not changed.
    schema : str
        ``flights``, ``weather``, ``features`` or ``training_set``.

    Returns
    -------
    DataFrame
        The same table, so that a check can stand in a chain.

    Raises
    ------
    DataError
        With one line for each thing that is wrong: column, rule, number of rows, an example.
    """
    from pandera.errors import SchemaErrors

    schemas = _schemas()
    if schema not in schemas:
        raise DataError(f"there is no schema {schema!r}", hint=nearest(schema, schemas))
    try:
        # pandera counts the failing rows by their index
        schemas[schema].validate(table.reset_index(drop=True), lazy=True)
    except SchemaErrors as error:
        lines = _describe(error.failure_cases)
        shown = "\n".join(f"  - {line}" for line in lines[:MOST_LINES])
        more = f"\n  - and {len(lines) - MOST_LINES} more" if len(lines) > MOST_LINES else ""
        raise DataError(
            f"the {schema} table ({len(table):,} rows) is not what its schema says:\n{shown}{more}",
            hint="the schema is in lib/flights/schema.py; if the data is right, correct it there",
        ) from error
    return table


def _describe(cases: pd.DataFrame) -> list[str]:
    """Write a line for each column and rule that failed."""
    lines = []
    for (column, rule), group in cases.groupby(["column", "check"], sort=False, dropna=False):
        example = group["failure_case"].iloc[0]
        if rule == "column_in_dataframe":
            lines.append(f"column {example!r} is missing")
        elif rule == "column_in_schema":
            lines.append(f"column {example!r} is not expected")
        elif str(rule).startswith("dtype("):
            lines.append(f"column {column!r} is {example}, not {str(rule)[7:-2]}")
        else:
            rows = group["index"].nunique()
            if rows:
                lines.append(f"column {column!r} breaks {_name(rule)} in {rows:,} row(s), such as {example!r}")
            else:
                lines.append(f"the table breaks {_name(rule)}")
    return lines


def _name(rule: Any) -> str:
    return "'no missing values'" if rule == "not_nullable" else f"'{rule}'"


def _schemas() -> dict[str, pa.DataFrameSchema]:
    import pandera.pandas as pa

    share = pa.Check.in_range(0, 1)
    identity = {
        ENTITY: pa.Column(str, pa.Check.str_matches(r"^\d{4}-\d\d-\d\d-\w\w-\d+-\w{3}-\d{4}(-\d+)?$"), unique=True),
        EVENT_TIME: pa.Column("datetime64[us]"),
    }
    text = {
        "carrier": pa.Column(str, pa.Check.str_length(2, 2)),
        "origin": pa.Column(str, pa.Check.isin(AIRPORTS)),
        "dest": pa.Column(str, pa.Check.str_length(3, 3)),
        "distance": pa.Column(float, pa.Check.in_range(1, 6000)),
    }
    # one report of 2013 has a wind of 1,048 miles an hour; it is what the source says, and trees do not mind
    wind = pa.Column(float, pa.Check.in_range(0, 1300), nullable=True)
    label = pa.Column(float, pa.Check.isin((0.0, 1.0)), nullable=True)
    known = pa.Column("datetime64[us]", nullable=True)
    features = {
        **text,
        "scheduled_minute": pa.Column("int64", pa.Check.in_range(0, 24 * 60 - 1)),
        "weekday": pa.Column("int64", pa.Check.in_range(0, 6)),
        "temperature": pa.Column(float, pa.Check.in_range(-40, 130), nullable=True),
        "humidity": pa.Column(float, pa.Check.in_range(0, 105), nullable=True),
        "wind_direction": pa.Column(float, pa.Check.in_range(0, 360), nullable=True),
        "wind_speed": wind,
        "wind_gust": wind,
        "precipitation": pa.Column(float, pa.Check.in_range(0, 10), nullable=True),
        "pressure": pa.Column(float, pa.Check.in_range(900, 1100), nullable=True),
        "visibility": pa.Column(float, pa.Check.in_range(0, 100), nullable=True),
        "recent_departures": pa.Column("int64", pa.Check.ge(0)),
        "recent_delay": pa.Column(float, pa.Check.in_range(-120, 3000), nullable=True),
        "recent_late_share": pa.Column(float, share, nullable=True),
        "carrier_recent_delay": pa.Column(float, pa.Check.in_range(-120, 3000), nullable=True),
        "route_late_share": pa.Column(float, share, nullable=True),
        "carrier_late_share": pa.Column(float, share, nullable=True),
    }
    return {
        "flights": pa.DataFrameSchema(
            {
                **identity,
                **text,
                "departure": pa.Column("datetime64[us]", nullable=True),
                "dep_delay": pa.Column(float, pa.Check.in_range(-120, 3000), nullable=True),
                "outcome": pa.Column(str, pa.Check.isin(OUTCOMES)),
                "air_time": pa.Column(float, pa.Check.in_range(1, 24 * 60), nullable=True),
                "arr_delay": pa.Column(float, pa.Check.in_range(-240, 3000), nullable=True),
                "label_known_at": known,
                "late": label,
            },
            checks=pa.Check(
                lambda table: bool(((table["outcome"] == "arrived") == table["late"].notna()).all()),
                name="a label if and only if it arrived",
            ),
        ),
        "weather": pa.DataFrameSchema(
            {
                "origin": pa.Column(str, pa.Check.isin(AIRPORTS)),
                "time_hour": pa.Column("datetime64[us]"),
                "known_at": pa.Column("datetime64[us]"),
                "temp": pa.Column(float, pa.Check.in_range(-40, 130), nullable=True),
                "humid": pa.Column(float, pa.Check.in_range(0, 105), nullable=True),
                "precip": pa.Column(float, pa.Check.in_range(0, 10), nullable=True),
                "visib": pa.Column(float, pa.Check.in_range(0, 100), nullable=True),
            },
            checks=pa.Check(
                lambda table: not table.duplicated(["origin", "time_hour"]).any(),
                name="one row an airport and hour",
            ),
        ),
        "features": pa.DataFrameSchema({**identity, **features, "late": label, "label_known_at": known}, strict=True),
        "training_set": pa.DataFrameSchema(
            {
                **identity,
                **features,
                "late": pa.Column("int8", pa.Check.isin((0, 1))),
                "weight": pa.Column(float, pa.Check.gt(0)),
            },
            strict=True,
        ),
    }
