"""Schemas: real tables pass, each kind of damage is refused and named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from flights.features import HISTORY, build_features
from flights.schema import check
from flights.source import visible_flights, visible_weather
from sundial.errors import DataError

AS_OF, START = "2013-10-07", "2013-10-05"


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    """Two days of each table, as the stages make them."""
    history = visible_flights(AS_OF, pd.Timestamp(START) - HISTORY)
    weather = visible_weather(AS_OF, "2013-10-04")
    flights = history[history["scheduled_departure"] >= START].reset_index(drop=True)
    features = build_features(flights, weather, history)
    features = features.join(flights[["late", "label_known_at"]])
    training = features[features["late"].notna()].drop(columns="label_known_at")
    training = training.astype({"late": "int8"}).assign(weight=1.0)
    return {"flights": flights, "weather": weather, "features": features, "training_set": training}


@pytest.mark.parametrize("schema", ["flights", "weather", "features", "training_set"])
def test_real_tables_pass(tables, schema):
    """What the stages make is what the schemas say, and is returned as it came."""
    assert check(tables[schema], schema) is tables[schema]


@pytest.mark.parametrize(
    ("schema", "damage", "message"),
    [
        ("flights", lambda table: table.drop(columns="dest"), "column 'dest' is missing"),
        ("flights", lambda table: table.assign(origin="BOS"), "column 'origin' breaks"),
        ("flights", lambda table: table.assign(late=0.0), "a label if and only if it arrived"),
        ("flights", lambda table: table.assign(outcome="lost"), "such as 'lost'"),
        ("flights", lambda table: pd.concat([table, table.head(1)]), "column 'flight_id' breaks"),
        ("weather", lambda table: pd.concat([table, table.head(1)]), "one row an airport and hour"),
        ("features", lambda table: table.assign(arr_delay=5.0), "column 'arr_delay' is not expected"),
        ("features", lambda table: table.assign(route_late_share=1.5), "column 'route_late_share' breaks"),
        ("features", lambda table: table.assign(weekday=0.5), "column 'weekday' is float64, not int64"),
        ("features", lambda table: table.assign(carrier=None).astype({"carrier": "str"}), "'no missing values'"),
        ("training_set", lambda table: table.assign(late=np.int8(2)), "column 'late' breaks"),
        ("training_set", lambda table: table.assign(weight=0.0), "column 'weight' breaks"),
    ],
)
def test_damage_is_refused_and_named(tables, schema, damage, message):
    """The message names the column and the rule."""
    with pytest.raises(DataError) as caught:
        check(damage(tables[schema]), schema)

    assert message in str(caught.value)


def test_everything_wrong_is_in_one_message(tables):
    """Three faults are reported together, with how many rows each has."""
    table = tables["features"].drop(columns="dest").assign(distance=-1.0)
    table.loc[[0, 1], "weekday"] = 9

    with pytest.raises(DataError) as caught:
        check(table, "features")

    lines = str(caught.value).splitlines()
    assert "  - column 'dest' is missing" in lines
    assert any("'distance'" in line and f"in {len(table):,} row(s)" in line for line in lines)
    assert any("'weekday'" in line and "in 2 row(s)" in line for line in lines)


def test_an_unknown_schema_is_refused(tables):
    """A misspelt schema name is answered with the nearest."""
    with pytest.raises(DataError, match="Did you mean 'features'"):
        check(tables["features"], "feature")
