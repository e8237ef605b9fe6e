"""The short way to an answer: the same answers as the ordinary one, in order, and nobody left waiting."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any

import pytest
from pydantic import SecretStr

from sundial.serving.access import Guard
from sundial.serving.invocations import Invocations
from sundial.serving.lane import LARGEST_BODY, Lane
from sundial.serving.metrics import Metrics

ROW = {"distance": 900.0, "minute": 600, "weekend": False, "carrier": "AA"}
JSON = (b"content-type", b"application/json")


def make_request(document: Any, *more: str) -> bytes:
    """Write a request as HTTP has it."""
    body = json.dumps(document).encode()
    lines = [
        "POST /invocations HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def read_answer(raw: socket.socket, found: bytes = b"") -> tuple[dict[str, str], Any, bytes]:
    """Read one answer: its status and headers, its JSON, and what came after it."""
    while b"\r\n\r\n" not in found:
        found += raw.recv(1 << 16)
    head, _, rest = found.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {"status": status, **{name: value for name, _, value in (line.partition(": ") for line in lines)}}
    length = int(headers["content-length"])
    while len(rest) < length:
        rest += raw.recv(1 << 16)
    return headers, json.loads(rest[:length]), rest[length:]


def connect(shared: Any) -> socket.socket:
    """Open a connection."""
    host, _, port = shared.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"dataframe_records": [ROW], "request_ids": ["lane"]}, 200),
        ({"dataframe_records": [{**ROW, "minute": "x"}]}, 422),
        ({"dataframe_records": [{"distance": 1.0}]}, 422),
        ({}, 400),
    ],
)
def test_both_ways_answer_alike(shared: Any, document: Any, status: int) -> None:
    """A request that comes at once, in two pieces, or late in the second is answered with the same headers and JSON."""
    sent = make_request(document)
    answers = []
    with connect(shared) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pause in (None, 0.02, 0.3):  # the last is longer than the short way waits
            raw.sendall(sent[:-9])
            if pause:
                time.sleep(pause)
            raw.sendall(sent[-9:])
            headers, answer, rest = read_answer(raw)
            headers.pop("date", None)
            assert not rest
            if status == 200:  # asked again, it is answered from the log, and says so
                answer.pop("model_versions", None)
                headers.pop("content-length")
            answers.append((headers, answer))

    assert f" {status} " in answers[0][0]["status"]
    assert answers[0] == answers[1] == answers[2]


def test_requests_sent_together_are_answered_in_order(shared: Any) -> None:
    """Several requests in one packet are answered one after the other, whichever way each goes."""
    ids = [f"together-{number}" for number in range(7)]
    with connect(shared) as raw:
        raw.sendall(b"".join(make_request({"dataframe_records": [ROW], "request_ids": [name]}) for name in ids))
        found, rest = [], b""
        for _ in ids:
            _, answer, rest = read_answer(raw, rest)
            found += answer["request_ids"]

    assert found == ids


def test_a_caller_who_wants_the_end_gets_it(shared: Any) -> None:
    """``Connection: close`` is kept to, and an HTTP/1.0 caller is answered and left."""
    for request in (
        make_request({"dataframe_records": [ROW]}, "Connection: close"),
        make_request({"dataframe_records": [ROW]}).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        with connect(shared) as raw:
            raw.sendall(request)
            headers, answer, _ = read_answer(raw)
            assert " 200 " in headers["status"]
            assert len(answer["predictions"]) == 1
            assert raw.recv(1) == b""


def test_who_goes_away_is_counted(shared: Any) -> None:
    """A caller who resets the connection before the end of a small body is counted as gone, and nothing else."""
    before = _gone(shared)
    with connect(shared) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        raw.sendall(make_request({"dataframe_records": [ROW]})[:-5])
        time.sleep(0.02)
    time.sleep(0.3)

    assert _gone(shared) == before + 1


def _gone(shared: Any) -> int:
    with connect(shared) as raw:
        raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b""
        while part := raw.recv(1 << 16):
            text += part
    found = re.search(rb'sundial_requests_total\{status="499"\} (\d+)', text)
    return int(found[1]) if found else 0


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ([JSON, (b"content-length", b"20")], True),
        ([JSON, (b"content-length", str(LARGEST_BODY).encode())], True),
        ([JSON, (b"content-length", str(LARGEST_BODY + 1).encode())], False),
        ([JSON, (b"content-length", b"20"), (b"content-length", b"20")], False),
        ([JSON, (b"content-length", b"+20")], False),
        ([JSON], False),
        ([(b"content-type", b"text/csv"), (b"content-length", b"20")], False),
        ([(b"content-length", b"20")], False),
        ([JSON, (b"transfer-encoding", b"chunked")], False),
        ([JSON, (b"content-length", b"20"), (b"expect", b"100-continue")], False),
        ([JSON, (b"content-length", b"20"), (b"upgrade", b"h2c")], False),
    ],
)
def test_what_goes_the_short_way(headers: list[tuple[bytes, bytes]], taken: bool) -> None:
    """Only small JSON of a told length goes the short way; whatever is unusual is left to the ordinary one."""
    assert Lane(Invocations(Metrics()), Guard(SecretStr(""))).takes(headers) is taken


def test_a_token_is_asked_for_on_the_short_way_too() -> None:
    """Without the token a request goes the ordinary way, where it is refused."""
    lane = Lane(Invocations(Metrics()), Guard(SecretStr("open sesame")))
    headers = [JSON, (b"content-length", b"20")]

    assert not lane.takes(headers)
    assert not lane.takes([*headers, (b"authorization", b"Bearer sesame")])
    assert lane.takes([*headers, (b"authorization", b"Bearer open sesame")])
