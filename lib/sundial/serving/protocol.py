"""HTTP with bounds: a caller who is slow, silent, endless or half gone holds nothing for long.

uvicorn's own protocol waits for ever for the head of a request, of any size, and keeps a connection whose caller does
not read. What is set here is only what it leaves open, and the short way of :mod:`lane`, where the app has one.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sundial.serving.lane import PATH, Lane, Turn

HEAD_SECONDS = 10.0  # from the first byte of a request, or the connection, to the end of its headers
LONGEST_HEAD = 64 << 10
BODY_SOON = 0.1  # for so long a small body may take the short way; many callers send it apart from the headers
CONNECTIONS = 4096  # of one process; about 100 MB with nothing to do

_FULL = b'{"error":"too many connections are open","column":null,"hint":"try again"}'
_LONG = b'{"error":"the headers of the request are too long","column":null,"hint":"send fewer"}'
_SLOW = b'{"error":"the headers of the request did not arrive in time","column":null,"hint":"send them at once"}'


def _answer(status: bytes, body: bytes, more: bytes = b"") -> bytes:
    length = str(len(body)).encode()
    kind = b"content-type: application/json\r\ncontent-length: " + length
    return b"HTTP/1.1 " + status + b"\r\n" + kind + b"\r\nconnection: close\r\n" + more + b"\r\n" + body


FULL = _answer(b"503 Service Unavailable", _FULL, b"retry-after: 1\r\n")
LONG = _answer(b"431 Request Header Fields Too Large", _LONG)
SLOW = _answer(b"408 Request Timeout", _SLOW)


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True  # a connection owes a request from the start
        self._head_bytes = 0
        self._patience: asyncio.TimerHandle | None = None
        self._lane: Lane | None = getattr(self.app, "lane", None)
        self._before: Any = None  # the cycle before a request that goes the short way

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or say that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            self._end(FULL)
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._stop_waiting()
        super().connection_lost(exc)
        turn: Any = self.cycle
        if type(turn) is Turn:
            turn.leave()

    def data_received(self, data: bytes) -> None:
        """Read on, and see to it that a head ends."""
        super().data_received(data)
        if not self._in_head:
            self._stop_waiting()
            turn: Any = self.cycle
            if type(turn) is Turn and turn.more_body:
                late = max(turn.arrived + BODY_SOON - time.perf_counter(), 0.0)
                self._patience = self.loop.call_later(late, self._go_the_ordinary_way)
            return
        self._head_bytes += len(data)
        if self._head_bytes > LONGEST_HEAD:
            self._end(LONG)
        elif self._patience is None and not self.transport.is_closing():
            self._wait_for_head()

    def on_message_begin(self) -> None:
        """Begin to read a head."""
        self._in_head, self._head_bytes = True, 0
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """Let a request wait for its body, or hand it to the app."""
        self._in_head = False
        if self._may_be_short():
            self._before = self.cycle
            self.cycle = Turn(self, self._lane)  # type: ignore[arg-type, assignment]
        else:
            self._hand_over()

    def _may_be_short(self) -> bool:
        """Whether the connection answers this request by itself, if its body comes at once."""
        lane, parser, before = self._lane, self.parser, self.cycle
        return (
            lane is not None
            and self.url == PATH
            and (before is None or before.response_complete)
            and not self.flow.write_paused
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and lane.takes(self.headers)
        )

    def _hand_over(self) -> None:
        """Hand a request to the app, for which it needs a scope."""
        url, headers, expected = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expected
        self.scope["headers"] = headers
        super().on_headers_complete()

    def _go_the_ordinary_way(self) -> None:
        """Hand over a request whose body does not come soon."""
        self._patience = None
        body = bytes(self.cycle.body)
        self.cycle = self._before
        self._hand_over()
        if body:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer a request that is whole, or tell the app that it is."""
        super().on_message_complete()
        turn: Any = self.cycle
        if type(turn) is Turn and self._lane is not None and not turn.response_complete:
            self._lane.submit(turn)

    # uvicorn says None; asyncio asks whether to keep the other half open
    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer a caller who is done with sending, and end the connection of one who stopped in the middle."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return None
        cycle.keep_alive = False
        return True

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, also when its caller never read the answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _wait_for_head(self) -> None:
        self._patience = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        if self._in_head:
            self._end(SLOW)

    def _end(self, answer: bytes) -> None:
        """Say why, and end the connection; at once when the caller does not read either."""
        self._stop_waiting()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:  # an answer is under way
            self.transport.abort()
            return
        self.transport.write(answer)
        self.transport.close()
        self.loop.call_later(HEAD_SECONDS, self.transport.abort)
