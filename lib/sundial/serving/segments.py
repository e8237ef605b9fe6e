"""Writing segments: append-only, and whole again after the writer was killed.

A folder holds one segment set a writer process. A writer never appends to a segment that an earlier process wrote: it
cuts that one's torn tail and begins the next. So a row's key (writer, segment, row) is never given twice, not even
after a power cut took rows that somebody had read already.

Nothing here knows what a payload means; ``predictions.py`` and ``shadow.py`` do.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from sundial.errors import PredictionLogError
from sundial.serving.frames import FORMAT, list_segments, pack_frame, scan, segment_path
from sundial.serving.positions import ROWS_A_SEGMENT, make_key

SEGMENT_BYTES = 64 << 20
WRITERS = 128
DISK_HINT = "free space or correct the permissions of the artifacts folder; the server tries again at the next request"

logger = logging.getLogger("sundial.serving")


@dataclass(frozen=True)
class Recovery:
    """What a writer found when it opened its segment set.

    Attributes
    ----------
    segment : str
        The segment that an earlier process wrote last; empty when there was none.
    cut_bytes : int
        Bytes of a torn frame at its end, now gone. They belong to a request that was never answered.
    damaged_bytes : int
        Bytes in its middle that are no frames; they stay, and readers skip and count them.
    """

    segment: str = ""
    cut_bytes: int = 0
    damaged_bytes: int = 0


def check_writable(folder: Path) -> None:
    """Check that a log can be written.

    Raises
    ------
    PredictionLogError
        When it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise PredictionLogError(f"{folder} cannot be written: {error}", hint=DISK_HINT) from error


def _claim_writer(folder: Path, writers: int) -> tuple[int, int]:
    """Take the first writer number that no living process holds; give it and the handle of its lock."""
    for writer in range(writers):
        handle = os.open(folder / f"w{writer:04d}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        return writer, handle
    raise PredictionLogError(
        f"{folder} is already being written by {writers} process{'es' if writers > 1 else ''}",
        hint="stop the other one: a log has one writer a process",
    )


@dataclass
class _Open:
    """The segment being written."""

    handle: int
    number: int
    size: int
    rows: int
    schema: Mapping[str, Any]
    failed: bool = field(default=False)


class SegmentWriter:
    """Appends frames to one segment set.

    Parameters
    ----------
    folder : Path
        Where; made when missing.
    kind : str
        What the frames are, for the header.
    writers : int
        How many processes may write to the folder at once, each to a set of its own.
    sync_ms : int
        Milliseconds between two ``fdatasync`` in the background; 0 leaves syncing to the caller.
    segment_bytes : int
        Size at which the next segment begins.
    on_sync_error : callable, optional
        Told of a failing background sync.

    Raises
    ------
    PredictionLogError
        When the folder cannot be written, or has all its writers.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: str,
        writers: int = WRITERS,
        sync_ms: int = 50,
        segment_bytes: int = SEGMENT_BYTES,
        on_sync_error: Callable[[OSError], None] | None = None,
    ) -> None:
        self.folder = folder
        self.kind = kind
        self.segment_bytes = segment_bytes
        self.sync_ms = sync_ms
        self._on_sync_error = on_sync_error
        self._lock = threading.Lock()  # held while the handle changes, and while it is synced; not while appending
        self._open: _Open | None = None
        self._retired: list[int] = []
        self._dirty = False
        self._closing = threading.Event()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.writer, self._claim = _claim_writer(folder, writers)
            self.recovery = self._recover()
        except PredictionLogError:
            raise
        except OSError as error:
            raise PredictionLogError(f"{folder} cannot be written: {error}", hint=DISK_HINT) from error
        self._syncer: threading.Thread | None = None
        if sync_ms:
            self._syncer = threading.Thread(target=self._sync_often, name="sundial-log-sync", daemon=True)
            self._syncer.start()

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recover(self) -> Recovery:
        """Cut the torn tail of the segment that an earlier process left, and find the next number."""
        numbers = list_segments(self.folder).get(self.writer, [])
        self._next = numbers[-1] + 1 if numbers else 0
        if not numbers:
            return Recovery()
        path = segment_path(self.folder, self.writer, numbers[-1])
        data = path.read_bytes()
        frames = scan(data)
        end = frames[-1].end if frames else 0
        damaged = end - sum(frame.end - frame.start for frame in frames)
        if end < len(data):
            os.truncate(path, end)
            logger.warning("%s: cut a torn frame of %d bytes at the end", path, len(data) - end)
        if damaged:
            logger.error("%s: %d bytes in the middle are damaged and will be skipped", path, damaged)
        return Recovery(path.name, len(data) - end, damaged)

    @property
    def position(self) -> tuple[int, int]:
        """Segment and offset after the last frame."""
        current = self._open
        return (current.number, current.size) if current else (self._next, 0)

    @property
    def is_full(self) -> bool:
        """Whether the next frame should begin a segment."""
        current = self._open
        return current is None or current.failed or current.size >= self.segment_bytes

    def begin_segment(self, schema: Mapping[str, Any]) -> None:
        """Begin the next segment.

        Parameters
        ----------
        schema : mapping
            Written to its header, beside format and kind.

        Raises
        ------
        PredictionLogError
            When it cannot be written.
        """
        header = {"format": FORMAT, "kind": self.kind, "created": time.time_ns(), **schema}
        head = pack_frame(msgspec.json.encode(header), 0, 0)
        path = segment_path(self.folder, self.writer, self._next)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                _write(handle, head, 0)
                os.fdatasync(handle)
                folder = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(folder)  # the file's name must survive a power cut too
                finally:
                    os.close(folder)
            except OSError:
                os.close(handle)
                path.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise PredictionLogError(f"{path} cannot be begun: {error}", hint=DISK_HINT) from error
        with self._lock:
            if self._open is not None:
                self._retired.append(self._open.handle)
            self._open = _Open(handle, self._next, len(head), 0, schema)
            self._next += 1

    def append(self, payload: bytes, rows: int, schema: Mapping[str, Any]) -> int:
        """Write one frame.

        Parameters
        ----------
        payload : bytes
            What.
        rows : int
            How many rows it holds.
        schema : mapping
            What a reader needs to read it; a change begins a segment.

        Returns
        -------
        int
            Key of its first row.

        Raises
        ------
        PredictionLogError
            When it cannot be written; then nothing of it stays in the log.
        """
        current = self._open
        if (
            current is None
            or self.is_full
            or current.rows + rows > ROWS_A_SEGMENT
            or (current.schema is not schema and current.schema != schema)
        ):
            self.begin_segment(schema)
            current = self._open
            assert current is not None  # noqa: S101  begin_segment sets it or raises
        frame = pack_frame(payload, rows, current.rows)
        try:
            _write(current.handle, frame, current.size)
        except OSError as error:
            try:
                os.ftruncate(current.handle, current.size)
            except OSError:  # then the torn frame ends this segment, as after a kill
                current.failed = True
            raise PredictionLogError(
                f"the prediction log in {self.folder} cannot be written: {error}", hint=DISK_HINT
            ) from error
        key = make_key(self.writer, current.number, current.rows)
        current.size += len(frame)
        current.rows += rows
        self._dirty = True
        return key

    def sync(self) -> None:
        """Bring all that was appended so far to the disk.

        Raises
        ------
        PredictionLogError
            When the disk refuses; what was written since the last sync may not be there after a power cut.
        """
        with self._lock:
            retired, self._retired = self._retired, []
            self._dirty = False
            try:
                for handle in retired:
                    os.fdatasync(handle)
                if self._open is not None:
                    os.fdatasync(self._open.handle)
            except OSError as error:
                if self._open is not None:
                    self._open.failed = True  # the kernel may have dropped the pages: go on in a new file
                raise PredictionLogError(
                    f"the prediction log in {self.folder} cannot be synced: {error}", hint=DISK_HINT
                ) from error
            finally:
                for handle in retired:
                    os.close(handle)

    def _sync_often(self) -> None:
        while not self._closing.wait(self.sync_ms / 1000):
            if self._dirty or self._retired:
                try:
                    self.sync()
                except PredictionLogError as error:
                    logger.exception("the prediction log cannot be synced")
                    if self._on_sync_error is not None:
                        self._on_sync_error(error)

    def close(self) -> None:
        """Sync, close, and let another process have the writer's number."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._syncer is not None:
            self._syncer.join()
        try:
            self.sync()
        finally:
            if self._open is not None:
                os.close(self._open.handle)
                self._open = None
            os.close(self._claim)


def _write(handle: int, data: bytes, offset: int) -> None:
    """Write all of it at an offset: one call, unless the kernel takes less (a full disk answers on the second)."""
    written = os.pwrite(handle, data, offset)
    while written < len(data):
        written += os.pwrite(handle, data[written:], offset + written)
