"""HTTP with bounds: a caller who is slow, silent, endless or half gone holds nothing for long.

uvicorn's own protocol waits for ever for the head of a request, of any size, and keeps a connection whose caller does
not read. What is set here is only what it leaves open.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0  # from the first byte of a request, or the connection, to the end of its headers
LONGEST_HEAD = 64 << 10
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

    def data_received(self, data: bytes) -> None:
        """Read on, and see to it that a head ends."""
        super().data_received(data)
        if not self._in_head:
            if self._patience is not None:
                self._stop_waiting()
            return
        self._head_bytes += len(data)
        if self._head_bytes > LONGEST_HEAD:
            self._end(LONG)
        elif self._patience is None and not self.transport.is_closing():
            self._wait_for_head()

    def on_message_begin(self) -> None:
        """Begin to read a head."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hand a request to the app."""
        self._in_head = False
        super().on_headers_complete()

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
