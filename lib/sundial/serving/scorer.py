"""Scoring the prediction log with one version, batch by batch."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sundial.errors import SundialError
from sundial.serving.chunks import Chunk, ChunkTail
from sundial.serving.following import load, warm
from sundial.serving.positions import WRITER_BITS, Position
from sundial.serving.shadowlog import Scores, ShadowLog, shadow_folder
from sundial.serving.sources import ModelSource, Version
from sundial.serving.status import describe_shadow
from sundial.serving.stores import open_tail
from sundial.serving.watch import Watch
from sundial.settings import Settings

BATCH_ROWS = 4096
PAST_ROWS = 16_384  # nobody waits for a part of these
LONGEST_ERROR = 500

logger = logging.getLogger("sundial.serving")


class StoppedError(Exception):
    """The scorer was told to end in the middle of a batch."""


class OutOfMemoryError(Exception):
    """The model wanted more memory than a shadow may have; only a new process gets rid of what it took."""


@dataclass(frozen=True)
class Orders:
    """What a process is told about the rows at which the one before it stalled or died.

    Attributes
    ----------
    unit : int
        Rows to score in one go, up to and with row ``until``.
    until : int
        Key of that row; -1 for no such row.
    condemned : mapping of int to str
        Rows that are not to be scored any more, by key, and why: that is their error.
    give_up : str
        Why the whole batch with row ``until`` is not to be scored any more; empty to go on with it.
    """

    unit: int = BATCH_ROWS
    until: int = -1
    condemned: Mapping[int, str] = field(default_factory=dict)
    give_up: str = ""


@dataclass(frozen=True)
class Past:
    """A part of the log that was there before a version came to the shadow.

    Attributes
    ----------
    folder : Path
        Where its scores go.
    begin_at : str
        Position to begin at.
    until : Position
        Where to stop.
    served_from : int
        Only rows that were served then or later, nanoseconds since 1970, UTC; 0 for all.
    events_from : int
        Only rows whose event time is then or later, microseconds since 1970 on the wall clock; 0 for all.
    """

    folder: Path
    begin_at: str
    until: Position
    served_from: int = 0
    events_from: int = 0

    def covers(self, chunk: Chunk) -> npt.NDArray[np.bool_]:
        """Tell which rows are in it."""
        kept = chunk.served_at >= self.served_from
        if self.events_from:
            missing = chunk.event_times == np.iinfo(np.int64).min
            kept &= np.where(missing, chunk.served_at // 1000, chunk.event_times) >= self.events_from
        return kept


class VersionScorer:
    """Scores the prediction log with one version.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    version : Version
        What scores.
    source : ModelSource
        Where it comes from.
    settings : Settings
        Where the logs are.
    stop : Event, optional
        Set when it should end.
    watch : Watch, optional
        Told what is under way.
    orders : Orders, optional
        What earlier processes learned.
    past : Past, optional
        Score this part of the log that is there already, instead of following it.

    Attributes
    ----------
    error : str
        Why the last batch could not be logged; empty while all is well.

    Raises
    ------
    SundialError
        When the version cannot be loaded, or its log not written.
    """

    def __init__(
        self,
        pipeline: str,
        version: Version,
        source: ModelSource,
        settings: Settings,
        *,
        stop: threading.Event | None = None,
        watch: Watch | None = None,
        orders: Orders | None = None,
        past: Past | None = None,
    ) -> None:
        self.version = version.version
        self.error = ""
        self._stop = stop or threading.Event()
        self._watch = watch
        self._orders = orders or Orders()
        self._past = past
        self._latency = 0.0
        if watch is not None:
            watch.begin(-1, 0)
        self._model = load(source, version)
        warm(self._model)
        gc.collect()
        gc.freeze()
        if watch is not None:
            watch.end()
        self._log = ShadowLog(
            past.folder if past else shadow_folder(pipeline, self.version, settings),
            {"version": self.version, "threshold": self._model.threshold},
            begin_at=past.begin_at if past else version.tags.get("shadow_from", ""),
            sync_ms=settings.log_sync_ms,
        )
        start = Position.parse(self._log.totals.position)
        until = past.until if past else None
        self._open_tail: Callable[[Position], ChunkTail] = partial(open_tail, pipeline, settings, until=until)
        self._tail: ChunkTail = self._open_tail(start)
        logger.info("version %d is in shadow, from %s", self.version, start or "the beginning of the log")

    @property
    def unit(self) -> int:
        """Most rows of one step."""
        return self._orders.unit

    def close(self) -> None:
        """Close the log, and let go of the one that is read."""
        self._tail.close()
        self._log.close()

    def describe(self, state: str) -> dict[str, Any]:
        """Say how it is; see :func:`describe_shadow`."""
        return describe_shadow(self.version, self._log.totals, state=state, latency_ms=self._latency, error=self.error)

    def step(self) -> int:
        """Score and log the next batch.

        Returns
        -------
        int
            Rows in it; 0 when there is nothing to do.

        Raises
        ------
        StoppedError
            When it was told to end meanwhile; the batch will be scored again.
        OutOfMemoryError
            When it is watched, and the model wants more memory than it may have.
        """
        before = self._tail.position
        try:
            chunk = self._read()
            if chunk is None:
                return 0
            self._log.append(self.score(chunk))
        except (SundialError, OSError) as error:  # a full disk: keep the place, try again later
            if str(error) != self.error:
                logger.exception("a batch cannot be logged")
            self.error = str(error)
            self._tail.close()
            self._tail = self._open_tail(before)
            return 0
        self.error = ""
        if self._watch is not None:
            self._watch.logged()
        if chunk.keys[-1] >= self._orders.until and chunk.keys[0] >> WRITER_BITS == self._orders.until >> WRITER_BITS:
            self._orders = Orders()
        return len(chunk)

    def _read(self) -> Chunk | None:
        """Read the next rows that are this shadow's to score."""
        if self._past is None:
            return self._tail.read(self._orders.unit)
        while (chunk := self._tail.read(PAST_ROWS)) is not None:
            chunk = chunk.where(self._past.covers(chunk))
            if len(chunk):
                return chunk
        return None

    def score(self, chunk: Chunk) -> Scores:
        """Score the rows of a batch; a row that cannot be scored gets an error instead."""
        begun = time.perf_counter()
        scores = np.full(len(chunk), np.nan)
        errors: dict[int, str] = {}
        features = self._model.schema.features
        missing = [name for name in features if name not in chunk.kinds]
        careful = self._orders.until in chunk.keys
        if missing:
            errors = dict.fromkeys(range(len(chunk)), f"the log holds no column {missing[0]!r}")
        else:
            if careful and self._orders.give_up:
                errors = dict.fromkeys(range(len(chunk)), self._orders.give_up)
            for key, reason in self._orders.condemned.items():
                errors |= dict.fromkeys(np.flatnonzero(chunk.keys == key).tolist(), reason)
            rows = np.setdiff1d(np.arange(len(chunk)), list(errors)) if errors else np.arange(len(chunk))
            frame = chunk.frame(features)
            for start in range(0, len(rows), self._orders.unit):
                self._score_rows(frame, rows[start : start + self._orders.unit], chunk.keys, scores, errors)
        elapsed = time.perf_counter() - begun
        self._latency = 1000 * elapsed / len(chunk)
        return Scores(
            position=str(chunk.position),
            scored_at=time.time_ns(),
            latency_ms=self._latency,
            lost_rows=chunk.lost_rows,
            keys=chunk.keys.tolist(),
            request_ids=chunk.request_ids,
            served_at=chunk.served_at.tolist(),
            scores=scores.tolist(),
            decisions=self._model.model.decide(scores).tolist(),
            errors=errors,
        )

    def _score_rows(
        self, frame: Any, rows: npt.NDArray[np.int64], keys: npt.NDArray[np.int64], scores: Any, errors: dict[int, str]
    ) -> None:
        """Score rows; when that fails, halves of them, so that only rows that cannot be scored have an error."""
        if self._stop.is_set():
            raise StoppedError
        part = frame if len(rows) == len(frame) else frame.iloc[rows].reset_index(drop=True)
        if self._watch is not None:
            self._watch.begin(int(keys[rows[0]]), len(rows))
        try:
            found = np.asarray(self._model.model.score(part), np.float64).reshape(len(rows))
        except Exception as error:  # whatever a candidate raises is evidence about it
            if isinstance(error, MemoryError) and self._watch is not None:
                raise OutOfMemoryError from error  # the watch still says at which rows
            self._rest()
            if len(rows) == 1:
                errors[int(rows[0])] = f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
                return
            half = len(rows) // 2
            self._score_rows(frame, rows[:half], keys, scores, errors)
            self._score_rows(frame, rows[half:], keys, scores, errors)
            return
        self._rest()
        scores[rows] = found
        for row in rows[~np.isfinite(found)].tolist():
            errors[row] = "the model gives no score"

    def _rest(self) -> None:
        if self._watch is not None:
            self._watch.end()
