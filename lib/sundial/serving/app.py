"""The model server as an ASGI app: ``/invocations`` by hand for speed, everything else by Starlette."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sundial.errors import PredictionLogError, SundialError
from sundial.serving import shadow
from sundial.serving.access import CHALLENGE, Guard
from sundial.serving.batching import Batcher
from sundial.serving.following import AliasFollower
from sundial.serving.invocations import MAX_BODY, Invocations, Receive, Scope, Send
from sundial.serving.metrics import CONTENT_TYPE, Metrics
from sundial.serving.openapi import describe
from sundial.serving.predictions import PredictionLog, production_folder
from sundial.serving.reports import make_route
from sundial.serving.scorer import read_status
from sundial.serving.sources import ModelSource
from sundial.settings import Settings

LAG_SECONDS = 0.5  # how old a shadow's lag may be when it is told

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

    Attributes
    ----------
    follower : AliasFollower
        Knows the model that answers.
    metrics : Metrics
        What is counted.
    """

    def __init__(self, pipeline: str, source: ModelSource, settings: Settings, *, max_body: int = MAX_BODY) -> None:
        self.pipeline = pipeline
        self.settings = settings
        self.metrics = Metrics()
        self._invocations = Invocations(self.metrics, max_body)
        self._guard = Guard(settings.token)
        self.follower = AliasFollower(source)
        self.started = time.time()
        self._log: PredictionLog | None = None
        self._batcher: Batcher | None = None
        self._lag: tuple[float, int | None, shadow.Lag | None] = (0.0, None, None)
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
        self._log = PredictionLog(production_folder(self.pipeline, self.settings), sync_ms=self.settings.log_sync_ms)
        self._batcher = self._invocations.batcher = Batcher(lambda: self.follower.state.model, self._log)
        self.follower.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.follower.stop)
            self._log.close()

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

    async def _shadow_lag(self) -> tuple[int | None, shadow.Lag | None]:
        """Give the shadow's version, and how far it is behind the log."""
        moment, version, found = self._lag
        wanted = self.follower.state.shadow
        if wanted is not None and (version != wanted or time.monotonic() - moment > LAG_SECONDS):
            try:
                found = await asyncio.to_thread(shadow.lag, self.pipeline, wanted, self.settings)
            except (PredictionLogError, OSError) as error:
                logger.warning("the shadow's lag cannot be told: %s", error)
                found = None
            self._lag = (time.monotonic(), wanted, found)
        return wanted, found if wanted is not None else None

    async def _health(self, _: Request) -> Response:
        """Say how the server is: 200 while it answers requests, 503 before there is a model."""
        state, log = self.follower.state, self._log
        version, behind = await self._shadow_lag()
        model = state.model
        status = "no model" if model is None else "degraded" if state.error or (log and log.error) else "ok"
        health = {
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
            "shadow": {
                "version": str(version) if version is not None else None,
                "lag_rows": behind.rows if behind else None,
                "lag_seconds": behind.seconds if behind else None,
                "scorer": read_status(self.pipeline, self.settings),
            },
            "log": {
                "position": log.position if log else "",
                "rows": log.rows if log else 0,
                "error": log.error if log else "not open",
                "cut_bytes_at_start": log.recovery.cut_bytes if log else 0,
                "damaged_bytes_at_start": log.recovery.damaged_bytes if log else 0,
            },
            "uptime_seconds": round(time.time() - self.started, 3),
            "pid": os.getpid(),
        }
        return JSONResponse(health, 200 if model else 503)

    async def _show_metrics(self, _: Request) -> Response:
        """Give the metrics as Prometheus reads them."""
        state, log, batcher = self.follower.state, self._log, self._batcher
        version, behind = await self._shadow_lag()
        text = self.metrics.render(
            [
                ("sundial_predictions_total", "counter", "Rows scored.", batcher.predictions if batcher else 0),
                (
                    "sundial_repeated_total",
                    "counter",
                    "Rows whose request id was answered before, from the log.",
                    batcher.repeated if batcher else 0,
                ),
                ("sundial_batches_total", "counter", "Batches scored.", batcher.batches if batcher else 0),
                ("sundial_log_rows_total", "counter", "Rows written to the log.", log.rows if log else 0),
                ("sundial_log_failing", "gauge", "1 while the log cannot be written.", float(bool(log and log.error))),
                (
                    "sundial_model_version",
                    "gauge",
                    "Version that answers.",
                    state.model.version if state.model else None,
                ),
                ("sundial_model_switches_total", "counter", "Times another version took over.", state.switches),
                ("sundial_model_failing", "gauge", "1 while the alias cannot be followed.", float(bool(state.error))),
                ("sundial_shadow_version", "gauge", "Version in shadow.", version),
                (
                    "sundial_shadow_lag_rows",
                    "gauge",
                    "Logged rows that the shadow did not score yet.",
                    behind.rows if behind else None,
                ),
                (
                    "sundial_shadow_lag_seconds",
                    "gauge",
                    "Age of the oldest of these rows.",
                    behind.seconds if behind else None,
                ),
                ("sundial_uptime_seconds", "gauge", "Seconds since the start.", time.time() - self.started),
            ]
        )
        return Response(text, headers={"content-type": CONTENT_TYPE})


async def _explain(_: Request, error: Exception) -> Response:
    """Answer what no route takes as JSON too."""
    assert isinstance(error, HTTPException)  # noqa: S101  registered for it
    hints = {404: "POST /invocations; GET /ping, /health, /version, /metrics, /openapi.json, /reports/"}
    body = {"error": error.detail, "column": None, "hint": hints.get(error.status_code, "")}
    return JSONResponse(body, error.status_code, dict(error.headers or {}))


def create_app(pipeline: str, source: ModelSource, settings: Settings, *, max_body: int = MAX_BODY) -> ModelServer:
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

    Returns
    -------
    ModelServer
        An ASGI app; its lifespan opens the log and begins to follow the aliases.
    """
    return ModelServer(pipeline, source, settings, max_body=max_body)


__all__ = ["ModelServer", "SundialError", "create_app"]
