"""Load: closed loop (each client asks again once it is answered) and open loop (requests come when they come)."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import uvloop

CONNECTIONS = 64  # of the open loop


class Load(NamedTuple):
    """What a server made of a load; latencies in milliseconds, ``failed`` counts answers other than 200."""

    rate: float
    p50: float
    p99: float
    failed: int


def closed_loop(url: str, path: str, bodies: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Ask from some clients without a pause: by wrk where it is installed, else by our own."""
    if shutil.which("wrk") is None:
        return uvloop.run(_closed(url, path, bodies, clients, seconds))
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "bodies.lua"
        texts = ",\n".join(f"[==[{body.decode()}]==]" for body in bodies)
        script.write_text(
            f"local bodies = {{{texts}}}\nlocal number = 0\n"
            "request = function()\n"
            "  number = number % #bodies + 1\n"
            "  local headers = {['Content-Type'] = 'application/json'}\n"
            f"  return wrk.format('POST', {json.dumps(path)}, headers, bodies[number])\n"
            "end\n"
        )
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:.0f}s", "--latency", "-s", str(script), url]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def find(pattern: str) -> str:
        match = re.search(pattern, text)
        return match[1] if match else "0"

    failed = int(find(r"Non-2xx or 3xx responses: (\d+)"))
    p50, p99 = (_ms(find(rf"\n\s+{share}%\s+(\S+)")) for share in (50, 99))
    return Load(float(find(r"Requests/sec:\s+([\d.]+)")), p50, p99, failed)


def _ms(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)?", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000, None: 1}[unit]


def open_loop(url: str, path: str, bodies: Sequence[bytes], rate: float, seconds: float, seed: int = 0) -> Load:
    """Ask at random moments at a mean rate; latency counts from when a request should have been sent."""
    return uvloop.run(_open(url, path, bodies, rate, seconds, seed))


class _Client(asyncio.Protocol):
    """One connection that asks, and waits for the whole answer."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._data = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found or self._answer is None:
            return
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        whole = len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")  # else in chunks
        if whole:
            self._data = b""
            if not self._answer.done():
                self._answer.set_result(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)

    async def ask(self, request: bytes) -> int:
        """Send a request; give the status, 0 when the connection broke."""
        if self.transport is None:
            return 0
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


def _requests(url: str, path: str, bodies: Sequence[bytes]) -> list[bytes]:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {url.rpartition('/')[2]}\r\nContent-Type: application/json\r\nContent-Length: "
    )
    return [head.encode() + b"%d\r\n\r\n" % len(body) + body for body in bodies]


async def _connect(url: str) -> _Client:
    host, _, port = url.rpartition("/")[2].partition(":")
    _, client = await asyncio.get_running_loop().create_connection(_Client, host, int(port))
    return client


async def _open(url: str, path: str, bodies: Sequence[bytes], rate: float, seconds: float, seed: int) -> Load:
    requests, draw = _requests(url, path, bodies), random.Random(seed)  # noqa: S311  no secret
    free: asyncio.Queue[_Client] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await _connect(url))
    latencies: list[float] = []
    failed = 0

    async def send(number: int, due: float) -> None:
        nonlocal failed
        client = await free.get()
        status = await client.ask(requests[number % len(requests)])
        latencies.append(1000 * (time.perf_counter() - due))
        failed += status != 200
        free.put_nowait(client if client.transport else await _connect(url))

    begun = due = time.perf_counter()
    tasks = []
    while due < begun + seconds:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(send(len(tasks), due)))
        due += draw.expovariate(rate)
    await asyncio.gather(*tasks)
    return _sum_up(latencies, time.perf_counter() - begun, failed)


async def _closed(url: str, path: str, bodies: Sequence[bytes], clients: int, seconds: float) -> Load:
    requests = _requests(url, path, bodies)
    latencies: list[float] = []
    failed, end = 0, time.perf_counter() + seconds

    async def caller(number: int) -> None:
        nonlocal failed
        client = await _connect(url)
        while time.perf_counter() < end:
            begun = time.perf_counter()
            failed += await client.ask(requests[number % len(requests)]) != 200
            latencies.append(1000 * (time.perf_counter() - begun))
            number += clients

    await asyncio.gather(*map(caller, range(clients)))
    return _sum_up(latencies, seconds, failed)


def _sum_up(latencies: list[float], seconds: float, failed: int) -> Load:
    ordered = sorted(latencies) or [float("nan")]

    def quantile(share: float) -> float:
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    return Load(len(latencies) / seconds, quantile(0.5), quantile(0.99), failed)
