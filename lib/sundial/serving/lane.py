"""The short way to an answer: a small request is answered by its connection itself, without a task of its own.

An ASGI server makes a scope, a task and four messages a request, which costs about as much as all the rest of an
answer. What nearly every caller sends, a ``POST /invocations`` with a small body that comes at once, needs none of
them. Everything else goes the ordinary way, and both ways end in the same batches and the same answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from sundial.serving.access import Guard
from sundial.serving.invocations import Invocations, encode_answer, explain
from sundial.serving.jobs import Reply

LARGEST_BODY = 64 << 10  # larger ones are read in pieces, with the bounds that this needs
PATH = b"/invocations"
_NEEDS_MORE = (b"transfer-encoding", b"expect", b"upgrade")


class _Nobody:
    """Stands for the event by which a cycle of uvicorn's is told of a message; here nobody waits for one."""

    def set(self) -> None:
        """Tell nobody."""


_NOBODY = _Nobody()


class Lane:
    """Decides which requests go the short way, and writes their answers.

    Parameters
    ----------
    invocations : Invocations
        Answers the same requests the ordinary way.
    guard : Guard
        Who may ask.
    """

    def __init__(self, invocations: Invocations, guard: Guard) -> None:
        self._invocations = invocations
        self._guard = guard
        self._largest = min(LARGEST_BODY, invocations.max_body)
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._good = b""

    def takes(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Say whether a request with these headers may go the short way.

        Parameters
        ----------
        headers : iterable of (name, value)
            Of a ``POST /invocations``; names in lower case.
        """
        kind, length = b"", -1
        for name, value in headers:
            if name == b"content-type":
                kind = value
            elif name == b"content-length":
                length = int(value) if value.isdigit() and length < 0 else self._largest + 1
            elif name in _NEEDS_MORE:
                return False
        known = kind in self._invocations.types and 0 <= length <= self._largest
        return known and self._guard.admits("/invocations", headers)

    def submit(self, turn: Turn) -> None:
        """Let a whole request wait for its batch."""
        batcher = self._invocations.batcher
        assert batcher is not None  # noqa: S101  the server's lifespan set it
        try:
            batcher.submit(bytes(turn.body), turn.arrived, turn)
        except Exception as error:  # noqa: BLE001  said to the caller, as the ordinary way does
            turn.set_exception(error)

    def write(self, defaults: list[tuple[bytes, bytes]], status: int, body: bytes, more: Any, *, last: bool) -> bytes:
        """Write an answer as HTTP has it.

        Parameters
        ----------
        defaults : list of (name, value)
            Headers that the server adds to every answer; a new list when they change.
        status : int
            Of the answer.
        body : bytes
            JSON.
        more : iterable of (name, value)
            Headers of this answer.
        last : bool
            Whether the connection ends after it.

        Returns
        -------
        bytes
        """
        if defaults is not self._defaults:
            self._defaults, self._good = defaults, _head(200, defaults)
        head = self._good if status == 200 else _head(status, defaults)
        extra = b"".join(b"%b: %b\r\n" % header for header in more)
        if last and b"connection: close" not in extra:
            extra += b"connection: close\r\n"
        return b"%b%d\r\n%b\r\n%b" % (head, len(body), extra, body)

    def count(self, status: int, seconds: float) -> None:
        """Count an answer."""
        self._invocations.metrics.observe(status, seconds)


def _head(status: int, defaults: list[tuple[bytes, bytes]]) -> bytes:
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE

    start = STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % header for header in defaults)
    return start + b"content-type: application/json\r\ncontent-length: "


class Turn:
    """One request that goes the short way; for uvicorn it stands where its own cycle of a request does.

    Parameters
    ----------
    connection : BoundedProtocol
        Who asks.
    lane : Lane
        Where.

    Attributes
    ----------
    body : bytearray
        What came of it so far.
    arrived : float
        When its headers were whole, by ``time.perf_counter``.
    """

    __slots__ = (
        "_connection",
        "_lane",
        "arrived",
        "body",
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
    )

    def __init__(self, connection: Any, lane: Lane) -> None:
        self._connection = connection
        self._lane = lane
        self.arrived = time.perf_counter()
        self.body = bytearray()
        self.keep_alive = True
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY

    def done(self) -> bool:
        """Whether nobody waits any longer: it was answered, or the caller went away."""
        return self.response_complete

    def leave(self) -> None:
        """Give up, since the caller went away; an answered one has nothing to give up."""
        if not self.response_complete:
            self.response_complete = True
            self._lane.count(499, 0.0)

    def set_result(self, reply: Reply) -> None:
        """Answer."""
        self._answer(200, encode_answer(reply), ())

    def set_exception(self, error: Exception) -> None:
        """Say why there is no answer."""
        self._answer(*explain(error))

    def _answer(self, status: int, body: bytes, more: Any) -> None:
        connection = self._connection
        transport = connection.transport
        if transport.is_closing():  # without having said so
            self.leave()
        if self.done():
            return
        self._lane.count(status, time.perf_counter() - self.arrived)
        if (b"connection", b"close") in more:
            self.keep_alive = False
        defaults = connection.server_state.default_headers
        transport.write(self._lane.write(defaults, status, body, more, last=not self.keep_alive))
        self.response_complete = True
        if not self.keep_alive:
            transport.close()
        connection.on_response_complete()
