"""What waiting costs: older models beside the freshest one, on the same rows, week after week.

On each week the models of 2, 4, 8 and 13 weeks ago are compared with the one of a week ago, which is the freshest that
can be in production after a week in shadow. The differences d(week, age) of a metric are put on a line through the
origin, d = slope x (age - 1), by least squares over all weeks and ages; the slope times 52 / 12 is what a month of
waiting changes. Assumed is that the loss grows evenly with age; the table by age, which assumes nothing, shows whether
it does.

Intervals: the jackknife that leaves out four consecutive weeks at a time, with Student's t on blocks - 1 degrees of
freedom, as for few clusters in :mod:`sundial.evaluation.intervals`. All of a week's differences rest on the same rows,
and a shock to the world stays between old and new models for as many weeks as they are apart: weeks that follow each
other are not independent, so whole blocks of them are left out (Künsch 1989, Annals of Statistics 17:1217-1241, for the
jackknife over blocks; Ibragimov and Müller 2010, Journal of Business and Economic Statistics 28:453-468, for few blocks
and Student's t). Its coverage is measured by ``make bench-staleness``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sundial.evaluation.intervals import Estimate, undefined
from sundial.evaluation.metrics import METRICS, Value, recall_at, value_at

AGES = (1, 2, 4, 8, 13)
FRESH = 1
WEEKS_A_MONTH = 52 / 12
BLOCK = 4
CONFIDENCE = 0.95
WEEK = pd.Timedelta(days=7)
STRATEGIES = {"weekly": 1, "monthly": 4, "never retrained": 0}

Floats = npt.NDArray[np.float64]


def measure_week(
    table: pd.DataFrame,
    week: pd.Timestamp,
    models: Mapping[str, pd.Timestamp],
    *,
    label: str,
    value: Value | None = None,
    metrics: Sequence[str] = ("roc_auc", "average_precision"),
) -> pd.DataFrame:
    """Measure every model on the rows of one week.

    Parameters
    ----------
    table : DataFrame
        A row an answer: `label`, ``threshold`` (that production decided with), and a column of scores a model.
    week : Timestamp
        Its first day.
    models : mapping of str to Timestamp
        Release date by column.
    label : str
        Name of the label, 0 or 1.
    value : callable, optional
        The pipeline's `value` hook; adds ``recall`` at the production threshold and ``value``, money per 1,000 rows.
    metrics : sequence of str
        Names in `METRICS`.

    Returns
    -------
    DataFrame
        A row a model: ``week``, ``model``, ``age`` (weeks, whole), ``rows`` and the metrics; NaN where undefined.
    """
    outcome, lines = table[label], []
    for column, made in models.items():
        scores = table[column]
        line: dict[str, Any] = {"week": week, "model": made, "age": (week - made) // WEEK, "rows": len(table)}
        line |= {name: METRICS[name](outcome, scores) for name in metrics}
        if value is not None:
            alerts = (scores >= table["threshold"]).astype("float64")
            line |= {"recall": recall_at(0.5)(outcome, alerts), "value": value_at(value)(outcome, alerts)}
        lines.append(line)
    return pd.DataFrame(lines)


def estimate_month(measured: pd.DataFrame, metric: str, *, ages: Sequence[int] = AGES) -> Estimate:
    """Estimate what a month of waiting changes in a metric.

    Parameters
    ----------
    measured : DataFrame
        Rows of `measure_week` of all weeks.
    metric : str
        Column; positive changes are gains where more is better.
    ages : sequence of int
        Ages in weeks to compare with the freshest.

    Returns
    -------
    Estimate
        Per month; ``rows`` are those of all weeks used. Undefined with fewer than two blocks of four weeks.
    """
    return _estimate(_pair(measured, metric, ages), lambda x, d: float(x @ d / (x @ x)) * WEEKS_A_MONTH)


def estimate_ages(measured: pd.DataFrame, metric: str, *, ages: Sequence[int] = AGES) -> pd.DataFrame:
    """Estimate the mean difference at each age from the freshest model, which assumes no line.

    Returns
    -------
    DataFrame
        Indexed by age in weeks: the fields of `Estimate`, and ``weeks`` that were compared.
    """
    lines = {}
    for age in ages:
        if age != FRESH:
            pairs = _pair(measured, metric, (age,))
            lines[age] = {**_estimate(pairs, lambda _, d: float(d.mean())), "weeks": len(pairs)}
    return pd.DataFrame.from_dict(lines, orient="index")


def follow_strategies(measured: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Say what each week would have shown with a model released weekly, every fourth week, or never again.

    Parameters
    ----------
    measured : DataFrame
        Rows of `measure_week` of all weeks.
    metric : str
        Column.

    Returns
    -------
    DataFrame
        Indexed by week, a column a strategy. Each takes the newest of its releases that has been in shadow for a week
        by then; a week in which there is none is left out.
    """
    grid = measured.pivot_table(index="week", columns="model", values=metric, dropna=False)
    releases = pd.DatetimeIndex(grid.columns)
    rows = {}
    for week in pd.DatetimeIndex(grid.index):
        line = grid.loc[week]
        ready = [index for index, made in enumerate(releases) if made <= week - FRESH * WEEK]
        if not ready:
            continue
        rows[week] = {
            name: line[releases[ready[-1] - ready[-1] % every if every else 0]] for name, every in STRATEGIES.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(STRATEGIES)).dropna()


def compare_strategies(followed: pd.DataFrame) -> dict[str, Estimate]:
    """Estimate how far each strategy is from the weekly one, on average over the weeks."""
    result = {}
    for name in followed.columns[1:]:
        difference = followed[name] - followed.iloc[:, 0]
        pairs = pd.DataFrame({"week": followed.index, "x": 1.0, "d": difference.to_numpy(), "rows": 0})
        result[name] = _estimate(pairs, lambda _, d: float(d.mean()))
    return result


def _pair(measured: pd.DataFrame, metric: str, ages: Sequence[int]) -> pd.DataFrame:
    """List the differences from the freshest model, a row a week and age: ``week``, ``x`` (weeks older), ``d``."""
    fresh = measured[measured["age"] == FRESH].set_index("week")[metric]
    older = measured[measured["age"].isin([age for age in ages if age != FRESH])]
    pairs = pd.DataFrame(
        {
            "week": older["week"],
            "x": (older["age"] - FRESH).astype("float64"),
            "d": older[metric] - older["week"].map(fresh),
            "rows": older["rows"],
        }
    )
    return pairs.dropna().sort_values(["week", "x"], ignore_index=True)


def _estimate(pairs: pd.DataFrame, figure: Callable[[Floats, Floats], float]) -> Estimate:
    """Compute a figure of the differences, and its interval by leaving out blocks of weeks."""
    from scipy.stats import t

    weeks = np.sort(pairs["week"].unique())
    rows = int(pairs.drop_duplicates("week")["rows"].sum())
    if len(weeks) < 2 * BLOCK:
        return undefined(rows, f"undefined: {len(weeks)} weeks, and two blocks of {BLOCK} are needed")
    # blocks of the calendar, of four weeks each and the last of four to seven
    count = len(weeks) // BLOCK
    block = np.minimum(np.searchsorted(weeks, pairs["week"].to_numpy()) // BLOCK, count - 1)
    x, d = pairs["x"].to_numpy("float64"), pairs["d"].to_numpy("float64")
    point = figure(x, d)
    left_out = np.array([figure(x[block != one], d[block != one]) for one in range(count)])
    error = float(np.sqrt((count - 1) / count * np.sum((left_out - point) ** 2)))
    reach = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    method = f"paired jackknife over {count} blocks of {BLOCK} weeks, t with {count - 1} degrees of freedom"
    return Estimate(
        estimate=point, low=point - reach, high=point + reach, confidence=CONFIDENCE, rows=rows, method=method
    )
