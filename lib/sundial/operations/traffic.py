"""Replays the requests of a time as HTTP requests to the model server, one a row, in the order in which they came."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pandas as pd

from sundial.errors import ServiceError
from sundial.pipeline import Pipeline
from sundial.settings import load_settings

CONNECTIONS = 8


@dataclass
class Traffic:
    """What became of the requests.

    Attributes
    ----------
    sent, failed : int
        Requests, and those of them that were not answered with 200.
    versions : Counter
        Answers by the model version that made them.
    first_error : str
        What the first failure said.
    latencies : list of float
        Milliseconds, one an answer.
    seconds : float
        How long it all took.
    """

    sent: int = 0
    failed: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    first_error: str = ""
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def quantile(self, share: float) -> float:
        """Give a quantile of the latencies in milliseconds; NaN when there is none."""
        if not self.latencies:
            return math.nan
        return sorted(self.latencies)[min(int(share * len(self.latencies)), len(self.latencies) - 1)]


def to_body(row: dict[str, Any], *, request_id: str, entity: str, event_time: str) -> dict[str, Any]:
    """Make the JSON of one request from the features of a row; missing values become null."""
    record = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
    return {
        "dataframe_records": [record],
        "params": {"request_ids": [request_id], "entities": [entity], "event_times": [event_time]},
    }


class Replay:
    """A replay that can be paced while it runs.

    Parameters
    ----------
    pipeline : Pipeline
        Whose requests; its hook gives them.
    start, end : Timestamp
        Event times from ``start`` on and before ``end``.
    url : str
        Address of the model server.
    rate : float, optional
        Requests a second; as fast as they are answered by default. May be changed while it runs.
    """

    def __init__(
        self, pipeline: Pipeline, start: pd.Timestamp, end: pd.Timestamp, url: str, *, rate: float | None = None
    ) -> None:
        frame: pd.DataFrame = pipeline.hook("requests")(start, end)
        self.rate = rate
        self.total = len(frame)
        self.result = Traffic()
        self._url = f"{url.rstrip('/')}/invocations"
        self._stop = threading.Event()
        ids = frame["request_id"].astype(str).tolist()
        entities = frame[pipeline.entity].astype(str).tolist()
        times = [moment.isoformat() for moment in pd.to_datetime(frame[pipeline.event_time])]
        features = frame.drop(columns=["request_id", pipeline.entity, pipeline.event_time])
        self._bodies = [
            to_body({str(k): v for k, v in row.items()}, request_id=identity, entity=entity, event_time=moment)
            for row, identity, entity, moment in zip(features.to_dict("records"), ids, entities, times, strict=True)
        ]

    def stop(self) -> None:
        """End the replay after the requests that are under way."""
        self._stop.set()

    def run(self, progress: Callable[[int], None] | None = None) -> Traffic:
        """Send all requests.

        Parameters
        ----------
        progress : callable, optional
            Told the number of requests answered so far.

        Returns
        -------
        Traffic

        Raises
        ------
        ServiceError
            When no model server answers at all.
        """
        asyncio.run(self._run(progress or (lambda _: None)))
        return self.result

    async def _run(self, progress: Callable[[int], None]) -> None:
        begun = time.monotonic()
        queue = iter(self._bodies)
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        headers = load_settings().token_headers
        async with httpx.AsyncClient(limits=limits, headers=headers, timeout=30, trust_env=False) as client:

            async def caller() -> None:
                for body in queue:
                    if self._stop.is_set():
                        return
                    if self.rate:
                        await asyncio.sleep(CONNECTIONS / self.rate)
                    await self._send(client, body)
                    progress(self.result.sent)

            await asyncio.gather(*(caller() for _ in range(CONNECTIONS)))
        self.result.seconds = time.monotonic() - begun

    async def _send(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        result = self.result
        begun = time.perf_counter()
        try:
            answer = await client.post(self._url, json=body)
        except httpx.ConnectError as error:
            if result.sent == 0:
                raise ServiceError(
                    f"no model server answers at {self._url}", hint="start it with 'sundial up' or 'sundial serve'"
                ) from error
            self._fail(f"{type(error).__name__}: {error}")
            return
        except httpx.HTTPError as error:
            self._fail(f"{type(error).__name__}: {error}")
            return
        result.sent += 1
        if answer.status_code != httpx.codes.OK:
            result.failed += 1
            result.first_error = result.first_error or f"{answer.status_code}: {answer.text[:300]}"
            return
        result.latencies.append(1000 * (time.perf_counter() - begun))
        result.versions[str(answer.json().get("model_version"))] += 1

    def _fail(self, reason: str) -> None:
        self.result.sent += 1
        self.result.failed += 1
        self.result.first_error = self.result.first_error or reason
