"""A made-up model for tests: will a parcel be late? Everything a pipeline's own package has, in one screen."""

from __future__ import annotations

import numpy as np
import pandas as pd

PARCELS_A_DAY = 40
SHOPS = ("books", "shoes", "plants")


def parcels(start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Make the parcels posted in [start, end); the same ones for a day, whoever asks.

    Returns
    -------
    DataFrame
        ``parcel_id``, ``posted_at``, ``weight`` (kg), ``shop``, ``late`` (0 or 1), ``label_known_at``.
    """
    days = []
    for day in pd.date_range(start.normalize(), end.normalize(), freq="D"):
        random = np.random.default_rng(day.toordinal())
        weight = random.gamma(2.0, 2.0, PARCELS_A_DAY)
        shop = random.integers(0, len(SHOPS), PARCELS_A_DAY)
        chance = 1 / (1 + np.exp(2.5 - 0.4 * weight - 0.5 * shop))
        posted = day + pd.to_timedelta(np.sort(random.integers(0, 86_400, PARCELS_A_DAY)), unit="s")
        days.append(
            pd.DataFrame(
                {
                    "parcel_id": day.toordinal() * 1_000 + np.arange(PARCELS_A_DAY),
                    "posted_at": posted,
                    "weight": weight,
                    "shop": np.array(SHOPS)[shop],
                    "late": (random.random(PARCELS_A_DAY) < chance).astype("int64"),
                }
            )
        )
    frame = pd.concat(days, ignore_index=True)
    frame["label_known_at"] = frame["posted_at"] + pd.Timedelta("36h")
    return frame[(frame["posted_at"] >= start) & (frame["posted_at"] < end)].reset_index(drop=True)


def labels(as_of: pd.Timestamp, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Give the labels known on a date, of parcels posted in [start, end)."""
    frame = parcels(start, end)
    return frame.loc[frame["label_known_at"] <= as_of, ["parcel_id", "late", "label_known_at"]]


def requests(start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Give what a client would have sent in [start, end), in order of arrival."""
    frame = parcels(start, end)[["parcel_id", "posted_at", "weight", "shop"]]
    frame.insert(0, "request_id", [f"parcel-{number}" for number in frame["parcel_id"]])
    return frame


def value(label: np.ndarray, decision: np.ndarray) -> np.ndarray:
    """Price each decision: a right warning saves 10, any warning costs 4."""
    return np.where(decision, 10.0 * np.asarray(label, dtype=float) - 4.0, 0.0)
