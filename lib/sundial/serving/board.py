"""What the worker processes of one server tell each other: memory that they share, a slot each.

A worker writes its counters and its state now and then; whoever is asked for /health or /metrics reads all slots. A
torn or empty slot is no state, never a wrong one: a CRC-32 says so.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from typing import Any

import msgspec

SLOT_BYTES = 16 << 10
HEAD = struct.Struct("<II")  # bytes, CRC-32
TRIES = 3


class Board:
    """Slots that processes share which are forked after it is made.

    Parameters
    ----------
    workers : int
        Number of slots.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._memory = mmap.mmap(-1, workers * SLOT_BYTES)

    def write(self, worker: int, state: dict[str, Any]) -> None:
        """Write a worker's state; one that is too long for its slot is not."""
        content = msgspec.json.encode(state)
        if len(content) + HEAD.size <= SLOT_BYTES:
            start = worker * SLOT_BYTES
            record = HEAD.pack(len(content), zlib.crc32(content)) + content
            self._memory[start : start + len(record)] = record

    def read(self, worker: int) -> dict[str, Any] | None:
        """Read what a worker last wrote; None when it never did, or is in the middle of it each time."""
        start = worker * SLOT_BYTES
        for _ in range(TRIES):
            slot = self._memory[start : start + SLOT_BYTES]
            length, crc = HEAD.unpack_from(slot)
            content = slot[HEAD.size : HEAD.size + length]
            if length and len(content) == length and zlib.crc32(content) == crc:
                state: dict[str, Any] = msgspec.json.decode(content)
                return state
        return None

    def read_all(self) -> dict[int, dict[str, Any] | None]:
        """Read what every worker last wrote."""
        return {worker: self.read(worker) for worker in range(self.workers)}


class Seat:
    """A worker's place at the board.

    Parameters
    ----------
    board : Board
        Shared by all.
    worker : int
        Number of this one, from 0.
    """

    def __init__(self, board: Board, worker: int) -> None:
        self.board = board
        self.worker = worker
        # what a process before this one had counted, so that sums never fall
        self.before = (board.read(worker) or {}).get("counters", {})

    def tell(self, counters: dict[str, float], state: dict[str, Any]) -> None:
        """Write down how this worker is."""
        self.board.write(self.worker, {"counters": add(self.before, counters), "state": state})

    def others(self) -> dict[int, dict[str, Any] | None]:
        """Read what the others last wrote."""
        return {worker: said for worker, said in self.board.read_all().items() if worker != self.worker}


def add(left: dict[str, float], right: dict[str, float]) -> dict[str, float]:
    """Add counters by name."""
    return {name: left.get(name, 0) + right.get(name, 0) for name in {**left, **right}}
