"""The page that prices waiting: what older models would have answered to the same requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sundial.evaluation.intervals import Estimate
from sundial.execution.pages import MINUS
from sundial.formats import write_json_atomically, write_value
from sundial.monitoring.staleness import (
    compare_strategies,
    estimate_ages,
    estimate_month,
    follow_strategies,
    measure_week,
)
from sundial.replay.charts import draw_intervals, draw_lines
from sundial.replay.replays import Replay
from sundial.replay.scoring import MODEL, read_currency
from sundial.scraps import to_plain

# name, words, factor to the unit shown, unit
METRICS = (
    ("roc_auc", "ROC AUC", 100.0, "points"),
    ("average_precision", "average precision", 100.0, "points"),
    ("recall", "recall at the production threshold", 100.0, "points"),
    ("value", "money per 1,000 requests", 1.0, "money"),
)
TALK = -0.5  # points a month, of the fraud team's talk: see the README


def measure_models(replay: Replay, scores: Mapping[pd.Timestamp, pd.DataFrame]) -> pd.DataFrame:
    """Measure every model on every week that came after it."""
    pipeline = replay.pipeline
    value = pipeline.hook("value")
    parts = []
    for week, table in scores.items():
        columns = [str(name) for name in table if str(name).startswith(MODEL)]
        models = {name: pd.Timestamp(name.removeprefix(MODEL)) for name in columns}
        parts.append(measure_week(table, week, models, label=pipeline.label.column, value=value))
    return pd.concat(parts, ignore_index=True)


def describe_staleness(replay: Replay, scores: Mapping[pd.Timestamp, pd.DataFrame]) -> dict[str, Any]:
    """Describe what a month of waiting costs, by age and by strategy; writes the table and the estimates too."""
    measured = measure_models(replay, scores)
    write_value(replay.tables, "staleness", measured)
    months = {metric: estimate_month(measured, metric) for metric, *_ in METRICS}
    write_json_atomically(replay.tables / "staleness.json", to_plain({"month": months}, name="staleness"))
    auc = months["roc_auc"]
    scaled = {words: months[metric] for metric, words, _, unit in METRICS if unit == "points"}
    return {
        "lead": say_cost(months, read_currency(replay)),
        "facts": {"Rows": f"{auc['rows']:,}", "Interval": f"{auc['confidence']:.0%}"},
        "sections": [
            _describe_month(months, scaled),
            _describe_ages(measured),
            *_describe_strategies(measured),
        ],
    }


def say_cost(months: Mapping[str, Estimate], currency: str) -> str:
    """Say in one sentence what a month of waiting costs; a negative cost is a gain."""
    if not np.isfinite(months["roc_auc"]["estimate"]):
        return f"What a month of waiting costs is not known yet, {months['roc_auc']['method']}."

    def cost(metric: str, factor: float, digits: int) -> str:
        # what is lost is counted up: the ends change places
        found, low, high = (f"{-factor * months[metric][end]:,.{digits}f}" for end in ("estimate", "high", "low"))
        return f"{found} ({low} to {high})".replace("-", MINUS)

    return (
        f"A month of waiting costs {cost('roc_auc', 100, 2)} points of ROC AUC, {cost('recall', 100, 1)} points of "
        f"recall at the production threshold, and {cost('value', 1, 0)} {currency or 'of money'} per 1,000 requests, "
        "with 95 % intervals. The fraud team of the talk lost about half a point a month."
    )


def _describe_month(months: Mapping[str, Estimate], shown: Mapping[str, Estimate]) -> dict[str, Any]:
    rows = [
        [words, *(_scale(months[metric][end], factor) for end in ("estimate", "low", "high")), unit]
        for metric, words, factor, unit in METRICS
    ]
    figure = {
        "src": draw_intervals(
            shown,
            title="What a month of waiting changes",
            xlabel="points (dashed: the talk)",
            scale=100,
            note=TALK / 100,
        ),
        "alt": "Estimates with intervals of what a month of waiting changes in each metric",
    }
    return {
        "id": "month",
        "title": "A month of waiting",
        "prose": [
            "Each week the models of 2, 4, 8 and 13 weeks ago are compared with that of one week ago, the freshest "
            "that can be in production, on the same requests with mature labels. The differences are put on a line "
            "through the origin; its slope, times 52/12, is a month. That the loss grows evenly with age is assumed "
            "here, and not in the table by age below. Negative is worse.",
        ],
        "figures": [figure] if np.isfinite(months["roc_auc"]["estimate"]) else [],
        "table": {"head": ["metric", "a month", "low", "high", "unit"], "rows": rows},
        "notes": [f"Method: {months['roc_auc']['method']}."],
    }


def _describe_ages(measured: pd.DataFrame) -> dict[str, Any]:
    rows = []
    for metric, words, factor, unit in METRICS:
        for age, line in estimate_ages(measured, metric).iterrows():
            ends = (_scale(line[end], factor) for end in ("estimate", "low", "high"))
            rows.append([words, f"{age} weeks", *ends, unit, int(line["weeks"])])
    return {
        "id": "ages",
        "title": "By age",
        "prose": ["The mean difference from the model of one week ago, over all weeks that had both."],
        "table": {"head": ["metric", "made", "difference", "low", "high", "unit", "weeks"], "rows": rows},
    }


def _describe_strategies(measured: pd.DataFrame) -> list[dict[str, Any]]:
    sections = []
    for metric, words, factor, unit in (METRICS[0], METRICS[3]):
        followed = follow_strategies(measured, metric)
        if followed.empty:
            continue
        compared = compare_strategies(followed)
        rows = [
            [f"{name} instead of weekly", *(_scale(one[end], factor) for end in ("estimate", "low", "high"))]
            for name, one in compared.items()
        ]
        figures = [
            {
                "src": draw_lines(factor * followed, title=f"{words}, week by week", ylabel=unit),
                "alt": f"{words} of weekly, monthly and never retrained models, week by week",
            }
        ]
        # what each strategy has fallen behind so far: a level would hide it among good and bad weeks
        behind = (factor * followed.sub(followed.iloc[:, 0], axis=0)).iloc[:, 1:].expanding().mean()
        figures.append(
            {
                "src": draw_lines(behind, title="Mean difference from weekly so far", ylabel=unit, zero=True),
                "alt": "Mean difference of each strategy from weekly releases, up to each week",
            }
        )
        sections.append(
            {
                "id": f"strategies-{metric.replace('_', '-')}",
                "title": f"Never, monthly, weekly: {words}",
                "prose": [
                    "Weekly is the model of a week ago; monthly, of every fourth release the newest; never, the first."
                ],
                "figures": figures,
                "table": {"head": ["strategy", f"difference, {unit}", "low", "high"], "rows": rows},
                "notes": [f"Method: {next(iter(compared.values()))['method']}."],
            }
        )
    return sections


def _scale(number: float, factor: float) -> float:
    return round(factor * float(number), 3 if factor > 1 else 0)
