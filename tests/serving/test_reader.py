"""The typed reader: whatever it takes it reads as the forgiving one does, and what it does not take goes there."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from sundial.errors import RequestError
from sundial.serving.payloads import parse_body
from sundial.serving.reader import Reader
from sundial.serving.schema import Request, Schema

FEATURES = {"distance": "float64", "class": "int64", "weekend": "bool", "a carrier": "str"}
SCHEMAS = [
    Schema.of(FEATURES, entity="flight", event_time="departs"),
    Schema.of(FEATURES, {"wind": "float64"}, entity="flight", event_time="departs"),
    Schema.of({**FEATURES, "flight": "str"}, entity="flight", event_time="departs"),  # a feature is the entity, too
]
ROW = {"distance": 900.5, "class": 3, "weekend": False, "a carrier": "AA"}

values = some.one_of(
    some.none(), some.booleans(), some.integers(-3, 3), some.just(2**63), some.floats(-9, 9), some.text(max_size=3)
)
fitting = some.fixed_dictionaries(
    {
        "distance": some.none() | some.floats(allow_nan=False, allow_infinity=False) | some.integers(-(2**70), 2**70),
        "class": some.integers(-(2**62), 2**62),
        "weekend": some.booleans(),
        "a carrier": some.none() | some.text(max_size=5),
    }
)
odd = some.dictionaries(some.sampled_from([*FEATURES, "wind", "flight", "request_id", "departs", "?"]), values)
more = some.fixed_dictionaries(
    {},
    optional={
        "wind": some.none() | some.floats(-1, 1),
        "flight": some.sampled_from(["f", "g"]),
        "request_id": some.text(max_size=2) | some.integers(),
        "departs": some.sampled_from([None, "2013-10-07T05:15:00", "2013-10-07", "soon"]),
    },
)
rows = some.lists(some.tuples(fitting, more).map(lambda pair: {**pair[0], **pair[1]}) | odd, max_size=3)
beside = some.fixed_dictionaries(
    {},
    optional={
        "request_ids": some.lists(some.text(max_size=2) | some.integers(), max_size=3),
        "entities": some.lists(some.none() | some.text(max_size=2) | some.integers(), max_size=3),
        "event_times": some.lists(some.sampled_from([None, "2013-10-07T05:15:00", "later"]), max_size=3),
    },
)


@some.composite
def documents(draw: Any) -> dict[str, Any]:
    """Draw a body that is right, or nearly."""
    records = draw(rows)
    form = draw(some.sampled_from(["dataframe_records", "instances", "dataframe_split", "inputs"]))
    content: Any = records
    if form == "dataframe_split":
        names = list(records[0]) if records else list(FEATURES)
        content = {"columns": names, "data": [list(record.values()) for record in records]}
    elif form == "inputs":
        content = records[0] if records else {}
    elif form == "instances" and draw(some.booleans()):
        content = [list(record.values()) for record in records]
    document = {form: content}
    around = draw(beside)
    return document | (draw(some.just(around) | some.just({"params": around})) if around else {})


def outcome(read: Any) -> Any:
    """Give what a request is read as, or why it is refused; missing numbers are alike however they are written."""
    try:
        request: Request = read()
    except RequestError as error:
        return error.status, error.message, error.column
    clean = [
        tuple(None if isinstance(value, float) and math.isnan(value) else value for value in row)
        for row in request.values
    ]
    kinds = [tuple(type(value) for value in row) for row in clean]
    return clean, kinds, request.request_ids, request.entities, request.event_times


@pytest.mark.parametrize("schema", SCHEMAS, ids=["plain", "extras", "aside"])
def test_both_readers_read_alike(schema: Schema) -> None:
    """Any body is read as the same request, or refused for the same reason, whoever reads it."""
    reader = Reader(schema)

    @settings(max_examples=250, deadline=None, database=None)
    @given(documents())
    def check(document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        assert outcome(lambda: schema.check(parse_body(body))) == outcome(lambda: reader.read(body))

    check()


@pytest.mark.parametrize(
    "document",
    [
        {"dataframe_records": [ROW]},
        {"dataframe_records": [ROW, {**ROW, "distance": None}], "request_ids": ["a", 7]},
        {"dataframe_records": [{**ROW, "flight": "f1", "departs": "2013-10-07T05:15:00", "request_id": "r"}]},
        {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())] * 2, "index": [0, 1]}},
        {"instances": [list(ROW.values())]},
        {"dataframe_records": [ROW], "params": {"entities": ["f1"], "event_times": ["2013-10-07T05:15:00"]}},
    ],
)
@pytest.mark.parametrize("schema", SCHEMAS[:2], ids=["plain", "extras"])
def test_usual_bodies_need_one_pass(schema: Schema, document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies as they should be never reach the forgiving reader, which is many times slower."""
    monkeypatch.setattr("sundial.serving.reader.parse_body", None)

    request = Reader(schema).read(json.dumps(document).encode())

    assert all(len(row) == len(schema.logged) for row in request.values)
