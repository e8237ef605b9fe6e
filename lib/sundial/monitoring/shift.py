"""Who is asked about, week by week: shares of segments, and values that nobody had seen before."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sundial.monitoring.drift import population_stability

SHOWN = 8
OTHERS = "all others"


def count_segments(answers: pd.DataFrame, week: pd.Series, columns: Sequence[str]) -> pd.DataFrame:
    """Count the requests of each value of each segment column, week by week.

    Parameters
    ----------
    answers : DataFrame
        A row a request.
    week : Series
        First day of the week of each row.
    columns : sequence of str
        Segment columns; a missing value is a value of its own, ``(missing)``.

    Returns
    -------
    DataFrame
        ``segment``, ``week``, ``value``, ``rows``, ``share`` (of the week's requests), and ``new``: the value is in no
        earlier week. In the first week nothing is new, since nothing is known of before.
    """
    parts = []
    first_week = week.min()
    for column in columns:
        values = answers[column].astype("str").where(answers[column].notna(), "(missing)")
        counts = values.groupby([week.rename("week"), values.rename("value")]).size().rename("rows").reset_index()
        counts["share"] = counts["rows"] / counts.groupby("week")["rows"].transform("sum")
        counts["new"] = (counts["week"] == counts.groupby("value")["week"].transform("min")) & (
            counts["week"] > first_week
        )
        parts.append(counts.assign(segment=column))
    table = pd.concat(parts, ignore_index=True)
    return table[["segment", "week", "value", "rows", "share", "new"]]


def share_by_week(counted: pd.DataFrame, segment: str, shown: int = SHOWN) -> pd.DataFrame:
    """Lay the shares of a segment out, weeks down and its largest values across.

    Parameters
    ----------
    counted : DataFrame
        From `count_segments`.
    segment : str
        Which column.
    shown : int
        Values with a column of their own, by rows over all weeks; the rest is ``all others``.

    Returns
    -------
    DataFrame
        Indexed by week; rows add up to 1.
    """
    own = counted[counted["segment"] == segment]
    grid = own.pivot_table(index="week", columns="value", values="share", fill_value=0.0)
    order = own.groupby("value")["rows"].sum().sort_values(ascending=False, kind="stable").index
    result = grid[list(order[:shown])].copy()
    if len(order) > shown:
        result[OTHERS] = 1.0 - result.sum(axis=1)
    return result


def measure_shift(counted: pd.DataFrame, segment: str) -> pd.Series:
    """Measure how far each week's shares of a segment are from those of the first week (PSI).

    Returns
    -------
    Series
        By week; 0 in the first. See :mod:`sundial.monitoring.drift` for how to read it.
    """
    own = counted[counted["segment"] == segment]
    grid = own.pivot_table(index="week", columns="value", values="rows", fill_value=0)
    first = grid.iloc[0].to_numpy()
    return pd.Series({week: population_stability(first, line.to_numpy()) for week, line in grid.iterrows()}, name="psi")
