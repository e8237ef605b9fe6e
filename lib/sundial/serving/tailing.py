"""Reading a log that may still be written: from a position, frame by frame, damage counted and skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sundial.serving.frames import Frame, list_segments, read_header, scan, segment_path
from sundial.serving.positions import Position, make_key

CHUNK = 1 << 20


@dataclass(frozen=True)
class Piece:
    """Frames that stand one after the other in one segment.

    Attributes
    ----------
    writer, segment : int
        Where they stand.
    header : dict
        Header of the segment.
    frames : list of Frame
        Offsets count from the beginning of the segment.
    lost_rows : int
        Rows that stood between the frames, or before them, and cannot be read.
    """

    writer: int
    segment: int
    header: dict[str, Any]
    frames: list[Frame]
    lost_rows: int

    @property
    def rows(self) -> int:
        """Number of rows in the frames."""
        return sum(frame.rows for frame in self.frames)

    def key(self, frame: Frame) -> int:
        """Key of the first row of a frame."""
        return make_key(self.writer, self.segment, frame.first)


class LogTail:
    """Follows a log from a position.

    Parameters
    ----------
    folder : Path
        The log's; it need not exist yet.
    position : Position
        Where to begin.

    Attributes
    ----------
    position : Position
        Up to where frames were handed out.
    """

    def __init__(self, folder: Path, position: Position | None = None) -> None:
        self.folder = folder
        self.position = position or Position()
        self._headers: dict[int, tuple[int, dict[str, Any] | None]] = {}
        self._expected: dict[int, tuple[int, int]] = {}  # by writer: segment, and the row that comes next in it

    def read(self, rows: int) -> Piece | None:
        """Read on.

        Parameters
        ----------
        rows : int
            Stop once this many rows are there; a frame is never split, so there may be more.

        Returns
        -------
        Piece or None
            From one segment; None when there is nothing new.
        """
        for writer, segments in sorted(list_segments(self.folder).items()):
            segment, offset = self.position.at(writer)
            for number in segments:
                if number < segment:
                    continue
                piece = self.read_segment(writer, number, offset if number == segment else 0, rows)
                if piece is not None:
                    end = piece.frames[-1].end
                    self.position = self.position.moved(writer, number, end)
                    return piece
                # Nothing more here. A later segment was listed before this read, so its writer is done with this one.
        return None

    def read_segment(self, writer: int, segment: int, offset: int, rows: int) -> Piece | None:
        """Read frames of one segment after an offset, whatever the position is.

        Raises
        ------
        FileNotFoundError
            When the segment is not there any more.
        """
        path = segment_path(self.folder, writer, segment)
        known_segment, header = self._headers.get(writer, (-1, None))
        if known_segment != segment:
            header = read_header(path)
            self._headers[writer] = (segment, header) if header else (-1, None)
        if header is None:
            path.stat()
            return None
        frames = read_frames_of(path, offset, rows)
        if not frames:
            return None
        known, expected = self._expected.get(writer, (-1, 0))
        if known != segment:  # a start in the middle of a segment does not know what stood before it
            expected = 0 if offset == 0 else frames[0].first
        lost = 0
        for frame in frames:
            lost += max(frame.first - expected, 0)
            expected = frame.first + frame.rows
        self._expected[writer] = (segment, expected)
        return Piece(writer, segment, header, frames, lost)


def read_frames_of(path: Path, offset: int, rows: int) -> list[Frame]:
    """Read whole frames of a segment, without its header.

    Parameters
    ----------
    path : Path
        The segment.
    offset : int
        Where to begin: 0, or the end of a frame.
    rows : int
        Stop once this many rows are there.

    Returns
    -------
    list of Frame
        Offsets count from the beginning of the segment.
    """
    frames: list[Frame] = []
    found, want = 0, CHUNK
    with path.open("rb") as file:
        while found < rows:
            data = os.pread(file.fileno(), want, offset)
            fresh = scan(data)
            if not fresh and len(data) == want:  # one frame larger than a chunk, or damage as large: take more
                want *= 4
                continue
            for frame in fresh:
                if frame.rows and found < rows:
                    frames.append(_moved(frame, offset))
                    found += frame.rows
            if not fresh or len(data) < want:
                break
            offset += fresh[-1].end
            want = CHUNK
    return frames


def _moved(frame: Frame, base: int) -> Frame:
    """Count the offsets of a frame from the beginning of its segment, not of what was read."""
    return frame._replace(start=base + frame.start, end=base + frame.end)


def iterate(folder: Path, position: Position | None = None, rows: int = 1 << 16) -> Iterator[Piece]:
    """Read all there is after a position, piece by piece."""
    tail = LogTail(folder, position)
    while (piece := tail.read(rows)) is not None:
        yield piece


def iterate_segment(folder: Path, writer: int, segment: int, rows: int = 1 << 16) -> Iterator[Piece]:
    """Read all there is in one segment, piece by piece."""
    tail, offset = LogTail(folder), 0
    while (piece := tail.read_segment(writer, segment, offset, rows)) is not None:
        offset = piece.frames[-1].end
        yield piece


def end_position(folder: Path) -> Position:
    """Find the position after the last whole frame of every writer."""
    position = Position()
    for writer, segments in list_segments(folder).items():
        data = segment_path(folder, writer, segments[-1]).read_bytes()
        frames = scan(data)
        position = position.moved(writer, segments[-1], frames[-1].end if frames else 0)
    return position
