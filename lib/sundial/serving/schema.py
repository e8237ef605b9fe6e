"""What a model takes: names and kinds of its features, and the check that a caller's values are of them.

Values stay in columns from the caller's JSON to the model. A column is checked as a whole: the set of its values' types
tells in one pass over C code whether anything has to be looked at more closely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, NoReturn, cast

import numpy as np
import pandas as pd

from sundial.errors import RequestError, nearest
from sundial.release.columns import kind_of

Kind = Literal["number", "integer", "boolean", "text", "category", "time"]
Values = list[Any]

EPOCH = datetime(1970, 1, 1)
MICROSECOND = timedelta(microseconds=1)
LARGEST_INTEGER = 2**63 - 1
LONGEST_ID = 200
LONGEST_SHOWN = 40
SAID = {"number": "a number", "integer": "a whole number", "boolean": "true or false", "text": "text"}
SAID_TIME = "a time as ISO 8601 text without an offset, such as 2013-10-07T05:15:00"


def show(value: Any) -> str:
    """Show a caller's value in a message, cut where it is long."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _refuse(column: str, values: Sequence[Any], fits: Callable[[Any], bool], wanted: str) -> NoReturn:
    """Raise for the first value that does not fit, naming its row."""
    row = next(index for index, value in enumerate(values) if not fits(value))
    value = values[row]
    where = f" in row {row + 1}" if len(values) > 1 else ""
    if value is None:
        message = f"{column!r} is missing{where}, and must be {wanted}"
    else:
        message = f"{column!r} is {show(value)}{where}, and must be {wanted}"
    raise RequestError(message, status=422, column=column, hint=f"send {wanted}")


def _finite_number(value: Any) -> bool:
    if value is None:
        return True
    if type(value) not in (int, float):
        return False
    try:
        return not math.isinf(float(value))
    except OverflowError:
        return False


def _whole_number(value: Any) -> bool:
    return (type(value) is int or (type(value) is float and value.is_integer())) and (
        -LARGEST_INTEGER <= value <= LARGEST_INTEGER
    )


def check_numbers(column: str, values: Values) -> Values:
    """Check numbers; null and NaN are missing, and become NaN."""
    types = set(map(type, values))
    if types == {float} and math.inf not in values and -math.inf not in values:
        return values
    if not all(map(_finite_number, values)):
        _refuse(column, values, _finite_number, "a finite number, or null for a missing one")
    return [math.nan if value is None else float(value) for value in values]


def check_integers(column: str, values: Values) -> Values:
    """Check whole numbers; none may be missing."""
    if not all(map(_whole_number, values)):
        _refuse(column, values, _whole_number, SAID["integer"])
    return list(map(int, values))


def check_booleans(column: str, values: Values) -> Values:
    """Check true and false, for which 1 and 0 may stand; none may be missing."""

    def fits(value: Any) -> bool:
        return type(value) in (bool, int, float) and value in (0, 1)

    if set(map(type, values)) == {bool}:
        return values
    if not all(map(fits, values)):
        _refuse(column, values, fits, SAID["boolean"])
    return list(map(bool, values))


def check_texts(column: str, values: Values) -> Values:
    """Check texts; null is missing."""
    if set(map(type, values)) <= {str, type(None)}:
        return values
    # MLflow's clients write a missing text as NaN
    values = [None if type(value) is float and math.isnan(value) else value for value in values]
    if not set(map(type, values)) <= {str, type(None)}:
        _refuse(column, values, lambda value: value is None or type(value) is str, "text, or null")
    return values


def check_times(column: str, values: Values) -> Values:
    """Check times; null is missing. Gives microseconds since 1970, as the wall clock says."""

    def read(value: Any) -> int | Literal[False] | None:
        if value is None:
            return None
        try:
            time = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            return False
        return False if time.tzinfo else (time - EPOCH) // MICROSECOND

    found = list(map(read, values))
    if False in [value if value is False else None for value in found]:
        _refuse(column, values, lambda value: read(value) is not False, SAID_TIME)
    return found


CHECKS: dict[Kind, Callable[[str, Values], Values]] = {
    "number": check_numbers,
    "integer": check_integers,
    "boolean": check_booleans,
    "text": check_texts,
    "category": check_texts,
    "time": check_times,
}


def to_array(kind: Kind, values: Sequence[Any]) -> Any:
    """Turn checked values into an array, with missing ones as NaN, None or NaT."""
    if kind == "number":
        return np.array(values, np.float64)
    if kind == "integer":
        return np.array(values, np.float64 if None in values else np.int64)
    if kind == "boolean":
        return np.array(values, object if None in values else np.bool_)
    if kind == "time":
        missing = np.iinfo(np.int64).min  # what NaT is
        filled = [missing if value is None else value for value in values]
        return np.array(filled, np.int64).view("datetime64[us]")
    return np.array(values, object)


def to_frame(kinds: Mapping[str, Kind], columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Put columns of checked values into a frame, in the order of ``kinds``."""
    return pd.DataFrame({name: to_array(kind, columns[name]) for name, kind in kinds.items()})


class Request(NamedTuple):
    """What a caller sent, checked: ready for the model and for the log.

    Attributes
    ----------
    rows : int
        How many.
    values : list of tuple
        Rows, whose values stand in the schema's order.
    request_ids : list of str, or None
        The caller's own.
    entities : list, or None
        What each row is about.
    event_times : list of int, or None
        Microseconds since 1970 on the wall clock.
    """

    rows: int
    values: Sequence[tuple[Any, ...]]
    request_ids: list[str] | None
    entities: Values | None
    event_times: Values | None

    @property
    def columns(self) -> list[Values]:
        """The same values, a column a feature."""
        return [list(column) for column in zip(*self.values, strict=True)]


class Payload(NamedTuple):
    """What a caller sent, in columns, before anything is known of the model.

    Attributes
    ----------
    rows : int
        How many.
    columns : dict of str to list, or None
        Values by name.
    positional : list of list, or None
        Rows without names, in the order of the model's features.
    beside : dict of str to list
        Of ``request_ids``, ``entities`` and ``event_times``, those that stand beside the rows.
    """

    rows: int
    columns: dict[str, Values] | None
    positional: list[Values] | None
    beside: dict[str, Values]


@dataclass(frozen=True)
class Schema:
    """What a model takes.

    Attributes
    ----------
    features : mapping of str to str
        Kind by name, in the model's order.
    extras : mapping of str to str
        Features that only a shadow model takes: a caller may send them, and they are logged.
    entity, event_time : str
        Columns of that name say what a row is about and when it happened.
    """

    features: Mapping[str, Kind]
    extras: Mapping[str, Kind]
    entity: str = "entity"
    event_time: str = "event_time"

    @classmethod
    def of(
        cls,
        features: Mapping[str, str],
        extras: Mapping[str, str] | None = None,
        *,
        entity: str = "entity",
        event_time: str = "event_time",
    ) -> Schema:
        """Make a schema from the dtypes on a model card.

        Raises
        ------
        ModelRefusedError
            When no request can carry a feature.
        """
        kinds = {name: cast(Kind, kind_of(dtype)) for name, dtype in features.items()}
        more = {name: cast(Kind, kind_of(dtype)) for name, dtype in (extras or {}).items() if name not in kinds}
        return cls(kinds, more, entity, event_time)

    @property
    def logged(self) -> dict[str, Kind]:
        """Kinds of all features that a log row holds, in its order."""
        return {**self.features, **self.extras}

    def check(self, payload: Payload) -> Request:
        """Check that a caller's rows are what the model takes.

        Parameters
        ----------
        payload : Payload
            The rows.

        Returns
        -------
        Request

        Raises
        ------
        RequestError
            With status 422, naming the column and the reason.
        """
        columns = payload.columns
        if columns is None:
            columns = self._name(payload.positional or [])
        beside = dict(payload.beside)
        names = {"request_ids": ("request_id",), "entities": ("entity", self.entity)}
        for key, aliases in {**names, "event_times": ("event_time", self.event_time)}.items():
            for name in dict.fromkeys(aliases):
                if name in columns and key in beside:
                    raise RequestError(
                        f"{key} are given twice: beside the rows, and as column {name!r}",
                        status=422,
                        column=name,
                        hint="give them once",
                    )
                if name in columns:
                    beside[key] = columns[name]
                    if name not in self.features and name not in self.extras:
                        columns = {other: values for other, values in columns.items() if other != name}
        if payload.rows:
            self._check_names(columns)
        checked = [CHECKS[kind](name, columns[name]) if payload.rows else [] for name, kind in self.features.items()]
        for name, kind in self.extras.items():
            checked.append(CHECKS[kind](name, columns[name]) if name in columns else [None] * payload.rows)
        return Request(payload.rows, list(zip(*checked, strict=True)), *_check_beside(beside))

    def frame(self, columns: Sequence[Sequence[Any]]) -> pd.DataFrame:
        """Make the frame that the model scores from columns in the schema's order."""
        return to_frame(self.features, dict(zip(self.features, columns, strict=False)))

    def _name(self, rows: list[Values]) -> dict[str, Values]:
        """Name the columns of rows without names."""
        wanted = len(self.features)
        for number, row in enumerate(rows, start=1):
            if len(row) != wanted:
                raise RequestError(
                    f"row {number} has {len(row)} values, and the model takes {wanted}",
                    status=422,
                    hint=f"without names the order is: {', '.join(self.features)}",
                )
        return {name: list(values) for name, values in zip(self.features, zip(*rows, strict=True), strict=False)}

    def _check_names(self, columns: Mapping[str, Values]) -> None:
        """Refuse missing and unknown columns."""
        missing = [name for name in self.features if name not in columns]
        unknown = [name for name in columns if name not in self.features and name not in self.extras]
        for name in unknown:
            # a misspelled column is both unknown and missing: name what was written, and suggest what was meant
            raise RequestError(
                f"unknown column {show(name)}", status=422, column=name, hint=nearest(name, missing or self.features)
            )
        if missing:
            several = "columns are" if len(missing) > 1 else "column is"
            raise RequestError(
                f"{several} missing: {', '.join(missing)}",
                status=422,
                column=missing[0],
                hint="send every feature; one that is unknown as null, where it is not a whole number or true/false",
            )


def _check_beside(beside: Mapping[str, Values]) -> tuple[list[str] | None, Values | None, Values | None]:
    """Check request ids, entities and event times."""
    ids, entities, times = (beside.get(name) for name in ("request_ids", "entities", "event_times"))
    if ids is not None:

        def fits_id(value: Any) -> bool:
            if type(value) is int:
                return abs(value) <= LARGEST_INTEGER
            return type(value) is str and 0 < len(value) <= LONGEST_ID

        if not all(map(fits_id, ids)):
            _refuse("request_ids", ids, fits_id, f"text of 1 to {LONGEST_ID} characters, or a whole number")
        ids = list(map(str, ids))
    if entities is not None:

        def fits_entity(value: Any) -> bool:
            return value is None or type(value) is str or _whole_number(value)

        if not all(map(fits_entity, entities)):
            _refuse("entities", entities, fits_entity, "text or a whole number")
        entities = [int(value) if type(value) is float else value for value in entities]
    return ids, entities, None if times is None else check_times("event_times", times)
