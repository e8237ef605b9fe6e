"""Reading a request for one model: decoded and checked in one pass, as the model's schema has it.

A typed decoder takes the usual forms as they should be. What it does not take is read again by :mod:`payloads`, which
knows every form, forgives what may be forgiven, and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sundial.errors import RequestError
from sundial.serving.payloads import MAX_ROWS, parse_body
from sundial.serving.schema import LARGEST_INTEGER, LONGEST_ID, Kind, Request, Schema, check_times

Whole = Annotated[int, Meta(ge=-LARGEST_INTEGER, le=LARGEST_INTEGER)]
Id = Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)] | Whole
Entity = str | Whole | None
# Times are left to the check that says what is wrong with one; boosted trees do not take them anyway.
TYPES: dict[Kind, Any] = {
    "number": float | None,
    "integer": Whole,
    "boolean": bool,
    "text": str | None,
    "category": str | None,
}
ASIDE = ("request_id", "entity", "event_time")  # columns that say what stands beside the rows


class Reader:
    """Reads the requests for one model.

    Parameters
    ----------
    schema : Schema
        What the model takes.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._width = len(schema.features)
        self._names = list(schema.features)
        self._aside = {
            name: key
            for key, names in {
                "request_id": ("request_id",),
                "entity": ("entity", schema.entity),
                "event_time": ("event_time", schema.event_time),
            }.items()
            for name in names
            if name not in schema.logged
        }
        self._wide = len(schema.logged)
        self._filling = (None,) * len(schema.extras)
        self._bare = (UNSET,) * (len(schema.extras) + len(self._aside))
        self._decoder = _make_decoder(schema, self._aside) if self._fits() else None

    def _fits(self) -> bool:
        """Whether the typed decoder knows all kinds of columns, and none is a feature and stands beside them, too."""
        known = all(kind in TYPES for kind in self.schema.logged.values())
        return known and not {*ASIDE, self.schema.entity, self.schema.event_time} & set(self.schema.logged)

    def read(self, body: bytes) -> Request:
        """Read the body of a request.

        Parameters
        ----------
        body : bytes
            JSON, in one of the forms of :mod:`payloads`.

        Returns
        -------
        Request

        Raises
        ------
        RequestError
            Status 400 when it is not JSON or not one of the forms, 413 when it has too many rows, 422 when the rows are
            not what the model takes.
        """
        if self._decoder is not None:
            try:
                found = self._decoder.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                pass  # read again below, where the reason is found
            else:
                request = self._take(found)
                if request is not None:
                    return request
        return self.schema.check(parse_body(body))

    def _take(self, found: Any) -> Request | None:
        """Take the rows out of a decoded body; None when it needs a closer look."""
        records, ids, entities, times = found.dataframe_records, found.request_ids, found.entities, found.event_times
        params = found.params
        if params is not None:
            if (ids, entities, times) != (None, None, None):
                return None  # given twice, perhaps
            ids, entities, times = params.request_ids, params.entities, params.event_times
        rows: Sequence[tuple[Any, ...]] | None
        if records is not None:
            if found.instances is not None or found.dataframe_split is not None:
                return None
            rows, beside = self._from_records(records)
            if rows is None or beside is None:
                return None
            if beside:
                if any(name in beside for name, given in _named(ids, entities, times) if given is not None):
                    return None
                ids = beside.get("request_id", ids)
                entities = beside.get("entity", entities)
                times = beside.get("event_time", times)
        else:
            rows = self._from_positions(found)
        if not rows or len(rows) > MAX_ROWS:
            return None
        size = len(rows)
        if ids is not None:
            if len(ids) != size:
                return None
            ids = list(map(str, ids))
        if entities is not None and len(entities) != size:
            return None
        if times is not None:
            if len(times) != size:
                return None
            times = check_times("event_times", times)
        return Request(size, rows, ids, entities, times)

    def _from_records(self, records: list[Any]) -> tuple[list[tuple[Any, ...]] | None, dict[str, list[Any]] | None]:
        """Turn records into rows, and the columns that stand beside them."""
        rows = [msgspec.structs.astuple(record) for record in records]
        if not rows:
            return None, None
        wide = self._wide
        if len(rows) == 1 and rows[0][self._width :] == self._bare:  # nearly always
            return [rows[0][: self._width] + self._filling], {}
        beside: dict[str, list[Any]] = {}
        for position, key in enumerate(self._aside.values(), start=wide):
            values = [row[position] for row in rows]
            if values.count(UNSET) == len(values):
                continue
            if UNSET in values or key in beside:
                return None, None  # not in all rows, or under two names
            beside[key] = values
        if self.schema.extras:
            head = rows[0]
            for position in range(self._width, wide):
                missing = sum(row[position] is UNSET for row in rows)
                if missing not in (0, len(rows)):
                    return None, None
            if UNSET in head[self._width : wide]:
                return [tuple(None if value is UNSET else value for value in row[:wide]) for row in rows], beside
        return [row[:wide] for row in rows], beside

    def _from_positions(self, found: Any) -> list[tuple[Any, ...]] | None:
        """Take rows whose order says which value is which."""
        split = found.dataframe_split
        if (split is None) == (found.instances is None):
            return None
        if split is not None and split.columns is not None and split.columns != self._names:
            return None
        rows = found.instances if split is None else split.data
        if not rows:
            return None
        return [row + self._filling for row in rows] if self._filling else rows


def _named(ids: Any, entities: Any, times: Any) -> zip[tuple[str, Any]]:
    return zip(ASIDE, (ids, entities, times), strict=True)


def _make_decoder(schema: Schema, aside: dict[str, str]) -> msgspec.json.Decoder[Any]:
    """Make the decoder of a body whose rows are what the schema says."""
    types = [TYPES[kind] for kind in schema.features.values()]
    fields: list[Any] = [
        (f"f{number}", kind, msgspec.field(name=name))
        for number, (name, kind) in enumerate(zip(schema.features, types, strict=True))
    ]
    fields += [
        (f"x{number}", TYPES[kind] | UnsetType | None, msgspec.field(default=UNSET, name=name))
        for number, (name, kind) in enumerate(schema.extras.items())
    ]
    asides = {"request_id": Id, "entity": Entity, "event_time": str | None}
    fields += [
        (f"a{number}", asides[key] | UnsetType, msgspec.field(default=UNSET, name=name))
        for number, (name, key) in enumerate(aside.items())
    ]
    # gc=False: a row holds no containers, and is gone before the collector would look at it
    row = msgspec.defstruct("Row", fields, forbid_unknown_fields=True, gc=False)
    values: Any = tuple.__class_getitem__(tuple(types))
    beside: list[Any] = [
        ("request_ids", list[Id] | None, None),
        ("entities", list[Entity] | None, None),
        ("event_times", list[str | None] | None, None),
    ]
    params = msgspec.defstruct("Params", beside, forbid_unknown_fields=True)
    split = msgspec.defstruct(
        "Split",
        [("data", list[values]), ("columns", list[str] | None, None), ("index", Any, None)],
        forbid_unknown_fields=True,
    )
    body = msgspec.defstruct(
        "Body",
        [
            ("dataframe_records", list[row] | None, None),  # type: ignore[valid-type]
            ("dataframe_split", split | None, None),
            ("instances", list[values] | None, None),
            *beside,
            ("params", params | None, None),
        ],
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(body)


__all__ = ["Reader", "RequestError"]
