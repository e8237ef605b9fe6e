"""Reading the body of a request: the four forms that MLflow's scoring server takes, turned into columns.

``{"dataframe_split": {"columns": [...], "data": [[...]]}}``, ``{"dataframe_records": [{...}]}``,
``{"instances": [...]}`` and ``{"inputs": {...}}``; beside one of them ``params``, or at the top, ``request_ids``,
``entities`` and ``event_times``, a value a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from sundial.errors import RequestError, nearest
from sundial.serving.schema import Payload, Values, show

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
BESIDE = ("request_ids", "entities", "event_times")
IGNORED = ("signature_name",)  # TensorFlow Serving's clients send it
MAX_ROWS = 10_000
EXAMPLE = '{"dataframe_records": [{"a": 1.5, "b": "x"}]}'

_decoder = msgspec.json.Decoder()


def parse_body(body: bytes, max_rows: int = MAX_ROWS) -> Payload:
    """Read the body of a request.

    Parameters
    ----------
    body : bytes
        JSON.
    max_rows : int
        Most rows that one request may have.

    Returns
    -------
    Payload

    Raises
    ------
    RequestError
        Status 400 when it is not JSON or not one of the forms, 413 when it has too many rows.
    """
    document = decode_json(body)
    if type(document) is not dict:
        raise RequestError(f"the body is {_name_type(document)}, not an object", hint=f"send {EXAMPLE}")
    forms = [form for form in FORMS if form in document]
    for key in document:
        if key not in FORMS and key not in BESIDE and key not in IGNORED and key != "params":
            known = [*FORMS, *BESIDE, "params"]
            raise RequestError(f"unknown key {show(key)}", column=key, hint=nearest(key, known))
    if len(forms) != 1:
        given = f"{' and '.join(forms)} are given" if forms else "no rows are given"
        raise RequestError(f"{given}; exactly one of {', '.join(FORMS)} is needed", hint=f"send {EXAMPLE}")
    form = forms[0]
    rows, columns, positional = _READERS[form](document[form])
    if rows > max_rows:
        raise RequestError(
            f"{rows:,} rows in one request, and {max_rows:,} are the most", status=413, hint="send several requests"
        )
    return Payload(rows, columns, positional, _read_beside(document, rows))


def decode_json(body: bytes) -> Any:
    """Decode JSON; also the NaN that Python's clients write, which msgspec refuses."""
    try:
        return _decoder.decode(body)
    except RecursionError as error:
        raise RequestError("the JSON is nested too deeply", hint=f"send {EXAMPLE}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if b"NaN" not in body and b"Infinity" not in body:
            raise RequestError(f"the body is not JSON: {error}", hint=f"send {EXAMPLE}") from error
    try:
        document = json.loads(body)
        msgspec.msgpack.encode(document)  # refuses half surrogates and huge integers here, not when it is logged
    except RecursionError as error:
        raise RequestError("the JSON is nested too deeply", hint=f"send {EXAMPLE}") from error
    except (ValueError, OverflowError) as error:
        raise RequestError(f"the body is not JSON: {error}", hint=f"send {EXAMPLE}") from error
    return document


def _name_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _need(value: Any, wanted: type, what: str) -> Any:
    if type(value) is not wanted:
        kind = "an object" if wanted is dict else "a list"
        raise RequestError(f"{what} is {_name_type(value)}, and must be {kind}", hint=f"send {EXAMPLE}")
    return value


Read = tuple[int, dict[str, Values] | None, list[Values] | None]


def _read_split(value: Any) -> Read:
    """Read ``{"columns": [...], "data": [[...]]}``; an index is ignored, as MLflow does."""
    split = _need(value, dict, "dataframe_split")
    for key in split:
        if key not in ("columns", "data", "index"):
            raise RequestError(
                f"unknown key {show(key)} in dataframe_split", column=key, hint=nearest(key, ["columns", "data"])
            )
    data = _need(split.get("data"), list, "dataframe_split.data")
    if "columns" not in split:
        return _read_rows(data, "dataframe_split.data")
    names = _need(split["columns"], list, "dataframe_split.columns")
    for name in names:
        if type(name) is not str:
            raise RequestError(f"column name {show(name)} is {_name_type(name)}, and must be text")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"column {show(twice)} stands twice", column=twice, hint="send each column once")
    for number, row in enumerate(data, start=1):
        if len(_need(row, list, f"row {number}")) != len(names):
            raise RequestError(
                f"row {number} has {len(row)} values for {len(names)} columns", hint="send one value a column"
            )
    columns = list(zip(*data, strict=True)) if data else [()] * len(names)
    return len(data), {name: list(column) for name, column in zip(names, columns, strict=True)}, None


def _read_records(value: Any, what: str = "dataframe_records") -> Read:
    """Read ``[{...}, ...]``."""
    records = _need(value, list, what)
    if not records:
        return 0, {}, None
    names = _need(records[0], dict, "row 1").keys()
    for number, record in enumerate(records, start=1):
        if _need(record, dict, f"row {number}").keys() != names:
            odd = min(names ^ record.keys())
            has = "has" if odd in record else "does not have"
            raise RequestError(
                f"row {number} {has} {odd!r}, unlike row 1",
                column=odd,
                hint="send the same columns in every row, null where a value is missing",
            )
    return len(records), {name: [record[name] for record in records] for name in names}, None


def _read_rows(value: Any, what: str = "instances") -> Read:
    """Read ``[[...], ...]``, or records."""
    rows = _need(value, list, what)
    if rows and type(rows[0]) is dict:
        return _read_records(rows, what)
    for number, row in enumerate(rows, start=1):
        _need(row, list, f"row {number} of {what}")
    return len(rows), None, rows


def _read_inputs(value: Any) -> Read:
    """Read ``{"a": [...], "b": [...]}``, one row as ``{"a": 1, "b": "x"}``, or what ``instances`` takes."""
    if type(value) is not dict:
        if type(value) is not list:
            raise RequestError(f"inputs is {_name_type(value)}, and must be an object or a list", hint=EXAMPLE)
        return _read_rows(value, "inputs")
    if value and not any(type(column) is list for column in value.values()):
        return 1, {name: [item] for name, item in value.items()}, None
    rows = -1
    for name, column in value.items():
        length = len(_need(column, list, f"column {show(name)}"))
        if rows not in (-1, length):
            raise RequestError(
                f"column {show(name)} has {length} values, and the one before it {rows}",
                column=name,
                hint="send columns of one length",
            )
        rows = length
    return max(rows, 0), dict(value), None


_READERS = {
    "dataframe_split": _read_split,
    "dataframe_records": _read_records,
    "instances": _read_rows,
    "inputs": _read_inputs,
}


def _read_beside(document: Mapping[str, Any], rows: int) -> dict[str, Values]:
    """Read what stands beside the rows, at the top or in ``params``."""
    params = document.get("params")
    params = {} if params is None else _need(params, dict, "params")
    for key in params:
        if key not in BESIDE:
            raise RequestError(f"unknown parameter {show(key)}", column=key, hint=nearest(key, BESIDE))
    found: dict[str, Values] = {}
    for key in BESIDE:
        if key in document and key in params:
            raise RequestError(f"{key} are given twice: at the top and in params", column=key, hint="give them once")
        if key not in document and key not in params:
            continue
        values = _need(document.get(key, params.get(key)), list, key)
        if len(values) != rows:
            raise RequestError(f"{len(values)} {key} for {rows} rows", column=key, hint="send one a row")
        found[key] = values
    return found
