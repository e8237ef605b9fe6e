"""What a candidate will do differently, and to whom, as its week in shadow shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from sundial.evaluation.segments import add_segments
from sundial.formats import read_json
from sundial.pipeline import Pipeline
from sundial.release.tables import is_estimate
from sundial.runs import Run

COMPARISON = "10_compare_shadow"
MOST_GROUPS = 10
# A group with fewer requests a week says nothing about the coming one.
FEWEST_REQUESTS = 50


@dataclass(frozen=True)
class Group:
    """What changes for one value of a segment column.

    Attributes
    ----------
    segment, value : str
        Column and value.
    requests : int
        Answered in the shadow's week.
    before, after : float
        Share alerted by production, and by the candidate.
    newly, no_longer : int
        Requests whose decision changes.
    """

    segment: str
    value: str
    requests: int
    before: float
    after: float
    newly: int
    no_longer: int


@dataclass(frozen=True)
class Effects:
    """What changes, counted on the requests that both answered.

    Attributes
    ----------
    requests, days : int
        How many, and over how many days with at least one.
    alerts_before, alerts_after, newly, no_longer : int
        Alerts of production and of the candidate, and the decisions that differ.
    groups : tuple of Group
        Those that change most, by the number of changed decisions.
    small : int
        How many values of segment columns had too few requests to say anything.
    """

    requests: int
    days: int
    alerts_before: int
    alerts_after: int
    newly: int
    no_longer: int
    groups: tuple[Group, ...]
    small: int

    def a_day(self, count: int) -> float:
        """Give a count as an average over the days."""
        return count / max(self.days, 1)


def measure_effects(run: Run, pipeline: Pipeline) -> Effects | None:
    """Count what would have been decided otherwise.

    Parameters
    ----------
    run : Run
        The candidate's.
    pipeline : Pipeline
        For its segments and the name of its event time.

    Returns
    -------
    Effects or None
        None when there was no comparison, or nothing that both answered.
    """
    if "joined" not in run.stage_record(COMPARISON).get("outputs", {}):
        return None
    path = run.verify_output(COMPARISON, "joined")
    import pyarrow.parquet

    there = set(pyarrow.parquet.read_schema(path).names)
    segments = [item for item in pipeline.segments if set(item.columns) <= there]
    columns = [column for item in segments for column in item.columns]
    wanted = ["production_decision", "shadow_decision", pipeline.event_time, *columns]
    rows = pd.read_parquet(path, columns=[name for name in dict.fromkeys(wanted) if name in there])
    rows = rows[rows["shadow_decision"].notna()]
    if rows.empty:
        return None
    old, new = rows["production_decision"].astype(bool), rows["shadow_decision"].astype(bool)
    newly, no_longer = new & ~old, old & ~new
    cut = add_segments(rows, segments)[[item.name for item in segments]]
    groups, small = _group(cut, pd.DataFrame({"o": old, "n": new, "up": newly, "down": no_longer}))
    return Effects(
        requests=len(rows),
        days=int(pd.to_datetime(rows[pipeline.event_time]).dt.normalize().nunique()),
        alerts_before=int(old.sum()),
        alerts_after=int(new.sum()),
        newly=int(newly.sum()),
        no_longer=int(no_longer.sum()),
        groups=groups,
        small=small,
    )


def _group(cut: pd.DataFrame, flags: pd.DataFrame) -> tuple[tuple[Group, ...], int]:
    found, small = [], 0
    for segment in cut:
        by_value = flags.groupby(cut[segment].astype("str"))
        counts, sizes = by_value.sum(), by_value.size()
        for value in counts.index:
            size, line = int(sizes[value]), counts.loc[value]
            if size < FEWEST_REQUESTS:
                small += 1
            elif line["up"] or line["down"]:
                shares = float(line["o"]) / size, float(line["n"]) / size
                found.append(Group(str(segment), str(value), size, *shares, int(line["up"]), int(line["down"])))
    found.sort(key=lambda group: (-(group.newly + group.no_longer), group.segment, group.value))
    return tuple(found[:MOST_GROUPS]), small


@dataclass(frozen=True)
class Waiting:
    """What it costs to keep the present version for another week.

    Attributes
    ----------
    per_1000 : mapping
        Money per 1,000 requests, candidate - production, with its interval.
    a_week : tuple of float
        Estimate, low and high for a week's requests.
    requests : int
        In the week.
    basis : str
        What the estimate rests on.
    learned_to : tuple of str
        Last day that production and the candidate learned from.
    """

    per_1000: dict[str, Any]
    a_week: tuple[float, float, float]
    requests: int
    basis: str
    learned_to: tuple[str, str]

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.a_week[1] > 0 or self.a_week[2] < 0


def measure_waiting(run: Run, production: Run | None, requests: int) -> Waiting | None:
    """Estimate what keeping production for another week costs.

    Parameters
    ----------
    run : Run
        The candidate's.
    production : Run or None
        The run of the version in production.
    requests : int
        Of the shadow's week.

    Returns
    -------
    Waiting or None
        None when nobody estimated money against production.
    """
    scraps = run.scraps()
    found = scraps.get(COMPARISON, {}).get("against_production", {})
    found, basis = (found.get("value") if isinstance(found, dict) else None), "the shadow's week, mature labels"
    if not is_estimate(found):
        found, basis = scraps.get("08_evaluate_business", {}).get("against_production"), "the evaluation sets"
    if not is_estimate(found):
        return None
    low, middle, high = (float(found[name]) * requests / 1000 for name in ("low", "estimate", "high"))
    learned = tuple(_learned_to(item) for item in (production, run))
    return Waiting(dict(found), (middle, low, high), requests, basis, (learned[0], learned[1]))


def _learned_to(run: Run | None) -> str:
    if run is None or "model_card" not in run.stage_record("06_train_model").get("outputs", {}):
        return "unknown"
    card = read_json(run.verify_output("06_train_model", "model_card"))
    return str(card.get("trained_to", "unknown"))[:10]
