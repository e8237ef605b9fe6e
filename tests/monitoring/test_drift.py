"""Drift is found where it is, and not where it is not."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sundial.errors import DataError
from sundial.monitoring.drift import chi_square, drift, population_stability, profile


def make_rows(rows: int = 4000, *, seed: int = 0) -> pd.DataFrame:
    """Make rows with a normal, a mostly-zero, a constant and two category columns."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "level": rng.normal(size=rows),
            "rain": np.where(rng.random(rows) < 0.8, 0.0, rng.exponential(size=rows)),
            "fixed": 1.0,
            "place": rng.choice(["a", "b", "c"], rows, p=[0.6, 0.3, 0.1]),
            "open": rng.random(rows) < 0.5,
        }
    )


FEATURES = ["level", "rain", "fixed", "place", "open"]
BEFORE = profile(make_rows(), FEATURES)


def compare(frame: pd.DataFrame, feature: str) -> pd.Series:
    """Compare one feature with the profile."""
    return drift(BEFORE, frame).set_index("feature").loc[feature]


def test_profile_is_json_and_reads_back():
    """The profile travels as JSON and gives the same table afterwards."""
    again = json.loads(json.dumps(BEFORE, allow_nan=False))

    pd.testing.assert_frame_equal(drift(BEFORE, make_rows(seed=1)), drift(again, make_rows(seed=1)))


def test_same_distribution_is_stable():
    """Other rows of the same distribution are stable, and their PSI is about what chance gives."""
    table = drift(BEFORE, make_rows(seed=1)).set_index("feature")

    assert set(table["verdict"]) == {"stable"}
    assert (table["psi"] <= 5 * table["psi_by_chance"] + 1e-9).all()
    assert table.loc["level", "ks_p"] > 0.01
    assert table.loc["place", "chi2_p"] > 0.01


def test_same_rows_do_not_move():
    """The training rows themselves have no distance from their profile."""
    table = drift(BEFORE, make_rows()).set_index("feature")

    assert table["psi"].abs().max() == pytest.approx(0.0, abs=1e-9)
    assert table["ks"].max() == pytest.approx(0.0, abs=1e-9)
    assert table["cramers_v"].max() == pytest.approx(0.0, abs=1e-6)


def test_shifted_number_is_found():
    """A mean that moved by one standard deviation is shifted, and first in the table."""
    moved = make_rows(seed=1).assign(level=lambda frame: frame["level"] + 1.0)
    table = drift(BEFORE, moved)

    assert table.loc[0, "feature"] == "level"
    assert table.loc[0, "verdict"] == "shifted"
    assert table.loc[0, "ks_p"] < 1e-6


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_ks_agrees_with_scipy(shift):
    """From a profile alone, KS is within 0.01 of the test that has the training rows."""
    now = make_rows(seed=1).assign(level=lambda frame: frame["level"] + shift)

    expected = stats.ks_2samp(make_rows()["level"], now["level"]).statistic

    assert expected == pytest.approx(compare(now, "level")["ks"], abs=0.01)


def test_moved_category_is_found():
    """Shares that changed places are shifted."""
    moved = make_rows(seed=1).assign(place=lambda frame: frame["place"].map({"a": "c", "b": "b", "c": "a"}))

    assert compare(moved, "place")["verdict"] == "shifted"
    assert compare(moved, "place")["cramers_v"] > 0.3


def test_new_and_vanished_categories_are_named():
    """A category never trained on, and one that no longer comes, are listed by name."""
    rows = make_rows(seed=1)
    rows["place"] = rows["place"].replace({"c": "new"})
    row = compare(rows, "place")

    assert (row["new"], row["vanished"]) == (["new"], ["c"])
    assert row["new_share"] == pytest.approx((rows["place"] == "new").mean())


def test_missing_values_are_a_share_of_their_own():
    """Missing values change the missing share and not the distribution of the others."""
    rows = make_rows(seed=1)
    rows.loc[:999, "level"] = np.nan
    row = compare(rows, "level")

    assert (row["missing_before"], row["missing_after"]) == (0.0, 0.25)
    assert (row["rows"], row["verdict"]) == (3000, "stable")


@pytest.mark.parametrize("feature", ["level", "place"])
def test_nothing_left_to_compare(feature):
    """All missing, or no rows at all, is undefined and says so."""
    empty = make_rows().assign(**{feature: None})

    assert compare(empty, feature)["verdict"] == "no rows"
    assert compare(make_rows().head(0), feature)["verdict"] == "no rows"
    assert math.isnan(compare(empty, feature)["psi"])


def test_constant_that_moves_is_seen():
    """A column that was one value, and now is another, has the largest KS there is."""
    row = compare(make_rows().assign(fixed=0.0), "fixed")

    assert (row["ks"], row["verdict"]) == (1.0, "shifted")


def test_values_never_seen_before_are_seen():
    """Numbers beyond all of training fall into bins of their own."""
    rows = make_rows(seed=1)
    rows.loc[:399, "level"] = 100.0

    assert compare(rows, "level")["psi"] > 0.25


def test_numbers_of_any_kind():
    """Nullable integers and categories of pandas are profiled like the plain ones."""
    frame = pd.DataFrame({"n": pd.array([1, 2, None, 4], dtype="Int64"), "c": pd.Categorical(["x", "y", "x", None])})
    before = profile(frame, ["n", "c"])

    assert before["features"]["n"]["missing"] == 0.25
    assert before["features"]["c"]["shares"] == {"x": pytest.approx(2 / 3), "y": pytest.approx(1 / 3)}
    assert set(drift(before, frame)["verdict"]) == {"stable"}


def test_psi_by_hand():
    """Of (50, 50) to (80, 20) it is 0.6 ln 2 - ... as computed by hand; half a row each hardly matters."""
    expected = (0.8 - 0.5) * math.log(0.8 / 0.5) + (0.2 - 0.5) * math.log(0.2 / 0.5)

    assert expected == pytest.approx(population_stability([5e6, 5e6], [8e6, 2e6]), abs=1e-5)
    assert math.isnan(population_stability([0, 0], [1, 2]))


def test_chi_square_agrees_with_scipy():
    """Statistic and p-value are those of scipy's test of a table of two rows."""
    before, after = [500, 300, 200], [450, 380, 170]

    expected = stats.chi2_contingency([before, after], correction=False)

    assert (expected.statistic, expected.pvalue) == pytest.approx(chi_square(before, after)[:2])


def test_rare_categories_are_pooled():
    """Cells that expect fewer than five rows count together, so that one row is no evidence."""
    assert chi_square([1000, 1000, 1, 0], [1000, 1000, 0, 1])[1] > 0.9


def test_unknown_columns_are_refused():
    """A feature that the rows do not have, or one that is a time, is an error that names it."""
    with pytest.raises(DataError, match="no column level"):
        drift(BEFORE, make_rows().drop(columns="level"))
    with pytest.raises(DataError, match="'when' is a time"):
        profile(pd.DataFrame({"when": pd.to_datetime(["2020-01-01"])}), ["when"])
    with pytest.raises(DataError, match="no rows"):
        profile(make_rows().head(0), FEATURES)
