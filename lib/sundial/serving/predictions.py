"""The prediction log: what was asked, what was answered, by which version; written before the answer is sent.

A batch is one frame, and one ``write()`` before its first answer: an acknowledged prediction survives ``kill -9``.
``fdatasync`` follows within ``log_sync_ms``, which is what a power cut can take; 0 syncs before the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sundial.errors import PredictionLogError
from sundial.serving.frames import list_segments, segment_path
from sundial.serving.others import OtherWriters
from sundial.serving.positions import Position
from sundial.serving.records import Batch, decode_batch, encode_batch, to_table
from sundial.serving.schema import Schema
from sundial.serving.segments import SEGMENT_BYTES, WRITERS, SegmentWriter
from sundial.serving.tailing import Piece, end_position, iterate, read_frames_of
from sundial.settings import Settings, load_settings

# Ids that a server remembers, so that a caller who asks again is answered from the log: the newest of all writers at
# start, then its own. About 30 MB. An older repeat is scored again; readers keep the first row of an id.
REMEMBERED = 100_000

logger = logging.getLogger("sundial.serving")


def production_folder(pipeline: str, settings: Settings | None = None) -> Path:
    """Give the folder of a pipeline's prediction log."""
    return (settings or load_settings()).predictions / pipeline / "production"


class Answer(NamedTuple):
    """What a request id was answered."""

    score: float
    decision: bool
    version: int


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

    Attributes
    ----------
    recovery : Recovery
        What was found of an earlier process's last segment.
    rows : int
        Rows written by this process.
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
    ) -> None:
        self.folder = folder
        self.error = ""
        self.rows = 0
        self.remembered = remembered
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
        self._answers = _recent_answers(folder, remembered)
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
        return self._answers.get(request_id)

    def catch_up(self) -> None:
        """Learn what other processes answered since the last time, so that repeats which reach this one are found."""
        for request_id, answer in self._others.read():
            self._answers.setdefault(request_id, Answer(*answer))
        self._trim()

    def forget(self, request_ids: list[str]) -> None:
        """Forget answers that turned out not to be on the disk."""
        for request_id in request_ids:
            self._answers.pop(request_id, None)

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
            Key of its first row.

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
            raise
        self.error = ""
        self.rows += len(batch.request_ids)
        self._remember(batch)
        return key

    def _remember(self, batch: Batch) -> None:
        answers = self._answers
        for request_id, score, decision in zip(batch.request_ids, batch.scores, batch.decisions, strict=True):
            answers.setdefault(request_id, Answer(score, decision, batch.version))
        self._trim()

    def _trim(self) -> None:
        while len(self._answers) > self.remembered:
            del self._answers[next(iter(self._answers))]

    def _fail(self, error: OSError) -> None:
        self.error = getattr(error, "message", "") or str(error)

    def sync(self) -> None:
        """Bring all rows to the disk.

        Raises
        ------
        PredictionLogError
            When the disk refuses.
        """
        try:
            self._writer.sync()
        except PredictionLogError as error:
            self._fail(error)
            raise

    def close(self) -> None:
        """Sync and close."""
        self._others.close()
        self._writer.close()


def _recent_answers(folder: Path, wanted: int) -> dict[str, Answer]:
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
    answers: dict[str, Answer] = {}
    for _, batch in sorted(found, key=lambda item: item[0]):
        for request_id, score, decision in zip(batch.request_ids, batch.scores, batch.decisions, strict=True):
            answers.setdefault(request_id, Answer(score, decision, batch.version))
    for request_id in list(answers)[: max(len(answers) - wanted, 0)]:
        del answers[request_id]
    return answers


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
    folder = production_folder(pipeline, settings)
    tables: list[pd.DataFrame] = []
    pending: list[tuple[int, Batch]] = []
    last: Piece | None = None
    lost = 0
    for piece, batches in read_frames(folder):
        lost += piece.lost_rows
        if last is not None and last.header is not piece.header and pending:
            tables.append(to_table(last.header, pending))
            pending = []
        pending += [(piece.key(frame), batch) for frame, batch in zip(piece.frames, batches, strict=True)]
        last = piece
    if last is not None and pending:
        tables.append(to_table(last.header, pending))
    if lost:
        logger.error("%s: %d rows are damaged and cannot be read", folder, lost)
    if not tables:
        return to_table({"features": {}}, [])
    table = pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]
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


__all__ = [
    "Answer",
    "PredictionLog",
    "PredictionLogError",
    "log_position",
    "production_folder",
    "read_frames",
    "read_log",
]
