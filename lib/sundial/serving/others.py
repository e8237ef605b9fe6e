"""What the other processes that write to the same log were answering: a repeat may reach any of them.

A row is in the log before its caller is answered. So whoever reads on before it looks for a request id finds every
answer that was acknowledged, also one that another process gave a moment ago.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import msgspec

from sundial.serving.frames import list_segments, scan, segment_path
from sundial.serving.tailing import end_position

CHUNK = 4 << 20
TICK_NS = 50_000_000
Answered = tuple[float, bool, int]

logger = logging.getLogger("sundial.serving")


class _Answered(msgspec.Struct, array_like=True, gc=False):
    """What is needed of a :class:`sundial.serving.records.Batch`; the rest is skipped without being decoded."""

    version: int
    threshold: float
    served_at: int
    request_ids: list[str]
    entities: msgspec.Raw
    event_times: msgspec.Raw
    features: msgspec.Raw
    scores: list[float]
    decisions: list[bool]


class _Segment:
    """The segment that a writer writes now."""

    def __init__(self, path: Path, offset: int) -> None:
        self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.offset = offset

    def close(self) -> None:
        """Close it."""
        os.close(self.handle)


class OtherWriters:
    """Reads on in the segments of all writers but one.

    Parameters
    ----------
    folder : Path
        The log's.
    own : int
        Number of the writer that is left out.
    """

    def __init__(self, folder: Path, own: int) -> None:
        self._folder = folder
        self._own = own
        self._changed = -1
        self._open: dict[tuple[int, int], _Segment] = {}
        self._decoder = msgspec.msgpack.Decoder(_Answered)
        # From the end of the last whole frame: a frame that is being written now is not half skipped.
        for writer, (segment, offset) in end_position(folder).places.items():
            if writer != own:
                self._open[writer, segment] = _Segment(segment_path(folder, writer, segment), offset)
        self._list()

    def read(self) -> list[tuple[str, Answered]]:
        """Read what was answered since the last time.

        Returns
        -------
        list of (str, (float, bool, int))
            Request ids, and the score, decision and version that each was answered. Nearly always there are none: that
            costs a call to the system, and one for each other writer.
        """
        changed = self._folder.stat().st_mtime_ns != self._changed
        if changed:
            self._list()
        found: list[tuple[str, Answered]] = []
        for segment in self._open.values():
            while os.fstat(segment.handle).st_size > segment.offset:
                if not self._read_on(segment, found):
                    break
        if changed:
            self._drop_finished()
        return found

    def close(self) -> None:
        """Close all segments."""
        for segment in self._open.values():
            segment.close()
        self._open.clear()

    def _list(self) -> None:
        """Look for segments that were begun since the last time."""
        changed = self._folder.stat().st_mtime_ns
        # the clock of files ticks in milliseconds: what comes within the same tick would not show
        self._changed = changed if time.time_ns() - changed > TICK_NS else -1
        known = dict(sorted(self._open))
        for writer, numbers in list_segments(self._folder).items():
            if writer == self._own:
                continue
            for number in numbers:
                if number > known.get(writer, -1):
                    try:
                        found = _Segment(segment_path(self._folder, writer, number), 0)
                    except FileNotFoundError:  # compacted already: then it was whole, and this process slept long
                        logger.warning("segment %d of writer %d went before it was read", number, writer)
                        continue
                    self._open[writer, number] = found

    def _drop_finished(self) -> None:
        """Close segments that their writer is done with and that are read to the end."""
        for writer, number in sorted(self._open):
            if (writer, number + 1) in self._open:
                segment = self._open[writer, number]
                if os.fstat(segment.handle).st_size <= segment.offset:
                    self._open.pop((writer, number)).close()

    def _read_on(self, segment: _Segment, found: list[tuple[str, Answered]]) -> bool:
        """Read the whole frames that are there; say whether there was one."""
        want = CHUNK
        while True:
            data = os.pread(segment.handle, want, segment.offset)
            frames = scan(data)
            if frames or len(data) < want:
                break
            want *= 4
        for frame in frames:
            if frame.rows:
                self._take(frame.payload, found)
        if frames:
            segment.offset += frames[-1].end
        return bool(frames)

    def _take(self, payload: bytes, found: list[tuple[str, Answered]]) -> None:
        batch: Any = self._decoder.decode(payload)
        found += [
            (request_id, (score, decision, batch.version))
            for request_id, score, decision in zip(batch.request_ids, batch.scores, batch.decisions, strict=True)
        ]
