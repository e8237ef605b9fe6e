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
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from sundial.errors import PredictionLogError, RequestError
from sundial.serving.answers import Answer
from sundial.serving.jobs import Fresh, Job, Plan, Reply, Waiter, answers_of, fill
from sundial.serving.predictions import PredictionLog
from sundial.serving.records import Batch
from sundial.serving.sources import Loaded

if TYPE_CHECKING:
    from sundial.serving.postgres import PostgresLog

BATCH_ROWS = 2048  # rows scored in one go; more wait for the next turn, so that the loop stays responsive
WAITING_ROWS = 20_000  # rows that may wait, at most; beyond them callers are told to come back
WAITING_SECONDS = 1.0  # and no more than are scored in this time, as measured: what is accepted is answered soon
TELLING_ROWS = 64
LEARNING = 0.2  # weight of the latest batch in the measured time of a row

Waiting = TypeVar("Waiting", bound=Waiter)
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


class Batcher:
    """Scores requests in batches.

    Parameters
    ----------
    current : callable
        Gives the model that answers now; called once a batch.
    log : PredictionLog
        Written before anybody is answered.
    """

    def __init__(self, current: Callable[[], Loaded | None], log: PredictionLog | PostgresLog) -> None:
        self._current = current
        self._log = log
        self._jobs: list[Job] = []
        self._rows = 0
        self._scheduled = False
        self._row_seconds = WAITING_SECONDS / WAITING_ROWS
        self._prefix = secrets.token_hex(8)
        self._numbered = 0
        self._unsynced: list[tuple[Job, Reply]] = []
        self._syncing: asyncio.Task[None] | None = None
        self.predictions = 0
        self.repeated = 0
        self.batches = 0

    def submit(self, body: bytes, arrived: float, waiter: Waiting) -> Waiting:
        """Check a request and let it wait for the end of this turn of the event loop.

        Parameters
        ----------
        body : bytes
            What the caller sent.
        arrived : float
            When, by ``time.perf_counter``.
        waiter : Waiter
            Told of the reply, or of why there is none.

        Returns
        -------
        Waiter
            The same.

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
        request = model.reader.read(body)
        if self._rows and self._rows + request.rows > self.most_rows:
            wait = math.ceil(self._rows * self._row_seconds)
            raise UnavailableError(f"{self._rows:,} rows are waiting to be scored", retry_after=max(wait, 1))
        self._jobs.append(Job(body, request, model.schema, arrived, waiter))
        self._rows += request.rows
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)
        return waiter

    @property
    def most_rows(self) -> int:
        """Rows that may wait, as fast as they are scored now; one request may always."""
        return min(WAITING_ROWS, max(int(WAITING_SECONDS / self._row_seconds), TELLING_ROWS))

    def _learn(self, rows: int, seconds: float) -> None:
        """Learn from a batch how long a row takes when many are scored; a small batch tells of its own cost."""
        if rows >= TELLING_ROWS:
            self._row_seconds += LEARNING * (seconds / rows - self._row_seconds)

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
        begun = time.perf_counter()
        try:
            self._answer(self._recheck(jobs, model), model)
        except Exception as error:  # a caller must never wait for ever
            logger.exception("a batch of %d requests failed", len(jobs))
            for job in jobs:
                _fail(job, UnavailableError(f"the server failed: {type(error).__name__}"))
        self._learn(rows, time.perf_counter() - begun)

    def _recheck(self, jobs: list[Job], model: Loaded) -> list[Job]:
        """Check requests again that were checked for the model before this one."""
        good = []
        for job in jobs:
            if job.waiter.done():  # the caller went away
                continue
            if job.schema is not model.schema:
                try:
                    job.request, job.schema = model.reader.read(job.body), model.schema
                except RequestError as error:
                    _fail(job, error)
                    continue
            good.append(job)
        return good

    def _plan(self, jobs: list[Job]) -> list[Plan]:
        """Tell rows that are new from rows that were answered before, or that stand twice in this batch."""
        plans = []
        seen: set[str] = set()
        if asked := [job.request.request_ids for job in jobs if job.request.request_ids is not None]:
            self._log.catch_up(asked)
        for job in jobs:
            given = job.request.request_ids
            if given is None:
                plans.append(Plan(job, self._number(job.request.rows)))
                continue
            fresh: list[int] = []
            known: dict[int, Answer | str] = {}
            for row, request_id in enumerate(given):
                answer = self._log.find(request_id)
                if answer is not None:
                    known[row] = answer
                elif request_id in seen:
                    known[row] = request_id
                else:
                    seen.add(request_id)
                    fresh.append(row)
            plans.append(Plan(job, given, fresh, known) if known else Plan(job, given))
        return plans

    def _number(self, rows: int) -> list[str]:
        """Make ids for rows whose caller gave none."""
        first = self._numbered
        self._numbered += rows
        return [f"{self._prefix}-{number}" for number in range(first, first + rows)]

    def _answer(self, jobs: list[Job], model: Loaded) -> None:
        """Score, log and answer requests that fit the model."""
        plans = self._plan(jobs)
        parts = [Fresh.of(plan) for plan in plans]
        batch: Batch | None = None
        if any(part.values for part in parts):
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
            self.predictions += len(batch.request_ids)
        replies = self._reply(plans, batch, model.version)
        if self._log.syncs_itself:
            _resolve(replies)
        else:
            self._unsynced += replies
            if self._syncing is None:
                self._syncing = asyncio.get_running_loop().create_task(self._sync())

    def _score(self, parts: list[Fresh], model: Loaded) -> Batch:
        """Score the new rows of all requests as one table."""
        columns: list[Any] = list(zip(*chain.from_iterable(part.values for part in parts), strict=True))
        found = model.score(columns)
        scores = found.tolist()
        if not all(map(math.isfinite, scores)):
            raise RequestError("the model gives no score for a row", status=422)
        now = time.perf_counter()
        return Batch(
            version=model.version,
            threshold=model.threshold,
            served_at=time.time_ns(),
            request_ids=list(chain.from_iterable(part.request_ids for part in parts)),
            entities=fill([part.entities for part in parts], parts),
            event_times=fill([part.event_times for part in parts], parts),
            features=columns,
            scores=scores,
            decisions=model.model.decide(found).tolist(),
            latencies=list(
                chain.from_iterable([1000 * (now - part.arrived)] * len(part.request_ids) for part in parts)
            ),
        )

    def _isolate(self, jobs: list[Job], model: Loaded, error: Exception) -> None:
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

    def _reply(self, plans: list[Plan], batch: Batch | None, version: int) -> list[tuple[Job, Reply]]:
        """Give each request its part of the batch."""
        replies = []
        name = str(version)
        scores, decisions = (batch.scores, batch.decisions) if batch else ([], [])
        start = 0
        written: dict[str, Answer] | None = None
        for plan in plans:
            if plan.known:
                if written is None:
                    written = answers_of(batch) if batch else {}
                replies.append((plan.job, self._repeat(plan.request_ids, plan.known, written)))
                start += len(plan.fresh or ())
                continue
            end = start + len(plan.request_ids)
            reply = Reply(scores[start:end], decisions[start:end], plan.request_ids, name if end > start else "")
            replies.append((plan.job, reply))
            start = end
        return replies

    def _repeat(self, request_ids: list[str], known: dict[int, Answer | str], written: dict[str, Answer]) -> Reply:
        """Answer a request some of whose rows were answered before."""
        self.repeated += len(known)
        answers = [
            answer if isinstance(answer := known.get(row, request_id), Answer) else written[answer]
            for row, request_id in enumerate(request_ids)
        ]
        return Reply(
            [answer.score for answer in answers],
            [answer.decision for answer in answers],
            request_ids,
            str(answers[0].version),
            [str(answer.version) for answer in answers],
        )

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


def _fail(job: Job, error: Exception) -> None:
    if not job.waiter.done():
        job.waiter.set_exception(error)


def _resolve(replies: list[tuple[Job, Reply]]) -> None:
    for job, reply in replies:
        if not job.waiter.done():
            job.waiter.set_result(reply)
