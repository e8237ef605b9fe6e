"""Frames of length, CRC-32 and payload, and the segment files that hold them one after the other.

A segment, ``w0000-00000003.seg`` for number 3 of writer 0, is a header frame of JSON (format, kind, schema) and then
frames, each written by one ``write()``. What was torn or damaged is not a frame; readers skip and count it.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sundial.errors import PredictionLogError

FORMAT = 1
# 0xF5 is in no UTF-8 text, and a number in a payload has a type byte before every eight of its own: what callers send
# cannot look like a frame.
MARK = b"\xf5SDL"
HEAD = struct.Struct("<4sIIII")  # mark, payload bytes, rows, number of the first row in the segment, CRC-32
BODY = struct.Struct("<III")  # the part of the head that the CRC covers, with the payload
LONGEST_PAYLOAD = 256 << 20


class Frame(NamedTuple):
    """One whole frame: where it stands in its segment, which rows it holds, and its payload."""

    start: int
    end: int
    first: int
    rows: int
    payload: bytes


def pack_frame(payload: bytes, rows: int, first: int) -> bytes:
    """Put length, row numbers and CRC in front of a payload."""
    crc = zlib.crc32(payload, zlib.crc32(BODY.pack(len(payload), rows, first)))
    return HEAD.pack(MARK, len(payload), rows, first, crc) + payload


def frame_at(data: bytes, start: int) -> Frame | None:
    """Read the frame that starts at an offset; None when no whole, undamaged one does."""
    if start + HEAD.size > len(data):
        return None
    mark, length, rows, first, crc = HEAD.unpack_from(data, start)
    end = start + HEAD.size + length
    if mark != MARK or length > LONGEST_PAYLOAD or end > len(data):
        return None
    payload = data[start + HEAD.size : end]
    if zlib.crc32(payload, zlib.crc32(BODY.pack(length, rows, first))) != crc:
        return None
    return Frame(start, end, first, rows, payload)


def scan(data: bytes, start: int = 0) -> list[Frame]:
    """List the whole frames in some bytes of a segment, skipping over damage.

    Parameters
    ----------
    data : bytes
        From a segment.
    start : int
        Where to begin.

    Returns
    -------
    list of Frame
        Offsets count from the beginning of ``data``. Damage shows as a frame that does not start where the one
        before it ended; a torn tail as bytes after the last one.
    """
    frames = []
    while start >= 0:
        frame = frame_at(data, start)
        if frame is not None:
            frames.append(frame)
            start = frame.end
        else:  # torn or damaged: go on at the next mark, if there is one
            start = data.find(MARK, start + 1)
    return frames


def read_header(path: Path) -> dict[str, Any] | None:
    """Read the header of a segment; None when it has none that can be read (a writer died while beginning it)."""
    try:
        with path.open("rb") as file:
            data = file.read(HEAD.size)
            if len(data) == HEAD.size:
                data += file.read(min(HEAD.unpack(data)[1], LONGEST_PAYLOAD))
    except FileNotFoundError:
        return None
    frame = frame_at(data, 0)
    if frame is None or frame.rows:
        return None
    header: dict[str, Any] = msgspec.json.decode(frame.payload)
    if header.get("format") != FORMAT:
        raise PredictionLogError(
            f"{path} is of format {header.get('format')}, and this version of Sundial reads {FORMAT}",
            hint="read it with the version that wrote it, or move it away",
        )
    return header


def segment_path(folder: Path, writer: int, segment: int) -> Path:
    """Give the path of a segment."""
    return folder / f"w{writer:04d}-{segment:08d}.seg"


def list_segments(folder: Path) -> dict[int, list[int]]:
    """List the numbers of the segments in a folder, ascending, by writer."""
    found: dict[int, list[int]] = {}
    for path in sorted(folder.glob("w*-*.seg")):
        writer, _, segment = path.stem[1:].partition("-")
        if writer.isdecimal() and segment.isdecimal():
            found.setdefault(int(writer), []).append(int(segment))
    return found
