"""``POST /invocations``, by hand for speed: from the bytes of a body to the bytes of an answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from sundial.errors import RequestError
from sundial.serving.batching import Batcher, UnavailableError
from sundial.serving.jobs import Reply
from sundial.serving.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_BODY = 8 << 20
BODY_SECONDS = 30.0  # a caller who takes longer to send a body is not waited for
HELD_BYTES = 128 << 20  # of bodies that are still coming in, all together

logger = logging.getLogger("sundial.serving")
_encoder = msgspec.json.Encoder()


class GoneError(Exception):
    """The caller went away before the request was whole."""


class Invocations:
    """Answers requests for predictions.

    Parameters
    ----------
    metrics : Metrics
        Told of every request.
    max_body : int
        Most bytes that a request may have.

    Attributes
    ----------
    batcher : Batcher or None
        What scores; set before the first request.
    types : set of bytes
        Content types that were seen to fit, as callers wrote them.
    """

    def __init__(self, metrics: Metrics, max_body: int = MAX_BODY) -> None:
        self.batcher: Batcher | None = None
        self.max_body = max_body
        self.metrics = metrics
        self._held = 0
        self.types = {b"application/json"}  # as callers wrote them, and they fit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ASGI."""
        arrived = time.perf_counter()
        more: Headers = []
        try:
            assert self.batcher is not None  # noqa: S101  the server's lifespan set it
            length = self._check_head(scope)
            body, more_body = _take(await receive())
            if more_body:
                body = await self._read_on(body, receive, length)
            elif len(body) > self.max_body:
                self._refuse_length()
            status, answer = 200, encode_answer(await self.batcher.submit(body, arrived, _future()))
        except GoneError:
            self.metrics.observe(499, 0.0)
            return
        except Exception as error:  # noqa: BLE001  whatever it is, the caller is told
            status, answer, more = explain(error)
        self.metrics.observe(status, time.perf_counter() - arrived)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer)), *more]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _check_head(self, scope: Scope) -> int:
        """Check method, type and length of the body; give the length, -1 when it is not told."""
        if scope["method"] != "POST":
            raise RequestError(f"{scope['method']} is not answered here", status=405, hint="POST the rows as JSON")
        kind, length = b"", -1
        for name, value in scope["headers"]:
            if name == b"content-type":
                kind = value
            elif name == b"content-length" and value.isdigit():
                length = int(value[:20])
        if kind not in self.types:
            self._check_type(kind)
        if length > self.max_body:
            self._refuse_length()
        return length

    def _check_type(self, kind: bytes) -> None:
        media, _, parameter = kind.partition(b";")
        fits = not parameter.strip() or parameter.strip().lower().replace(b'"', b"") == b"charset=utf-8"
        if media.strip().lower() != b"application/json" or not fits:
            shown = kind.decode("latin-1")
            raise RequestError(
                f"content type {shown!r} is not answered" if kind else "the request has no content type",
                status=415,
                hint="send Content-Type: application/json, in UTF-8",
            )
        if len(self.types) < 100:  # callers make up no more than that
            self.types.add(kind)

    def _refuse_length(self) -> None:
        raise RequestError(
            f"the body is larger than {self.max_body:,} bytes", status=413, hint="send several smaller requests"
        )

    async def _read_on(self, begun: bytes, receive: Receive, length: int) -> bytes:
        """Read the rest of a body, but not more of it than is allowed, and not for ever."""
        chunks, size = [begun], len(begun)
        self._held += size
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    if self._held > HELD_BYTES:
                        raise RequestError(
                            "too many large requests are coming in at once", status=503, hint="try again"
                        )
                    chunk, more = _take(await receive())
                    chunks.append(chunk)
                    size += len(chunk)
                    self._held += len(chunk)
                    if size > self.max_body:
                        self._refuse_length()
        except TimeoutError:
            told = f" of {length:,}" if length >= 0 else ""
            raise RequestError(
                f"the body did not arrive within {BODY_SECONDS:.0f} s ({size:,}{told} bytes)",
                status=408,
                hint="send it faster, or in several requests",
            ) from None
        finally:
            self._held -= size
        return b"".join(chunks)


def _future() -> asyncio.Future[Reply]:
    return asyncio.get_running_loop().create_future()


def _take(message: MutableMapping[str, Any]) -> tuple[bytes, bool]:
    """Take a part of a body, and whether there is more."""
    if message["type"] == "http.disconnect":
        raise GoneError
    return message.get("body", b""), message.get("more_body", False)


def encode_answer(reply: Reply) -> bytes:
    """Write the body of an answer."""
    return _encoder.encode(reply)


def explain(error: Exception) -> tuple[int, bytes, Headers]:
    """Say to a caller why there is no answer.

    Parameters
    ----------
    error : Exception
        Why; of any kind, for a caller is never left without an answer.

    Returns
    -------
    status : int
    body : bytes
    headers : list of (name, value)
    """
    if isinstance(error, RequestError):
        more: Headers = []
        if error.status == 405:
            more.append((b"allow", b"POST"))
        if error.status in (408, 413, 503):  # the rest of the body is not read
            more.append((b"connection", b"close"))
        if error.status == 503:
            more.append((b"retry-after", b"1"))
        return error.status, encode_error(error.message, error.column, error.hint), more
    if isinstance(error, UnavailableError):
        after = str(error.retry_after).encode()
        return 503, encode_error(str(error), None, "try again"), [(b"retry-after", after)]
    logger.error("a request failed", exc_info=error)
    return 503, encode_error("the server failed to answer", None, "see its log"), [(b"retry-after", b"1")]


def encode_error(message: str, column: str | None, hint: str) -> bytes:
    """Write the body of an answer that is none."""
    return _encoder.encode({"error": message, "column": column, "hint": hint})
