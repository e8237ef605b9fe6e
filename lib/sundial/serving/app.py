"""The model server as an ASGI app: ``/invocations`` by hand for speed, everything else by Starlette."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psutil
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sundial.errors import SundialError
from sundial.release.pointer import Pointer
from sundial.serving.access import CHALLENGE, Guard
from sundial.serving.batching import Batcher
from sundial.serving.board import Seat, add
from sundial.serving.following import AliasFollower
from sundial.serving.invocations import MAX_BODY, Invocations, Receive, Scope, Send
from sundial.serving.lags import ShadowLags, as_health, as_metrics
from sundial.serving.lane import Lane
from sundial.serving.metrics import CONTENT_TYPE, Metrics, render, render_values
from sundial.serving.openapi import describe
from sundial.serving.predictions import PredictionLog
from sundial.serving.reports import make_route
from sundial.serving.sources import ModelSource
from sundial.serving.status import read_status
from sundial.serving.stores import open_log
from sundial.settings import Settings

if TYPE_CHECKING:
    from sundial.serving.postgres import PostgresLog

LOOK_SECONDS = 30.0  # the first look imports MLflow, and may fetch a model from a bucket
TELL_SECONDS = 0.5
SILENT_SECONDS = 5.0  # a worker that says nothing for so long is dead, or as good as that

logger = logging.getLogger("sundial.serving")


class ModelServer:
    """Answers requests with the model in production.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    source : ModelSource
        Where its models come from.
    settings : Settings
        Where the log is, and how it is written.
    max_body : int
        Most bytes that a request may have.
    seat : Seat, optional
        Where this process tells the other workers of the server how it is, and reads how they are.

    Attributes
    ----------
    follower : AliasFollower
        Knows the model that answers.
    metrics : Metrics
        What is counted.
    lane : Lane
        By which a connection answers most requests itself.
    """

    def __init__(
        self,
        pipeline: str,
        source: ModelSource,
        settings: Settings,
        *,
        max_body: int = MAX_BODY,
        seat: Seat | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.settings = settings
        self.metrics = Metrics()
        self._invocations = Invocations(self.metrics, max_body)
        self._guard = Guard(settings.token)
        self.lane = Lane(self._invocations, self._guard)
        self.follower = AliasFollower(source, Pointer(pipeline, settings))
        self.started = time.time()
        self._seat = seat
        self._log: PredictionLog | PostgresLog | None = None
        self._batcher: Batcher | None = None
        self._lags = ShadowLags(pipeline, settings)
        self._pages = Starlette(
            routes=[
                Route("/ping", self._ping),
                Route("/health", self._health),
                Route("/version", self._version),
                Route("/metrics", self._show_metrics),
                Route("/openapi.json", self._openapi),
                Route("/reports", make_route(settings)),
                Route("/reports/{path:path}", make_route(settings)),
            ],
            exception_handlers={HTTPException: _explain},
            lifespan=self._live,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ASGI calls this."""
        if scope["type"] == "http":
            if not self._guard.admits(scope["path"], scope["headers"]):
                await self._refuse(scope, receive, send)
                return
            if scope["path"] == "/invocations":
                await self._invocations(scope, receive, send)
                return
        await self._pages(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a caller without the token."""
        if scope["path"] == "/invocations":
            self.metrics.observe(401, 0.0)
        body = {"error": "the token is missing or wrong", "column": None, "hint": "send Authorization: Bearer <token>"}
        headers = {"www-authenticate": CHALLENGE, "connection": "close"}  # the body is not read
        await JSONResponse(body, 401, headers)(scope, receive, send)

    @asynccontextmanager
    async def _live(self, _: Starlette) -> AsyncIterator[None]:
        """Open the log and follow the aliases, from the first request to after the last."""
        self._log = open_log(self.pipeline, self.settings)
        self._batcher = self._invocations.batcher = Batcher(lambda: self.follower.state.model, self._log)
        self.follower.start()
        if self._seat is not None:
            # it takes connections that another worker could answer: not before it knows the model, where there is one
            await asyncio.to_thread(self.follower.looked.wait, LOOK_SECONDS)
        telling = asyncio.create_task(self._tell_often())
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.to_thread(self.follower.stop)
            self._log.close()

    def _counters(self) -> dict[str, float]:
        """Give what this process counted since its start."""
        batcher, log = self._batcher, self._log
        return {
            **self.metrics.counters(),
            "predictions": batcher.predictions if batcher else 0,
            "repeated": batcher.repeated if batcher else 0,
            "batches": batcher.batches if batcher else 0,
            "log_rows": log.rows if log else 0,
            "log_unlogged": log.unlogged if log else 0,
        }

    def _state(self) -> dict[str, Any]:
        """Say how this process is."""
        state, log = self.follower.state, self._log
        model = state.model
        return {
            "version": str(model.version) if model else None,
            "wanted": str(state.wanted) if state.wanted is not None else None,
            "switches": state.switches,
            "error": state.error[:500],
            "log_error": (log.error if log else "not open")[:500],
            "pid": os.getpid(),
            "uptime_seconds": round(time.time() - self.started, 3),
            "updated": time.time(),
        }

    async def _tell_often(self) -> None:
        """Tell the other workers how this one is."""
        while self._seat is not None:
            self._seat.tell(self._counters(), self._state())
            await asyncio.sleep(TELL_SECONDS)

    def _workers(self) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
        """Add up what all workers counted, and say how each is that lives."""
        counters, states = self._counters(), {str(self._seat.worker if self._seat else 0): self._state()}
        if self._seat is None:
            return counters, states
        counters = add(self._seat.before, counters)
        for worker, said in self._seat.others().items():
            if said is None:
                continue
            counters = add(counters, said["counters"])
            there = psutil.pid_exists(said["state"]["pid"])
            if there and time.time() - said["state"]["updated"] < SILENT_SECONDS:
                states[str(worker)] = said["state"]
        return counters, dict(sorted(states.items()))

    async def _ping(self, _: Request) -> Response:
        """Answer 200 once a model is loaded: MLflow's clients wait for that."""
        if self.follower.state.model is None:
            return JSONResponse({"error": "there is no model in production yet"}, 503, {"retry-after": "5"})
        return PlainTextResponse("\n")

    async def _version(self, _: Request) -> Response:
        """Say which versions of Sundial and of the model answer."""
        from sundial import __version__

        model = self.follower.state.model
        about: dict[str, Any] = {"sundial": __version__, "pipeline": self.pipeline, "version": None}
        if model is not None:
            card = model.model.card
            about |= {
                "version": str(model.version),
                "threshold": model.threshold,
                "features": dict(model.model.features),
                "sha256": model.model.sha256,
                "answers": model.path.describe() if model.path else None,
                "run": card.get("run"),
                "as_of": card.get("as_of"),
            }
        return JSONResponse(about)

    async def _openapi(self, _: Request) -> Response:
        """Describe the server as OpenAPI has it, with the features of the model that answers now."""
        model = self.follower.state.model
        document = describe(self.pipeline, model.schema if model else None, guarded=bool(self.settings.token))
        return JSONResponse(document)

    async def _health(self, _: Request) -> Response:
        """Say how the server is: 200 while it answers requests, 503 before there is a model."""
        state, log = self.follower.state, self._log
        shadows = await self._lags.read(state.shadows)
        model = state.model
        workers = self._workers()[1]
        silent = self._seat is not None and len(workers) < self._seat.board.workers
        troubled = silent or any(worker["error"] or worker["log_error"] for worker in workers.values())
        status = "no model" if model is None else "degraded" if troubled else "ok"
        health: dict[str, Any] = {
            "status": status,
            "pipeline": self.pipeline,
            "version": str(model.version) if model else None,
            "production": {
                "version": str(model.version) if model else None,
                "wanted": str(state.wanted) if state.wanted is not None else None,
                "loaded_at": model.loaded_at if model else None,
                "switches": state.switches,
                "error": state.error,
            },
            "shadow": as_health(shadows, read_status(self.pipeline, self.settings)),
            "log": {
                "position": log.position if log else "",
                "rows": log.rows if log else 0,
                "unlogged_rows": log.unlogged if log else 0,
                "error": log.error if log else "not open",
                "cut_bytes_at_start": log.recovery.cut_bytes if log else 0,
                "damaged_bytes_at_start": log.recovery.damaged_bytes if log else 0,
            },
            "uptime_seconds": round(time.time() - self.started, 3),
            "pid": os.getpid(),
        }
        if self._seat is not None:  # all of the above is about the worker that happened to be asked
            health |= {"worker": self._seat.worker, "workers": workers}
        return JSONResponse(health, 200 if model else 503)

    async def _show_metrics(self, _: Request) -> Response:
        """Give the metrics as Prometheus reads them: counts of all workers, and what each is by its number."""
        shadows = await self._lags.read(self.follower.state.shadows)
        counters, workers = self._workers()

        def each(value: Callable[[dict[str, Any]], float | None]) -> float | dict[str, float] | None:
            found = {name: value(worker) for name, worker in workers.items()}
            there = {name: number for name, number in found.items() if number is not None}
            return there if self._seat is not None else next(iter(there.values()), None)

        text = render(
            counters,
            [
                ("sundial_predictions_total", "counter", "Rows scored.", counters["predictions"]),
                (
                    "sundial_repeated_total",
                    "counter",
                    "Rows whose request id was answered before, from the log.",
                    counters["repeated"],
                ),
                ("sundial_batches_total", "counter", "Batches scored.", counters["batches"]),
                ("sundial_log_rows_total", "counter", "Rows written to the log.", counters["log_rows"]),
                (
                    "sundial_log_failing",
                    "gauge",
                    "1 while the log cannot be written.",
                    each(lambda worker: float(bool(worker["log_error"]))),
                ),
                (
                    "sundial_log_unlogged_total",
                    "counter",
                    "Rows answered without being logged, where the settings allow it.",
                    counters["log_unlogged"],
                ),
                (
                    "sundial_model_version",
                    "gauge",
                    "Version that answers.",
                    each(lambda worker: float(worker["version"]) if worker["version"] else None),
                ),
                (
                    "sundial_model_switches_total",
                    "counter",
                    "Times another version took over.",
                    each(lambda worker: float(worker["switches"])),
                ),
                (
                    "sundial_model_failing",
                    "gauge",
                    "1 while the alias cannot be followed.",
                    each(lambda worker: float(bool(worker["error"]))),
                ),
                (
                    "sundial_uptime_seconds",
                    "gauge",
                    "Seconds since the start.",
                    each(lambda worker: float(worker["uptime_seconds"])),
                ),
            ],
            label="worker",
        )
        text += render_values(as_metrics(shadows), label="alias")
        return Response(text, headers={"content-type": CONTENT_TYPE})


async def _explain(_: Request, error: Exception) -> Response:
    """Answer what no route takes as JSON too."""
    assert isinstance(error, HTTPException)  # noqa: S101  registered for it
    hints = {404: "POST /invocations; GET /ping, /health, /version, /metrics, /openapi.json, /reports/"}
    body = {"error": error.detail, "column": None, "hint": hints.get(error.status_code, "")}
    return JSONResponse(body, error.status_code, dict(error.headers or {}))


def create_app(
    pipeline: str, source: ModelSource, settings: Settings, *, max_body: int = MAX_BODY, seat: Seat | None = None
) -> ModelServer:
    """Make the model server of a pipeline.

    Parameters
    ----------
    pipeline : str
        Its name.
    source : ModelSource
        Where its models come from.
    settings : Settings
        Where the log is, and how it is written.
    max_body : int
        Most bytes that a request may have.
    seat : Seat, optional
        Of a server of several workers.

    Returns
    -------
    ModelServer
        An ASGI app; its lifespan opens the log and begins to follow the aliases.
    """
    return ModelServer(pipeline, source, settings, max_body=max_body, seat=seat)


__all__ = ["ModelServer", "SundialError", "create_app"]
