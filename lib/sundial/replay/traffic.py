"""The requests of a week, answered as the model server and the shadow scorer would have answered them.

They go through the server's own code in this process: the JSON of one request a row, its parser, the checks of the
schema, the batcher, the prediction log; then the scorer reads that log. Left out are the socket and HTTP, which cost
four fifths of the time of a week's traffic, change no answer, and have tests of their own (tests/serving, tests/e2e).
A fake clock is not needed: every figure goes by the event times that requests carry, and none by the time of day.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

import msgspec
import pandas as pd

from sundial.errors import ServiceError
from sundial.operations.traffic import to_body
from sundial.pipeline import Pipeline
from sundial.serving.batching import Batcher
from sundial.serving.following import AliasFollower
from sundial.serving.predictions import PredictionLog, production_folder
from sundial.serving.shadow import score_shadow
from sundial.serving.sources import RegistrySource
from sundial.settings import Settings

TOGETHER = 256  # requests that arrive in one turn of the event loop
REMEMBERED = 20_000  # ids of answers: those of an interrupted attempt at this very week are answered from the log


class Served(NamedTuple):
    """What became of the requests of a time.

    Attributes
    ----------
    requests : int
        Rows answered.
    version : int or None
        Of the model in production; None when nothing was, and nothing was asked.
    shadow_rows : int
        Rows that the shadow scored.
    """

    requests: int
    version: int | None
    shadow_rows: int


def serve_requests(pipeline: Pipeline, start: pd.Timestamp, end: pd.Timestamp, settings: Settings) -> Served:
    """Answer and log the requests of ``[start, end)``, and score them with the version in shadow.

    Doing it again logs nothing twice: a request id that was answered gets the same answer from the log.

    Parameters
    ----------
    pipeline : Pipeline
        Its hook gives the requests.
    start, end : Timestamp
        Event times.
    settings : Settings
        Where registry and logs are.

    Returns
    -------
    Served

    Raises
    ------
    ServiceError
        When the version in production cannot be loaded.
    """
    source = RegistrySource(pipeline.name, settings)
    follower = AliasFollower(source)
    follower.look()
    model = follower.state.model
    if model is None:
        if follower.state.error:
            raise ServiceError(follower.state.error)
        return Served(0, None, 0)
    bodies = _make_bodies(pipeline, start, end)
    log = PredictionLog(production_folder(pipeline.name, settings), sync_ms=settings.log_sync_ms, remembered=REMEMBERED)
    try:
        asyncio.run(_answer(Batcher(lambda: follower.state.model, log), bodies))
        log.sync()
    finally:
        log.close()
    shadow = score_shadow(pipeline.name, settings, once=True, source=source)
    return Served(len(bodies), model.version, shadow)


def _make_bodies(pipeline: Pipeline, start: pd.Timestamp, end: pd.Timestamp) -> list[bytes]:
    """Make the JSON of one request a row, in the order in which they came."""
    frame: pd.DataFrame = pipeline.hook("requests")(start, end)
    ids = frame["request_id"].astype(str).tolist()
    entities = frame[pipeline.entity].astype(str).tolist()
    times = [moment.isoformat() for moment in pd.to_datetime(frame[pipeline.event_time])]
    features = frame.drop(columns=["request_id", pipeline.entity, pipeline.event_time])
    return [
        msgspec.json.encode(
            to_body({str(k): v for k, v in row.items()}, request_id=identity, entity=entity, event_time=moment)
        )
        for row, identity, entity, moment in zip(features.to_dict("records"), ids, entities, times, strict=True)
    ]


async def _answer(batcher: Batcher, bodies: list[bytes]) -> None:
    """Let requests arrive in turns of the event loop, and wait for their answers."""
    sent, loop = 0, asyncio.get_running_loop()
    while sent < len(bodies):
        together = bodies[sent : sent + min(TOGETHER, batcher.most_rows)]  # on a slow machine fewer may wait
        await asyncio.gather(*(batcher.submit(body, time.perf_counter(), loop.create_future()) for body in together))
        sent += len(together)
