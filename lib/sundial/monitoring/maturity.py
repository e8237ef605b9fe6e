"""When labels may be counted.

Labels arrive late, and not evenly: what went well is often known first. A figure on the labels that happen to be here
is therefore a figure on an easier week. A row counts once it is old enough for its label to be surely known, whatever
the label is. Two models, or two weeks, are compared on rows that are equally old in this sense, and every figure says
up to which event its labels were counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import pandas as pd

Figures = TypeVar("Figures")


def cutoff(as_of: pd.Timestamp | str, maturity: timedelta) -> pd.Timestamp:
    """Return the moment before which events are mature at `as_of`.

    Parameters
    ----------
    as_of : Timestamp or str
        The moment that is pretended.
    maturity : timedelta
        From an event to the moment its label is surely known.

    Returns
    -------
    Timestamp

    Examples
    --------
    >>> cutoff("2013-10-14", timedelta(days=2))
    Timestamp('2013-10-12 00:00:00')
    """
    return pd.Timestamp(as_of) - maturity


def mature(
    frame: pd.DataFrame, as_of: pd.Timestamp | str, maturity: timedelta, *, event_time: str = "event_time"
) -> pd.DataFrame:
    """Keep the rows whose event is old enough for its label to count.

    Parameters
    ----------
    frame : DataFrame
        With a column `event_time`.
    as_of, maturity
        See `cutoff`.
    event_time : str
        Name of the column with the time of the event.

    Returns
    -------
    DataFrame
        The rows strictly before the cutoff, with their index.
    """
    return frame[frame[event_time] < cutoff(as_of, maturity)]


def stamp(figures: Figures, labels_until: pd.Timestamp) -> Figures:
    """Write into estimates the event time up to which labels were counted.

    Parameters
    ----------
    figures : Estimate, or dict or list of them to any depth
        Such as `compare_metrics` returns.
    labels_until : Timestamp
        See `cutoff`; where a window ends earlier, that end.

    Returns
    -------
    the same
        A copy, with ``labels_until`` (ISO 8601) in each estimate.

    Examples
    --------
    >>> recall = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    >>> stamp({"recall": recall}, pd.Timestamp("2013-10-12"))["recall"]["labels_until"]
    '2013-10-12T00:00:00'
    """
    return _stamp(figures, labels_until.isoformat())  # type: ignore[no-any-return]


def _stamp(figures: Any, until: str) -> Any:
    if isinstance(figures, Mapping):
        if {"estimate", "low", "high"} <= figures.keys():
            return {**figures, "labels_until": until}
        return {name: _stamp(item, until) for name, item in figures.items()}
    return [_stamp(item, until) for item in figures] if isinstance(figures, list) else figures


def compare_with_hasty(hasty: Mapping[str, Mapping[str, Any]], ripe: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Lay what one would have said on the labels that happen to be here beside what the mature ones say.

    Parameters
    ----------
    hasty, ripe : dict
        Estimates by metric and model, as `compare_metrics` returns them: on all labels, and on mature ones.

    Returns
    -------
    DataFrame
        A row a metric; columns ``hasty`` and ``mature`` for each model and their ``difference``, and ``rows``.
    """
    lines = {}
    for name, estimates in ripe.items():
        line: dict[tuple[str, str], float] = {}
        for who, estimate in estimates.items():
            line[who, "hasty"], line[who, "mature"] = hasty[name][who]["estimate"], estimate["estimate"]
        line["rows", "hasty"], line["rows", "mature"] = (found[name]["difference"]["rows"] for found in (hasty, ripe))
        lines[name] = line
    return pd.DataFrame(lines).T


def ledger(
    events: pd.DataFrame,
    labels: pd.DataFrame,
    maturity: timedelta,
    *,
    entity: str,
    label: str,
    event_time: str = "event_time",
) -> pd.DataFrame:
    """Say, day by day, what was known of some events, and what one would have concluded.

    Parameters
    ----------
    events : DataFrame
        Columns `entity` and `event_time`, one row an event.
    labels : DataFrame
        Columns `entity`, `label` (0 or 1) and ``label_known_at``.
    maturity : timedelta
        From an event to the moment its label is surely known.
    entity, label, event_time : str
        Names of the columns.

    Returns
    -------
    DataFrame
        A row for each midnight from the first event to the day after the last one is mature: ``as_of``, ``events`` so
        far, ``known`` labels, ``known_share``, ``mature`` events, ``label_share_known`` (of label 1, among the
        known), ``label_share_guessed`` (taking what is not known for 0), ``label_share_mature``; NaN where there is
        nothing to divide by.
    """
    rows = events[[entity, event_time]].merge(labels[[entity, label, "label_known_at"]], on=entity, how="left")
    if rows.empty:
        days = pd.DatetimeIndex([])
    else:
        last = (rows[event_time].max() + maturity).normalize() + pd.Timedelta(days=1)
        days = pd.date_range(rows[event_time].min().normalize() + pd.Timedelta(days=1), last, freq="D")
    lines = []
    for day in days:
        seen = rows[rows[event_time] < day]
        known = seen[seen["label_known_at"] <= day]
        ready = mature(known, day, maturity, event_time=event_time)
        late = float(known[label].sum())
        lines.append(
            {
                "as_of": day,
                "events": len(seen),
                "known": len(known),
                "known_share": _share(len(known), len(seen)),
                "mature": len(mature(seen, day, maturity, event_time=event_time)),
                "label_share_known": _share(late, len(known)),
                "label_share_guessed": _share(late, len(seen)),
                "label_share_mature": _share(float(ready[label].sum()), len(ready)),
            }
        )
    return pd.DataFrame(lines, columns=list(_LEDGER))


_LEDGER = (
    "as_of",
    "events",
    "known",
    "known_share",
    "mature",
    "label_share_known",
    "label_share_guessed",
    "label_share_mature",
)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float(np.nan)
