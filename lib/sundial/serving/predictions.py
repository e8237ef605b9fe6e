"""The prediction log: what was asked, what was answered, by which version; written before the answer is sent.

A batch is one frame, and one ``write()`` before its first answer: an acknowledged prediction survives ``kill -9``.
``fdatasync`` follows within ``log_sync_ms``, which is what a power cut can take; 0 syncs before the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from sundial.errors import PredictionLogError
from sundial.serving.answers import Answer, AnswerMemory
from sundial.serving.archive import FRAME_END, SERVED_NS, Archive
from sundial.serving.frames import list_segments, segment_path
from sundial.serving.others import OtherWriters
from sundial.serving.positions import Position
from sundial.serving.records import Batch, decode_batch, encode_batch, to_table
from sundial.serving.schema import Schema
from sundial.serving.segments import SEGMENT_BYTES, WRITERS, SegmentWriter
from sundial.serving.tailing import Piece, end_position, iterate, iterate_segment, read_frames_of
from sundial.settings import Settings, load_settings

# Ids that a server remembers, so that a caller who asks again is answered from the log: the newest of all writers at
# start, then its own. About 30 MB. An older repeat is scored again; readers keep the first row of an id.
REMEMBERED = 100_000
RETRIES = 20  # of reading beside a compaction

logger = logging.getLogger("sundial.serving")


def production_folder(pipeline: str, settings: Settings | None = None) -> Path:
    """Give the folder of a pipeline's prediction log."""
    return (settings or load_settings()).predictions / pipeline / "production"


class PredictionLog:
    """The prediction log of one server process, open for writing.

    Parameters
    ----------
    folder : Path
        Where; made when missing.
    sync_ms : int
        See the module; 0 leaves syncing to the caller, who calls :meth:`sync` before answering.
    segment_bytes : int
        Size at which the next segment begins.
    remembered : int
        Request ids to keep in memory.
    on_failure : {'refuse', 'answer'}
        What to do when a batch cannot be written: raise, so that its callers get 503; or count its rows as unlogged,
        so that they are answered all the same.

    Attributes
    ----------
    recovery : Recovery
        What was found of an earlier process's last segment.
    rows : int
        Rows written by this process.
    unlogged : int
        Rows that were answered and are not in the log, or may not be after a power cut.
    error : str
        Why the last write or sync failed; empty while all is well.

    Raises
    ------
    PredictionLogError
        When the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sync_ms: int = 50,
        segment_bytes: int = SEGMENT_BYTES,
        remembered: int = REMEMBERED,
        on_failure: Literal["refuse", "answer"] = "refuse",
    ) -> None:
        self.folder = folder
        self.error = ""
        self.rows = 0
        self.unlogged = 0
        self._on_failure = on_failure
        self._unsynced = 0
        self._writer = SegmentWriter(
            folder,
            kind="predictions",
            writers=WRITERS,
            sync_ms=sync_ms,
            segment_bytes=segment_bytes,
            on_sync_error=lambda error: self._fail(error),
        )
        self.recovery = self._writer.recovery
        self._others = OtherWriters(folder, self._writer.writer)  # first, so that nothing is written in between
        self._memory = AnswerMemory(remembered)
        self._memory.recall(_recent_answers(folder, remembered))
        self._schema: Schema | None = None
        self._header: dict[str, object] = {}

    @property
    def syncs_itself(self) -> bool:
        """Whether a thread syncs in the background."""
        return self._writer.sync_ms > 0

    @property
    def position(self) -> str:
        """Place after the last row of this process."""
        return str(Position({self._writer.writer: self._writer.position}))

    def find(self, request_id: str) -> Answer | None:
        """Find what a request id was answered, if it is remembered."""
        return self._memory.find(request_id)

    def catch_up(self, asked: Iterable[list[str]]) -> None:
        """Learn what other processes answered since the last time, so that repeats which reach this one are found.

        Parameters
        ----------
        asked : iterable of list of str
            Request ids that somebody gave, by request.
        """
        self._memory.recall((request_id, Answer(*answer)) for request_id, answer in self._others.read())

    def forget(self, request_ids: list[str]) -> None:
        """Forget answers that turned out not to be on the disk."""
        self._memory.forget(request_ids)

    def append(self, batch: Batch, schema: Schema) -> int:
        """Write a batch.

        Parameters
        ----------
        batch : Batch
            At least one row.
        schema : Schema
            What its features are.

        Returns
        -------
        int
            Key of its first row; -1 when it was not written and is to be answered all the same.

        Raises
        ------
        PredictionLogError
            When it cannot be written; then none of its rows is in the log.
        """
        if self._schema is not schema:
            self._schema = schema
            self._header = {"features": schema.logged, "entity": schema.entity, "event_time": schema.event_time}
        try:
            key = self._writer.append(encode_batch(batch), len(batch.request_ids), self._header)
        except PredictionLogError as error:
            self._fail(error)
            if self._on_failure == "refuse":
                raise
            self.unlogged += len(batch.request_ids)
            self._memory.remember(batch)
            return -1
        self.error = ""
        self.rows += len(batch.request_ids)
        self._unsynced += len(batch.request_ids)
        self._memory.remember(batch)
        return key

    def _fail(self, error: OSError) -> None:
        self.error = getattr(error, "message", "") or str(error)

    def sync(self) -> None:
        """Bring all rows to the disk.

        Raises
        ------
        PredictionLogError
            When the disk refuses, and callers are to be told so.
        """
        unsynced, self._unsynced = self._unsynced, 0
        try:
            self._writer.sync()
        except PredictionLogError as error:
            self._fail(error)
            if self._on_failure == "refuse":
                raise
            self.unlogged += unsynced

    def close(self) -> None:
        """Sync and close."""
        self._others.close()
        self._writer.close()


def _recent_answers(folder: Path, wanted: int) -> list[tuple[str, Answer]]:
    """Collect the newest answers of all writers, oldest first."""
    found: list[tuple[int, Batch]] = []
    for writer, segments in list_segments(folder).items():
        rows = 0
        for segment in reversed(segments):
            if rows >= wanted:
                break
            for frame in reversed(read_frames_of(segment_path(folder, writer, segment), 0, 1 << 62)):
                batch = decode_batch(frame)
                found.append((batch.served_at, batch))
                rows += frame.rows
                if rows >= wanted:
                    break
    answers = _archived_answers(folder, wanted - sum(len(batch.request_ids) for _, batch in found))
    for _, batch in sorted(found, key=lambda item: item[0]):
        rows_of = zip(batch.request_ids, batch.scores, batch.decisions, strict=True)
        answers += [(request_id, Answer(score, decision, batch.version)) for request_id, score, decision in rows_of]
    return answers


def _archived_answers(folder: Path, wanted: int) -> list[tuple[str, Answer]]:
    """Collect the newest answers that are compacted already, oldest first."""
    archive = Archive(folder)
    if wanted <= 0 or not archive.ledger().files:
        return []
    columns = f"request_id, score, decision, model_version, {SERVED_NS}"
    table = archive.select(columns, order=f"{SERVED_NS} DESC", limit=wanted).sort_values(SERVED_NS).tail(wanted)
    rows = zip(table["request_id"], table["score"], table["decision"], table["model_version"], strict=True)
    return [(item, Answer(float(score), bool(decision), int(version))) for item, score, decision, version in rows]


def log_position(pipeline: str, settings: Settings | None = None) -> str:
    """Say where the prediction log of a pipeline ends now.

    Parameters
    ----------
    pipeline : str
        Its name.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    str
        Such as ``0:3:8192``, segment and offset for each writer; empty when nothing was logged yet. A shadow that
        is to score what comes after now gets it as tag ``shadow_from``.
    """
    settings = settings or load_settings()
    if settings.predictions_url is not None:
        from sundial.serving.postgres_reading import PostgresReader

        with PostgresReader(pipeline, settings) as reader:
            return str(reader.end())
    return str(end_position(production_folder(pipeline, settings)))


def read_frames(folder: Path, position: str | Position = "") -> Iterator[tuple[Piece, list[Batch]]]:
    """Read a prediction log from a position on.

    Parameters
    ----------
    folder : Path
        The log's.
    position : str or Position
        From :func:`log_position`; the beginning by default.

    Yields
    ------
    tuple of Piece and list of Batch
        Frames of one segment, and the batches in them.
    """
    start = Position.parse(position) if isinstance(position, str) else position
    for piece in iterate(folder, start):
        yield piece, [decode_batch(frame) for frame in piece.frames]


def read_log(
    pipeline: str,
    start: str | datetime | pd.Timestamp | None = None,
    end: str | datetime | pd.Timestamp | None = None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Read the prediction log of a pipeline.

    Parameters
    ----------
    pipeline : str
        Its name.
    start, end : timestamp, optional
        Only rows whose event time is in ``[start, end)``; for rows that have none, the time they were served (UTC).
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    DataFrame
        A row a request id, in the order in which they were served; of an id that is there twice the first. Columns:
        request_id, entity, event_time (naive), served_at (UTC), the features, score, decision, threshold,
        model_version, latency_ms, key (int64). A feature of one of these names is called ``<name>_feature``. Rows of
        several schemas have all their features, NaN where a row has none. ``attrs["lost_rows"]`` counts the rows that
        are damaged and cannot be read.
    """
    settings = settings or load_settings()
    if settings.predictions_url is not None:
        from sundial.serving.postgres_reading import PostgresReader

        with PostgresReader(pipeline, settings) as reader:
            return _arrange(reader.table(start, end), 0, start, end)
    for _ in range(RETRIES):
        try:
            table, lost = _read_both(production_folder(pipeline, settings), start, end)
            break
        except FileNotFoundError:  # compacted, or let go, since it was listed
            continue
    else:
        raise PredictionLogError(f"the log of {pipeline} changes while it is read", hint="try again")
    if lost:
        logger.error("%s: %d rows are damaged and cannot be read", production_folder(pipeline, settings), lost)
    return _arrange(table, lost, start, end)


def _arrange(table: pd.DataFrame, lost: int, start: Any, end: Any) -> pd.DataFrame:
    """Put rows in order, the first of each id only, and leave out those of other times."""
    fixed_last = ["score", "decision", "threshold", "model_version", "latency_ms", "key"]
    table = table[[name for name in table.columns if name not in fixed_last] + fixed_last]
    table = table.sort_values(["served_at", "key"], kind="stable")
    table = table.drop_duplicates("request_id", keep="first")
    if start is not None or end is not None:
        moment = table["event_time"].fillna(table["served_at"].dt.tz_localize(None).astype("datetime64[us]"))
        inside = pd.Series(True, index=table.index)
        if start is not None:
            inside &= moment >= pd.Timestamp(start)
        if end is not None:
            inside &= moment < pd.Timestamp(end)
        table = table[inside]
    table = table.reset_index(drop=True)
    table.attrs["lost_rows"] = lost
    return table


def _read_both(folder: Path, start: Any, end: Any) -> tuple[pd.DataFrame, int]:
    """Read archived and live rows, and count those that are damaged."""
    archive = Archive(folder)
    live = list_segments(folder)  # before the ledger is read, which names those that are deleted by then
    ledger = archive.ledger()
    # one row of an id may be in the archive and a first one live: what is outside of the time goes after repeats do
    archived = archive.select() if ledger.files else pd.DataFrame()
    lost = sum(segment.lost_rows for segment in ledger.segments.values())
    tables: list[pd.DataFrame] = []
    for writer, numbers in live.items():
        for number in numbers:
            if f"{writer}:{number}" in ledger.segments:
                continue
            for piece in iterate_segment(folder, writer, number):
                lost += piece.lost_rows
                keyed = [(piece.key(frame), decode_batch(frame)) for frame in piece.frames]
                tables.append(to_table(piece.header, keyed))
    if len(archived):
        tables.insert(0, archived.drop(columns=[SERVED_NS, FRAME_END, "day", "version"], errors="ignore"))
    if not tables:
        return to_table({"features": {}}, []), lost
    return pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0], lost


__all__ = [
    "Answer",
    "PredictionLog",
    "PredictionLogError",
    "log_position",
    "production_folder",
    "read_frames",
    "read_log",
]
