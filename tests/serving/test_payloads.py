"""Bodies of requests: every form that MLflow takes, and every way in which one can be wrong."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundial.errors import RequestError
from sundial.serving.payloads import parse_body
from sundial.serving.schema import Schema

SCHEMA = Schema.of(
    {"distance": "float64", "minute": "int64", "weekend": "bool", "carrier": "str", "left": "datetime64[us]"},
    entity="flight",
    event_time="departs",
)
ROW = {"distance": 10.5, "minute": 3, "weekend": True, "carrier": "AA", "left": "2013-10-07T05:15:00"}


def check(document: Any, schema: Schema = SCHEMA) -> Any:
    """Parse and check a document."""
    return schema.check(parse_body(json.dumps(document).encode()))


def refused(document: Any, schema: Schema = SCHEMA) -> RequestError:
    """Give the error that a document is refused with."""
    with pytest.raises(RequestError) as caught:
        check(document, schema)
    assert 400 <= caught.value.status < 500
    return caught.value


@pytest.mark.parametrize(
    "document",
    [
        {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())] * 2}},
        {"dataframe_split": {"columns": list(ROW)[::-1], "index": [5, 6], "data": [list(ROW.values())[::-1]] * 2}},
        {"dataframe_split": {"data": [list(ROW.values())] * 2}},
        {"dataframe_records": [ROW] * 2},
        {"instances": [ROW] * 2},
        {"instances": [list(ROW.values())] * 2},
        {"inputs": {name: [value] * 2 for name, value in ROW.items()}},
        {"inputs": [ROW] * 2, "signature_name": "serving_default"},
        {"inputs": [list(ROW.values())] * 2},
    ],
)
def test_all_forms_say_the_same(document: dict[str, Any]) -> None:
    """The same two rows in any form, and in any order of columns, are the same request."""
    assert check({"dataframe_records": [ROW] * 2}) == check(document)


def test_one_row_as_plain_values() -> None:
    """Inputs of plain values are one row."""
    assert check({"dataframe_records": [ROW]}) == check({"inputs": ROW})


def test_no_rows_are_a_request_too() -> None:
    """An empty table is no error: its answer is empty."""
    for document in (
        {"dataframe_records": []},
        {"dataframe_split": {"columns": list(ROW), "data": []}},
        {"inputs": {}},
    ):
        assert check(document).rows == 0


def test_ids_may_stand_in_three_places() -> None:
    """Ids, entities and times are the same beside the rows, in params, or as columns of the pipeline's own names."""
    ids, entities, times = ["a"], ["f1"], ["2013-10-07T05:15:00"]
    beside = {"request_ids": ids, "entities": entities, "event_times": times}
    columns = {**ROW, "request_id": "a", "flight": "f1", "departs": times[0]}

    found = [
        check({"dataframe_records": [ROW], **beside}),
        check({"dataframe_records": [ROW], "params": beside}),
        check({"dataframe_records": [columns]}),
    ]

    assert found[0].request_ids == ["a"]
    assert found[0].entities == ["f1"]
    assert found[0].event_times == [1381122900000000]
    assert found[0] == found[1] == found[2]


def test_a_feature_may_also_say_what_a_row_is_about() -> None:
    """A column that is a feature and the entity is both."""
    schema = Schema.of({"customer": "str"}, entity="customer")

    request = check({"inputs": {"customer": ["c1"]}}, schema)

    assert ([["c1"]], ["c1"]) == (request.columns, request.entities)


def test_missing_numbers_and_texts_are_missing() -> None:
    """Null and NaN stand for a missing number or text, as MLflow's clients write them."""
    body = json.dumps(
        {"dataframe_records": [{**ROW, "distance": math.nan, "carrier": None}, {**ROW, "carrier": math.nan}]}
    )

    request = SCHEMA.check(parse_body(body.encode()))

    assert math.isnan(request.columns[0][0])
    assert [None, None] == request.columns[3]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("distance", "far", "must be a finite number"),
        ("distance", True, "must be a finite number"),
        ("distance", [1.0], "must be a finite number"),
        ("distance", math.inf, "must be a finite number"),
        ("distance", 10**400, "must be a finite number"),
        ("minute", 1.5, "must be a whole number"),
        ("minute", None, "is missing"),
        ("minute", math.nan, "must be a whole number"),
        ("minute", "3", "must be a whole number"),
        ("minute", 2**63, "must be a whole number"),
        ("weekend", 2, "must be true or false"),
        ("weekend", None, "is missing"),
        ("weekend", "yes", "must be true or false"),
        ("carrier", 7, "must be text"),
        ("carrier", {"a": 1}, "must be text"),
        ("left", 1381122900, "must be a time"),
        ("left", "soon", "must be a time"),
        ("left", "2013-10-07T05:15:00Z", "without an offset"),
    ],
)
def test_a_wrong_value_names_column_and_reason(column: str, value: Any, reason: str) -> None:
    """A value of the wrong kind is refused with its column, its row and what it must be."""
    error = refused({"dataframe_records": [ROW, {**ROW, column: value}]})

    assert reason in str(error)
    assert (422, column) == (error.status, error.column)
    assert "in row 2" in str(error)


def test_an_unknown_column_is_named_with_the_nearest() -> None:
    """A misspelled column is refused, with the name that was meant."""
    wrong = {("distnace" if name == "distance" else name): value for name, value in ROW.items()}

    error = refused({"dataframe_records": [wrong]})

    assert "distnace" == error.column
    assert "Did you mean 'distance'?" in str(error)


def test_missing_columns_are_all_named() -> None:
    """A request without some columns is told all of them."""
    error = refused({"inputs": {"distance": [1.0], "left": ["2013-10-07"]}})

    assert "minute, weekend, carrier" in str(error)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([ROW], "the body is a list"),
        ("x", "the body is text"),
        ({}, "no rows are given"),
        ({"instances": [ROW], "inputs": [ROW]}, "inputs"),
        ({"dataframe_record": [ROW]}, "Did you mean 'dataframe_records'?"),
        ({"instances": 5}, "instances is a number"),
        ({"inputs": "x"}, "inputs is text"),
        ({"inputs": {"distance": [1.0], "minute": [1, 2]}}, "has 2 values"),
        ({"inputs": {"distance": [1.0], "minute": 1}}, "must be a list"),
        ({"instances": [[1.0, 2]]}, "row 1 has 2 values, and the model takes 5"),
        ({"instances": [[1.0], ROW]}, "row 2 of instances is an object"),
        ({"dataframe_records": [ROW, 5]}, "row 2 is a number"),
        ({"dataframe_records": [ROW, {"distance": 1}]}, "row 2 does not have"),
        ({"dataframe_records": [ROW, {**ROW, "zz": 1}]}, "row 2 has 'zz'"),
        ({"dataframe_split": [ROW]}, "dataframe_split is a list"),
        ({"dataframe_split": {"columns": ["distance"]}}, "dataframe_split.data is null"),
        ({"dataframe_split": {"columns": ["distance"], "rows": []}}, "unknown key 'rows'"),
        ({"dataframe_split": {"columns": [1], "data": [[1]]}}, "column name 1"),
        ({"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}, "stands twice"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}, "row 1 has 2 values for 1 columns"),
        ({"dataframe_split": {"columns": ["a"], "data": [1]}}, "row 1 is a number"),
        ({"dataframe_records": [ROW], "request_ids": ["a", "b"]}, "2 request_ids for 1 rows"),
        ({"dataframe_records": [ROW], "request_ids": "a"}, "request_ids is text"),
        ({"dataframe_records": [ROW], "request_ids": [""]}, "text of 1 to 200"),
        ({"dataframe_records": [ROW], "request_ids": ["x" * 201]}, "text of 1 to 200"),
        ({"dataframe_records": [ROW], "request_ids": [None]}, "is missing"),
        ({"dataframe_records": [ROW], "request_ids": [10**300]}, "text of 1 to 200"),
        ({"dataframe_records": [ROW], "entities": [[1]]}, "text or a whole number"),
        ({"dataframe_records": [ROW], "event_times": ["x"]}, "must be a time"),
        ({"dataframe_records": [ROW], "params": {"request_id": ["a"]}}, "Did you mean 'request_ids'?"),
        ({"dataframe_records": [ROW], "params": [1]}, "params is a list"),
        ({"dataframe_records": [ROW], "request_ids": ["a"], "params": {"request_ids": ["a"]}}, "given twice"),
        ({"dataframe_records": [{**ROW, "request_id": "a"}], "request_ids": ["a"]}, "given twice"),
    ],
)
def test_a_wrong_body_is_told_why(document: Any, reason: str) -> None:
    """Each way of being wrong has its own sentence."""
    assert reason in str(refused(document))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'"\\ud800"',
        b'{"instances": [NaN, "\\ud800"]}',
        b'{"instances": [NaN, 100000000000000000000000000000000]}',
        b"[" * 100_000,
        b'{"NaN": ' + b"[" * 100_000,
        b'{"inputs": {"distance": [1e999]}}',
        b'{"inputs": {"distance": [' + b"9" * 5000 + b"]}}",
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """Broken, too deep and half-encoded JSON are errors of the caller's, whichever decoder finds them."""
    with pytest.raises(RequestError) as caught:
        parse_body(body)

    assert caught.value.status == 400


def test_too_many_rows_are_refused() -> None:
    """A request with more rows than allowed is told to split."""
    with pytest.raises(RequestError, match="3 rows in one request") as caught:
        parse_body(b'{"instances": [[1], [2], [3]]}', max_rows=2)

    assert caught.value.status == 413


TEXTS = st.text(alphabet="ab2é", max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*ROW, "columns", "data", "index", "request_id"]) | TEXTS, inner)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs", "params", "request_ids"]), JSON
    )
)
def test_nothing_but_request_errors(document: dict[str, Any]) -> None:
    """Whatever JSON comes, it is a request or a RequestError."""
    try:
        request = check(document)
    except RequestError:
        return
    assert all(len(column) == request.rows for column in request.columns)


def test_features_of_a_shadow_are_taken_and_optional() -> None:
    """What only a shadow needs may be sent, is checked, and is missing where it is not sent."""
    schema = Schema.of({"minute": "int64"}, {"minute": "int64", "wind": "float64"})

    with_wind = check({"inputs": {"minute": [1], "wind": [2]}}, schema)
    without = check({"inputs": {"minute": [1]}}, schema)

    assert [[1], [2.0]] == with_wind.columns
    assert [[1], [None]] == without.columns
    assert "wind" == refused({"inputs": {"minute": [1], "wind": ["x"]}}, schema).column
    assert ["minute"] == list(schema.frame(with_wind.columns).columns)
