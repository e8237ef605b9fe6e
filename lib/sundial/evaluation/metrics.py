"""Metrics of a score against a binary label, each also for thousands of resamples at once.

A metric is a plain function of ``(label, score)`` with optional row weights. What is undefined (no rows, only one
class where two are needed, a missing score) is NaN: never an exception, never a warning, and no gate passes it.

For the bootstrap a metric also *prepares*: it sorts or bins the rows once and returns a function of a matrix of
weights, one row a resample. An integer weight means that the row was drawn that often.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Replicates: TypeAlias = Callable[[Floats], Floats]
Prepare: TypeAlias = Callable[[Floats, Floats], Replicates]
Value: TypeAlias = Callable[[npt.NDArray[np.int64], npt.NDArray[np.bool_]], npt.ArrayLike]

SHARE = (0.0, 1.0)
CALIBRATION_BINS = 20
SMALLEST_PROBABILITY = 1e-15


@dataclass(frozen=True)
class Metric:
    """A figure of merit, callable on arrays and preparable for many resamples.

    Parameters
    ----------
    name : str
        What tables and messages call it.
    prepare : callable
        ``(label, score) -> (weights of shape (resamples, rows) -> values of shape (resamples,))``.
    higher_is_better : bool or None
        None when neither direction is better by itself, as with an alert share.
    bounds : tuple of float
        Smallest and largest value that the figure can have; intervals are cut there.
    """

    name: str
    prepare: Prepare
    higher_is_better: bool | None
    bounds: tuple[float, float] = (-np.inf, np.inf)

    def __call__(self, label: npt.ArrayLike, score: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
        """Return the figure for these rows, NaN where it is undefined.

        Parameters
        ----------
        label : array-like of shape (rows,)
            0 or 1 (or bool).
        score : array-like of shape (rows,)
            Probability of label 1; a decision (0 or 1) for the metrics at a threshold.
        weight : array-like of shape (rows,), optional
            Non-negative weights; all 1 when absent.

        Returns
        -------
        float
        """
        labels, scores = as_rows(label, score)
        weights = np.ones(len(labels)) if weight is None else np.asarray(weight, dtype=np.float64).ravel()
        if len(weights) != len(labels):
            raise ValueError(f"{len(weights)} weights for {len(labels)} rows")
        return float(self.replicates(labels, scores)(weights[np.newaxis, :])[0])

    def replicates(self, label: Floats, score: Floats) -> Replicates:
        """Prepare these rows once; the result maps a weight matrix to one value a resample.

        Parameters
        ----------
        label, score : float64 arrays of shape (rows,)

        Returns
        -------
        callable
            ``(resamples, rows) -> (resamples,)``; all NaN when there are no rows or a label or score is missing.
        """
        if len(label) == 0 or not (np.isfinite(label).all() and np.isfinite(score).all()):
            return lambda weights: np.full(len(weights), np.nan)
        return self.prepare(label, score)


def as_rows(label: npt.ArrayLike, score: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return label and score as float64 vectors of one length.

    Raises
    ------
    ValueError
        When their lengths differ, or a label is neither 0 nor 1 (missing ones are kept as NaN).
    """
    labels = np.asarray(label, dtype=np.float64).ravel()
    scores = np.asarray(score, dtype=np.float64).ravel()
    if len(labels) != len(scores):
        raise ValueError(f"{len(labels)} labels for {len(scores)} scores")
    if not np.isin(labels[~np.isnan(labels)], (0.0, 1.0)).all():
        raise ValueError("labels must be 0 or 1")
    return labels, scores


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    """Divide where there is something to divide by; NaN elsewhere, without a warning."""
    result: Floats = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _tie_groups(sorted_score: Floats) -> npt.NDArray[np.intp]:
    """Return where each run of equal scores starts."""
    return np.flatnonzero(np.r_[True, sorted_score[1:] != sorted_score[:-1]])


def _sum_groups(weights: Floats, starts: npt.NDArray[np.intp]) -> Floats:
    """Sum columns within tie groups; without ties they already are the groups."""
    return weights if len(starts) == weights.shape[1] else np.add.reduceat(weights, starts, axis=1)


def _prepare_roc_auc(label: Floats, score: Floats) -> Replicates:
    order = np.argsort(score, kind="stable")
    starts = _tie_groups(score[order])
    positive = label[order]

    def replicates(weights: Floats) -> Floats:
        drawn = weights[:, order]
        positives = _sum_groups(drawn * positive, starts)
        negatives = _sum_groups(drawn * (1.0 - positive), starts)
        # negatives ranked below, and half of those tied
        below = np.cumsum(negatives, axis=1) - 0.5 * negatives
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        return _divide(np.einsum("ij,ij->i", positives, below), pairs)

    return replicates


def _prepare_average_precision(label: Floats, score: Floats) -> Replicates:
    order = np.argsort(-score, kind="stable")
    starts = _tie_groups(score[order])
    positive = label[order]

    def replicates(weights: Floats) -> Floats:
        drawn = weights[:, order]
        hits = _sum_groups(drawn * positive, starts)
        alerted = np.cumsum(_sum_groups(drawn, starts), axis=1)
        # before the first row that was drawn there is nothing to be precise about, and nothing to count
        precision = np.divide(np.cumsum(hits, axis=1), alerted, out=np.zeros_like(alerted), where=alerted > 0)
        return _divide(np.einsum("ij,ij->i", hits, precision), hits.sum(axis=1))

    return replicates


def _prepare_calibration_error(label: Floats, score: Floats) -> Replicates:
    bins = np.clip((score * CALIBRATION_BINS).astype(np.intp), 0, CALIBRATION_BINS - 1)
    gaps = np.zeros((len(score), CALIBRATION_BINS))
    gaps[np.arange(len(score)), bins] = score - label

    def replicates(weights: Floats) -> Floats:
        return _divide(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))

    return replicates


def _ratio(parts: Callable[[Floats, Floats], tuple[Floats, Floats]]) -> Prepare:
    """Make a metric that is one weighted sum over another, such as a mean or a precision."""

    def prepare(label: Floats, score: Floats) -> Replicates:
        numerator, denominator = parts(label, score)
        both = np.column_stack([numerator, denominator])

        def replicates(weights: Floats) -> Floats:
            sums = weights @ both
            return _divide(sums[:, 0], sums[:, 1])

        return replicates

    return prepare


def _log_loss_parts(label: Floats, score: Floats) -> tuple[Floats, Floats]:
    certain = np.clip(score, SMALLEST_PROBABILITY, 1.0 - SMALLEST_PROBABILITY)
    return -np.log(np.where(label == 1.0, certain, 1.0 - certain)), np.ones_like(label)


def recall_at(threshold: float) -> Metric:
    """Share of the label-1 rows whose score reaches `threshold`; undefined without such rows."""
    return Metric("recall", _ratio(lambda y, s: (y * (s >= threshold), y)), higher_is_better=True, bounds=SHARE)


def precision_at(threshold: float) -> Metric:
    """Share of the rows whose score reaches `threshold` that are label 1; undefined without an alert."""
    return Metric(
        "precision",
        _ratio(lambda y, s: (y * (s >= threshold), (s >= threshold).astype(np.float64))),
        higher_is_better=True,
        bounds=SHARE,
    )


def alert_share_at(threshold: float) -> Metric:
    """Share of the rows whose score reaches `threshold`; labels are not used."""
    return Metric(
        "alert_share",
        _ratio(lambda y, s: ((s >= threshold).astype(np.float64), np.ones_like(y))),
        higher_is_better=None,
        bounds=SHARE,
    )


def value_at(value: Value, threshold: float = 0.5, *, per: float = 1000.0) -> Metric:
    """Money per `per` rows when an alert is raised at `threshold`, against doing nothing.

    Parameters
    ----------
    value : callable
        ``(label of 0/1, decision of bool) -> money per row``: the pipeline's `value` hook.
    threshold : float
        Scores that reach it are alerts; 0.5 reads decisions given as 0 and 1.
    per : float
        Rows the sum is expressed for.

    Returns
    -------
    Metric
        Named ``value``; in the hook's currency.
    """

    def parts(label: Floats, score: Floats) -> tuple[Floats, Floats]:
        money = np.asarray(value(label.astype(np.int64), score >= threshold), dtype=np.float64)
        return per * money, np.ones_like(label)

    return Metric("value", _ratio(parts), higher_is_better=True)


#: Area under the ROC curve: the chance that a label-1 row outranks a label-0 row, ties counting half (Hanley and
#: McNeil 1982, Radiology 143:29-36, p. 30).
roc_auc = Metric("roc_auc", _prepare_roc_auc, higher_is_better=True, bounds=SHARE)

#: Average precision: precision at every distinct score, weighted by the recall it adds, without interpolation (the
#: definition of scikit-learn; Manning, Raghavan and Schuetze 2008, Introduction to Information Retrieval, p. 159).
average_precision = Metric("average_precision", _prepare_average_precision, higher_is_better=True, bounds=SHARE)

#: Mean negative log likelihood in nats; scores are kept 1e-15 away from 0 and 1.
log_loss = Metric("log_loss", _ratio(_log_loss_parts), higher_is_better=False, bounds=(0.0, np.inf))

#: Mean squared difference of score and label (Brier 1950, Monthly Weather Review 78:1-3, p. 1, for two classes and
#: halved, as is usual).
brier = Metric("brier", _ratio(lambda y, s: ((s - y) ** 2, np.ones_like(y))), higher_is_better=False, bounds=SHARE)

#: Expected calibration error: the mean over rows of |mean score - share of label 1| in the row's bin, in 20 bins of
#: width 0.05 (Guo et al. 2017, ICML, eq. 3). The bins are fixed, so that two models and two weeks are read off the
#: same ruler. It is never 0 on real rows: a perfect model shows about 0.01 on 6,000 of them.
calibration_error = Metric("calibration_error", _prepare_calibration_error, higher_is_better=False, bounds=SHARE)

#: Mean score less the share of label 1: calibration in the large, positive where more is expected than happens.
calibration_gap = Metric(
    "calibration_gap", _ratio(lambda y, s: (s - y, np.ones_like(y))), higher_is_better=None, bounds=(-1.0, 1.0)
)

#: By name. The last three read decisions: give 0 and 1 (or bool) as the score.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        roc_auc,
        average_precision,
        log_loss,
        brier,
        calibration_error,
        calibration_gap,
        recall_at(0.5),
        precision_at(0.5),
        alert_share_at(0.5),
    )
}


def find_metric(metric: str | Metric) -> Metric:
    """Return the metric of that name; a Metric is returned as it is.

    Raises
    ------
    KeyError
        When no metric has the name; the message lists those there are.
    """
    if isinstance(metric, Metric):
        return metric
    if metric not in METRICS:
        raise KeyError(f"no metric is called {metric!r}; there are {', '.join(METRICS)}")
    return METRICS[metric]


def calibration_table(label: npt.ArrayLike, score: npt.ArrayLike) -> dict[str, list[float]]:
    """Return the bins that `calibration_error` averages, for a reliability plot.

    Parameters
    ----------
    label, score : array-like of shape (rows,)

    Returns
    -------
    dict
        ``rows``, ``mean_score`` and ``label_share``, a value per bin that has rows.
    """
    labels, scores = as_rows(label, score)
    keep = np.isfinite(labels) & np.isfinite(scores)
    labels, scores = labels[keep], scores[keep]
    bins = np.clip((scores * CALIBRATION_BINS).astype(np.intp), 0, CALIBRATION_BINS - 1)
    rows = np.bincount(bins, minlength=CALIBRATION_BINS)
    used = rows > 0
    mean_score = np.bincount(bins, weights=scores, minlength=CALIBRATION_BINS)[used] / rows[used]
    label_share = np.bincount(bins, weights=labels, minlength=CALIBRATION_BINS)[used] / rows[used]
    return {
        "rows": rows[used].astype(float).tolist(),
        "mean_score": mean_score.tolist(),
        "label_share": label_share.tolist(),
    }
