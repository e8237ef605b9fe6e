"""Frames and segments: what a killed writer, a bad disk and a full disk leave behind."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundial.errors import PredictionLogError
from sundial.serving.frames import MARK, list_segments, pack_frame, scan, segment_path
from sundial.serving.positions import Position, make_key, split_key
from sundial.serving.segments import SegmentWriter, check_writable
from sundial.serving.tailing import LogTail, end_position, iterate

SCHEMA = {"features": {}}


def write(folder: Path, payloads: list[bytes], **options: int) -> Path:
    """Write frames of one row each with one writer; give the segment."""
    with SegmentWriter(folder, kind="test", **options) as writer:
        for payload in payloads:
            writer.append(payload, 1, SCHEMA)
    segments = list_segments(folder)
    return segment_path(folder, max(segments), segments[max(segments)][-1])


def payloads_of(folder: Path, position: Position | None = None) -> list[bytes]:
    """Read the payloads of all frames."""
    return [frame.payload for piece in iterate(folder, position) for frame in piece.frames]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make the kernel refuse to write files beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@given(st.lists(st.binary(max_size=64), max_size=8), st.data())
def test_any_cut_leaves_whole_frames(payloads: list[bytes], data: st.DataObject) -> None:
    """However many bytes a killed writer left, reading gives exactly the frames that are whole."""
    frames = [pack_frame(payload, 1, row) for row, payload in enumerate(payloads)]
    whole = b"".join(frames)
    cut = data.draw(st.integers(0, len(whole)))

    found = [frame.payload for frame in scan(whole[:cut])]

    ends = [sum(map(len, frames[: count + 1])) for count in range(len(frames))]
    assert payloads[: sum(end <= cut for end in ends)] == found


@given(st.lists(st.binary(max_size=64), min_size=1, max_size=6), st.data())
def test_any_flipped_byte_costs_one_frame(payloads: list[bytes], data: st.DataObject) -> None:
    """A damaged byte loses the frame that it is in, and no other."""
    frames = [pack_frame(payload, 1, row) for row, payload in enumerate(payloads)]
    victim = data.draw(st.integers(0, len(frames) - 1))
    place = sum(map(len, frames[:victim])) + data.draw(st.integers(0, len(frames[victim]) - 1))
    damaged = bytearray(b"".join(frames))
    damaged[place] ^= 0xFF

    found = [frame.payload for frame in scan(bytes(damaged))]

    assert payloads[:victim] + payloads[victim + 1 :] == found


def test_mark_is_in_no_text() -> None:
    """What a caller writes as text can never look like the beginning of a frame."""
    with pytest.raises(UnicodeDecodeError):
        MARK.decode()


def test_torn_tail_is_cut_and_told(tmp_path: Path) -> None:
    """A frame that a killed writer left half written is cut at the next start, and the bytes are counted."""
    path = write(tmp_path, [b"one", b"two"])
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(pack_frame(b"never answered", 1, 2)[:-3])

    with SegmentWriter(tmp_path, kind="test") as writer:
        writer.append(b"three", 1, SCHEMA)

    assert (path.name, 31, 0) == (writer.recovery.segment, writer.recovery.cut_bytes, writer.recovery.damaged_bytes)
    assert size == path.stat().st_size
    assert [b"one", b"two", b"three"] == payloads_of(tmp_path)


def test_damage_in_the_middle_is_skipped_and_counted(tmp_path: Path) -> None:
    """Frames after a damaged one are read, the lost rows are counted, and opening the log does not cut them."""
    path = write(tmp_path, [b"one" * 20, b"two" * 20, b"three" * 20])
    data = bytearray(path.read_bytes())
    data[data.index(b"two") + 5] ^= 0x01
    path.write_bytes(data)

    with SegmentWriter(tmp_path, kind="test") as writer:
        pass

    assert writer.recovery.damaged_bytes > 60
    assert writer.recovery.cut_bytes == 0
    pieces = list(iterate(tmp_path))
    assert [b"one" * 20, b"three" * 20] == [frame.payload for piece in pieces for frame in piece.frames]
    assert sum(piece.lost_rows for piece in pieces) == 1


def test_a_segment_without_header_is_passed_over(tmp_path: Path) -> None:
    """A writer that died while beginning a segment does not stop the next one, nor the readers."""
    write(tmp_path, [b"one"])
    segment_path(tmp_path, 0, 1).write_bytes(pack_frame(b"{}", 0, 0)[:7])

    write(tmp_path, [b"two"])

    assert [b"one", b"two"] == payloads_of(tmp_path)


def test_keys_are_never_given_twice(tmp_path: Path) -> None:
    """Rows written after a restart have other keys, even when the last rows before it were lost by a power cut."""
    path = write(tmp_path, [b"one", b"two"])
    known = {piece.key(frame) for piece in iterate(tmp_path) for frame in piece.frames}
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)

    write(tmp_path, [b"three"])

    fresh = {piece.key(frame) for piece in iterate(tmp_path) for frame in piece.frames if frame.payload == b"three"}
    assert not fresh & known


def test_a_reader_goes_on_after_a_power_cut(tmp_path: Path) -> None:
    """A reader whose position lies beyond what a power cut left misses nothing that was written later."""
    path = write(tmp_path, [b"one", b"two"])
    tail = LogTail(tmp_path)
    assert tail.read(10) is not None
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)

    write(tmp_path, [b"three"])

    piece = tail.read(10)
    assert piece is not None
    assert [b"three"] == [frame.payload for frame in piece.frames]


def test_segments_roll_and_read_in_order(tmp_path: Path) -> None:
    """Rows spread over many segments come back in the order in which they were written."""
    payloads = [bytes([number]) * 50 for number in range(40)]

    write(tmp_path, payloads, segment_bytes=300)

    assert len(list_segments(tmp_path)[0]) > 5
    assert payloads == payloads_of(tmp_path)


def test_a_changed_schema_begins_a_segment(tmp_path: Path) -> None:
    """Each segment has rows of one schema, so that its header can say what they are."""
    with SegmentWriter(tmp_path, kind="test") as writer:
        writer.append(b"one", 1, {"features": {"a": "number"}})
        writer.append(b"two", 1, {"features": {"b": "number"}})

    assert [{"a": "number"}, {"b": "number"}] == [piece.header["features"] for piece in iterate(tmp_path)]


def test_a_tail_reads_on_from_any_position(tmp_path: Path) -> None:
    """Reading in small pieces from remembered positions gives each frame once, large frames included."""
    payloads = [b"x" * size for size in (10, 3_000_000, 20, 1_500_000, 30)]
    write(tmp_path, payloads)

    found: list[bytes] = []
    position = Position()
    while (piece := (tail := LogTail(tmp_path, Position.parse(str(position)))).read(1)) is not None:
        found += [frame.payload for frame in piece.frames]
        position = tail.position

    assert payloads == found
    assert str(position) == str(end_position(tmp_path))


def test_writers_have_sets_of_their_own(tmp_path: Path) -> None:
    """Two open writers never share a segment; a number is free again once its writer is gone."""
    with SegmentWriter(tmp_path, kind="test") as one, SegmentWriter(tmp_path, kind="test") as two:
        one.append(b"one", 1, SCHEMA)
        two.append(b"two", 1, SCHEMA)
        assert (0, 1) == (one.writer, two.writer)
    with SegmentWriter(tmp_path, kind="test") as again:
        assert again.writer == 0

    assert {b"one", b"two"} == set(payloads_of(tmp_path))


def test_a_log_for_one_writer_refuses_a_second(tmp_path: Path) -> None:
    """Two scorers can never write one shadow's log."""
    with (
        SegmentWriter(tmp_path, kind="test", writers=1),
        pytest.raises(PredictionLogError, match="already being written"),
    ):
        SegmentWriter(tmp_path, kind="test", writers=1)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A write that the disk refuses raises, leaves no trace, and the next one works once there is room."""
    with SegmentWriter(tmp_path, kind="test", sync_ms=0) as writer:
        writer.append(b"one", 1, SCHEMA)
        _, size = writer.position
        with largest_file(size + 100), pytest.raises(PredictionLogError, match="cannot be written"):
            writer.append(b"x" * 5000, 1, SCHEMA)
        assert size == segment_path(tmp_path, 0, 0).stat().st_size
        writer.append(b"two", 1, SCHEMA)

    assert [b"one", b"two"] == payloads_of(tmp_path)


def test_a_disk_without_room_for_a_segment_is_told(tmp_path: Path) -> None:
    """A segment that cannot be begun raises, and is begun anew once there is room."""
    with SegmentWriter(tmp_path, kind="test", sync_ms=0) as writer:
        with largest_file(10), pytest.raises(PredictionLogError, match="cannot be begun"):
            writer.append(b"one", 1, SCHEMA)
        writer.append(b"one", 1, SCHEMA)

    assert [b"one"] == payloads_of(tmp_path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A log below something that is no folder names it and says what to do."""
    (tmp_path / "file").write_text("")

    with pytest.raises(PredictionLogError, match="cannot be written"):
        check_writable(tmp_path / "file" / "log")
    with pytest.raises(PredictionLogError, match="cannot be written"):
        SegmentWriter(tmp_path / "file" / "log", kind="test")


@given(st.integers(0, 127), st.integers(0, 2**24 - 1), st.integers(0, 2**24 - 1))
def test_keys_come_apart_again(writer: int, segment: int, row: int) -> None:
    """A key holds writer, segment and row, and fits a signed 64-bit integer."""
    key = make_key(writer, segment, row)

    assert (writer, segment, row) == split_key(key)
    assert 0 <= key < 2**63


@pytest.mark.parametrize("text", ["x", "0:1", "0:1:2:3", "0:1:x"])
def test_a_bad_position_is_refused(text: str) -> None:
    """A position that nobody wrote is an error, not the beginning of the log."""
    with pytest.raises(PredictionLogError, match="not a position"):
        Position.parse(text)
