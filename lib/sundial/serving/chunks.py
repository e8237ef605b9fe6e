"""Rows of the prediction log as the scorer takes them: in columns, wherever they were stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from sundial.serving.positions import Position
from sundial.serving.records import decode_batch, join_features, kinds_of
from sundial.serving.schema import Kind, to_array
from sundial.serving.tailing import Piece


@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows of one writer that stand one after the other in the log.

    Attributes
    ----------
    kinds : mapping of str to str
        Kind of each feature.
    columns : mapping of str to array of shape (n,)
        The features.
    keys : int64 array of shape (n,)
        Key of each row.
    request_ids : list of str
        A row each.
    served_at : int64 array of shape (n,)
        Nanoseconds since 1970, UTC.
    event_times : int64 array of shape (n,)
        Microseconds since 1970 on the wall clock; the smallest integer where nobody said.
    position : Position
        Place in the log after the last row.
    lost_rows : int
        Rows before or between these that are damaged and cannot be read.
    """

    kinds: Mapping[str, Kind]
    columns: Mapping[str, Any]
    keys: npt.NDArray[np.int64]
    request_ids: list[str]
    served_at: npt.NDArray[np.int64]
    event_times: npt.NDArray[np.int64]
    position: Position
    lost_rows: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def frame(self, names: Iterable[str]) -> pd.DataFrame:
        """Make a frame of some features, in this order."""
        return pd.DataFrame({name: self.columns[name] for name in names}, copy=False)

    def where(self, kept: npt.NDArray[np.bool_]) -> Chunk:
        """Give the rows for which a mask is true; position and lost rows stay."""
        if kept.all():
            return self
        return Chunk(
            self.kinds,
            {name: values[kept] for name, values in self.columns.items()},
            self.keys[kept],
            [self.request_ids[row] for row in np.flatnonzero(kept)],
            self.served_at[kept],
            self.event_times[kept],
            self.position,
            self.lost_rows,
        )


class ChunkTail(Protocol):
    """Follows a prediction log from a position."""

    @property
    def position(self) -> Position:
        """Up to where rows were handed out."""

    def read(self, rows: int) -> Chunk | None:
        """Read on; about this many rows, None when there is nothing new."""

    def close(self) -> None:
        """Let go of what it holds."""


def to_chunk(piece: Piece, position: Position) -> Chunk:
    """Decode frames of a segment.

    Parameters
    ----------
    piece : Piece
        The frames.
    position : Position
        Place after them.
    """
    batches = [decode_batch(frame) for frame in piece.frames]
    sizes = [frame.rows for frame in piece.frames]
    kinds = kinds_of(piece.header)
    values = join_features(batches, len(kinds))
    starts = np.repeat(np.array([piece.key(frame) for frame in piece.frames], np.int64), sizes)
    within = np.arange(len(starts)) - np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
    times = [moment for batch in batches for moment in (batch.event_times or [None] * len(batch.request_ids))]
    return Chunk(
        kinds,
        {name: to_array(kind, column) for (name, kind), column in zip(kinds.items(), values, strict=True)},
        starts + within.astype(np.int64),
        [request_id for batch in batches for request_id in batch.request_ids],
        np.repeat(np.array([batch.served_at for batch in batches], np.int64), sizes),
        to_array("time", times).view(np.int64),
        position,
        piece.lost_rows,
    )
