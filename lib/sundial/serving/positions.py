"""Where a row or a reader stands in a log that several processes write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sundial.errors import PredictionLogError

SEGMENT_BITS = 24
ROW_BITS = 24
ROWS_A_SEGMENT = 1 << ROW_BITS
WRITER_BITS = SEGMENT_BITS + ROW_BITS  # below the writer in a key


def make_key(writer: int, segment: int, row: int) -> int:
    """Give a row its key: writer, then its sequence number, which is segment and row in the segment.

    Examples
    --------
    >>> split_key(make_key(2, 3, 4))
    (2, 3, 4)
    """
    return (writer << SEGMENT_BITS | segment) << ROW_BITS | row


def split_key(key: int) -> tuple[int, int, int]:
    """Take a key apart into writer, segment and row."""
    return (
        key >> (SEGMENT_BITS + ROW_BITS),
        (key >> ROW_BITS) & ((1 << SEGMENT_BITS) - 1),
        key & (ROWS_A_SEGMENT - 1),
    )


@dataclass(frozen=True)
class Position:
    """A place in a log: for each writer, the segment and the offset up to which it was read.

    Attributes
    ----------
    places : mapping of int to (int, int)
        Segment and offset by writer; a writer that is not there was not read at all.

    Examples
    --------
    >>> str(Position({0: (3, 8192)}))
    '0:3:8192'
    >>> Position.parse("0:3:8192,1:0:64").places[1]
    (0, 64)
    """

    places: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read a position from text; empty text is the beginning of the log.

        Raises
        ------
        PredictionLogError
            When it is not a position.
        """
        places = {}
        try:
            for part in filter(None, text.split(",")):
                writer, segment, offset = (int(number) for number in part.split(":"))
                places[writer] = (segment, offset)
        except ValueError as error:
            raise PredictionLogError(
                f"{text!r} is not a position in a prediction log", hint="it looks like 0:3:8192"
            ) from error
        return cls(places)

    def at(self, writer: int) -> tuple[int, int]:
        """Give segment and offset for a writer."""
        return self.places.get(writer, (0, 0))

    def moved(self, writer: int, segment: int, offset: int) -> Position:
        """Give the position after reading on in one writer's segments."""
        return Position({**self.places, writer: (segment, offset)})

    def __str__(self) -> str:
        return ",".join(f"{writer}:{segment}:{offset}" for writer, (segment, offset) in sorted(self.places.items()))
