"""Better overall, and worse for someone? Two models compared in every group of every segment, and corrected for it.

Four figures have a denominator that does not depend on the model: the alert share (rows), the false-positive rate (rows
of label 0), the recall (rows of label 1) and the worth of 1,000 rows. The difference of two models is then a sum over
days, divided by a constant, and `sundial.evaluation.multiple` tests all of these sums together.

The scale of a sum is made of the disagreements within the group (as in McNemar 1947, Psychometrika 12:153-157) and of
what days add to them, the median over all groups of a segment: seven days of one group alone say next to nothing about
its own spread, and a mean would be carried away by the groups that are harmed. No swapping of the models changes it, so
that a poor estimate costs power and never validity. One disagreement is added to each, so that a group in which the
models never disagreed has a scale too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sundial.evaluation.intervals import Estimate
from sundial.evaluation.metrics import Floats, Value
from sundial.evaluation.multiple import (
    ALL_PATTERNS_UP_TO,
    FEWEST_DAYS,
    PATTERNS,
    finest_level,
    shrink,
    step_down,
)

#: A group needs this many rows under the figure's own denominator: of fewer, only enormous harm could be seen.
SMALL_GROUP = 30
CONFIDENCE = 0.95
POWER_80 = 0.8416  # standard normal quantile of 0.8
SMALL_ONES = "(small ones)"
TOO_SMALL, TOO_FEW_DAYS = "too small to judge", "too few days to judge"
WORSE, BETTER, UNDECIDED, CHANGED = "worse", "better", "no difference shown", "changed"
#: What a guardrail can be about; more alerts are by themselves neither better nor worse.
HARMS = ("recall", "false_positive_rate", "value")
FIGURES = ("alert_share", *HARMS)
# fmt: off
_COLUMNS = (
    "segment", "of", "figure", "rows", "production", "shadow", "difference", "low", "high", "p_value", "noticed",
    "pooled", "pooled_low", "pooled_high", "verdict",
)
# fmt: on


@dataclass(frozen=True)
class Comparison:
    """Two models compared in every group.

    Attributes
    ----------
    table : DataFrame
        Indexed by ``segment``, ``of`` and ``figure``: ``rows`` (of the figure's denominator), ``production`` and
        ``shadow`` (the figure itself), ``difference`` (positive where the shadow is better; shadow - production of the
        alert share), ``low`` and ``high`` (simultaneous over all that was judged), ``p_value`` (corrected),
        ``noticed`` (a true difference of this size would be found four times in five), ``pooled``, ``pooled_low`` and
        ``pooled_high`` (no verdict rests on them), ``verdict``. What was too small is there too, without interval and
        p-value; all the small groups of a segment are judged as one, ``(small ones)``.
    days : dict of str to int
        Days under each figure.
    confidence : dict of str to float
        Of the intervals, by figure; below the one asked for only where so few days allow no more.
    method : str
        How it was tested, in words.
    """

    table: pd.DataFrame
    days: dict[str, int]
    confidence: dict[str, float]
    method: str


@dataclass(frozen=True)
class _Sums:
    """One figure by group and day: sums whose denominators no model changes."""

    figure: str
    rows: Floats  # (groups, days): the denominator
    before: Floats  # (groups, days): production's numerator
    after: Floats
    squares: Floats  # (groups,): sum over rows of the squared difference
    typical: float  # mean of the squared differences that are not 0
    sign: float
    per: float


@dataclass(frozen=True)
class _Tested:
    """What the test of a family found: an array a figure, in the order of its groups."""

    level: float
    critical: float
    enough_days: bool
    scales: list[Floats]
    p_values: list[Floats]


def compare_groups(
    cells: pd.DataFrame,
    value: Value,
    *,
    small: int = SMALL_GROUP,
    confidence: float = CONFIDENCE,
    patterns: int = PATTERNS,
    seed: int = 0,
) -> Comparison:
    """Compare shadow and production in every group of every segment.

    Parameters
    ----------
    cells : DataFrame
        From `sundial.evaluation.segments.count_cells`.
    value : callable
        The pipeline's `value` hook.
    small : int
        Groups with fewer rows under a figure's denominator are listed, and judged together only.
    confidence : float
        That no verdict of a family is false. The three figures that can be harmed are one family; the alert share,
        which needs no labels and may have more days, is one of its own.
    patterns, seed : int
        See `sundial.evaluation.multiple.sign_patterns`.

    Returns
    -------
    Comparison
    """
    names = cells[["segment", "of"]].drop_duplicates(ignore_index=True)
    figures = _sum_figures(cells, names, value)
    parts = [_with_small_ones(names, figures[figure], small) for figure in FIGURES]
    days = {sums.figure: int((sums.rows.sum(axis=0) > 0).sum()) for _, sums in parts}
    confidences: dict[str, float] = {}
    tables = []
    for family in (("alert_share",), HARMS):
        members = [part for part in parts if part[1].figure in family]
        tested = _test(members, 1.0 - confidence, patterns, seed)
        confidences |= dict.fromkeys(family, 1.0 - tested.level)
        tables += [_lay_out(index, sums, tested, slot) for slot, (index, sums) in enumerate(members)]
    table = pd.concat(tables, ignore_index=True) if len(names) else pd.DataFrame(columns=list(_COLUMNS))
    table["place"] = table["figure"].map({name: place for place, name in enumerate(FIGURES)})
    table = table.sort_values(["segment", "place", "rows"], ascending=[True, True, False], kind="stable")
    table = table.drop(columns="place").set_index(["segment", "of", "figure"])
    mature = days["value"]
    many = f"{patterns:,} drawn sign patterns, seed {seed}," if mature > ALL_PATTERNS_UP_TO else "all sign patterns"
    judged = table["p_value"].notna() & (table.index.get_level_values("figure") != "alert_share")
    method = (
        f"{many} of {mature} days, the largest of {int(judged.sum()):,} statistics stepped down, "
        f"{confidences['value']:.4g} that no verdict is false"
    )
    return Comparison(table, days, confidences, method)


def _sum_figures(cells: pd.DataFrame, names: pd.DataFrame, value: Value) -> dict[str, _Sums]:
    """Add the cells up to arrays by group and day."""
    group = pd.MultiIndex.from_frame(names).get_indexer(pd.MultiIndex.from_frame(cells[["segment", "of"]]))
    day, days = pd.factorize(cells["day"], sort=True, use_na_sentinel=False)
    label = cells["label"].to_numpy(dtype=np.float64)
    before, after = (cells[name].to_numpy(dtype=bool) for name in ("production", "shadow"))
    rows = cells["rows"].to_numpy(dtype=np.float64)
    shape = (len(names), len(days))

    def add(weight: Floats) -> Floats:
        flat = np.bincount(group * shape[1] + day, weights=weight, minlength=shape[0] * shape[1])
        return np.asarray(flat, dtype=np.float64).reshape(shape)

    def sums(figure: str, counted: npt.NDArray[np.bool_], of: Floats, to: Floats, sign: float, per: float) -> _Sums:
        n = np.where(counted, rows, 0.0)
        square = (to - of) ** 2
        typical = float((n * square).sum() / max(n[square > 0].sum(), 1.0))
        return _Sums(figure, add(n), add(n * of), add(n * to), add(n * square).sum(axis=1), typical or 1.0, sign, per)

    mature = ~np.isnan(label)
    outcome = np.where(mature, label, 0.0).astype(np.int64)
    worth = [np.asarray(value(outcome, decision), dtype=np.float64) for decision in (before, after)]
    alerts = before.astype(np.float64), after.astype(np.float64)
    return {
        "alert_share": sums("alert_share", np.ones(len(cells), dtype=bool), *alerts, 1.0, 1.0),
        "false_positive_rate": sums("false_positive_rate", label == 0, *alerts, -1.0, 1.0),
        "recall": sums("recall", label == 1, *alerts, 1.0, 1.0),
        "value": sums("value", mature, worth[0], worth[1], 1.0, 1000.0),
    }


def _with_small_ones(names: pd.DataFrame, sums: _Sums, small: int) -> tuple[pd.DataFrame, _Sums]:
    """Mark the groups that are too small for a figure, and add all those of a segment as one group."""
    index = names.assign(small=sums.rows.sum(axis=1) < small)
    extra: list[dict[str, Any]] = []
    arrays: list[npt.NDArray[np.intp]] = []
    for segment, lines in index[index["small"]].groupby("segment", sort=False):
        members = lines.index.to_numpy()
        total = sums.rows[members].sum()
        if len(members) > 1 and total > 0:
            extra.append({"segment": segment, "of": SMALL_ONES, "small": bool(total < small)})
            arrays.append(members)
    if not extra:
        return index, sums

    def extend(array: Floats) -> Floats:
        return np.concatenate([array, np.stack([array[members].sum(axis=0) for members in arrays])])

    extended = replace(
        sums,
        rows=extend(sums.rows),
        before=extend(sums.before),
        after=extend(sums.after),
        squares=extend(sums.squares),
    )
    return pd.concat([index, pd.DataFrame(extra)], ignore_index=True), extended


def _test(members: list[tuple[pd.DataFrame, _Sums]], level: float, patterns: int, seed: int) -> _Tested:
    """Test all judged groups of all figures of a family together."""
    kept = np.any([sums.rows.sum(axis=0) > 0 for _, sums in members], axis=0)
    days = int(kept.sum())
    level = finest_level(days, level)
    scales = [_scale(index, sums) for index, sums in members]
    p_values = [np.full(len(index), np.nan) for index, _ in members]
    judged = [~index["small"].to_numpy(dtype=bool) for index, _ in members]
    if days < FEWEST_DAYS or not any(mask.any() for mask in judged):
        return _Tested(level, float("nan"), days >= FEWEST_DAYS, scales, p_values)
    terms = [
        (sums.sign * (sums.after - sums.before))[mask][:, kept] / scale[mask][:, np.newaxis]
        for (_, sums), scale, mask in zip(members, scales, judged, strict=True)
    ]
    found = step_down(np.vstack(terms), level, patterns=patterns, seed=seed)
    start = 0
    for slot, mask in enumerate(judged):
        p_values[slot][mask] = found.p_values[start : start + mask.sum()]
        start += int(mask.sum())
    return _Tested(level, found.critical, True, scales, p_values)


def _scale(index: pd.DataFrame, sums: _Sums) -> Floats:
    """Estimate the standard deviation that each group's sum of differences has when there is no true one."""
    contributions = sums.after - sums.before
    scale = np.empty(len(index))
    for _, members in index.groupby("segment", sort=False):
        rows = members.index.to_numpy()
        own = members["of"].to_numpy() != SMALL_ONES  # these are in the others already
        excess = (contributions[rows] ** 2).sum(axis=1) - sums.squares[rows]
        sizes = (sums.rows[rows] ** 2).sum(axis=1)
        between = max(_weighted_median(excess[own], sizes[own]), 0.0)
        scale[rows] = np.sqrt(sums.squares[rows] + sums.typical + between * sizes)
    return scale


def _weighted_median(part: Floats, whole: Floats) -> float:
    """Take the median of the ratios, each counting for its denominator: a few harmed groups move it little."""
    there = whole > 0
    if not there.any():
        return 0.0
    ratio, weight = part[there] / whole[there], whole[there]
    order = np.argsort(ratio, kind="stable")
    reached = np.cumsum(weight[order])
    return float(ratio[order][np.searchsorted(reached, 0.5 * reached[-1])])


def _lay_out(index: pd.DataFrame, sums: _Sums, tested: _Tested, slot: int) -> pd.DataFrame:
    """Write one figure's groups as lines of the table."""
    rows = sums.rows.sum(axis=1)
    counted = np.where(rows > 0, rows, np.nan)
    before, after = (sums.per * part.sum(axis=1) / counted for part in (sums.before, sums.after))
    difference = sums.sign * (after - before)
    error = sums.per * tested.scales[slot] / counted
    p_value = tested.p_values[slot]
    reach = np.where(np.isnan(p_value), np.nan, tested.critical * error)
    # the group whose statistic is the critical one has an interval that ends at 0: rounding must not put it beyond
    reach = np.where(np.isclose(np.abs(difference), reach, rtol=1e-9, atol=0.0), np.abs(difference), reach)
    table = index[["segment", "of"]].assign(
        figure=sums.figure,
        rows=rows.astype(np.int64),
        production=before,
        shadow=after,
        difference=difference,
        low=difference - reach,
        high=difference + reach,
        p_value=p_value,
        noticed=reach + POWER_80 * error,
        pooled=np.nan,
        pooled_low=np.nan,
        pooled_high=np.nan,
    )
    own = (index["of"] != SMALL_ONES).to_numpy()
    for segment in index["segment"].unique():
        members = (index["segment"] == segment).to_numpy()
        pooled = shrink(difference[members], error[members], own[members])
        table.loc[members, ["pooled", "pooled_low", "pooled_high"]] = pooled
    found = p_value <= tested.level * (1 + 1e-9)
    direction = np.where(difference < 0, WORSE, BETTER) if sums.figure in HARMS else CHANGED
    verdict = np.where(found, direction, UNDECIDED if tested.enough_days else TOO_FEW_DAYS)
    return table.assign(verdict=np.where(index["small"], TOO_SMALL, verdict))[list(_COLUMNS)]


def summarize_guardrail(compared: Comparison, *, most: int = 12) -> dict[str, dict[str, Any]]:
    """Make the scrap that a gate with `allowed_harm` reads: what was judged, and who may be harmed.

    Parameters
    ----------
    compared : Comparison
        From `compare_groups`.
    most : int
        Groups written down by name for each figure: those whose interval lies lowest.

    Returns
    -------
    dict
        By figure of `HARMS`: ``judged``, ``too_small``, ``worse`` and ``better`` (groups), ``rows`` (of the judged
        groups of the segment that could judge most), ``days``, ``method``, and ``groups``, an estimate by name such as
        ``shop books``.
    """
    result = {}
    table = compared.table.reset_index()
    for figure in HARMS:
        lines = table[table["figure"] == figure]
        judged = lines[lines["p_value"].notna()]
        alone = lines[lines["of"] != SMALL_ONES]
        # each segment cuts all rows, and so they must not be added up
        rows = judged.groupby("segment")["rows"].sum()
        lowest = judged.sort_values("high", kind="stable").head(most)
        result[figure] = {
            "judged": len(judged),
            "too_small": int((alone["verdict"] == TOO_SMALL).sum()),
            "worse": int((judged["verdict"] == WORSE).sum()),
            "better": int((judged["verdict"] == BETTER).sum()),
            "rows": int(rows.max()) if len(rows) else 0,
            "days": compared.days[figure],
            "method": compared.method,
            "groups": {
                f"{line['segment']} {line['of']}": Estimate(
                    estimate=line["difference"],
                    low=line["low"],
                    high=line["high"],
                    confidence=compared.confidence[figure],
                    rows=line["rows"],
                    method="simultaneous",
                )
                for line in lowest.to_dict(orient="records")
            },
        }
    return result


def list_groups(compared: Comparison, verdicts: Sequence[str], figures: Sequence[str] = HARMS) -> pd.DataFrame:
    """Pick the groups with one of these verdicts, lowest interval first: what a person reads first."""
    table = compared.table.reset_index()
    chosen = table[table["verdict"].isin(list(verdicts)) & table["figure"].isin(list(figures))]
    return chosen.sort_values(["figure", "high"], kind="stable").set_index(["segment", "of", "figure"])
