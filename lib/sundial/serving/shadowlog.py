"""The log of a shadow's scores, which is its own checkpoint: each frame holds scores and how far they reach.

Scores and checkpoint are one frame, so that a row is scored exactly once however often the scorer is killed. The header
of a segment holds the checkpoint at its beginning: only the last segment is ever read to go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sundial.serving.frames import list_segments, read_header, segment_path
from sundial.serving.positions import Position
from sundial.serving.segments import SegmentWriter
from sundial.serving.tailing import read_frames_of
from sundial.settings import Settings, load_settings

SEGMENT_BYTES = 4 << 20  # small: the last one is read at each start, and when the lag is asked for
EVERYTHING = 1 << 62
REPLAYED = "replayed"


class Scores(msgspec.Struct, array_like=True, gc=False):
    """One batch of shadow scores, as a frame holds it.

    Attributes
    ----------
    position : str
        Place in the prediction log after the last of these rows: the checkpoint.
    scored_at : int
        Nanoseconds since 1970, UTC.
    latency_ms : float
        Milliseconds a row.
    lost_rows : int
        Rows of the prediction log before or between these that are damaged and cannot be read.
    keys : list of int
        Of the rows in the prediction log.
    request_ids : list of str
        A row each.
    served_at : list of int
        When production answered, nanoseconds since 1970, UTC.
    scores : list of float
        A row each; NaN where there is an error.
    decisions : list of bool
        A row each; meaningless where there is an error.
    errors : dict of int to str
        By row in this batch.
    """

    position: str
    scored_at: int
    latency_ms: float
    lost_rows: int
    keys: list[int]
    request_ids: list[str]
    served_at: list[int]
    scores: list[float]
    decisions: list[bool]
    errors: dict[int, str]


class Totals(msgspec.Struct, frozen=True):
    """What a shadow did so far.

    Attributes
    ----------
    position : str
        The checkpoint.
    rows, errors, lost_rows : int
        Rows scored, those of them with an error, and rows that could not be read.
    """

    position: str = ""
    rows: int = 0
    errors: int = 0
    lost_rows: int = 0

    def after(self, scores: Scores) -> Totals:
        """Add a batch."""
        return Totals(
            scores.position,
            self.rows + len(scores.keys),
            self.errors + len(scores.errors),
            self.lost_rows + scores.lost_rows,
        )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Scores)


def shadow_folder(pipeline: str, version: int, settings: Settings | None = None) -> Path:
    """Give the folder of a shadow's scores."""
    return (settings or load_settings()).predictions / pipeline / "shadow" / f"v{version}"


def replay_folders(pipeline: str, version: int, settings: Settings | None = None) -> list[Path]:
    """List the folders of scores that a version gave to traffic of the past, oldest first."""
    folder = shadow_folder(pipeline, version, settings) / REPLAYED
    return sorted(path for path in folder.glob("*") if path.is_dir())


def read_beginning(folder: Path) -> str | None:
    """Read the position at which a shadow's log began; None when it never did."""
    for segment in list_segments(folder).get(0, []):
        header = read_header(segment_path(folder, 0, segment))
        if header is not None:
            return msgspec.convert(header["totals"], Totals).position
    return None


def decode_scores(payload: bytes) -> Scores:
    """Read the payload of a frame."""
    return _decoder.decode(payload)


def read_totals(folder: Path) -> Totals | None:
    """Read how far a shadow came, from the last segment of its log; None when it never began."""
    for segment in reversed(list_segments(folder).get(0, [])):
        path = segment_path(folder, 0, segment)
        header = read_header(path)
        if header is None:  # a scorer died while beginning it
            continue
        totals = msgspec.convert(header["totals"], Totals)
        for frame in read_frames_of(path, 0, EVERYTHING):
            totals = totals.after(_decoder.decode(frame.payload))
        return totals
    return None


class ShadowLog:
    """The log of one shadow, open for writing by the one scorer that may.

    Parameters
    ----------
    folder : Path
        Where; made when missing.
    about : mapping
        Written to the header of each segment, such as version and threshold.
    begin_at : str
        Position in the prediction log at which a shadow begins that has no scores yet.
    sync_ms : int
        Milliseconds between two syncs in the background.

    Attributes
    ----------
    totals : Totals
        What was scored so far, also by processes before this one.

    Raises
    ------
    PredictionLogError
        When it cannot be written, or another scorer writes it.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], *, begin_at: str = "", sync_ms: int = 50) -> None:
        Position.parse(begin_at)
        self._writer = SegmentWriter(
            folder, kind="shadow", writers=1, sync_ms=max(sync_ms, 1), segment_bytes=SEGMENT_BYTES
        )
        self.about = dict(about)
        self.totals = read_totals(folder) or Totals(begin_at)
        try:
            self._begin()
        except BaseException:
            self._writer.close()
            raise

    def _begin(self) -> None:
        self._header = {"about": self.about, "totals": msgspec.to_builtins(self.totals)}
        self._writer.begin_segment(self._header)

    def append(self, scores: Scores) -> None:
        """Write a batch and, with it, the checkpoint.

        Raises
        ------
        PredictionLogError
            When it cannot be written; then the batch is to be scored again.
        """
        if self._writer.is_full:
            self._begin()
        self._writer.append(_encoder.encode(scores), len(scores.keys), self._header)
        self.totals = self.totals.after(scores)

    def close(self) -> None:
        """Sync and close."""
        self._writer.close()
