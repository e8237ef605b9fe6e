"""How far this week's rows have moved from those a model was trained on.

The training rows themselves are not needed: a *profile* of them, a small dict that travels with the model, holds per
numeric feature its distribution function at up to 200 points, and per category its share. Three measures, each with a
p-value or a size that can be read by itself:

PSI
    Population stability index, sum of (after - before) ln(after / before) over bins (Siddiqi 2006, Credit Risk
    Scorecards, p. 137). By custom 0.1 is worth a look and 0.25 is a shift; by chance alone it is about
    (bins - 1)(1 / rows before + 1 / rows after) (Yurdakul and Naranjo 2020, Journal of Risk Model Validation 14(4)),
    which ``psi_by_chance`` states.
KS
    Kolmogorov and Smirnov's largest distance of the two distribution functions, for numeric features, at the points
    that the profile kept (Massey 1951, JASA 46:68-78).
Chi-square
    Of the counts per category (or bin) of two samples, and Cramér's V as its size, 0 to 1 (Cramér 1946, Mathematical
    Methods of Statistics, p. 443).

With thousands of rows a p-value is small for any change at all: the sizes are what to look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sundial.errors import DataError

Floats = npt.NDArray[np.float64]

POINTS = 200
BINS = 10
WORTH_A_LOOK = 0.1
SHIFTED = 0.25
# Chi-square's approximation wants about this many rows expected in each cell; rarer categories are pooled.
SMALLEST_EXPECTED = 5.0


def profile(frame: pd.DataFrame, features: Sequence[str]) -> dict[str, Any]:
    """Summarize what a model was trained on.

    Parameters
    ----------
    frame : DataFrame
        Training rows.
    features : sequence of str
        Columns to keep track of. Numbers are profiled by their distribution; text, categories and truth values by
        the share of each value.

    Returns
    -------
    dict
        ``{"rows": n, "features": {name: {...}}}`` of plain numbers, fit for JSON. Numeric: ``kind``, ``missing``
        (share), ``points`` with ``cdf`` and ``below`` (share up to and below each), ``edges`` and ``shares`` of at
        most 10 bins of like share, and of one on either side for what was never seen. Category:
        ``kind``, ``missing`` and ``shares`` by value. Shares are of the rows that are not missing.

    Raises
    ------
    DataError
        When there are no rows, or a feature is neither a number nor a category.
    """
    if frame.empty:
        raise DataError("no rows to profile")
    return {"rows": len(frame), "features": {name: _profile_column(frame[name]) for name in features}}


def drift(reference: Mapping[str, Any], frame: pd.DataFrame) -> pd.DataFrame:
    """Compare rows with a profile.

    Parameters
    ----------
    reference : mapping
        From `profile`.
    frame : DataFrame
        Rows of now, with the profile's features.

    Returns
    -------
    DataFrame
        A row a feature, largest PSI first: ``feature``, ``kind``, ``rows`` (not missing), ``missing_before``,
        ``missing_after``, ``psi``, ``psi_by_chance``, ``ks``, ``ks_p``, ``chi2``, ``chi2_p``, ``cramers_v``, ``new``
        and ``vanished`` (values of a category, most frequent first), ``new_share``, ``verdict`` (``stable``,
        ``worth a look``, ``shifted`` or ``no rows``).

    Raises
    ------
    DataError
        When a feature of the profile is not in `frame`.
    """
    absent = [name for name in reference["features"] if name not in frame.columns]
    if absent:
        raise DataError(
            f"rows have no column {', '.join(absent)}", hint="compare the features the model was trained on"
        )
    lines = [
        {"feature": name, **_compare(before, int(reference["rows"]), frame[name])}
        for name, before in reference["features"].items()
    ]
    table = pd.DataFrame(lines, columns=["feature", *_MEASURES])
    return table.sort_values("psi", ascending=False, kind="stable", ignore_index=True)


# fmt: off
_MEASURES = (
    "kind", "rows", "missing_before", "missing_after", "psi", "psi_by_chance", "ks", "ks_p", "chi2", "chi2_p",
    "cramers_v", "new", "vanished", "new_share", "verdict",
)
# fmt: on


def population_stability(before: npt.ArrayLike, after: npt.ArrayLike) -> float:
    """Return the PSI of two vectors of counts.

    Parameters
    ----------
    before, after : array-like of shape (bins,)
        Counts; half a row is added to each, so that an empty bin is far and not infinitely far.

    Returns
    -------
    float
        0 when the shares are equal; NaN when a side has no rows.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.sum() == 0 or second.sum() == 0:
        return float("nan")
    p = (first + 0.5) / (first + 0.5).sum()
    q = (second + 0.5) / (second + 0.5).sum()
    return float(np.sum((q - p) * np.log(q / p)))


def chi_square(before: npt.ArrayLike, after: npt.ArrayLike) -> tuple[float, float, float]:
    """Test whether two vectors of counts come from one distribution.

    Parameters
    ----------
    before, after : array-like of shape (bins,)
        Counts. Bins that expect fewer than five rows on either side are pooled into one.

    Returns
    -------
    tuple of float
        Chi-square, its p-value, and Cramér's V; all NaN with fewer than two bins left.
    """
    from scipy.stats import chi2

    counts = np.vstack([np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)])
    nan = float("nan")
    if (counts.sum(axis=1) == 0).any():
        return nan, nan, nan
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    rare = expected.min(axis=0) < SMALLEST_EXPECTED
    pooled = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    if pooled.shape[1] < 2:
        return nan, nan, nan
    expected = np.outer(pooled.sum(axis=1), pooled.sum(axis=0)) / pooled.sum()
    statistic = float(((pooled - expected) ** 2 / expected).sum())
    # of two rows, the smaller dimension minus one is 1: V is the root of chi-square per row
    return statistic, float(chi2.sf(statistic, pooled.shape[1] - 1)), float(np.sqrt(statistic / pooled.sum()))


def _is_number(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column))


def _values(column: pd.Series) -> Floats:
    numbers: Floats = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return numbers[~np.isnan(numbers)]


def _names(column: pd.Series) -> pd.Series:
    return column.dropna().astype(str)


def _profile_column(column: pd.Series) -> dict[str, Any]:
    missing = float(column.isna().mean())
    if not _is_number(column):
        if pd.api.types.is_datetime64_any_dtype(column):
            raise DataError(f"feature {column.name!r} is a time, neither a number nor a category")
        shares = _names(column).value_counts(normalize=True)
        return {"kind": "category", "missing": missing, "shares": {str(k): float(v) for k, v in shares.items()}}
    values = np.sort(_values(column))
    if len(values) == 0:
        return {
            "kind": "number",
            "missing": missing,
            "points": [],
            "cdf": [],
            "below": [],
            "edges": [],
            "shares": [0.0],
        }
    # quantiles that are values of the column, so that the distribution function is exact where it is kept
    points = np.unique(np.quantile(values, np.linspace(0, 1, POINTS), method="inverted_cdf"))
    cdf = np.searchsorted(values, points, side="right") / len(values)
    inner = np.searchsorted(cdf, np.arange(1, BINS) / BINS)
    edges = np.unique(np.r_[np.nextafter(points[0], -np.inf), points[inner], points[-1]])
    return {
        "kind": "number",
        "missing": missing,
        "points": points.tolist(),
        "cdf": cdf.tolist(),
        "below": (np.searchsorted(values, points, side="left") / len(values)).tolist(),
        "edges": edges.tolist(),
        "shares": (_bin(values, edges) / len(values)).tolist(),
    }


def _bin(values: Floats, edges: Floats) -> Floats:
    """Count values in (-inf, e0], (e0, e1], ..., (eN, inf)."""
    counts: Floats = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1).astype(np.float64)
    return counts


def _compare(before: Mapping[str, Any], rows_before: int, column: pd.Series) -> dict[str, Any]:
    present = rows_before * (1.0 - before["missing"])
    measures = _compare_numbers if before["kind"] == "number" else _compare_categories
    result: dict[str, Any] = {
        "kind": before["kind"],
        "missing_before": before["missing"],
        "missing_after": float(column.isna().mean()) if len(column) else float("nan"),
        "ks": float("nan"),
        "ks_p": float("nan"),
        "new": [],
        "vanished": [],
        "new_share": 0.0,
        **measures(before, present, column),
    }
    psi = result["psi"]
    if np.isnan(psi):
        result["verdict"] = "no rows"
    else:
        result["verdict"] = "shifted" if psi >= SHIFTED else "worth a look" if psi >= WORTH_A_LOOK else "stable"
    return result


def _sizes(first: Floats, second: Floats) -> dict[str, float]:
    """Return the measures that both kinds of feature share, from counts."""
    statistic, p_value, size = chi_square(first, second)
    before, after = first.sum(), second.sum()
    bins = np.count_nonzero(first + second)
    chance = (bins - 1) * (1 / before + 1 / after) if before and after else float("nan")
    return {
        "psi": population_stability(first, second),
        "psi_by_chance": float(chance),
        "chi2": statistic,
        "chi2_p": p_value,
        "cramers_v": size,
    }


def _compare_numbers(before: Mapping[str, Any], present: float, column: pd.Series) -> dict[str, Any]:
    from scipy.stats import kstwobign

    values = np.sort(_values(column.astype("float64")))
    counts = present * np.asarray(before["shares"], dtype=np.float64)
    result: dict[str, Any] = {
        "rows": len(values),
        **_sizes(counts, _bin(values, np.asarray(before["edges"], dtype=np.float64))),
    }
    if len(values) and len(before["points"]):
        # on both sides of each point: where values repeat, the distribution function jumps
        now = [np.searchsorted(values, before["points"], side=side) / len(values) for side in ("right", "left")]
        distance = float(np.max(np.abs(np.stack(now) - np.array([before["cdf"], before["below"]]))))
        effective = len(values) * present / (len(values) + present)
        # asymptotic, and with ties on the safe side: the p-value is then too large
        result |= {"ks": distance, "ks_p": float(kstwobign.sf(distance * np.sqrt(effective)))}
    return result


def _compare_categories(before: Mapping[str, Any], present: float, column: pd.Series) -> dict[str, Any]:
    now = _names(column).value_counts()
    shares = pd.Series(before["shares"], dtype="float64")
    known = shares.index.union(now.index)
    first = np.asarray((present * shares).reindex(known, fill_value=0.0), dtype=np.float64)
    second = np.asarray(now.reindex(known, fill_value=0), dtype=np.float64)
    new = now[~now.index.isin(shares.index)]
    return {
        "rows": int(now.sum()),
        **_sizes(first, second),
        "new": [str(name) for name in new.index],
        "vanished": [str(name) for name in shares.index if name not in now.index],
        "new_share": float(new.sum() / now.sum()) if len(now) else float("nan"),
    }
