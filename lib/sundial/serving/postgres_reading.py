"""Reading the prediction log from PostgreSQL: tables for people, chunks for the scorer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, cast

import numpy as np
import pandas as pd
import psycopg

from sundial.errors import PredictionLogError
from sundial.serving.archive import column_of
from sundial.serving.chunks import Chunk
from sundial.serving.positions import Position, make_key
from sundial.serving.postgres import HINT, connect
from sundial.serving.schema import EPOCH, MICROSECOND, Kind, to_array
from sundial.settings import Settings

FETCHED = (
    "writer, segment, row, request_id, entity, event_time, served_ns, score, decision, threshold, model_version, "
    "latency_ms, features"
)
Rows = list[tuple[Any, ...]]


class PostgresReader:
    """Reads the log of one pipeline.

    Parameters
    ----------
    pipeline : str
        Its name.
    settings : Settings
        Name the database.

    Raises
    ------
    PredictionLogError
        When PostgreSQL cannot be reached, now or when something is read.
    """

    def __init__(self, pipeline: str, settings: Settings) -> None:
        assert settings.predictions_url is not None  # noqa: S101  who asks for this has looked
        self._pipeline = pipeline
        self._url = settings.predictions_url.get_secret_value()
        self._connection: psycopg.Connection[Any] | None = None
        self._kinds: dict[tuple[int, int], Mapping[str, Kind]] = {}

    def __enter__(self) -> PostgresReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def ask(self, query: str, values: tuple[Any, ...] = ()) -> Rows:
        """Ask for rows; ``%s`` is the pipeline, then come the values."""
        try:
            if self._connection is None:
                self._connection = connect(self._url)
            return self._connection.execute(query.encode(), (self._pipeline, *values)).fetchall()
        except psycopg.Error as error:
            self.close()
            raise PredictionLogError(f"the prediction log on PostgreSQL cannot be read: {error}", hint=HINT) from error

    def segments(self) -> list[tuple[int, int]]:
        """List writers and segments, in order, and learn their schemas."""
        query = "SELECT writer, segment, header FROM sundial_segments WHERE pipeline = %s ORDER BY writer, segment"
        found = self.ask(query)
        self._kinds = {(writer, segment): header["features"] for writer, segment, header in found}
        return list(self._kinds)

    def end(self) -> Position:
        """Find the position after the last row of each writer."""
        query = (
            "SELECT DISTINCT ON (writer) writer, segment, row + 1 FROM sundial_predictions WHERE pipeline = %s "
            "ORDER BY writer, segment DESC, row DESC"
        )
        return Position({writer: (segment, row) for writer, segment, row in self.ask(query)})

    def places(self, position: Position, until: Position | None) -> Iterator[tuple[int, int, int, int]]:
        """List where the rows after a position are: writer, segment, first row, and the row to stop before."""
        for writer, segment in self.segments():
            at, row = position.at(writer)
            last, end = until.at(writer) if until is not None else (segment, 1 << 31)
            if at <= segment <= last:
                yield writer, segment, row if segment == at else 0, end if segment == last else 1 << 31

    def read(self, position: Position, until: Position | None, rows: int) -> Chunk | None:
        """Read rows of one segment after a position; None when there is none."""
        query = (
            f"SELECT {FETCHED} FROM sundial_predictions WHERE pipeline = %s AND writer = %s AND segment = %s "  # noqa: S608
            "AND row >= %s AND row < %s ORDER BY row LIMIT %s"
        )
        for writer, segment, first, end in self.places(position, until):
            found = self.ask(query, (writer, segment, first, min(end, (1 << 31) - 1), rows))
            if found:
                return self._chunk(found, self._kinds[writer, segment], position)
        return None

    def count(self, position: Position, until: Position | None) -> tuple[int, int]:
        """Count rows after a position, and tell when the oldest was served; 0 for none."""
        query = (
            "SELECT count(*), coalesce(min(served_ns), 0) FROM sundial_predictions WHERE pipeline = %s AND writer = %s "
            "AND segment = %s AND row >= %s AND row < %s"
        )
        total, oldest = 0, 0
        for writer, segment, first, end in self.places(position, until):
            rows, served = self.ask(query, (writer, segment, first, min(end, (1 << 31) - 1)))[0]
            total += rows
            oldest = min(oldest, served) if oldest and served else oldest or served
        return total, oldest

    def table(self, start: Any = None, end: Any = None, newest: int = 0) -> pd.DataFrame:
        """Read rows of a time, or the newest, as a table; see :func:`sundial.serving.predictions.read_log`."""
        self.segments()
        where, values = "", []
        for sign, moment in ((">=", start), ("<", end)):
            if moment is not None:
                where += f" AND coalesce(event_time, served_at AT TIME ZONE 'UTC') {sign} %s"
                values.append(pd.Timestamp(moment).to_pydatetime())
        query = f"SELECT {FETCHED} FROM sundial_predictions WHERE pipeline = %s{where}"  # noqa: S608
        if newest:
            query += f" ORDER BY served_ns DESC, writer DESC, segment DESC, row DESC LIMIT {newest}"
        groups: dict[tuple[tuple[str, str], ...], Rows] = {}
        for row in self.ask(query, tuple(values)):
            groups.setdefault(tuple(self._kinds[row[0], row[1]].items()), []).append(row)
        tables = [_to_table(found, cast(Mapping[str, Kind], dict(kinds))) for kinds, found in groups.items()]
        return pd.concat(tables, ignore_index=True) if tables else _to_table([], {})

    def _chunk(self, rows: Rows, kinds: Mapping[str, Kind], position: Position) -> Chunk:
        missing = np.iinfo(np.int64).min
        return Chunk(
            kinds,
            {name: to_array(kind, [row[12].get(name) for row in rows]) for name, kind in kinds.items()},
            np.array([make_key(*row[:3]) for row in rows], np.int64),
            [row[3] for row in rows],
            np.array([row[6] for row in rows], np.int64),
            np.array([missing if row[5] is None else (row[5] - EPOCH) // MICROSECOND for row in rows], np.int64),
            position.moved(rows[-1][0], rows[-1][1], rows[-1][2] + 1),
        )


class PostgresTail:
    """Follows the log on PostgreSQL; see :class:`sundial.serving.chunks.ChunkTail`."""

    def __init__(self, reader: PostgresReader, position: Position | None = None, until: Position | None = None) -> None:
        self.position = position or Position()
        self._reader = reader
        self._until = until

    def read(self, rows: int) -> Chunk | None:
        """Read on; at most this many rows, None when there is nothing new."""
        chunk = self._reader.read(self.position, self._until, rows)
        if chunk is not None:
            self.position = chunk.position
        return chunk

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()


def _to_table(rows: Rows, kinds: Mapping[str, Kind]) -> pd.DataFrame:
    """Make a table with the columns and types of a log that is read from files."""
    entities = [row[4] for row in rows]
    times = [None if row[5] is None else (row[5] - EPOCH) // MICROSECOND for row in rows]
    served = np.array([row[6] for row in rows], np.int64).view("datetime64[ns]")
    return pd.DataFrame(
        {
            "request_id": pd.array([row[3] for row in rows], dtype="str"),
            "entity": entities if None not in entities else np.array(entities, object),
            "event_time": to_array("time", times),
            "served_at": pd.DatetimeIndex(served, tz="UTC"),
            **{column_of(name): to_array(kind, [row[12].get(name) for row in rows]) for name, kind in kinds.items()},
            "score": np.array([row[7] for row in rows], np.float64),
            "decision": np.array([row[8] for row in rows], np.bool_),
            "threshold": np.array([row[9] for row in rows], np.float64),
            "model_version": np.array([row[10] for row in rows], np.int64),
            "latency_ms": np.array([row[11] for row in rows], np.float64),
            "key": np.array([make_key(*row[:3]) for row in rows], np.int64),
        }
    )
