"""The shadow scorer: a process of its own that reads the prediction log and answers what production answered.

It can be slow, crash, hang or eat memory: production never waits for it, and its log says what it scored and what it
could not. It follows the alias ``shadow`` and every alias ``shadow-NAME``, each version in a process and with a log of
its own (``supervision.py``); a version that it has never scored begins where its tag ``shadow_from`` says, else at the
beginning of the log.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from sundial.errors import ServiceError, SundialError
from sundial.serving.positions import Position
from sundial.serving.priority import give_way
from sundial.serving.process import limit_threads, stopping
from sundial.serving.scorer import VersionScorer
from sundial.serving.shadowlog import REPLAYED, decode_scores, read_totals, replay_folders, shadow_folder
from sundial.serving.sources import ModelSource, RegistrySource
from sundial.serving.status import read_status, write_shadow_status, write_status
from sundial.serving.stores import count_after, find_end
from sundial.serving.supervision import ShadowSupervisor, follow
from sundial.serving.tailing import iterate
from sundial.settings import Settings, load_settings

NICENESS = 10


class Lag(NamedTuple):
    """How far a shadow is behind the prediction log.

    Attributes
    ----------
    rows : int
        Rows that are logged and not scored.
    seconds : float
        Age of the oldest of them; 0 when there is none.
    started : bool
        Whether a scorer ever began with this version; before, all of the log counts.
    """

    rows: int
    seconds: float
    started: bool


def lag(pipeline: str, version: int, settings: Settings | None = None, *, until: Position | None = None) -> Lag:
    """Say how far a shadow is behind.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    version : int
        The version in shadow.
    settings : Settings, optional
        Read from the environment by default.
    until : Position, optional
        Count only what was logged before this; all of it by default.

    Returns
    -------
    Lag
    """
    settings = settings or load_settings()
    totals = read_totals(shadow_folder(pipeline, version, settings))
    start = Position.parse(totals.position) if totals else Position()
    rows, oldest = count_after(pipeline, settings, start, until)
    return Lag(rows, max(time.time() - oldest / 1e9, 0.0) if oldest else 0.0, totals is not None)


def wait_until_caught_up(pipeline: str, version: int, timeout: float = 60.0, settings: Settings | None = None) -> Lag:
    """Wait until a shadow has scored all that is logged now.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    version : int
        The version in shadow.
    timeout : float
        Seconds.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    Lag
        With no rows.

    Raises
    ------
    ServiceError
        When it does not get there in time; says how far it is, and whether a scorer runs at all.
    """
    settings = settings or load_settings()
    deadline = time.monotonic() + timeout
    target = find_end(pipeline, settings)
    while True:
        behind = lag(pipeline, version, settings, until=target)
        if behind.started and behind.rows == 0:
            return behind
        if time.monotonic() >= deadline:
            break
        time.sleep(0.05)
    status = read_status(pipeline, settings)
    own = next((item for item in status.get("shadows", {}).values() if item["version"] == version), None)
    if not status.get("running"):
        reason, hint = "no shadow scorer is running", "start it with 'sundial shadow'"
    else:
        reason = f"its scorer is {own['state']}" if own else "the scorer knows of no such shadow"
        reason += f": {own['error']}" if own and own["error"] else ""
        hint = "see /health of the model server, and the scorer's log"
    raise ServiceError(
        f"version {version} of {pipeline} has {behind.rows:,} logged rows to score after {timeout:.0f} s: {reason}",
        hint=hint,
    )


def read_shadow_scores(pipeline: str, version: int, settings: Settings | None = None) -> pd.DataFrame:
    """Read what a shadow answered.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    version : int
        A version that is or was in shadow.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    DataFrame
        A row a request id, like :func:`sundial.serving.predictions.read_log`: request_id, score (NaN where there is an
        error), decision, error (empty when there is none), scored_at (UTC), latency_ms, key (of the row in the log),
        replayed (whether it was scored from the log of the past, by ``sundial shadow --since``, and not as it came).
    """
    parts, replays = [], []
    for folder in (shadow_folder(pipeline, version, settings), *replay_folders(pipeline, version, settings)):
        found = [decode_scores(frame.payload) for piece in iterate(folder) for frame in piece.frames]
        parts += found
        replays += [folder.parent.name == REPLAYED] * len(found)
    sizes = [len(part.keys) for part in parts]
    errors = [part.errors.get(row, "") for part in parts for row in range(len(part.keys))]
    scores = np.array([score for part in parts for score in part.scores], np.float64)
    table = pd.DataFrame(
        {
            "request_id": pd.array([item for part in parts for item in part.request_ids], dtype="str"),
            "score": np.where(np.array(errors, object) == "", scores, np.nan) if errors else scores,
            "decision": np.array([item for part in parts for item in part.decisions], np.bool_),
            "error": pd.array(errors, dtype="str"),
            "scored_at": pd.DatetimeIndex(
                np.repeat(np.array([part.scored_at for part in parts], "datetime64[ns]"), sizes), tz="UTC"
            ),
            "latency_ms": np.repeat(np.array([part.latency_ms for part in parts], np.float64), sizes),
            "key": np.array([key for part in parts for key in part.keys], np.int64),
            "replayed": np.repeat(np.array(replays, np.bool_), sizes),
        }
    )
    served = np.array([item for part in parts for item in part.served_at], np.int64)
    table = table.iloc[np.lexsort((table["replayed"], table["key"], served))]  # what came live first
    return table.drop_duplicates("request_id", keep="first").reset_index(drop=True)


def score_shadow(
    pipeline: str,
    settings: Settings | None = None,
    *,
    once: bool = False,
    source: ModelSource | None = None,
) -> int:
    """Run the shadow scorer until SIGTERM or SIGINT, or with ``once`` until nothing is left to score.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    settings : Settings, optional
        Read from the environment by default.
    once : bool
        Score what is logged now and stop.
    source : ModelSource, optional
        Where models come from; the registry by default.

    Returns
    -------
    int
        Rows scored with ``once``, by all shadows together; else 0.

    Raises
    ------
    PredictionLogError
        With ``once``, when another scorer runs.
    """
    settings = settings or load_settings()
    source = source or RegistrySource(pipeline, settings)
    with stopping() as stop:
        if once:
            return _score_once(pipeline, source, settings, stop)
        limit_threads()
        give_way(NICENESS)  # production comes first
        ShadowSupervisor(pipeline, source, settings, stop).run()
    return 0


def _score_once(pipeline: str, source: ModelSource, settings: Settings, stop: threading.Event) -> int:
    """Let each shadow score what is left, in this process, one after the other."""
    rows, found = 0, {}
    for alias, version in source.shadows().items():
        scorer = VersionScorer(pipeline, version, source, settings, stop=stop)
        try:
            rows += follow(scorer, stop, lambda about: write_shadow_status(pipeline, settings, about), once=True)
            found[alias] = scorer.describe("stopped")
        finally:
            scorer.close()
    write_status(pipeline, settings, found, state="stopped")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the shadow scorer from the command line."""
    parser = argparse.ArgumentParser(prog="python -m sundial.serving.shadow", description=main.__doc__)
    parser.add_argument("--pipeline", required=True, help="folder under notebooks/")
    parser.add_argument("--once", action="store_true", help="score what is logged now, and stop")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        score_shadow(arguments.pipeline, once=arguments.once)
    except SundialError as error:
        print(f"sundial: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
