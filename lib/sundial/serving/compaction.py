"""Compaction: closed segments become Parquet, repeated ids are dropped, and what is old is let go.

It may be killed at any moment and run again, beside servers that write, scorers that read and people who query. A
segment is closed once its writer has begun the next; the last of a writer stays as it is, so that a number is never
given twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sundial.formats import sync_file
from sundial.serving.archive import FRAME_END, SERVED_NS, Archive, ArchivedFile, ArchivedSegment, Ledger
from sundial.serving.frames import list_segments, read_header, scan, segment_path
from sundial.serving.positions import Position, make_key
from sundial.serving.predictions import production_folder
from sundial.serving.records import decode_batch, to_table
from sundial.serving.shadowlog import read_totals, shadow_folder
from sundial.serving.sources import ModelSource
from sundial.settings import Settings

ROW_GROUP = 1 << 16

logger = logging.getLogger("sundial.serving")


@dataclass
class Compacted:
    """What a compaction did.

    Attributes
    ----------
    busy : bool
        Whether another one was running, so that this one did nothing.
    segments, rows : int
        Segments that are in the archive now, and rows that were put there.
    duplicates : int
        Rows that repeated an earlier request id, and were left out.
    lost_rows, cut_bytes : int
        Rows that were damaged, and bytes of torn frames.
    dropped_rows : int
        Rows that retention let go.
    held : dict of str to int
        Rows that it kept because a shadow has not scored them yet, by shadow.
    """

    busy: bool = False
    segments: int = 0
    rows: int = 0
    duplicates: int = 0
    lost_rows: int = 0
    cut_bytes: int = 0
    dropped_rows: int = 0
    held: dict[str, int] = field(default_factory=dict)


def shadow_positions(pipeline: str, source: ModelSource, settings: Settings) -> dict[str, Position]:
    """Say how far each shadow has scored, by alias: rows after that must not be let go."""
    found = {}
    for alias, version in source.shadows().items():
        totals = read_totals(shadow_folder(pipeline, version.version, settings))
        found[alias] = Position.parse(totals.position if totals else version.tags.get("shadow_from", ""))
    return found


def closed_segments(folder: Path) -> list[tuple[int, int]]:
    """List the segments that no process writes any more, oldest first: all but the last of each writer."""
    return [(writer, number) for writer, numbers in list_segments(folder).items() for number in numbers[:-1]]


def compact_log(
    pipeline: str, settings: Settings, shadows: Mapping[str, Position] | None = None, *, now: datetime | None = None
) -> Compacted:
    """Compact the prediction log of a pipeline, and apply the retention of the settings.

    Parameters
    ----------
    pipeline : str
        Its name.
    settings : Settings
        Where it is; ``log_keep_days`` and ``log_keep_mb``.
    shadows : mapping of str to Position, optional
        How far each shadow has scored; see :func:`shadow_positions`. Without it nothing is let go.
    now : datetime, optional
        The present by default.

    Returns
    -------
    Compacted

    Raises
    ------
    PredictionLogError
        When the ledger cannot be read.
    OSError
        When the disk is full; then nothing has changed.
    """
    folder = production_folder(pipeline, settings)
    archive, done = Archive(folder), Compacted()
    if settings.predictions_url is not None or not folder.is_dir():  # PostgreSQL has no segments
        return done
    archive.folder.mkdir(parents=True, exist_ok=True)
    with _lock(archive.folder / "compaction.lock") as mine:
        if not mine:
            return Compacted(busy=True)
        _sweep(archive)
        for writer, number in closed_segments(folder):
            path, name = segment_path(folder, writer, number), f"{writer}:{number}"
            if name not in archive.ledger().segments:
                segment = _compact_segment(archive, path, writer, number)
                _put(archive, name, segment)
                done.segments += 1
                done.rows += segment.rows - segment.duplicates
                done.duplicates += segment.duplicates
                done.lost_rows += segment.lost_rows
                done.cut_bytes += segment.cut_bytes
            path.unlink(missing_ok=True)  # its rows and the ledger are on the disk
        if shadows is not None and (settings.log_keep_days or settings.log_keep_mb):
            _retain(archive, settings, shadows, now or datetime.now(UTC), done)
    return done


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _put(archive: Archive, name: str, segment: ArchivedSegment) -> None:
    ledger = archive.ledger()
    archive.commit(Ledger(segments={**ledger.segments, name: segment}, held=ledger.held))


def _sweep(archive: Archive) -> None:
    """Remove files that the ledger does not name: a killed compaction left them."""
    known = {file.path for file in archive.ledger().files}
    for path in [*archive.folder.rglob("*.parquet"), *archive.folder.rglob(".*.tmp")]:
        if str(path.relative_to(archive.folder)) not in known:
            path.unlink(missing_ok=True)


def _compact_segment(archive: Archive, path: Path, writer: int, number: int) -> ArchivedSegment:
    """Write the rows of a segment to Parquet; nobody sees them before the ledger names the files."""
    header = read_header(path)
    if header is None:  # its writer died while beginning it
        return ArchivedSegment({}, cut_bytes=path.stat().st_size)
    data = path.read_bytes()
    frames = [frame for frame in scan(data) if frame.rows]
    lost, expected = 0, 0
    for frame in frames:
        lost += max(frame.first - expected, 0)
        expected = frame.first + frame.rows
    cut = len(data) - frames[-1].end if frames else 0
    if cut or lost:
        logger.error("%s: %d bytes of a torn frame at its end, %d damaged rows", path, cut, lost)
    segment = ArchivedSegment(dict(header["features"]), sum(frame.rows for frame in frames), lost, cut_bytes=cut)
    keyed = [(make_key(writer, number, frame.first), decode_batch(frame)) for frame in frames]
    table = to_table(header, keyed)
    table[SERVED_NS] = table["served_at"].dt.tz_localize(None).to_numpy("datetime64[ns]").view(np.int64)
    table[FRAME_END] = np.repeat(np.array([frame.end for frame in frames], np.int64), [f.rows for f in frames])
    whole = len(table)
    table = _drop_repeated(archive, table)
    segment.duplicates = whole - len(table)
    table["entity"] = _one_type(table["entity"])
    days = table["served_at"].dt.strftime("%Y-%m-%d")
    for day, version in sorted(set(zip(days, table["model_version"], strict=True))):
        file = Path(f"day={day}") / f"version={version}" / f"{path.stem}.parquet"
        rows = table[(days == day) & (table["model_version"] == version)]
        segment.files.append(_write(archive, file, rows, day, int(version)))
    return segment


def _drop_repeated(archive: Archive, table: pd.DataFrame) -> pd.DataFrame:
    """Leave out rows whose request id was answered before, in this segment or in the archive; the first stays."""
    table = table.sort_values([SERVED_NS, "key"], kind="stable").drop_duplicates("request_id").sort_values("key")
    if not archive.ledger().files:
        return table
    import duckdb

    paths = [str(archive.folder / file.path) for file in archive.ledger().files]
    with duckdb.connect() as connection:
        connection.register("fresh", table[["request_id", SERVED_NS, "key"]])
        repeated = connection.execute(
            "SELECT DISTINCT fresh.key FROM fresh JOIN read_parquet($1, union_by_name = true) AS known "
            "ON fresh.request_id = known.request_id "
            "WHERE (known.served_ns, known.key) < (fresh.served_ns, fresh.key)",
            [paths],
        ).fetchnumpy()["key"]
    return table[~table["key"].isin(repeated)]


def _one_type(entities: pd.Series[Any]) -> Any:
    """Write entities of several types as text: a column of Parquet has one."""
    kinds = {type(value) for value in entities if value is not None and value == value}
    if len(kinds) <= 1:
        return entities
    return entities.map(lambda value: None if value is None else str(value))


def _write(archive: Archive, file: Path, rows: pd.DataFrame, day: str, version: int) -> ArchivedFile:
    """Write one file under a temporary name, bring it to the disk, and rename it."""
    path = archive.folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    arrow = pa.Table.from_pandas(rows, preserve_index=False)
    try:
        pq.write_table(arrow, temporary, compression="zstd", row_group_size=ROW_GROUP)
        sync_file(temporary)
        temporary.replace(path)
        sync_file(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return ArchivedFile(str(file), day, version, len(rows), path.stat().st_size, int(rows[FRAME_END].max()))


def _retain(
    archive: Archive, settings: Settings, shadows: Mapping[str, Position], now: datetime, done: Compacted
) -> None:
    """Let go of what is too old, or too much; never of what a shadow has yet to score."""
    ledger = archive.ledger()
    files = sorted(
        ((file, name) for name, segment in ledger.segments.items() for file in segment.files),
        key=lambda item: (item[0].day, item[0].path),
    )
    total = sum(file.bytes for file, _ in files)
    first_day = f"{now - timedelta(days=settings.log_keep_days):%Y-%m-%d}" if settings.log_keep_days else ""
    gone: dict[str, list[ArchivedFile]] = {}
    for file, name in files:
        too_much = settings.log_keep_mb and total > settings.log_keep_mb << 20
        if file.day >= first_day and not too_much:
            continue
        writer, number = map(int, name.split(":"))
        waiting = [alias for alias, place in shadows.items() if place.at(writer) < (number, file.end)]
        for alias in waiting:
            done.held[alias] = done.held.get(alias, 0) + file.rows
        if not waiting:
            gone.setdefault(name, []).append(file)
            total -= file.bytes
    if gone or done.held != ledger.held:
        segments = dict(ledger.segments)
        for name, dropped in gone.items():
            old = segments[name]
            rows = sum(file.rows for file in dropped)
            segments[name] = ArchivedSegment(
                old.features,
                old.rows,
                old.lost_rows,
                old.duplicates,
                old.cut_bytes,
                [file for file in old.files if file not in dropped],
                old.dropped_rows + rows,
            )
            done.dropped_rows += rows
        archive.commit(Ledger(segments=segments, held=dict(done.held)))
    for file in [file for dropped in gone.values() for file in dropped]:
        (archive.folder / file.path).unlink(missing_ok=True)
    if done.held:
        logger.warning("retention keeps rows that shadows have not scored yet: %s", done.held)
    for folder in sorted(archive.folder.glob("day=*/version=*"), reverse=True):
        with contextlib.suppress(OSError):  # not empty
            os.removedirs(folder)
