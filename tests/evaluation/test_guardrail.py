"""Better overall, and worse for someone: who is harmed is named, nobody else is, and small groups are listed."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from sundial.evaluation.guardrail import (
    BETTER,
    SMALL_ONES,
    TOO_FEW_DAYS,
    TOO_SMALL,
    UNDECIDED,
    WORSE,
    Comparison,
    compare_groups,
    list_groups,
    summarize_guardrail,
)
from sundial.evaluation.segments import count_cells
from tests.benchmarks.simulation import PLACE, place_sizes, simulate_week, value


def compare(week: pd.DataFrame, **how) -> Comparison:
    """Compare a simulated week."""
    return compare_groups(count_cells(week, PLACE, label="late"), value, **how)


def named(compared: Comparison, verdict: str) -> set[str]:
    """List the places with a verdict in any figure."""
    return set(list_groups(compared, [verdict]).index.get_level_values("of"))


@pytest.fixture(scope="module")
def week() -> pd.DataFrame:
    """Simulate a better candidate that fails two of forty places."""
    return simulate_week(1, places=40, rows=30_000, noise=(0.8, 0.5), harm={3: 2.5, 7: 2.5})


@pytest.fixture(scope="module")
def compared(week) -> Comparison:
    """Compare it."""
    return compare(week)


def test_figures_are_what_pandas_computes(week, compared):
    """Alert share, recall, false-positive rate and worth of a place are those of its rows."""
    rows = week[week["place"] == "p3"]
    late = rows["late"] == 1
    table = compared.table.reset_index()
    line = table[table["of"] == "p3"].set_index("figure")

    for who in ("production", "shadow"):
        decision = rows[f"{who}_decision"]
        assert line.loc["alert_share", who] == pytest.approx(decision.mean())
        assert line.loc["recall", who] == pytest.approx(decision[late].mean())
        assert line.loc["false_positive_rate", who] == pytest.approx(decision[~late].mean())
        assert line.loc["value", who] == pytest.approx(1000 * value(late, decision).mean())
    assert line["rows"].to_dict() == {
        "alert_share": len(rows),
        "recall": late.sum(),
        "false_positive_rate": (~late).sum(),
        "value": len(rows),
    }


def test_differences_are_positive_where_the_shadow_is_better(compared):
    """Fewer false alarms are better, more recall and more worth too."""
    table = compared.table
    gap = table["shadow"] - table["production"]
    lower_is_better = table.index.get_level_values("figure") == "false_positive_rate"

    assert np.allclose(table["difference"], np.where(lower_is_better, -gap, gap), equal_nan=True)


def test_better_overall_and_worse_for_two(week, compared):
    """The candidate earns more in all, and the two places that it fails are named, and no other."""
    gain = value(week["late"], week["shadow_decision"]) - value(week["late"], week["production_decision"])

    assert gain.mean() > 0
    assert named(compared, WORSE) == {"p3", "p7"}
    worse = list_groups(compared, [WORSE], ["value"])
    assert (worse["high"] < 0).all()
    assert compared.method.startswith("all sign patterns of 7 days, the largest of")


def test_the_same_model_twice_harms_nobody():
    """A candidate that answers as production does has no difference, and intervals that hold it."""
    week = simulate_week(2, places=20, rows=10_000)
    week[["shadow_score", "shadow_decision"]] = week[["production_score", "production_decision"]].to_numpy()
    table = compare(week.astype({"shadow_decision": bool})).table.dropna(subset="p_value")

    assert set(table["verdict"]) == {UNDECIDED}
    assert (table["difference"] == 0).all()
    assert ((table["low"] < 0) & (table["high"] > 0)).all()


def test_two_models_alike_are_rarely_stopped():
    """Of 40 weeks with two equally good models at most the promised share has a place called worse."""
    stopped = [bool(named(compare(simulate_week(seed, places=60, rows=20_000)), WORSE)) for seed in range(40)]

    assert sum(stopped) <= 2


def test_harmed_places_are_found():
    """In eight weeks a candidate is better and fails 3 of 60 places: they are named, others at most once."""
    others = []
    for seed in range(8):
        large = np.flatnonzero(place_sizes(60, 40_000) >= 500)
        harmed = np.random.default_rng(seed).choice(large, 3, replace=False)
        week = simulate_week(seed, places=60, rows=40_000, noise=(0.7, 0.5), harm={int(one): 2.5 for one in harmed})
        worse = named(compare(week), WORSE)

        assert worse >= {f"p{one}" for one in harmed}
        others += worse - {f"p{one}" for one in harmed}
    assert len(others) <= 1


def test_small_groups_are_listed_and_judged_together():
    """A place with few rows has figures, no verdict of its own, and is part of the small ones."""
    week = simulate_week(3, places=200, rows=8_000)
    table = compare(week, small=100).table.xs("alert_share", level="figure")
    sizes = week["place"].value_counts()
    small = table[table["verdict"] == TOO_SMALL]

    assert set(small.index.get_level_values("of")) == set(sizes.index[sizes < 100])
    assert small[["low", "high", "p_value", "noticed"]].isna().all(axis=None)
    assert small["pooled"].notna().all()
    together = table.reset_index().set_index("of").loc[SMALL_ONES]
    assert together["rows"] == sizes[sizes < 100].sum()
    assert math.isfinite(together["low"])


def test_four_days_judge_nothing():
    """With four days no verdict is possible at all, and that is what is said."""
    compared = compare(simulate_week(4, places=5, rows=5_000, days=4))

    assert set(compared.table["verdict"]) == {TOO_FEW_DAYS}
    assert compared.table["p_value"].isna().all()


def test_five_days_say_what_they_can():
    """With five days the intervals are of 93.75 %."""
    assert compare(simulate_week(4, places=5, rows=5_000, days=5)).confidence["value"] == 0.9375


def test_labels_that_are_not_mature_do_not_count():
    """Days without labels count for the alert share only."""
    week = simulate_week(5, places=5, rows=5_000)
    week.loc[week["event_time"] >= pd.Timestamp("2020-01-11"), "late"] = np.nan
    compared = compare(week)

    assert compared.days == {"alert_share": 7, "recall": 5, "false_positive_rate": 5, "value": 5}
    rows = compared.table.groupby(level="figure")["rows"].sum()
    assert rows["alert_share"] == 5_000 > rows["value"] == week["late"].notna().sum()


def test_no_rows_compare_to_nothing():
    """A week without requests has no groups, and the guardrail says that none was judged."""
    summary = summarize_guardrail(compare(simulate_week(6, rows=0)))

    assert summary["value"]["judged"] == 0
    assert summary["value"]["groups"] == {}


def test_the_scrap_names_the_lowest(compared):
    """The summary counts verdicts, and holds the groups whose intervals lie lowest."""
    summary = summarize_guardrail(compared, most=3)["recall"]

    assert set(list(summary["groups"])[:2]) == {"place p3", "place p7"}
    assert (summary["worse"], len(summary["groups"])) == (2, 3)
    assert summary["rows"] <= 30_000
    assert summary["groups"]["place p3"]["high"] < 0


def test_better_places_are_found_too():
    """A candidate that is better everywhere is called better where that can be seen."""
    compared = compare(simulate_week(7, places=10, rows=30_000, noise=(1.5, 0.2)))

    assert len(named(compared, BETTER)) >= 5
    assert named(compared, WORSE) == set()


@pytest.mark.parametrize(("seed", "rows", "places"), [(181, 800, 5), (210, 400, 4)])
def test_an_interval_that_ends_at_zero_harms_nobody(seed: int, rows: int, places: int):
    """Rounding does not put the end of an interval below 0 where nothing is found: a gate would stop the release."""
    week = simulate_week(seed, rows=rows, places=places, noise=(0.2, 0.2))
    table = compare(week).table
    below = table[(table["high"] < 0) & (table.index.get_level_values("figure") != "alert_share")]

    assert {WORSE} >= set(below["verdict"])
    assert (table["high"] == 0).any(), "these weeks have an interval that ends at 0"
