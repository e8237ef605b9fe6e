"""A shadow and production on the same requests: who answered what, and who turned out to be right.

All functions take one *joined* frame, a row a request (see `join_answers`), and change nothing. Columns:

============================================  ========================================================================
``request_id``, entity, event time, features  as the production log has them
``production_score``, ``production_decision``  what was answered
``shadow_score``, ``shadow_decision``          what the shadow would have answered; NaN and missing where it has not, or
                                              could not
``shadow_error``                               why it could not; empty where it could
``shadow_latency_ms``, ``shadow_scored_at``    how long it took, and when
label                                          0 or 1; NaN while it is not mature
============================================  ========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sundial.evaluation.intervals import Estimate, bootstrap, paired_bootstrap
from sundial.evaluation.metrics import METRICS, Metric, Value, value_at

SMALL_SEGMENT = 200  # labelled rows, of one model alone; two models are compared by `guardrail`
#: Those of METRICS that read scores; the others read decisions.
OF_SCORES = ("roc_auc", "average_precision", "log_loss", "brier", "calibration_error", "calibration_gap")
OF_DECISIONS = ("recall", "precision")
SWAPS = {
    (True, True): "alerted by both",
    (False, True): "newly alerted",
    (True, False): "no longer alerted",
    (False, False): "alerted by neither",
}


def join_answers(
    log: pd.DataFrame, scores: pd.DataFrame, labels: pd.DataFrame | None = None, *, entity: str, label: str
) -> pd.DataFrame:
    """Put what production answered, what the shadow would have, and what happened, into one row a request.

    Parameters
    ----------
    log : DataFrame
        Prediction log: ``request_id``, ``score``, ``decision`` and whatever else was kept. Of a request that was sent
        twice the first answer counts.
    scores : DataFrame
        Of the shadow: ``request_id``, ``score``, ``decision``, ``error``, and ``latency_ms`` and ``scored_at`` where
        they were kept.
    labels : DataFrame, optional
        `entity` and `label`, only the mature ones.
    entity, label : str
        Names of the columns.

    Returns
    -------
    DataFrame
        As in the module's text, in the order of the log.
    """
    ours = log.drop_duplicates("request_id").rename(
        columns={"score": "production_score", "decision": "production_decision"}
    )
    kept = [
        name
        for name in ("request_id", "score", "decision", "error", "latency_ms", "scored_at")
        if name in scores.columns
    ]
    theirs = scores.drop_duplicates("request_id")[kept]
    theirs = theirs.rename(columns=lambda name: name if name == "request_id" else f"shadow_{name}")
    joined = ours.merge(theirs, on="request_id", how="left", validate="one_to_one")
    joined["shadow_error"] = joined["shadow_error"].fillna("").astype(str)
    joined["shadow_score"] = joined["shadow_score"].astype("float64")
    # a score that failed has no decision either, and bool has no way to say so
    joined["shadow_decision"] = joined["shadow_decision"].astype("boolean").mask(joined["shadow_score"].isna())
    return add_labels(joined, labels, entity=entity, label=label)


def add_labels(frame: pd.DataFrame, labels: pd.DataFrame | None, *, entity: str, label: str) -> pd.DataFrame:
    """Add the label of each row's entity; NaN where there is none yet.

    Parameters
    ----------
    frame : DataFrame
        With a column `entity`.
    labels : DataFrame or None
        `entity` and `label`, one row an entity.
    entity, label : str
        Names of the columns.

    Returns
    -------
    DataFrame
        A copy with `label` as float64.
    """
    frame = frame.drop(columns=label, errors="ignore")
    if labels is None:
        return frame.assign(**{label: np.nan})
    known = labels[[entity, label]].assign(**{label: labels[label].astype("float64")})
    return frame.merge(known, on=entity, how="left", validate="many_to_one")


def count_answers(joined: pd.DataFrame) -> dict[str, float]:
    """Say whether the shadow answered all that production answered.

    Parameters
    ----------
    joined : DataFrame

    Returns
    -------
    dict
        ``requests``, ``scored``, ``errors`` and ``missing`` (neither a score nor an error) as counts;
        ``completeness`` (share scored) and ``error_share``, NaN without requests.
    """
    requests = len(joined)
    scored = int(joined["shadow_score"].notna().sum())
    errors = int((joined["shadow_score"].isna() & joined["shadow_error"].ne("")).sum())
    return {
        "requests": requests,
        "scored": scored,
        "errors": errors,
        "missing": requests - scored - errors,
        "completeness": scored / requests if requests else float("nan"),
        "error_share": errors / requests if requests else float("nan"),
    }


def measure_agreement(joined: pd.DataFrame) -> dict[str, float]:
    """Say how alike the two models answer, whoever is right.

    Parameters
    ----------
    joined : DataFrame

    Returns
    -------
    dict
        ``rows`` scored by both; ``same_decision`` (share); ``mean_difference`` (shadow - production),
        ``mean_absolute_difference`` and ``largest_difference`` of the scores; ``rank_correlation`` (Spearman 1904).
        NaN where undefined.
    """
    both = scored_by_both(joined)
    same = both["shadow_decision"] == both["production_decision"]
    gap = both["shadow_score"] - both["production_score"]
    ranks = both[["production_score", "shadow_score"]].rank()
    varied = len(both) > 1 and bool((ranks.nunique() > 1).all())
    return {
        "rows": len(both),
        "same_decision": float(same.astype("float64").mean()),
        "mean_difference": float(gap.mean()),
        "mean_absolute_difference": float(gap.abs().mean()),
        "largest_difference": float(gap.abs().max()),
        "rank_correlation": float(np.corrcoef(ranks.to_numpy().T)[0, 1]) if varied else float("nan"),
    }


def describe_scores(joined: pd.DataFrame) -> pd.DataFrame:
    """Summarize both score distributions by their quantiles, in a row each."""
    both = scored_by_both(joined)[["production_score", "shadow_score"]]
    table = both.describe(percentiles=[0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]).T
    return table.rename(index=lambda name: name.removesuffix("_score")).rename(columns={"count": "rows"})


def list_swaps(
    joined: pd.DataFrame,
    value: Value,
    *,
    label: str,
    event_time: str = "event_time",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Count whom the decision changes for, and estimate what came of them.

    Parameters
    ----------
    joined : DataFrame
    value : callable
        The pipeline's `value` hook.
    label : str
        Name of the label.
    event_time : str
        Column whose days are resampled.
    resamples, seed : int
        See `bootstrap`.

    Returns
    -------
    dict
        For "newly alerted", "no longer alerted", "alerted by both" and "alerted by neither": ``rows`` and ``mature``
        rows as counts; ``share`` (of the requests that both scored) and ``label_share`` (of label 1, among the set's
        mature rows: the precision of these alerts) as estimates. Where the decision changes also ``value``, an
        estimate of what the change is worth per 1,000 mature requests of all sets, so that the two add up to what the
        shadow is worth more. The ``rows`` of a ``label_share`` are those of the set.
    """
    both = scored_by_both(joined)
    mature = both[both[label].notna()]
    outcome, before = _floats(mature[label]), _floats(mature["production_decision"])
    how: dict[str, Any] = {"resamples": resamples, "seed": seed}
    all_days, mature_days = days(both[event_time]), days(mature[event_time])
    found: dict[str, dict[str, Any]] = {}
    for (alerted_before, alerted_after), name in SWAPS.items():
        chosen, known = (
            (frame["production_decision"].astype(bool) == alerted_before)
            & (frame["shadow_decision"].astype(bool) == alerted_after)
            for frame in (both, mature)
        )
        precision = bootstrap(outcome, _floats(known), "precision", clusters=mature_days, **how)
        found[name] = {
            "rows": int(chosen.sum()),
            "share": bootstrap(np.zeros(len(both)), _floats(chosen), "alert_share", clusters=all_days, **how),
            "mature": int(known.sum()),
            "label_share": Estimate(**{**precision, "rows": int(known.sum())}),
        }
        if alerted_before != alerted_after:
            after = np.where(known, float(alerted_after), before)
            found[name]["value"] = paired_bootstrap(
                outcome, after, before, value_at(value), clusters=mature_days, **how
            )
    return found


def compare_alerts(
    joined: pd.DataFrame, *, event_time: str = "event_time", resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate the alert share before and after; labels are not needed.

    Parameters
    ----------
    joined : DataFrame
    event_time : str
        Column whose days are resampled.
    resamples, seed : int
        See `bootstrap`.

    Returns
    -------
    dict of str to Estimate
        ``production``, ``shadow``, and ``change`` (shadow - production).
    """
    both = scored_by_both(joined)
    nothing = np.zeros(len(both))
    before, after = _floats(both["production_decision"]), _floats(both["shadow_decision"])
    how: dict[str, Any] = {"clusters": days(both[event_time]), "resamples": resamples, "seed": seed}
    return {
        "production": bootstrap(nothing, before, "alert_share", **how),
        "shadow": bootstrap(nothing, after, "alert_share", **how),
        "change": paired_bootstrap(nothing, after, before, "alert_share", **how),
    }


def compare_metrics(
    joined: pd.DataFrame,
    *,
    label: str,
    value: Value | None = None,
    metrics: Sequence[str] = (*OF_SCORES, *OF_DECISIONS),
    event_time: str = "event_time",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Estimate each metric for both models and the paired difference, on mature rows that both scored.

    Parameters
    ----------
    joined : DataFrame
    label : str
        Name of the label.
    value : callable, optional
        The pipeline's `value` hook; adds the metric ``value``, money per 1,000 rows.
    metrics : sequence of str
        Names in `METRICS`.
    event_time : str
        Column whose days are resampled.
    resamples, seed : int
        See `bootstrap`.

    Returns
    -------
    dict
        ``{metric: {"production": Estimate, "shadow": Estimate, "difference": Estimate}}``; the difference is positive
        where the shadow is better.
    """
    rows = scored_by_both(joined)
    rows = rows[rows[label].notna()]
    how: dict[str, Any] = {"clusters": days(rows[event_time]), "resamples": resamples, "seed": seed}
    measures: dict[str, Metric] = {name: METRICS[name] for name in metrics}
    if value is not None:
        measures["value"] = value_at(value)
    result = {}
    outcome = _floats(rows[label])
    for name, measure in measures.items():
        kind = "score" if name in OF_SCORES else "decision"
        before, after = _floats(rows[f"production_{kind}"]), _floats(rows[f"shadow_{kind}"])
        result[name] = {
            "production": bootstrap(outcome, before, measure, **how),
            "shadow": bootstrap(outcome, after, measure, **how),
            "difference": paired_bootstrap(outcome, after, before, measure, **how),
        }
    return result


def summarize_latency(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Summarize times that columns hold, in their own unit: rows, median, 90th and 99th percentile, largest."""
    table = frame[list(columns)].describe(percentiles=[0.5, 0.9, 0.99]).T
    return table.rename(columns={"count": "rows", "50%": "median", "max": "largest"})[
        ["rows", "median", "90%", "99%", "largest"]
    ]


def describe_health(joined: pd.DataFrame) -> pd.DataFrame:
    """Summarize how quickly both answer, and how far the shadow is behind.

    Parameters
    ----------
    joined : DataFrame
        With ``latency_ms``, ``served_at``, ``shadow_latency_ms`` and ``shadow_scored_at``.

    Returns
    -------
    DataFrame
        A line each for production's milliseconds to an answer, the shadow's milliseconds a row, and the seconds from
        production's answer to the shadow's; columns as in `summarize_latency`.
    """
    behind = (joined["shadow_scored_at"] - joined["served_at"]).dt.total_seconds()
    times = pd.DataFrame(
        {
            "production, ms an answer": joined["latency_ms"],
            "shadow, ms a row": joined["shadow_latency_ms"],
            "shadow behind production, s": behind,
        }
    )
    return summarize_latency(times, list(times.columns))


def count_errors(joined: pd.DataFrame, *, most: int = 10) -> pd.DataFrame:
    """Count the shadow's errors by what they say, most frequent first, with a request to look at."""
    failed = joined[joined["shadow_error"] != ""]
    counted = failed.groupby("shadow_error")["request_id"].agg(["size", "first"])
    counted = counted.sort_values("size", ascending=False, kind="stable").head(most)
    return counted.rename(columns={"size": "requests", "first": "such as"}).rename_axis("error")


def tabulate(compared: Mapping[str, Mapping[str, Estimate]]) -> pd.DataFrame:
    """Lay out what `compare_metrics` returns as a table: one row a metric, the interval beside its estimate."""
    lines = {
        name: {
            "production": estimates["production"]["estimate"],
            "shadow": estimates["shadow"]["estimate"],
            "difference": estimates["difference"]["estimate"],
            "low": estimates["difference"]["low"],
            "high": estimates["difference"]["high"],
            "rows": estimates["difference"]["rows"],
        }
        for name, estimates in compared.items()
    }
    return pd.DataFrame.from_dict(lines, orient="index")


def scored_by_both(joined: pd.DataFrame) -> pd.DataFrame:
    """Keep the requests that both models gave a score: only these can be compared."""
    return joined[joined["shadow_score"].notna() & joined["production_score"].notna()]


def days(event_time: pd.Series) -> npt.NDArray[np.datetime64]:
    """Give the day of each row, which is what resampling draws: rows of a day share what made them hard."""
    return np.asarray(event_time.dt.normalize(), dtype="datetime64[s]")


def _floats(column: pd.Series) -> npt.NDArray[np.float64]:
    return np.asarray(column, dtype=np.float64)
