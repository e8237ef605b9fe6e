"""One model on the answers it gave: all metrics at once, by segment, and day by day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sundial.evaluation.comparison import OF_DECISIONS, OF_SCORES, SMALL_SEGMENT, days
from sundial.evaluation.intervals import Estimate, bootstrap, unpaired_difference
from sundial.evaluation.metrics import METRICS, Metric, Value, value_at


def measure_model(
    answers: pd.DataFrame,
    *,
    label: str,
    score: str = "score",
    decision: str = "decision",
    event_time: str = "event_time",
    value: Value | None = None,
    metrics: Sequence[str] = (*OF_SCORES, *OF_DECISIONS),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate what a model achieved.

    Parameters
    ----------
    answers : DataFrame
        A row an answer; those without a label are left out.
    label, score, decision, event_time : str
        Names of the columns; the days of `event_time` are resampled.
    value : callable, optional
        The pipeline's `value` hook; adds the metric ``value``, money per 1,000 rows.
    metrics : sequence of str
        Names in `METRICS`.
    resamples, seed : int
        See `bootstrap`.

    Returns
    -------
    dict of str to Estimate
        By metric; undefined without labels.
    """
    rows = answers[answers[label].notna()]
    measures: dict[str, Metric] = {name: METRICS[name] for name in metrics}
    if value is not None:
        measures["value"] = value_at(value)
    how: dict[str, Any] = {"clusters": days(rows[event_time]), "resamples": resamples, "seed": seed}
    outcome = rows[label].astype("float64")
    columns = {name: rows[score if name in OF_SCORES else decision].astype("float64") for name in measures}
    return {name: bootstrap(outcome, columns[name], measure, **how) for name, measure in measures.items()}


def compare_estimates(later: Mapping[str, Estimate], earlier: Mapping[str, Estimate]) -> pd.DataFrame:
    """Compare two sets of estimates that rest on different rows, such as two weeks, or a forecast and what came.

    Parameters
    ----------
    later, earlier : mapping of str to Estimate
        By metric; what only one of them has is left out.

    Returns
    -------
    DataFrame
        A row a metric: ``earlier``, ``later``, ``difference`` with ``low`` and ``high`` (positive: better; later -
        earlier of a metric that is neither), and ``verdict``: ``better``, ``worse`` or ``changed`` where the interval
        does not hold 0, ``unclear`` where it does, ``undefined`` where there is none.
    """
    lines = {}
    for name in [name for name in later if name in earlier]:
        better = METRICS[name].higher_is_better if name in METRICS else True
        found = unpaired_difference(later[name], earlier[name], higher_is_better=better)
        shown = found["low"] > 0 or found["high"] < 0
        word = "changed" if better is None else "better" if found["estimate"] > 0 else "worse"
        lines[name] = {
            "earlier": earlier[name]["estimate"],
            "later": later[name]["estimate"],
            "difference": found["estimate"],
            "low": found["low"],
            "high": found["high"],
            "verdict": "undefined" if pd.isna(found["estimate"]) else word if shown else "unclear",
        }
    columns = ["earlier", "later", "difference", "low", "high", "verdict"]
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns)


def write_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Write a table's numbers as people read them: four decimals, none from 100 on, with separators."""

    def write(cell: Any) -> Any:
        if not isinstance(cell, float):
            return cell
        return "" if pd.isna(cell) else f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.4f}"

    return table.astype(object).map(write)


def measure_segments(
    answers: pd.DataFrame,
    segments: Sequence[str],
    *,
    label: str,
    score: str = "score",
    decision: str = "decision",
    event_time: str = "event_time",
    value: Value | None = None,
    small: int = SMALL_SEGMENT,
) -> pd.DataFrame:
    """Measure a model in each value of each segment column.

    Parameters
    ----------
    answers, label, score, decision, event_time, value
        As in `measure_model`.
    segments : sequence of str
        Columns.
    small : int
        Segments with fewer labelled rows are marked, and their metrics left undefined.

    Returns
    -------
    DataFrame
        Indexed by ``segment`` and ``of``, most rows first in each segment: ``rows``, ``mature``, ``label_share``,
        ``mean_score`` (of the mature rows: far from the label share, the scores do not mean what they say),
        ``alert_share``, ``roc_auc`` with ``low`` and ``high``, ``value`` per 1,000 and ``note``.
    """
    lines = []
    for column in segments:
        for name, rows in answers.groupby(column, observed=True, sort=True):
            mature = rows[rows[label].notna()]
            line: dict[str, Any] = {
                "segment": column,
                "of": str(name),
                "rows": len(rows),
                "mature": len(mature),
                "label_share": float(mature[label].mean()),
                "mean_score": float(mature[score].mean()),
                "alert_share": float(rows[decision].mean()),
            }
            enough = len(mature) >= small
            if enough:
                names: dict[str, Any] = {"label": label, "score": score, "decision": decision, "event_time": event_time}
                found = measure_model(mature, **names, value=value, metrics=("roc_auc",), resamples=200)
                auc = found["roc_auc"]
                line |= {"roc_auc": auc["estimate"], "low": auc["low"], "high": auc["high"]}
                line |= {"value": found["value"]["estimate"]} if value is not None else {}
            lines.append(line | {"note": "" if enough else "too small"})
    columns = ["rows", "mature", "label_share", "mean_score", "alert_share", "roc_auc", "low", "high", "value", "note"]
    table = pd.DataFrame(lines, columns=["segment", "of", *columns])
    table = table.sort_values(["segment", "rows"], ascending=[True, False], kind="stable")
    return table.set_index(["segment", "of"])


def measure_days(
    answers: pd.DataFrame,
    *,
    label: str,
    score: str = "score",
    decision: str = "decision",
    event_time: str = "event_time",
) -> pd.DataFrame:
    """Measure a model day by day; a day alone says little, a run of days can show a trend.

    Parameters
    ----------
    answers, label, score, decision, event_time
        As in `measure_model`.

    Returns
    -------
    DataFrame
        Indexed by day: ``rows``, ``mature``, ``label_share``, ``mean_score`` and ``alert_share`` of the mature rows,
        ``roc_auc``; NaN where undefined.
    """
    lines = {}
    for day, rows in answers.groupby(answers[event_time].dt.normalize()):
        mature = rows[rows[label].notna()]
        lines[day] = {
            "rows": len(rows),
            "mature": len(mature),
            "label_share": float(mature[label].mean()),
            "mean_score": float(mature[score].mean()),
            "alert_share": float(mature[decision].mean()),
            "roc_auc": METRICS["roc_auc"](mature[label], mature[score]),
        }
    columns = ["rows", "mature", "label_share", "mean_score", "alert_share", "roc_auc"]
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns)
