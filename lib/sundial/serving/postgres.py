"""The prediction log on PostgreSQL: the same rows under the same keys, for those who want one SQL server.

Batches are written by COPY, one transaction for all that waits; callers are answered after COMMIT returned. Like a
segment file, a segment here is what one process writes with one schema: a row's key is (writer, segment, row), a
writer's rows are committed in that order, and a position says how many rows of which segment were read.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from sundial.errors import PredictionLogError
from sundial.serving.answers import Answer, AnswerMemory
from sundial.serving.positions import Position
from sundial.serving.records import Batch
from sundial.serving.schema import EPOCH, MICROSECOND, Schema
from sundial.serving.segments import WRITERS, Recovery

HINT = "is PostgreSQL up, and SUNDIAL_PREDICTIONS_URL right? The server tries again at the next request"
CONNECT_SECONDS = 5
STATEMENT_MS = 15_000
PAUSE_SECONDS = 1.0  # after a failure, before the next attempt
WAITING_ROWS = 50_000  # rows that may wait for PostgreSQL

# Every process that opens the log makes what is missing, one at a time.
TABLES = """
SELECT pg_advisory_xact_lock(hashtext('sundial_tables'));
CREATE TABLE IF NOT EXISTS sundial_segments (
    pipeline text NOT NULL, writer int NOT NULL, segment int NOT NULL, header jsonb NOT NULL,
    created timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (pipeline, writer, segment)
);
CREATE TABLE IF NOT EXISTS sundial_predictions (
    pipeline text NOT NULL, writer int NOT NULL, segment int NOT NULL, row int NOT NULL,
    request_id text NOT NULL, entity jsonb, event_time timestamp, served_at timestamptz NOT NULL,
    served_ns bigint NOT NULL, score float8 NOT NULL, decision boolean NOT NULL, threshold float8 NOT NULL,
    model_version int NOT NULL, latency_ms float8 NOT NULL, features jsonb NOT NULL,
    PRIMARY KEY (pipeline, writer, segment, row)
);
CREATE INDEX IF NOT EXISTS sundial_predictions_request ON sundial_predictions (pipeline, request_id);
CREATE INDEX IF NOT EXISTS sundial_predictions_served ON sundial_predictions (pipeline, served_ns);
"""
COLUMNS = (
    "pipeline, writer, segment, row, request_id, entity, event_time, served_at, served_ns, score, decision, threshold, "
    "model_version, latency_ms, features"
)

logger = logging.getLogger("sundial.serving")


def connect(url: str) -> psycopg.Connection[Any]:
    """Connect, and make the tables where they are missing.

    Raises
    ------
    PredictionLogError
        When PostgreSQL cannot be reached; the message holds no secret.
    """
    try:
        connection = psycopg.connect(
            url,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            options=f"-c statement_timeout={STATEMENT_MS} -c TimeZone=UTC -c synchronous_commit=on",
        )
        try:
            with connection.transaction():
                connection.execute(TABLES)
        except BaseException:
            connection.close()
            raise
    except psycopg.Error as error:
        raise PredictionLogError(f"the prediction log on PostgreSQL: {_first_line(error)}", hint=HINT) from error
    return connection


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class PostgresLog:
    """The prediction log of one server process, open for writing; see :class:`PredictionLog` for what it does.

    Rows that were appended are in memory until :meth:`sync` has committed them; nobody is answered before.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    url : str
        Of the database.
    remembered : int
        Request ids to keep in memory.
    on_failure : {'refuse', 'answer'}
        See :class:`PredictionLog`.

    Raises
    ------
    PredictionLogError
        When PostgreSQL cannot be reached.
    """

    syncs_itself = False
    recovery = Recovery()  # a transaction has no torn tail

    def __init__(
        self, pipeline: str, url: str, *, remembered: int = 0, on_failure: Literal["refuse", "answer"] = "refuse"
    ) -> None:
        self.pipeline = pipeline
        self.error = ""
        self.rows = 0
        self.unlogged = 0
        self._url = url
        self._on_failure = on_failure
        self._lock = threading.Lock()  # held while the database is talked to, by the thread that syncs
        self._waiting: list[tuple[Batch, Mapping[str, Any]]] = []
        self._waiting_rows = 0
        self._failed_at = 0.0
        self._connection: psycopg.Connection[Any] | None = None
        self._reading: psycopg.Connection[Any] | None = None  # of the thread that scores: it waits for no commit
        self._unread_at = -PAUSE_SECONDS
        self._place: tuple[int, int, int] = (0, 0, 0)  # writer, segment, next row
        self._header: Mapping[str, Any] | None = None
        self._schema: tuple[Schema | None, dict[str, Any]] = (None, {})
        self._memory = AnswerMemory(remembered)
        self._open()
        self._memory.recall(read_answers(pipeline, self._connect(), remembered))

    @property
    def position(self) -> str:
        """Place after the last row of this process."""
        writer, segment, row = self._place
        return str(Position({writer: (segment, row)}))

    def find(self, request_id: str) -> Answer | None:
        """Find what a request id was answered, if it is remembered."""
        return self._memory.find(request_id)

    def catch_up(self, asked: Iterable[list[str]]) -> None:
        """Learn what was answered to these ids, by whichever process; nothing while PostgreSQL does not answer.

        Parameters
        ----------
        asked : iterable of list of str
            Request ids that somebody gave, by request.
        """
        wanted = [name for given in asked for name in given if self._memory.find(name) is None]
        if not wanted or self.error or time.monotonic() - self._unread_at < PAUSE_SECONDS:
            return
        try:
            if self._reading is None:
                self._reading = connect(self._url)
            self._memory.recall(find_answers(self.pipeline, self._reading, wanted))
        except (psycopg.Error, PredictionLogError) as error:
            # Not the end of the request: whether its rows can be committed is what decides, and what says so.
            logger.warning("repeats of other processes are not known: %s", _first_line(error))
            self._unread_at = time.monotonic()
            self._end_reading()

    def forget(self, request_ids: list[str]) -> None:
        """Forget answers that turned out not to be committed."""
        self._memory.forget(request_ids)

    def append(self, batch: Batch, schema: Schema) -> int:
        """Take a batch, to be committed by the next :meth:`sync`.

        Returns
        -------
        int
            -1: a row gets its key when it is committed.

        Raises
        ------
        PredictionLogError
            When PostgreSQL has just failed, or too many rows wait for it.
        """
        rows = len(batch.request_ids)
        if (self.error and time.monotonic() - self._failed_at < PAUSE_SECONDS) or self._waiting_rows > WAITING_ROWS:
            if self._on_failure == "refuse":
                raise PredictionLogError(self.error or "too many rows wait for PostgreSQL", hint=HINT)
            self.unlogged += rows
            return -1
        if self._schema[0] is not schema:
            header = {"features": schema.logged, "entity": schema.entity, "event_time": schema.event_time}
            self._schema = (schema, header)
        self._waiting.append((batch, self._schema[1]))
        self._waiting_rows += rows
        self._memory.remember(batch)
        return -1

    def sync(self) -> None:
        """Commit all that was appended.

        Raises
        ------
        PredictionLogError
            When it cannot be committed, and callers are to be told so. The rows are kept for the next attempt: like
            those of a server that was killed before it answered, they may be in the log though nobody was answered.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, []
            rows = sum(len(batch.request_ids) for batch, _ in waiting)
            try:
                self._commit(waiting)
            except (psycopg.Error, PredictionLogError) as error:
                self.error = f"the prediction log on PostgreSQL cannot be written: {_first_line(error)}"
                self._failed_at = time.monotonic()
                self._disconnect()
                if self._on_failure == "answer":
                    self.unlogged += rows
                    self._waiting_rows -= rows
                    return
                self._waiting = waiting + self._waiting
                raise PredictionLogError(self.error, hint=HINT) from error
            self._waiting_rows -= rows
            self.rows += rows
            self.error = ""

    def close(self) -> None:
        """Commit what waits, and let another process have the writer's number."""
        try:
            if self._waiting:
                self.sync()
        finally:
            self._disconnect()
            self._end_reading()

    def _connect(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._open()
        assert self._connection is not None  # noqa: S101  made just now
        return self._connection

    def _open(self) -> None:
        """Connect, and claim the first writer number that no living process holds."""
        connection = connect(self._url)
        query = "SELECT pg_try_advisory_lock(hashtext(%s), %s)"
        for writer in range(WRITERS):
            found = connection.execute(query, (f"sundial {self.pipeline}", writer)).fetchone()
            if found and found[0]:
                self._connection, self._place, self._header = connection, (writer, -1, 0), None
                return
        connection.close()
        raise PredictionLogError(
            f"the prediction log of {self.pipeline} is already being written by {WRITERS} processes",
            hint="stop the others: a log has one writer a process",
        )

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _end_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
        self._reading = None

    def _commit(self, waiting: list[tuple[Batch, Mapping[str, Any]]]) -> None:
        """Write batches in one transaction; a change of schema begins a segment."""
        if not waiting:
            return
        connection = self._connect()
        place, header = self._place, self._header
        with connection.transaction():
            start = 0
            while start < len(waiting):
                if header is None or waiting[start][1] != header:
                    header = waiting[start][1]
                    place = self._begin_segment(connection, place[0], header)
                stop = next((n for n in range(start, len(waiting)) if waiting[n][1] != header), len(waiting))
                place = self._copy(connection, place, header, [batch for batch, _ in waiting[start:stop]])
                start = stop
        self._place, self._header = place, header

    def _begin_segment(
        self, connection: psycopg.Connection[Any], writer: int, header: Mapping[str, Any]
    ) -> tuple[int, int, int]:
        found = connection.execute(
            "INSERT INTO sundial_segments (pipeline, writer, segment, header) "
            "SELECT %s, %s, coalesce(max(segment) + 1, 0), %s FROM sundial_segments "
            "WHERE pipeline = %s AND writer = %s RETURNING segment",
            (self.pipeline, writer, Jsonb(dict(header)), self.pipeline, writer),
        ).fetchone()
        assert found is not None  # noqa: S101  an INSERT of one row returns one
        return writer, int(found[0]), 0

    def _copy(
        self,
        connection: psycopg.Connection[Any],
        place: tuple[int, int, int],
        header: Mapping[str, Any],
        batches: list[Batch],
    ) -> tuple[int, int, int]:
        writer, segment, row = place
        with connection.cursor() as cursor, cursor.copy(f"COPY sundial_predictions ({COLUMNS}) FROM STDIN") as copy:
            for batch in batches:
                for values in _rows_of(batch, header):
                    copy.write_row((self.pipeline, writer, segment, row, *values))
                    row += 1
        return writer, segment, row


def _rows_of(batch: Batch, header: Mapping[str, Any]) -> Any:
    """Give the rows of a batch as the columns of the table hold them."""
    count = len(batch.request_ids)
    names = list(header["features"])
    served_at = f"{EPOCH + batch.served_at // 1000 * MICROSECOND} UTC"
    entities = batch.entities or [None] * count
    times = batch.event_times or [None] * count
    columns = zip(*batch.features, strict=True) if batch.features else iter([()] * count)
    for number, values in enumerate(columns):
        features = {name: None if value != value else value for name, value in zip(names, values, strict=True)}
        entity, moment = entities[number], times[number]
        yield (
            _without_nul(batch.request_ids[number]),
            None if entity is None else _without_nul(json.dumps(entity)),
            None if moment is None else EPOCH + moment * MICROSECOND,
            served_at,
            batch.served_at,
            batch.scores[number],
            batch.decisions[number],
            batch.threshold,
            batch.version,
            batch.latencies[number],
            _without_nul(json.dumps(features)),
        )


def _without_nul(text: str) -> str:
    """Replace the one character that PostgreSQL's text cannot hold, as it is and as JSON writes it."""
    return text.replace("\x00", "\ufffd").replace("\\u0000", "\\ufffd") if "\x00" in text or "u0000" in text else text


def read_answers(pipeline: str, connection: psycopg.Connection[Any], wanted: int) -> list[tuple[str, Answer]]:
    """Read the newest answers, oldest first."""
    found = connection.execute(
        "SELECT request_id, score, decision, model_version FROM sundial_predictions WHERE pipeline = %s "
        "ORDER BY served_ns DESC, writer DESC, segment DESC, row DESC LIMIT %s",
        (pipeline, wanted),
    ).fetchall()
    return [(row[0], Answer(row[1], row[2], row[3])) for row in reversed(found)]


def find_answers(pipeline: str, connection: psycopg.Connection[Any], wanted: list[str]) -> list[tuple[str, Answer]]:
    """Find what was answered first to each of some request ids; of those that nobody asked with there is nothing."""
    stored = {_without_nul(name): name for name in wanted}
    found = connection.execute(
        "SELECT DISTINCT ON (request_id) request_id, score, decision, model_version FROM sundial_predictions "
        "WHERE pipeline = %s AND request_id = ANY(%s) ORDER BY request_id, served_ns, writer, segment, row",
        (pipeline, list(stored)),
    ).fetchall()
    return [(stored[row[0]], Answer(row[1], row[2], row[3])) for row in found]
