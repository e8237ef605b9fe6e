"""Ways to spoil a week's features, as pipelines are spoilt: the test of what gates miss.

Each takes the frame that holds the label and all features of the model, and gives it back as a broken pipeline would
have made it. What is served stays right, as it does when the fault is in what the model learns from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from sundial.errors import DataError

Planting: TypeAlias = Callable[[pd.DataFrame, str, Sequence[str], str], pd.DataFrame]

LABELS_SHIFTED = "labels shifted"
FEATURE_FROZEN = "a feature frozen"
SEGMENT_DROPPED = "a segment dropped"
FUTURE_LEARNT = "trained on the future"


def strongest_feature(frame: pd.DataFrame, label: str, features: Sequence[str]) -> str:
    """Find the number among the features that goes most with the label: the one whose loss hurts.

    By the absolute rank correlation (Spearman's) on the rows that have a label.

    Raises
    ------
    DataError
        When no feature is a number.
    """
    rows = frame[frame[label].notna()]
    numbers = [name for name in features if pd.api.types.is_numeric_dtype(rows[name])]
    if not numbers:
        raise DataError("no feature is a number, so none can be frozen or leak", hint="plant other faults")
    ranks = rows[numbers].astype("float64").rank()
    strength = ranks.corrwith(rows[label].astype("float64")).abs()
    return str(strength.fillna(0.0).idxmax())


def shift_labels(frame: pd.DataFrame, label: str, _features: Sequence[str], _segment: str) -> pd.DataFrame:
    """Give each row the label of the row after it, as a join that is off by one does."""
    return frame.assign(**{label: frame[label].shift(-1)})


def freeze_feature(frame: pd.DataFrame, label: str, features: Sequence[str], _segment: str) -> pd.DataFrame:
    """Give the strongest feature one value, as a source that no longer updates does."""
    name = strongest_feature(frame, label, features)
    middle = frame[name].astype("float64").quantile(0.5, interpolation="lower")
    return frame.assign(**{name: np.full(len(frame), middle).astype(frame[name].to_numpy().dtype)})


def drop_segment(frame: pd.DataFrame, _label: str, _features: Sequence[str], segment: str) -> pd.DataFrame:
    """Leave out the largest value of the first segment column, as a filter on an old list of names does."""
    largest = frame[segment].value_counts().idxmax()
    return frame[frame[segment] != largest].reset_index(drop=True)


def learn_the_future(frame: pd.DataFrame, label: str, features: Sequence[str], _segment: str) -> pd.DataFrame:
    """Let the strongest feature give the label away, as a value that is filled in afterwards does.

    Its values are dealt out anew, the highest to the rows of label 1: the column's distribution stays as it was, so
    that no check of distributions can see it.
    """
    name = strongest_feature(frame, label, features)
    known = np.flatnonzero((frame[label].notna() & frame[name].notna()).to_numpy())
    values = np.sort(frame[name].to_numpy()[known])
    order = np.argsort(frame[label].to_numpy(dtype="float64")[known], kind="stable")
    dealt = frame[name].to_numpy().copy()
    dealt[known[order]] = values
    return frame.assign(**{name: dealt})


PLANTINGS: dict[str, Planting] = {
    LABELS_SHIFTED: shift_labels,
    FEATURE_FROZEN: freeze_feature,
    SEGMENT_DROPPED: drop_segment,
    FUTURE_LEARNT: learn_the_future,
}


def choose_weeks(weeks: int, plant: int) -> tuple[int, ...]:
    """Choose in which weeks bad releases are planted, evenly over the replay.

    Parameters
    ----------
    weeks : int
        Of the replay.
    plant : int
        How many are wanted. The first week has no production to compare with, and the last none after it to be judged
        on: neither is chosen.

    Returns
    -------
    tuple of int
        Numbers of weeks.

    Examples
    --------
    >>> choose_weeks(40, 4)
    (5, 15, 24, 33)
    """
    if plant <= 0 or weeks < 3:
        return ()
    edges = np.linspace(1, weeks - 1, plant + 1)
    return tuple(sorted({int(middle) for middle in (edges[:-1] + edges[1:]) / 2}))
