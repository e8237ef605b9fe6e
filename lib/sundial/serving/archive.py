"""Closed segments as Parquet: a ledger says which, so that readers see each row once, in the one form or the other.

predictions/<pipeline>/production/compacted/
    ledger.json                                   which segments are here, in which files
    day=2026-11-25/version=3/w0000-00000007.parquet   rows of one segment, by day (UTC) and model version

The ledger is replaced as a whole, once the files that it names are on the disk; a segment is deleted after that. A file
that the ledger does not name is what a killed compaction left, and is ignored. A row keeps its key, and where in the
segment its frame ended: so a position in the log means the same before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pandas as pd

from sundial.errors import PredictionLogError
from sundial.formats import sync_file, write_bytes_atomically
from sundial.serving.chunks import Chunk
from sundial.serving.positions import Position
from sundial.serving.records import FIXED
from sundial.serving.schema import Kind

FORMAT = 1
SERVED_NS, FRAME_END = "served_ns", "frame_end"


class ArchivedFile(msgspec.Struct, frozen=True):
    """One Parquet file.

    Attributes
    ----------
    path : str
        Below the archive's folder.
    day : str
        On which its rows were served, UTC.
    version : int
        Model version that answered.
    rows, bytes : int
        How many.
    end : int
        The largest end of a frame in it.
    """

    path: str
    day: str
    version: int
    rows: int
    bytes: int
    end: int


class ArchivedSegment(msgspec.Struct):
    """One segment in the archive.

    Attributes
    ----------
    features : dict of str to str
        Kind of each feature.
    rows, lost_rows, duplicates : int
        Rows that it had, that were damaged, and that repeated an earlier request id and were left out.
    cut_bytes : int
        Bytes of a torn frame at its end.
    files : list of ArchivedFile
        Where its rows are; those that retention dropped are gone.
    dropped_rows : int
        Rows that retention dropped.
    """

    features: dict[str, str]
    rows: int = 0
    lost_rows: int = 0
    duplicates: int = 0
    cut_bytes: int = 0
    files: list[ArchivedFile] = []
    dropped_rows: int = 0


class Ledger(msgspec.Struct):
    """What is in the archive.

    Attributes
    ----------
    format : int
        Of the ledger and the files.
    segments : dict of str to ArchivedSegment
        By writer and number, as in ``0:7``.
    held : dict of str to int
        Rows that retention would drop and does not, because a shadow has not scored them, by shadow.
    """

    format: int = FORMAT
    segments: dict[str, ArchivedSegment] = {}
    held: dict[str, int] = {}

    @property
    def files(self) -> list[ArchivedFile]:
        """All files."""
        return [file for segment in self.segments.values() for file in segment.files]


@dataclass(frozen=True)
class _Loaded:
    """The rows of the segment that is being read."""

    name: str
    table: pd.DataFrame


class Archive:
    """The Parquet files of one prediction log.

    Parameters
    ----------
    folder : Path
        The log's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "compacted"
        self._known: tuple[object, Ledger] = (None, Ledger())
        self._loaded: _Loaded | None = None

    @property
    def ledger_path(self) -> Path:
        """Where the ledger is."""
        return self.folder / "ledger.json"

    def ledger(self) -> Ledger:
        """Read the ledger as it is now.

        Raises
        ------
        PredictionLogError
            When it cannot be read.
        """
        try:
            status = self.ledger_path.stat()
        except FileNotFoundError:
            return Ledger()
        state = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._known[0] != state:
            try:
                found = msgspec.json.decode(self.ledger_path.read_bytes(), type=Ledger)
            except (msgspec.DecodeError, OSError) as error:
                raise PredictionLogError(
                    f"{self.ledger_path} cannot be read: {error}", hint="restore it from a backup of the folder"
                ) from error
            if found.format != FORMAT:
                raise PredictionLogError(
                    f"{self.ledger_path} is of format {found.format}, and this version of Sundial reads {FORMAT}",
                    hint="read it with the version that wrote it",
                )
            self._known = (state, found)
        return self._known[1]

    def commit(self, ledger: Ledger) -> None:
        """Replace the ledger, and bring it to the disk."""
        write_bytes_atomically(self.ledger_path, msgspec.json.format(msgspec.json.encode(ledger)))
        sync_file(self.ledger_path)

    def segments(self) -> dict[int, list[int]]:
        """List the numbers of the archived segments, by writer."""
        found: dict[int, list[int]] = {}
        for name in self.ledger().segments:
            writer, _, number = name.partition(":")
            found.setdefault(int(writer), []).append(int(number))
        return found

    def read(self, writer: int, segment: int, offset: int, rows: int, until: int | None = None) -> Chunk | None:
        """Read rows of a segment after an offset; about so many, a frame is never split.

        Parameters
        ----------
        writer, segment : int
            Which.
        offset : int
            Rows of frames that ended at or before it are left out.
        rows : int
            About how many.
        until : int, optional
            Rows of frames that ended after it are left out.
        """
        table = self._load(f"{writer}:{segment}")
        if table is None:
            return None
        ends = table[FRAME_END].to_numpy()
        first = int(np.searchsorted(ends, offset, side="right"))
        last = len(ends) if until is None else int(np.searchsorted(ends, until, side="right"))
        if first >= last:
            return None
        stop = min(int(np.searchsorted(ends, ends[min(first + rows, last) - 1], side="right")), last)
        part = table.iloc[first:stop]
        kinds = cast(Mapping[str, Kind], self.ledger().segments[f"{writer}:{segment}"].features)
        times = part["event_time"].to_numpy().astype("datetime64[us]").view(np.int64)
        return Chunk(
            kinds,
            {name: part[column_of(name)].to_numpy() for name in kinds},
            part["key"].to_numpy(np.int64),
            part["request_id"].tolist(),
            part[SERVED_NS].to_numpy(np.int64),
            times,
            Position({writer: (segment, int(ends[stop - 1]))}),
        )

    def count(self, writer: int, segment: int, offset: int, until: int | None = None) -> tuple[int, int]:
        """Count rows after an offset, and tell when the first of them was served (0 for none)."""
        rows, served = 0, 0
        for file in self.ledger().segments[f"{writer}:{segment}"].files:
            if file.end <= offset:
                continue
            found = pd.read_parquet(self.folder / file.path, columns=[FRAME_END, SERVED_NS])
            ends = found[FRAME_END]
            kept = found[(ends > offset) if until is None else (ends > offset) & (ends <= until)]
            if len(kept):
                rows += len(kept)
                first = int(kept[SERVED_NS].min())
                served = min(served, first) if served else first
        return rows, served

    def _load(self, name: str) -> pd.DataFrame | None:
        """Read all rows of a segment, in their order."""
        if self._loaded is not None and self._loaded.name == name:
            return self._loaded.table
        segment = self.ledger().segments.get(name)
        if segment is None or not segment.files:
            return None
        parts = [conform(pd.read_parquet(self.folder / file.path), segment.features) for file in segment.files]
        table = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
        table = table.sort_values("key", kind="stable").reset_index(drop=True)
        self._loaded = _Loaded(name, table)
        return table

    def select(
        self, columns: str = "*", where: str = "true", *, order: str = "", limit: int = 0, skip: Iterable[str] = ()
    ) -> pd.DataFrame:
        """Read rows of all files with DuckDB.

        Parameters
        ----------
        columns, where, order : str
            SQL.
        limit : int
            Most rows; 0 for all.
        skip : iterable of str
            Segments to leave out.

        Returns
        -------
        DataFrame
            Rows of segments with other features have NaN where they have none.
        """
        import duckdb

        groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for name, segment in self.ledger().segments.items():
            if segment.files and name not in set(skip):
                paths = groups.setdefault(tuple(segment.features.items()), [])
                paths += [str(self.folder / file.path) for file in segment.files]
        tables = []
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for features, paths in groups.items():
                query = f"SELECT {columns} FROM read_parquet($1, union_by_name = true) WHERE {where}"  # noqa: S608
                query += f" ORDER BY {order}" if order else ""
                query += f" LIMIT {limit}" if limit else ""
                tables.append(conform(connection.execute(query, [paths]).df(), dict(features)))
        if not tables:
            return pd.DataFrame()
        return pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]


def column_of(name: str) -> str:
    """Give the column that holds a feature."""
    return f"{name}_feature" if name in FIXED else name


def conform(table: pd.DataFrame, features: Mapping[str, str]) -> pd.DataFrame:
    """Give columns that were read from Parquet the dtypes that a live row has."""
    found: dict[str, Any] = {}
    for name, kind in features.items():
        column = column_of(name)
        if column not in table.columns:
            continue
        values = table[column]
        if kind == "number":
            found[column] = values.to_numpy(np.float64, na_value=np.nan)
        elif kind in ("integer", "boolean"):
            dtype = {"integer": np.dtype(np.int64), "boolean": np.dtype(np.bool_)}[kind]
            odd = np.dtype(np.float64) if kind == "integer" else np.dtype(object)
            found[column] = values.to_numpy(odd if values.isna().any() else dtype)
        elif kind == "time":
            found[column] = values.to_numpy().astype("datetime64[us]")
        else:
            found[column] = values.astype(object).where(values.notna(), None).to_numpy(object)
    if "entity" in table.columns:
        entity = table["entity"]
        found["entity"] = entity.astype(object).where(entity.notna(), None) if entity.isna().any() else entity
    if "event_time" in table.columns:
        found["event_time"] = table["event_time"].to_numpy().astype("datetime64[us]")
    if SERVED_NS in table.columns and "served_at" in table.columns:
        found["served_at"] = pd.DatetimeIndex(table[SERVED_NS].to_numpy().view("datetime64[ns]"), tz="UTC")
    return table.assign(**found)
