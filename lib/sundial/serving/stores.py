"""Where prediction logs are: segments and Parquet under artifacts, or PostgreSQL by a setting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sundial.serving.archive import Archive
from sundial.serving.chunks import Chunk, ChunkTail, to_chunk
from sundial.serving.frames import Frame, list_segments, read_header, segment_path
from sundial.serving.positions import Position, make_key
from sundial.serving.predictions import REMEMBERED, PredictionLog, log_position, production_folder
from sundial.serving.records import decode_batch, to_table
from sundial.serving.tailing import LogTail, read_frames_of
from sundial.settings import Settings

if TYPE_CHECKING:
    from sundial.serving.postgres import PostgresLog

EVERYTHING = 1 << 62


class FileTail:
    """Follows a log whose rows are in segments, or in the archive by now; see :class:`ChunkTail`.

    Parameters
    ----------
    folder : Path
        The log's.
    position : Position, optional
        Where to begin; the beginning by default.
    until : Position, optional
        Hand out no rows after this.
    """

    def __init__(self, folder: Path, position: Position | None = None, until: Position | None = None) -> None:
        self.folder = folder
        self.position = position or Position()
        self._until = until
        self._tail = LogTail(folder)
        self._archive = Archive(folder)

    def read(self, rows: int) -> Chunk | None:
        """Read on; about this many rows, None when there is nothing new."""
        for writer, number, start, end in places(self.folder, self._archive, self.position, self._until):
            chunk = self._read(writer, number, start, end, rows)
            if chunk is not None:
                self.position = self.position.moved(writer, *chunk.position.at(writer))
                return replace(chunk, position=self.position)
            # Nothing more here. A later segment was listed before this read, so its writer is done with this one.
        return None

    def close(self) -> None:
        """Hold nothing."""

    def _read(self, writer: int, number: int, start: int, end: int | None, rows: int) -> Chunk | None:
        try:
            piece = self._tail.read_segment(writer, number, start, rows)
        except FileNotFoundError:  # its rows were in the archive before it was deleted
            return self._archive.read(writer, number, start, rows, end)
        if piece is not None and end is not None:
            piece = replace(piece, frames=[frame for frame in piece.frames if frame.end <= end])
        if piece is None or not piece.frames:
            return None
        return to_chunk(piece, Position({writer: (number, piece.frames[-1].end)}))


def places(
    folder: Path, archive: Archive, position: Position, until: Position | None = None
) -> Iterator[tuple[int, int, int, int | None]]:
    """List where the rows after a position can be: writer, segment, and offsets after which and until which."""
    live = list_segments(folder)
    archived = archive.segments()
    for writer in sorted({*live, *archived}):
        segment, offset = position.at(writer)
        last, end = until.at(writer) if until is not None else (None, None)
        for number in sorted({*live.get(writer, ()), *archived.get(writer, ())}):
            if number >= segment and (last is None or number <= last):
                yield writer, number, offset if number == segment else 0, end if number == last else None


def count_after(
    pipeline: str, settings: Settings, position: Position, until: Position | None = None
) -> tuple[int, int]:
    """Count the rows after a position, and until another.

    Returns
    -------
    tuple of int and int
        Rows, and when the oldest of them was served in nanoseconds since 1970; 0 when there is none.
    """
    if settings.predictions_url is not None:
        from sundial.serving.postgres_reading import PostgresReader

        with PostgresReader(pipeline, settings) as reader:
            return reader.count(position, until)
    folder = production_folder(pipeline, settings)
    archive = Archive(folder)
    total, oldest = 0, 0
    for writer, number, start, end in places(folder, archive, position, until):
        path = segment_path(folder, writer, number)
        try:
            frames = [frame for frame in read_frames_of(path, start, EVERYTHING) if end is None or frame.end <= end]
            rows = sum(frame.rows for frame in frames)
            served = decode_batch(frames[0]).served_at if frames else 0
        except FileNotFoundError:
            rows, served = archive.count(writer, number, start, end)
        total += rows
        oldest = min(oldest, served) if oldest and served else oldest or served
    return total, oldest


def open_tail(
    pipeline: str, settings: Settings, position: Position | None = None, *, until: Position | None = None
) -> ChunkTail:
    """Follow the prediction log of a pipeline from a position, the beginning by default, until another, if given."""
    if settings.predictions_url is not None:
        from sundial.serving.postgres_reading import PostgresReader, PostgresTail

        return PostgresTail(PostgresReader(pipeline, settings), position, until)
    return FileTail(production_folder(pipeline, settings), position, until)


def open_log(pipeline: str, settings: Settings) -> PredictionLog | PostgresLog:
    """Open the prediction log of a pipeline for writing.

    Raises
    ------
    PredictionLogError
        When it cannot be written.
    """
    if settings.predictions_url is not None:
        from sundial.serving.postgres import PostgresLog

        url = settings.predictions_url.get_secret_value()
        return PostgresLog(pipeline, url, remembered=REMEMBERED, on_failure=settings.log_failure)
    return PredictionLog(
        production_folder(pipeline, settings), sync_ms=settings.log_sync_ms, on_failure=settings.log_failure
    )


def find_end(pipeline: str, settings: Settings) -> Position:
    """Find the position after the last row of every writer."""
    return Position.parse(log_position(pipeline, settings))


def read_recent(pipeline: str, rows: int, settings: Settings) -> pd.DataFrame:
    """Read the newest rows of a prediction log, without reading all of it.

    Parameters
    ----------
    pipeline : str
        Its name.
    rows : int
        Most rows.
    settings : Settings
        Where it is.

    Returns
    -------
    DataFrame
        Like :func:`sundial.serving.predictions.read_log`, in the order in which they were served.
    """
    if settings.predictions_url is not None:
        from sundial.serving.postgres_reading import PostgresReader

        with PostgresReader(pipeline, settings) as reader:
            table = reader.table(newest=rows).sort_values(["served_at", "key"], kind="stable")
        return table.drop_duplicates("request_id").reset_index(drop=True)
    folder = production_folder(pipeline, settings)
    tables = []
    for writer, segments in list_segments(folder).items():
        wanted = rows
        for segment in reversed(segments):
            path = segment_path(folder, writer, segment)
            header = read_header(path)
            frames = read_frames_of(path, 0, EVERYTHING) if header else []
            kept: list[Frame] = []
            while frames and wanted > 0:
                kept.append(frames.pop())
                wanted -= kept[-1].rows
            if header and kept:
                keyed = [(make_key(writer, segment, frame.first), decode_batch(frame)) for frame in reversed(kept)]
                tables.append(to_table(header, keyed))
            if wanted <= 0:
                break
    if not tables:
        return to_table({"features": {}}, [])
    table = pd.concat(tables, ignore_index=True).sort_values(["served_at", "key"], kind="stable")
    return table.drop_duplicates("request_id").tail(rows).reset_index(drop=True)
