"""The model ranks, the threshold decides: what a new model's scores do to an old threshold.

Scores of two models need not mean the same. The same threshold then raises more alerts, or fewer, although nobody
decided that. Two things are offered, and neither changes how the new model ranks: the threshold that keeps the share of
alerts where it was, and the map that gives the new scores the distribution of the old ones, which keeps the share above
*every* threshold (equipercentile linking: Kolen and Brennan 2014, Test Equating, Scaling, and Linking, ch. 2). Both are
for all requests alike; what they leave in a segment is reported, and so is the threshold that would keep that segment's
own share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from sundial.declarations import SegmentSpec
from sundial.evaluation.guardrail import SMALL_GROUP, SMALL_ONES, Comparison
from sundial.evaluation.metrics import Floats
from sundial.evaluation.segments import add_segments

POINTS = 1000
SLOPE = 1e-6  # of the map where the old scores have a gap: small enough to move nothing, large enough to keep ranks


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """A strictly increasing map from one model's scores to another's.

    Attributes
    ----------
    scores, mapped : float64 arrays of shape (points,)
        Where it is known; linear in between. Both increase strictly, from 0 to 1.
    """

    scores: Floats
    mapped: Floats

    def __call__(self, scores: npt.ArrayLike) -> Floats:
        """Map scores; NaN stays NaN."""
        return np.asarray(np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.mapped), dtype=np.float64)


def share_threshold(scores: npt.ArrayLike, share: float) -> float:
    """Find the threshold that a share of the scores reaches.

    Parameters
    ----------
    scores : array-like of shape (rows,)
        Finite.
    share : float
        Between 0 and 1.

    Returns
    -------
    float
        One of the scores, or just above the largest; where several rows share a score, the nearer of the two possible
        shares.

    Raises
    ------
    ValueError
        Without scores.

    Examples
    --------
    >>> share_threshold([0.1, 0.2, 0.3, 0.4], 0.5)
    0.3
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) == 0:
        raise ValueError("there are no scores to choose a threshold on")
    alerts = round(share * len(values))
    above_all = float(np.nextafter(values.max(), np.inf))
    if alerts == 0:
        return above_all
    reached = float(np.partition(values, len(values) - alerts)[len(values) - alerts])
    higher = values[values > reached]
    wanted = share * len(values)
    if (values >= reached).sum() - wanted <= wanted - len(higher):
        return reached
    return float(higher.min()) if len(higher) else above_all


def choose_threshold(
    own: float,
    why: str,
    scores: npt.ArrayLike,
    *,
    given: float = 0.0,
    keep_share_of: npt.ArrayLike | None = None,
) -> tuple[float, str]:
    """Choose a candidate's threshold: its own, a given one, or the one that keeps the share of alerts where it is.

    Parameters
    ----------
    own : float
        What the pipeline would choose, such as where an alert breaks even.
    why : str
        What that rests on, in words.
    scores : array-like of shape (rows,)
        Of the candidate.
    given : float
        A threshold that a person gave; 0 for none.
    keep_share_of : array-like of shape (rows,), optional
        Decisions of production on the same rows, whose share of alerts is to be kept. No label is looked at, so that
        choosing on these rows flatters no figure that is later computed on them.

    Returns
    -------
    tuple of float and str
        The threshold, and what it rests on, in words.

    Raises
    ------
    ValueError
        When a threshold is given and a share is to be kept: only one of them can be had.

    Examples
    --------
    >>> choose_threshold(0.4, "break even", [0.1, 0.2, 0.3, 0.4], keep_share_of=[True, False, True, False])
    (0.3, "production's share of alerts, 50.0 % of 4 rows")
    """
    if given and keep_share_of is not None:
        raise ValueError("a threshold was given, and production's share of alerts is to be kept: choose one of them")
    if given:
        return given, "parameter"
    if keep_share_of is None:
        return own, why
    decisions = np.asarray(keep_share_of, dtype=bool)
    share = float(decisions.mean())
    basis = f"production's share of alerts, {100 * share:.1f} % of {len(decisions):,} rows"
    return share_threshold(scores, share), basis


def fit_score_map(before: npt.ArrayLike, after: npt.ArrayLike, threshold: float, *, points: int = POINTS) -> ScoreMap:
    """Fit the map that gives new scores the distribution of old ones.

    Parameters
    ----------
    before, after : array-like of shape (rows,)
        Scores, 0 to 1, of the old and the new model for the same requests; finite.
    threshold : float
        Of the old model: here the map is exact, so that mapped scores reach it as often as the old ones did.
    points : int
        Quantiles that are kept.

    Returns
    -------
    ScoreMap

    Raises
    ------
    ValueError
        Without scores.
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    same_share = share_threshold(new, float((old >= threshold).mean()))
    levels = np.linspace(0.0, 1.0, points)
    x, y = np.quantile(new, levels), np.quantile(old, levels)
    # below the new threshold nothing may reach the old one, and above it everything must
    y = np.where(x < same_share, np.minimum(y, np.nextafter(threshold, 0.0)), np.maximum(y, threshold))
    x, y = np.r_[0.0, x, same_share, 1.0], np.r_[0.0, y, threshold, 1.0]
    inside = (x >= 0) & (x <= 1)
    order = np.lexsort((y, x))[inside[np.lexsort((y, x))]]
    x, first = np.unique(x[order], return_index=True)
    y = np.maximum.accumulate(np.clip(y[order][first], SLOPE, 1.0 - SLOPE))
    return ScoreMap(x, y + SLOPE * (x - same_share))


def compare_shares(
    joined: pd.DataFrame,
    segments: Sequence[SegmentSpec],
    compared: Comparison,
    kept: Comparison,
    *,
    small: int = SMALL_GROUP,
) -> pd.DataFrame:
    """Say whose share of alerts moves, and what the threshold that keeps it overall leaves to each.

    Parameters
    ----------
    joined : DataFrame
        A row a request that both models scored, as `sundial.evaluation.comparison.join_answers` makes it.
    segments : sequence of SegmentSpec
        Of the pipeline.
    compared : Comparison
        At the shadow's own threshold.
    kept : Comparison
        At the threshold that keeps the share overall.
    small : int
        Groups with fewer rows get no threshold of their own.

    Returns
    -------
    DataFrame
        Indexed by ``segment`` and ``of``, most rows first in each segment: ``rows``, ``before`` and ``after`` (shares),
        ``change`` with ``low`` and ``high``, ``verdict``; ``kept`` (share at the threshold for all), ``residual`` with
        ``residual_low`` and ``residual_high``; ``own_threshold`` of the group, and ``own_residual``, what that leaves.
    """
    first = compared.table.xs("alert_share", level="figure")
    second = kept.table.xs("alert_share", level="figure")
    table = pd.DataFrame(
        {
            "rows": first["rows"],
            "before": first["production"],
            "after": first["shadow"],
            "change": first["difference"],
            "low": first["low"],
            "high": first["high"],
            "verdict": first["verdict"],
            "kept": second["shadow"],
            "residual": second["difference"],
            "residual_low": second["low"],
            "residual_high": second["high"],
        }
    ).reindex(first.index)
    named = add_segments(joined, segments)
    own: dict[tuple[str, str], tuple[float, float]] = {}
    for segment in segments:
        for name, rows in named.groupby(segment.name, observed=True, sort=False):
            if len(rows) < small:
                continue
            scores, share = rows["shadow_score"].to_numpy(), float(rows["production_decision"].mean())
            threshold = share_threshold(scores, share)
            own[segment.name, str(name)] = (threshold, float((scores >= threshold).mean()) - share)
    lines = [own.get(name, (np.nan, np.nan)) for name in table.index]
    table[["own_threshold", "own_residual"]] = np.array(lines, dtype=np.float64).reshape(-1, 2)
    return table


def largest_shift(shares: pd.DataFrame, column: str) -> float:
    """Give the largest shift of any group that is large enough to be judged; NaN when there is none."""
    judged = shares[shares["low"].notna() & (shares.index.get_level_values("of") != SMALL_ONES)]
    return float(judged[column].abs().max()) if len(judged) else float("nan")
