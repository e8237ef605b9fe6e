"""The instant shadow: a version scores the logged traffic of past days at full speed, marked as replayed.

What a mirror of live traffic needs a week for takes seconds, since production's requests are all in the log. It says at
once how a candidate differs, what it cannot answer, and how fast it is. It says less about who is right,
since labels that were known when the candidate was trained may be in its training set.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sundial.errors import ServiceError, SettingsError
from sundial.serving.positions import Position
from sundial.serving.predictions import log_position
from sundial.serving.scorer import Past, VersionScorer
from sundial.serving.shadowlog import REPLAYED, read_beginning, shadow_folder
from sundial.serving.sources import ModelSource, RegistrySource, Version
from sundial.settings import Settings, load_settings, parse_duration

HOUR = 3_600_000_000_000  # nanoseconds


@dataclass(frozen=True)
class Replayed:
    """What became of a replay.

    Attributes
    ----------
    version : int
        Which version.
    rows, errors : int
        Rows that have a score or an error by now, and those with an error; also those of an earlier, equal replay.
    new_rows : int
        Rows of this time.
    seconds : float
        How long this time took, without loading the model.
    folder : Path
        Where the scores are.
    """

    version: int
    rows: int
    errors: int
    new_rows: int
    seconds: float
    folder: Path


def parse_since(text: str) -> timedelta | date:
    """Read how far back a replay goes: a duration, or the first day of events.

    Parameters
    ----------
    text : str
        Such as ``"7d"``, ``"12 hours"`` or ``"2013-10-07"``.

    Returns
    -------
    timedelta or date

    Raises
    ------
    SettingsError
        When it is neither.

    Examples
    --------
    >>> parse_since("7d").days
    7
    >>> parse_since("2013-10-07").year
    2013
    """
    short = {"d": "day", "h": "hour", "m": "minute", "w": "week"}
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    if text[:-1].isdecimal() and text[-1] in short:
        return parse_duration(f"{text[:-1]} {short[text[-1]]}")
    try:
        return parse_duration(text)
    except SettingsError as error:
        raise SettingsError(
            f"{text!r} says neither how long ago nor a day", hint="write 7d, '12 hours' or 2013-10-07"
        ) from error


def replay_shadow(
    pipeline: str,
    since: timedelta | date,
    settings: Settings | None = None,
    *,
    version: int | None = None,
    source: ModelSource | None = None,
    progress: Callable[[int], None] | None = None,
) -> Replayed:
    """Score logged traffic of the past with a version.

    Rows that were logged after the version came to the shadow are left to the scorer; a repeat scores only what is new.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    since : timedelta or date
        How long ago the first rows were served (by the full hour), or the first day of events.
    settings : Settings, optional
        Read from the environment by default.
    version : int, optional
        The version that alias ``shadow`` points to by default.
    source : ModelSource, optional
        Where models come from; the registry by default.
    progress : callable, optional
        Told the rows scored so far.

    Returns
    -------
    Replayed

    Raises
    ------
    VersionNotFoundError
        When there is no such version.
    ServiceError
        When no version is given and none is in shadow.
    PredictionLogError
        When another process replays the same.
    """
    settings = settings or load_settings()
    found = _find_version(pipeline, version, source := source or RegistrySource(pipeline, settings))
    live = shadow_folder(pipeline, found.version, settings)
    until = read_beginning(live)
    if until is None:
        until = found.tags.get("shadow_from") or log_position(pipeline, settings)
    served_from = events_from = 0
    if isinstance(since, timedelta):
        served_from = (time.time_ns() - since // timedelta(microseconds=1) * 1000) // HOUR * HOUR
        name = f"served-{datetime.fromtimestamp(served_from / 1e9, UTC):%Y%m%dT%H}"
    else:
        events_from = (since - date(1970, 1, 1)) // timedelta(microseconds=1)
        name = f"events-{since:%Y%m%d}"
    folder = live / REPLAYED / name
    past = Past(folder, "", Position.parse(until), served_from, events_from)
    scorer = VersionScorer(pipeline, found, source, settings, past=past)
    begun, rows = time.monotonic(), 0
    try:
        while scored := scorer.step():
            rows += scored
            if progress is not None:
                progress(rows)
        about = scorer.describe("stopped")
    finally:
        scorer.close()
    if scorer.error:
        raise ServiceError(f"the replay stopped after {rows:,} rows: {scorer.error}")
    return Replayed(found.version, about["rows"], about["errors"], rows, time.monotonic() - begun, folder)


def _find_version(pipeline: str, version: int | None, source: ModelSource) -> Version:
    if version is not None:
        return source.version(version)
    found = source.shadows().get("shadow")
    if found is None:
        raise ServiceError(f"{pipeline} has no version in shadow", hint="name one: --version 3")
    return found
