"""The limit: an ASGI app that reads a body and answers with as many bytes as a prediction has."""

from __future__ import annotations

from typing import Any

BODY = (
    b'{"predictions":[0.12345678901234567],"decisions":[false],'
    b'"request_ids":["0123456789abcdef-1"],"model_version":"1"}'
)
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer."""
    if scope["type"] == "http":
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": BODY})
