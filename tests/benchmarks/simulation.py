"""Weeks that never were: two models on the same requests, where it is known who is better for whom.

Days have moods that all requests of a day share, and moods that only one of the models is subject to, in all segments
and in each: what a test must not take for a difference between the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sundial.declarations import SegmentSpec

PLACE = (SegmentSpec(name="place", columns=("place",)),)
THRESHOLD = 0.25


def value(label: npt.NDArray[Any], decision: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Gain 10 for a right alert, lose 3 for a wrong one."""
    return np.where(decision, np.where(np.asarray(label) == 1, 10.0, -3.0), 0.0)


def simulate_week(
    seed: int,
    *,
    places: int = 200,
    rows: int = 140_000,
    days: int = 7,
    noise: tuple[float, float] = (0.7, 0.7),
    harm: Mapping[int, float] | None = None,
) -> pd.DataFrame:
    """Simulate what two models answered, joined as for a comparison.

    Parameters
    ----------
    seed : int
        Same seed, same week.
    places, rows, days : int
        Segments (their sizes differ a hundredfold), requests and days.
    noise : tuple of float
        How far production and shadow are off, as the standard deviation of the log odds: the smaller the better.
    harm : mapping of int to float, optional
        By number of the place, what the shadow's log odds are too low by there.

    Returns
    -------
    DataFrame
        ``place`` (text), ``event_time``, both scores and decisions, ``late``.
    """
    random = np.random.default_rng(seed)
    size = np.random.default_rng(0).lognormal(0.0, 1.0, places)
    place = random.choice(places, size=rows, p=size / size.sum())
    day = random.integers(0, days, rows)
    level = -1.9 + random.normal(0, 0.5, places)[place] + random.normal(0, 0.4, days)[day]
    truth = level + random.normal(0, 1.3, rows)
    late = random.random(rows) < 1 / (1 + np.exp(-truth))
    frame: dict[str, Any] = {
        "place": np.char.add("p", place.astype(str)),
        "event_time": pd.Timestamp("2020-01-06") + pd.to_timedelta(day, unit="D"),
        "late": late.astype(np.float64),
    }
    lowered = np.zeros(places)
    for number, by in (harm or {}).items():
        lowered[number] = by
    for who, off in zip(("production", "shadow"), noise, strict=True):
        mood = random.normal(0, 0.05, days)[day] + random.normal(0, 0.1, (places, days))[place, day]
        odds = truth + random.normal(0, off, rows) + mood
        odds -= lowered[place] if who == "shadow" else 0.0
        frame[f"{who}_score"] = 1 / (1 + np.exp(-odds))
        frame[f"{who}_decision"] = frame[f"{who}_score"] >= THRESHOLD
    return pd.DataFrame(frame)


def place_sizes(places: int = 200, rows: int = 140_000) -> npt.NDArray[np.float64]:
    """Give how many requests each place can expect."""
    size = np.random.default_rng(0).lognormal(0.0, 1.0, places)
    return rows * size / size.sum()
