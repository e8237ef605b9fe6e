"""Columns of a request: picked by name and cast to the dtypes of the model card, or refused by name, row and reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from sundial.errors import ModelRefusedError, RequestError, nearest

# What pandas calls the values of an object column, by the kind of feature that may hold them.
FITTING = {
    "number": {"integer", "floating", "mixed-integer-float", "decimal"},
    "integer": {"integer", "floating", "mixed-integer-float"},
    "boolean": {"boolean"},
    "text": {"string"},
    "time": {"string", "datetime", "datetime64", "date"},
}
WORDS = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "text": "text",
    "time": "a time",
}


def kind_of(dtype: str) -> str:
    """Say what kind of value a dtype holds.

    Parameters
    ----------
    dtype : str
        As pandas writes it, such as ``float64`` or ``str``.

    Returns
    -------
    str
        ``number``, ``integer``, ``boolean``, ``text``, ``category`` or ``time``.

    Raises
    ------
    ModelRefusedError
        When a model cannot be served with it.
    """
    if dtype == "category":
        return "category"
    if dtype in ("str", "object") or dtype.startswith("string"):
        return "text"
    if dtype.lower().startswith(("int", "uint")):
        return "integer"
    if dtype.lower().startswith("float"):
        return "number"
    if dtype in ("bool", "boolean"):
        return "boolean"
    if dtype.startswith("datetime64"):
        return "time"
    raise ModelRefusedError(
        f"no request can carry a feature of dtype {dtype!r}",
        hint="use numbers, text, categories, truth values or times",
    )


def pick_columns(frame: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Pick the columns of the model out of a request.

    Raises
    ------
    RequestError
        When one is missing, or stands twice.
    """
    names = list(names)
    missing = [name for name in names if name not in frame.columns]
    if missing:
        others = [str(name) for name in frame.columns if name not in names]
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RequestError(
            f"column {missing[0]!r} is missing{more}", status=422, column=missing[0], hint=nearest(missing[0], others)
        )
    picked = frame.loc[:, names]
    if picked.shape[1] != len(names):
        twice = str(picked.columns[picked.columns.duplicated()][0])
        raise RequestError(f"column {twice!r} stands twice", status=422, column=twice)
    return picked


def cast_column(column: pd.Series, dtype: str) -> Any:
    """Cast a column to the dtype of the model card.

    Parameters
    ----------
    column : Series of n values
    dtype : str
        From the model card.

    Returns
    -------
    array of n values
        Of that dtype; a missing number is NaN.

    Raises
    ------
    RequestError
        When a value is of another kind, infinite, or missing where that cannot be; names column and first row.
    """
    kind = kind_of(dtype)
    target: Any = dtype  # the stubs know each dtype by its literal name only
    if str(column.dtype) != dtype:
        _check_kind(column, kind)
    elif kind != "number":
        return column.array
    try:
        if kind == "number":
            values = pd.to_numeric(column).to_numpy(dtype=dtype, na_value=np.nan)
            return refuse_infinite(pd.Series(values, name=column.name)).array
        if kind == "integer":
            _refuse(column, column.isna().to_numpy(), "has no value")
            numbers = pd.to_numeric(column)
            values = numbers.to_numpy().astype(dtype)
            _refuse(column, values != numbers.to_numpy(), "is not a whole number, or too large")
            return values
        if kind == "boolean":
            _refuse(column, column.isna().to_numpy() & (dtype == "bool"), "has no value")
        if kind == "time":
            return pd.to_datetime(column).astype(target).array
        return column.astype(target).array
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(
            f"column {column.name!r} cannot be read as {kind}: {error}", status=422, column=str(column.name)
        ) from error


def refuse_infinite(column: pd.Series) -> pd.Series:
    """Refuse a column of floats that holds an infinite number, which scikit-learn would fail on.

    Raises
    ------
    RequestError
        Naming column and first row.
    """
    _refuse(column, np.isinf(column.to_numpy()), "is infinite")
    return column


def _check_kind(column: pd.Series, kind: str) -> None:
    """Refuse values of another kind: text in a number's place would have to be guessed at."""
    if kind not in FITTING:
        return
    found = pd.api.types.infer_dtype(column, skipna=True)
    if found in FITTING[kind] or found == "empty" or column.isna().all():
        return
    for row, value in enumerate(column):
        if not _is_missing(value) and pd.api.types.infer_dtype([value]) not in FITTING[kind]:
            raise RequestError(
                f"column {column.name!r}, row {row}: {_show(value)} is not {WORDS[kind]}",
                status=422,
                column=str(column.name),
            )


def _refuse(column: pd.Series, wrong: Any, reason: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        row = int(rows[0])
        value = column.iloc[row]
        what = "it" if _is_missing(value) else _show(value)
        raise RequestError(f"column {column.name!r}, row {row}: {what} {reason}", status=422, column=str(column.name))


def _is_missing(value: Any) -> bool:
    return bool(np.ndim(value) == 0 and pd.isna(value))


def _show(value: Any) -> str:
    text = repr(value.item() if hasattr(value, "item") else value)
    return text if len(text) <= 40 else f"{text[:37]}..."
