"""What the model server tells of its shadows: version, lag and errors of each, read at most twice a second."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from sundial.errors import PredictionLogError
from sundial.serving import shadow
from sundial.serving.status import read_status
from sundial.settings import Settings

LAG_SECONDS = 0.5  # how old a lag may be when it is told

logger = logging.getLogger("sundial.serving")
METRICS = (
    ("sundial_shadow_version", "Version in shadow.", "version"),
    ("sundial_shadow_lag_rows", "Logged rows that the shadow did not score yet.", "lag_rows"),
    ("sundial_shadow_lag_seconds", "Age of the oldest of these rows.", "lag_seconds"),
    ("sundial_shadow_rows", "Rows that the shadow scored, or that have an error.", "rows"),
    ("sundial_shadow_errors", "Rows that the shadow could not score.", "errors"),
    ("sundial_shadow_failing", "1 while the shadow stalls, dies or cannot be loaded.", "failing"),
    ("sundial_shadow_row_seconds", "Seconds a row, of the last batch.", "row_seconds"),
)


class ShadowLags:
    """How far the shadows of a pipeline are.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    settings : Settings
        Where the logs are.
    """

    def __init__(self, pipeline: str, settings: Settings) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._known: tuple[float, Mapping[str, int], dict[str, dict[str, Any]]] = (0.0, {}, {})
        self._asking = asyncio.Lock()

    async def read(self, shadows: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Say how each shadow is.

        Parameters
        ----------
        shadows : mapping of str to int
            Versions in shadow, by alias.

        Returns
        -------
        dict of dict
            By alias: version, lag_rows, lag_seconds (None when they cannot be told), and what its scorer says of it.
        """
        async with self._asking:
            moment, known, found = self._known
            if known != shadows or time.monotonic() - moment > LAG_SECONDS:
                found = await asyncio.to_thread(self._read, dict(shadows))
                self._known = (time.monotonic(), dict(shadows), found)
        return found

    def _read(self, shadows: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        status = read_status(self._pipeline, self._settings)
        by_alias = status.pop("shadows", {}) if status else {}
        found = {}
        for alias, version in shadows.items():
            behind = None
            try:
                behind = shadow.lag(self._pipeline, version, self._settings)
            except (PredictionLogError, OSError) as error:
                logger.warning("the lag of %s cannot be told: %s", alias, error)
            own = by_alias.get(alias, {})
            found[alias] = {
                "version": str(version),
                "lag_rows": behind.rows if behind else None,
                "lag_seconds": behind.seconds if behind else None,
                "scorer": {**own, "running": bool(status.get("running"))} if own.get("version") == version else status,
            }
        return found


def as_health(found: Mapping[str, Mapping[str, Any]], scorer: Mapping[str, Any]) -> dict[str, Any]:
    """Give what ``/health`` says: of the alias ``shadow``, and of all by alias."""
    nothing = {"version": None, "lag_rows": None, "lag_seconds": None, "scorer": scorer}
    return {**found.get("shadow", nothing), "all": {alias: dict(about) for alias, about in found.items()}}


def as_metrics(found: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str, str, dict[str, float]]]:
    """Give what ``/metrics`` says, a value an alias."""
    for name, text, key in METRICS:
        values: dict[str, float] = {}
        for alias, about in found.items():
            scorer = about["scorer"]
            value = {
                "version": int(about["version"]),
                "failing": float(scorer.get("state") == "failing") if scorer else None,
                "row_seconds": scorer["latency_ms"] / 1000 if scorer else None,
            }.get(key, about.get(key, scorer.get(key)))
            if value is not None:
                values[alias] = value
        if values:
            yield name, "gauge", text, values
