"""Tick batching: whatever arrived in one turn of the event loop is scored together, logged once, then answered.

At low load a request waits for nobody; under load batches grow by themselves. No timer, no thread, no queue between.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from sundial.errors import PredictionLogError, RequestError
from sundial.serving.predictions import Answer, PredictionLog
from sundial.serving.records import Batch
from sundial.serving.schema import Payload, Request, Schema
from sundial.serving.sources import Loaded

BATCH_ROWS = 2048  # rows scored in one go; more wait for the next turn, so that the loop stays responsive
WAITING_ROWS = 20_000  # rows that may wait; beyond them callers are told to come back

logger = logging.getLogger("sundial.serving")


class UnavailableError(Exception):
    """The server cannot answer now; the caller may try again.

    Parameters
    ----------
    message : str
        Why.
    retry_after : int
        Seconds.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Reply(NamedTuple):
    """What a request is answered.

    Attributes
    ----------
    request_ids : list of str
        A row each.
    answers : list of Answer
        A row each.
    repeated : bool
        Whether some of them were given before, and come from the log.
    """

    request_ids: list[str]
    answers: list[Answer]
    repeated: bool


@dataclass(slots=True)
class _Job:
    """A request that waits for its turn."""

    payload: Payload
    request: Request
    schema: Schema
    arrived: float
    future: asyncio.Future[Reply]


@dataclass(slots=True)
class _Plan:
    """Which rows of a job are new, and which were answered before."""

    job: _Job
    request_ids: list[str]
    fresh: list[int] | None  # row numbers; None when all are
    known: dict[int, Answer | str] = field(default_factory=dict)  # an id stands for a row of this very batch


class Batcher:
    """Scores requests in batches.

    Parameters
    ----------
    current : callable
        Gives the model that answers now; called once a batch.
    log : PredictionLog
        Written before anybody is answered.
    """

    def __init__(self, current: Callable[[], Loaded | None], log: PredictionLog) -> None:
        self._current = current
        self._log = log
        self._jobs: list[_Job] = []
        self._rows = 0
        self._scheduled = False
        self._prefix = secrets.token_hex(8)
        self._numbered = 0
        self._unsynced: list[tuple[_Job, Reply]] = []
        self._syncing: asyncio.Task[None] | None = None
        self.predictions = 0
        self.repeated = 0
        self.batches = 0

    def submit(self, payload: Payload, arrived: float) -> asyncio.Future[Reply]:
        """Check a request and let it wait for the end of this turn of the event loop.

        Parameters
        ----------
        payload : Payload
            What the caller sent.
        arrived : float
            When, by ``time.perf_counter``.

        Returns
        -------
        Future of Reply

        Raises
        ------
        RequestError
            When it is not what the model takes.
        UnavailableError
            When there is no model, or too many wait.
        """
        model = self._current()
        if model is None:
            raise UnavailableError("there is no model in production yet", retry_after=5)
        if self._rows and self._rows + payload.rows > WAITING_ROWS:
            raise UnavailableError(f"{self._rows:,} rows are waiting to be scored")
        request = model.schema.check(payload)
        loop = asyncio.get_running_loop()
        job = _Job(payload, request, model.schema, arrived, loop.create_future())
        self._jobs.append(job)
        self._rows += payload.rows
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush)
        return job.future

    def _flush(self) -> None:
        """Answer what waits, up to a batch."""
        taken, rows = 0, 0
        while taken < len(self._jobs) and (taken == 0 or rows + self._jobs[taken].request.rows <= BATCH_ROWS):
            rows += self._jobs[taken].request.rows
            taken += 1
        jobs, self._jobs = self._jobs[:taken], self._jobs[taken:]
        self._rows -= rows
        self._scheduled = bool(self._jobs)
        if self._jobs:
            asyncio.get_running_loop().call_soon(self._flush)
        model = self._current()
        assert model is not None  # noqa: S101  submit saw one, and a model is only ever replaced by another
        self.batches += 1
        try:
            self._answer(self._recheck(jobs, model), model)
        except Exception as error:  # a caller must never wait for ever
            logger.exception("a batch of %d requests failed", len(jobs))
            for job in jobs:
                _fail(job, UnavailableError(f"the server failed: {type(error).__name__}"))

    def _recheck(self, jobs: list[_Job], model: Loaded) -> list[_Job]:
        """Check requests again that were checked for the model before this one."""
        good = []
        for job in jobs:
            if job.future.done():  # the caller went away
                continue
            if job.schema is not model.schema:
                try:
                    job.request, job.schema = model.schema.check(job.payload), model.schema
                except RequestError as error:
                    _fail(job, error)
                    continue
            good.append(job)
        return good

    def _plan(self, jobs: list[_Job]) -> list[_Plan]:
        """Tell rows that are new from rows that were answered before, or that stand twice in this batch."""
        plans = []
        seen: set[str] = set()
        for job in jobs:
            given = job.request.request_ids
            if given is None:
                plans.append(_Plan(job, self._number(job.request.rows), None))
                continue
            plan = _Plan(job, given, [])
            fresh: list[int] = []
            for row, request_id in enumerate(given):
                answer = self._log.find(request_id)
                if answer is not None:
                    plan.known[row] = answer
                elif request_id in seen:
                    plan.known[row] = request_id
                else:
                    seen.add(request_id)
                    fresh.append(row)
            plan.fresh = None if len(fresh) == job.request.rows else fresh
            plans.append(plan)
        return plans

    def _number(self, rows: int) -> list[str]:
        """Make ids for rows whose caller gave none."""
        first = self._numbered
        self._numbered += rows
        return [f"{self._prefix}-{number}" for number in range(first, first + rows)]

    def _answer(self, jobs: list[_Job], model: Loaded) -> None:
        """Score, log and answer requests that fit the model."""
        plans = self._plan(jobs)
        parts = [_Fresh.of(plan) for plan in plans if plan.fresh is None or plan.fresh]
        written: dict[str, Answer] = {}
        if any(part.request_ids for part in parts):
            try:
                batch = self._score(parts, model)
                self._log.append(batch, model.schema)
            except PredictionLogError as error:
                for job in jobs:
                    _fail(job, UnavailableError(error.message))
                return
            except Exception as error:  # noqa: BLE001  whatever a model raises, others are answered
                self._isolate(jobs, model, error)
                return
            written = {
                request_id: Answer(score, decision, model.version)
                for request_id, score, decision in zip(batch.request_ids, batch.scores, batch.decisions, strict=True)
            }
            self.predictions += len(written)
        replies = [(plan.job, self._reply(plan, written)) for plan in plans]
        if self._log.syncs_itself:
            _resolve(replies)
        else:
            self._unsynced += replies
            if self._syncing is None:
                self._syncing = asyncio.get_running_loop().create_task(self._sync())

    def _score(self, parts: list[_Fresh], model: Loaded) -> Batch:
        """Score the new rows of all requests as one table."""
        columns = _join([part.columns for part in parts])
        scores = model.model.score(model.schema.frame(columns)).tolist()
        if not all(map(math.isfinite, scores)):
            raise RequestError("the model gives no score for a row", status=422)
        decisions = model.model.decide(scores).tolist()
        request_ids = list(chain.from_iterable(part.request_ids for part in parts))
        now = time.perf_counter()
        return Batch(
            version=model.version,
            threshold=model.threshold,
            served_at=time.time_ns(),
            request_ids=request_ids,
            entities=_fill([part.entities for part in parts], parts),
            event_times=_fill([part.event_times for part in parts], parts),
            features=columns,
            scores=scores,
            decisions=decisions,
            latencies=list(
                chain.from_iterable([1000 * (now - part.arrived)] * len(part.request_ids) for part in parts)
            ),
        )

    def _isolate(self, jobs: list[_Job], model: Loaded, error: Exception) -> None:
        """Answer one by one, since one request made the model fail; only that one is refused."""
        if len(jobs) > 1:
            for job in jobs:
                self._answer([job], model)
            return
        if isinstance(error, RequestError):
            _fail(jobs[0], RequestError(error.message, status=422, column=error.column, hint=error.hint))
        elif isinstance(error, ValueError | TypeError | KeyError | ArithmeticError):
            logger.warning("version %d cannot score a request: %r", model.version, error)
            reason = f"version {model.version} cannot score this request: {type(error).__name__}: {error}"
            _fail(jobs[0], RequestError(reason, status=422))
        else:
            logger.error("version %d failed to score", model.version, exc_info=error)
            _fail(jobs[0], UnavailableError(f"version {model.version} failed to score: {type(error).__name__}"))

    def _reply(self, plan: _Plan, written: dict[str, Answer]) -> Reply:
        if not plan.known:
            return Reply(plan.request_ids, [written[request_id] for request_id in plan.request_ids], False)
        self.repeated += len(plan.known)
        answers = [
            known if isinstance(known := plan.known.get(row, request_id), Answer) else written[known]
            for row, request_id in enumerate(plan.request_ids)
        ]
        return Reply(plan.request_ids, answers, True)

    async def _sync(self) -> None:
        """Sync, then answer all that was written before the sync began; again while more was written meanwhile."""
        loop = asyncio.get_running_loop()
        while self._unsynced:
            waiting, self._unsynced = self._unsynced, []
            try:
                await loop.run_in_executor(None, self._log.sync)
            except PredictionLogError as error:
                for job, reply in waiting:
                    self._log.forget(reply.request_ids)
                    _fail(job, UnavailableError(error.message))
                continue
            _resolve(waiting)
        self._syncing = None


class _Fresh(NamedTuple):
    """The new rows of one request."""

    request_ids: list[str]
    columns: list[list[Any]]
    entities: list[Any] | None
    event_times: list[Any] | None
    arrived: float

    @classmethod
    def of(cls, plan: _Plan) -> _Fresh:
        request, rows = plan.job.request, plan.fresh
        entities, times = request.entities, request.event_times
        if rows is None:
            return cls(plan.request_ids, request.columns, entities, times, plan.job.arrived)
        return cls(
            [plan.request_ids[row] for row in rows],
            [[column[row] for row in rows] for column in request.columns],
            None if entities is None else [entities[row] for row in rows],
            None if times is None else [times[row] for row in rows],
            plan.job.arrived,
        )


def _join(tables: list[list[list[Any]]]) -> list[list[Any]]:
    """Put tables of columns end to end."""
    if len(tables) == 1:
        return tables[0]
    return [list(chain.from_iterable(columns)) for columns in zip(*tables, strict=True)]


def _fill(columns: list[list[Any] | None], parts: list[_Fresh]) -> list[Any]:
    """Put columns end to end, with None for requests that have none; empty when no request has any."""
    if all(column is None for column in columns):
        return []
    return list(
        chain.from_iterable(
            [None] * len(part.request_ids) if column is None else column
            for column, part in zip(columns, parts, strict=True)
        )
    )


def _fail(job: _Job, error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)


def _resolve(replies: list[tuple[_Job, Reply]]) -> None:
    for job, reply in replies:
        if not job.future.done():
            job.future.set_result(reply)
