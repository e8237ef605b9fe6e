"""Which flights a model learns from, and which it is judged on.

The rule depends on dates only, so that no model is ever judged on a day that it, or an older model, has learned from:

- the **last week** before the cutoff is for judging, whole;
- of the three weeks before it, every fourth day (``date.toordinal() % 4 == 0``) is held out for judging too; with the
  last week they make the **rolling month**;
- everything else in the ten weeks before the last week is for learning.

The cutoff is ``as_of`` minus the label's maturity: what flew later is not surely known yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from flights.features import ENTITY, EVENT_TIME, FEATURES
from flights.source import LABEL

WEEK = pd.Timedelta(days=7)
MONTH = pd.Timedelta(days=28)
EVERY = 4
ROLES = ("older", "learn", "held out", "last week", "too young")


@dataclass(frozen=True)
class Windows:
    """The dates that follow from one ``as_of``.

    Attributes
    ----------
    learn_from : Timestamp
        First day to learn from.
    month_from : Timestamp
        First day of the rolling month.
    week_from : Timestamp
        First day of the last week; learning ends before it.
    cutoff : Timestamp
        End of the last week; labels before it are mature.
    """

    learn_from: pd.Timestamp
    month_from: pd.Timestamp
    week_from: pd.Timestamp
    cutoff: pd.Timestamp


def find_windows(as_of: pd.Timestamp, maturity: timedelta, weeks: int = 10) -> Windows:
    """Work out the windows of a release.

    Parameters
    ----------
    as_of : Timestamp
        Release date.
    maturity : timedelta
        From a scheduled departure to the moment its label is surely known.
    weeks : int
        Weeks to learn from.

    Returns
    -------
    Windows

    Examples
    --------
    >>> find_windows(pd.Timestamp("2013-09-30"), timedelta(days=2)).week_from
    Timestamp('2013-09-21 00:00:00')
    """
    cutoff = as_of - maturity
    return Windows(cutoff - WEEK - weeks * WEEK, cutoff - MONTH, cutoff - WEEK, cutoff)


def find_roles(times: pd.Series, windows: Windows) -> pd.Series:
    """Say what each flight is for.

    Parameters
    ----------
    times : Series of n timestamps
        Scheduled departures.
    windows : Windows
        Of the release.

    Returns
    -------
    Series of n str
        One of :data:`ROLES`; learning and judging share no flight.
    """
    role = np.select(
        [
            times >= windows.cutoff,
            times >= windows.week_from,
            (times >= windows.month_from) & is_held_out_day(times),
            times >= windows.learn_from,
        ],
        ["too young", "last week", "held out", "learn"],
        default="older",
    )
    return pd.Series(role, index=times.index, dtype="str")


def is_held_out_day(times: pd.Series) -> npt.NDArray[np.bool_]:
    """Tell which timestamps fall on a fourth day, counted from the first of January of the year 1 as ``toordinal``."""
    days = times.to_numpy("datetime64[D]").astype(np.int64)
    first = np.int64(pd.Timestamp("1970-01-01").toordinal())
    return np.asarray((days + first) % EVERY == 0)


def build_training_set(features: pd.DataFrame, windows: Windows) -> pd.DataFrame:
    """Pick the flights to learn from, each with weight 1.

    Parameters
    ----------
    features : DataFrame
        Features with ``late``, NaN where it is not known.
    windows : Windows
        Of the release.

    Returns
    -------
    DataFrame
        ``flight_id``, ``scheduled_departure``, the features, ``late`` (int8) and ``weight``, in order of time. The few
        flights whose label never came are left out.
    """
    learn = (find_roles(features[EVENT_TIME], windows) == "learn") & features[LABEL].notna()
    picked = features.loc[learn, [ENTITY, EVENT_TIME, *FEATURES, LABEL]]
    picked = picked.assign(late=picked[LABEL].astype("int8"), weight=1.0)
    return picked.sort_values([EVENT_TIME, ENTITY], ignore_index=True)


def add_feedback(training_set: pd.DataFrame, examples: pd.DataFrame | None, *, cap: float) -> pd.DataFrame:
    """Let the examples that reviews chose count for more.

    A flight of the window gets the example's weight. One from before it has lapsed: what was hard in spring taught the
    autumn's models what was no longer so (docs/replay.md). Flights kept for judging stay out, however hard they were:
    their turn comes when they have aged out of it.

    Parameters
    ----------
    training_set : DataFrame
        From :func:`build_training_set`.
    examples : DataFrame or None
        ``flight_id``, ``late`` and ``weight``.
    cap : float
        Largest share of the total weight that examples may have; their weights shrink alike to keep it.

    Returns
    -------
    DataFrame
        With a column ``example`` (bool) beside those of ``training_set``.

    Raises
    ------
    ValueError
        When the cap is not at least 0 and below 1.
    """
    if not 0 <= cap < 1:
        raise ValueError(f"cap must be at least 0 and below 1, not {cap}")
    result = training_set.assign(example=False)
    if examples is None or examples.empty or cap == 0:
        return result
    usable = examples[examples[LABEL].notna()].drop_duplicates(ENTITY)
    chosen = result[ENTITY].isin(usable[ENTITY])
    weight = usable.set_index(ENTITY)["weight"].astype("float64").reindex(result[ENTITY]).to_numpy()
    result = result.assign(example=chosen, weight=np.where(chosen, weight, result["weight"]))
    heavy, rest = result.loc[chosen, "weight"].sum(), result.loc[~chosen, "weight"].sum()
    shrink = min(1.0, cap / (1 - cap) * rest / heavy) if heavy > 0 else 1.0
    result["weight"] = np.where(chosen, result["weight"] * shrink, result["weight"])
    return result.sort_values([EVENT_TIME, ENTITY], ignore_index=True)
