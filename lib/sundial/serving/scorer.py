"""Scoring the prediction log with the version in shadow, batch by batch."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from sundial.errors import ArtifactCorruptError, ArtifactNotFoundError, SundialError
from sundial.formats import read_json, write_json_atomically
from sundial.serving.following import POLL_SECONDS, RETRY_SECONDS, load, warm
from sundial.serving.positions import Position
from sundial.serving.predictions import production_folder
from sundial.serving.records import decode_batch, join_features, kinds_of
from sundial.serving.schema import to_frame
from sundial.serving.shadowlog import Scores, ShadowLog, shadow_folder
from sundial.serving.sources import Loaded, ModelSource, Version
from sundial.serving.tailing import LogTail, Piece
from sundial.settings import Settings, load_settings

BATCH_ROWS = 4096
WAIT_SECONDS = 0.1  # between two looks at a log that has nothing new
STATUS_SECONDS = 1.0
LONGEST_ERROR = 500

logger = logging.getLogger("sundial.serving")


class StoppedError(Exception):
    """The scorer was told to end in the middle of a batch."""


class ShadowScorer:
    """Scores the prediction log with the version in shadow.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    source : ModelSource
        Where its models come from.
    settings : Settings
        Where the logs are.
    stop : Event, optional
        Set when it should end.
    """

    def __init__(
        self, pipeline: str, source: ModelSource, settings: Settings, stop: threading.Event | None = None
    ) -> None:
        self.pipeline = pipeline
        self.source = source
        self.settings = settings
        self.stop = stop or threading.Event()
        self._model: Loaded | None = None
        self._log: ShadowLog | None = None
        self._tail: LogTail | None = None
        self._error = ""
        self._failed: tuple[int, float] = (-1, 0.0)
        self._told = 0.0
        self._latency = 0.0

    def run(self, *, once: bool = False) -> int:
        """Score until told to stop, or with ``once`` until nothing is left.

        Returns
        -------
        int
            Rows scored.
        """
        rows, looked = 0, -POLL_SECONDS
        try:
            while not self.stop.is_set():
                if time.monotonic() - looked >= POLL_SECONDS:
                    self._look(strict=once)
                    looked = time.monotonic()
                scored = self.step()
                rows += scored
                self._tell("scoring" if scored else "waiting")
                if not scored:
                    if once:
                        break
                    self.stop.wait(WAIT_SECONDS)
        except StoppedError:
            logger.info("stopped in the middle of a batch, which will be scored again")
        finally:
            self._leave()
            self._tell("stopped", always=True)
        return rows

    def _look(self, *, strict: bool) -> None:
        """Read the alias, and begin with the version it points to."""
        try:
            wanted = self.source.alias("shadow")
            current = self._model.version if self._model else None
            if (wanted.version if wanted else None) == current:
                self._error = ""
                return
            if wanted is None:
                self._leave()
                return
            if wanted.version == self._failed[0] and time.monotonic() - self._failed[1] < RETRY_SECONDS:
                return
            self._leave()
            self._failed = (wanted.version, time.monotonic())
            self._begin(wanted)
            self._failed, self._error = (-1, 0.0), ""
        except Exception as error:
            if strict:
                raise
            message = f"{type(error).__name__}: {error}"
            if message != self._error:
                logger.exception("the shadow cannot be followed")
            self._error = message

    def _begin(self, version: Version) -> None:
        """Load a version and find where it goes on."""
        model = load(self.source, version)
        warm(model)
        gc.collect()
        gc.freeze()
        self._log = ShadowLog(
            shadow_folder(self.pipeline, version.version, self.settings),
            {"version": version.version, "threshold": model.threshold},
            begin_at=version.tags.get("shadow_from", ""),
            sync_ms=self.settings.log_sync_ms,
        )
        start = self._log.totals.position
        self._tail = LogTail(production_folder(self.pipeline, self.settings), Position.parse(start))
        self._model = model
        logger.info("version %d is in shadow, from %s", version.version, start or "the beginning of the log")

    def _leave(self) -> None:
        """Close the log of the version that was in shadow."""
        if self._log is not None:
            self._log.close()
        self._log = self._tail = self._model = None

    def step(self) -> int:
        """Score and log the next batch.

        Returns
        -------
        int
            Rows in it; 0 when there is nothing to do.
        """
        if self._model is None or self._tail is None or self._log is None:
            return 0
        before = self._tail.position
        piece = self._tail.read(BATCH_ROWS)
        if piece is None:
            return 0
        try:
            scores = self._score(piece, self._model, str(self._tail.position))
            self._log.append(scores)
        except (SundialError, OSError) as error:  # a full disk: keep the place, try again later
            logger.exception("a batch cannot be logged")
            self._error = str(error)
            self._tail = LogTail(self._tail.folder, before)
            return 0
        return len(scores.keys)

    def _score(self, piece: Piece, model: Loaded, position: str) -> Scores:
        """Score the rows of some frames."""
        begun = time.perf_counter()
        batches = [decode_batch(frame) for frame in piece.frames]
        kinds = kinds_of(piece.header)
        columns = dict(zip(kinds, join_features(batches, len(kinds)), strict=True))
        rows = piece.rows
        scores = np.full(rows, np.nan)
        errors: dict[int, str] = {}
        missing = [name for name in model.schema.features if name not in kinds]
        if missing:
            reason = f"the log holds no column {missing[0]!r}"
            errors = dict.fromkeys(range(rows), reason)
        else:
            frame = to_frame({name: kinds[name] for name in model.schema.features}, columns)
            for start in range(0, rows, BATCH_ROWS):
                self._score_rows(model, frame.iloc[start : start + BATCH_ROWS], start, scores, errors)
        elapsed = time.perf_counter() - begun
        self._latency = 1000 * elapsed / rows
        return Scores(
            position=position,
            scored_at=time.time_ns(),
            latency_ms=self._latency,
            lost_rows=piece.lost_rows,
            keys=[
                key + row
                for key, frame in ((piece.key(frame), frame) for frame in piece.frames)
                for row in range(frame.rows)
            ],
            request_ids=[request_id for batch in batches for request_id in batch.request_ids],
            served_at=[batch.served_at for batch in batches for _ in batch.request_ids],
            scores=scores.tolist(),
            decisions=model.model.decide(scores).tolist(),
            errors=errors,
        )

    def _score_rows(self, model: Loaded, frame: pd.DataFrame, start: int, scores: Any, errors: dict[int, str]) -> None:
        """Score rows; when that fails, halves of them, so that only rows that cannot be scored have an error."""
        if self.stop.is_set():
            raise StoppedError
        try:
            found = np.asarray(model.model.score(frame.reset_index(drop=True)), np.float64).reshape(len(frame))
            scores[start : start + len(frame)] = found
        except Exception as error:  # noqa: BLE001  whatever a candidate raises is evidence about it
            if len(frame) == 1:
                errors[start] = f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
                return
            half = len(frame) // 2
            self._score_rows(model, frame.iloc[:half], start, scores, errors)
            self._score_rows(model, frame.iloc[half:], start + half, scores, errors)
            return
        for row in np.flatnonzero(~np.isfinite(found)).tolist():
            errors[start + row] = "the model gives no score"

    def _tell(self, state: str, *, always: bool = False) -> None:
        """Write the status file, at most once a second."""
        if not always and time.monotonic() - self._told < STATUS_SECONDS:
            return
        self._told = time.monotonic()
        totals = self._log.totals if self._log else None
        state = "failing" if self._error and not always else state
        status = {
            "state": state if self._model or always or self._error else "idle",
            "version": self._model.version if self._model else None,
            "rows": totals.rows if totals else 0,
            "errors": totals.errors if totals else 0,
            "lost_rows": totals.lost_rows if totals else 0,
            "position": totals.position if totals else "",
            "latency_ms": round(self._latency, 6),
            "error": self._error,
            "pid": os.getpid(),
            "updated": time.time(),
        }
        try:
            write_json_atomically(status_path(self.pipeline, self.settings), status)
        except OSError as error:
            logger.warning("the shadow's status cannot be written: %s", error)


def status_path(pipeline: str, settings: Settings | None = None) -> Path:
    """Give the path of the scorer's status file."""
    return (settings or load_settings()).predictions / pipeline / "shadow" / "status.json"


def read_status(pipeline: str, settings: Settings | None = None) -> dict[str, Any]:
    """Read what the scorer last said of itself.

    Returns
    -------
    dict
        state, version, rows, errors, lost_rows, position, latency_ms, error, pid, updated, and ``running``: whether
        that process is there. Empty when no scorer ever ran.
    """
    try:
        status = dict(read_json(status_path(pipeline, settings)))
    except (ArtifactNotFoundError, ArtifactCorruptError):
        return {}
    return {**status, "running": status["state"] != "stopped" and psutil.pid_exists(status["pid"])}
