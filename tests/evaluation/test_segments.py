"""Requests cut into segments: counting them in DuckDB gives what counting them by hand would."""

from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd
import pytest

from sundial.declarations import SegmentSpec
from sundial.errors import DataError
from sundial.evaluation.segments import MISSING, add_segments, count_cells, join_relations

SHOP = SegmentSpec(name="shop", columns=("shop",))
ROUTE = SegmentSpec(name="route", columns=("from", "to"))


def make_joined(rows: int = 500, *, seed: int = 0) -> pd.DataFrame:
    """Make answers of two models, some without a label, a score, or a shop."""
    random = np.random.default_rng(seed)
    late = random.integers(0, 2, rows).astype(float)
    late[::7] = np.nan
    shadow = random.random(rows)
    shadow[::11] = np.nan
    return pd.DataFrame(
        {
            "event_time": pd.Timestamp("2020-01-06") + pd.to_timedelta(random.uniform(0, 3, rows), unit="D"),
            "shop": np.where(np.arange(rows) % 13 == 0, None, random.choice(["books", "shoes"], rows)),
            "from": random.choice(["A", "B"], rows),
            "to": random.choice(["X", "Y", "it's"], rows),
            "late": late,
            "production_score": random.random(rows),
            "production_decision": random.random(rows) < 0.3,
            "shadow_score": shadow,
            "shadow_decision": pd.array(shadow >= 0.6, dtype="boolean"),
        }
    )


def test_cells_are_what_pandas_counts():
    """Every cell has as many rows as a group-by of pandas, whatever is missing."""
    joined = make_joined()
    cells = count_cells(joined, [SHOP, ROUTE], label="late")
    both = add_segments(joined[joined["shadow_score"].notna()], [ROUTE])
    expected = both.groupby(
        ["route", both["event_time"].dt.normalize(), "late", "production_decision", "shadow_decision"], dropna=False
    ).size()

    found = cells[cells["segment"] == "route"].set_index(["of", "day", "label", "production", "shadow"])["rows"]
    assert expected.sort_index().tolist() == found.sort_index().tolist()
    assert sorted(set(expected.index.get_level_values(0))) == sorted(found.index.get_level_values(0).unique())
    assert cells.groupby("segment")["rows"].sum().to_dict() == {"route": len(both), "shop": len(both)}
    assert MISSING in set(cells.loc[cells["segment"] == "shop", "of"])


def test_another_threshold_decides_anew():
    """With a threshold the shadow's own decisions do not matter."""
    joined = make_joined()
    own = count_cells(joined, [SHOP], label="late")
    moved = count_cells(joined.assign(shadow_decision=False), [SHOP], label="late", shadow_threshold=0.6)

    pd.testing.assert_frame_equal(own, moved)


def test_nothing_to_cut_has_no_cells():
    """A pipeline without segments has nothing to compare segment by segment, and a week without rows neither."""
    assert count_cells(make_joined(), [], label="late").empty
    assert count_cells(make_joined().head(0), [SHOP, ROUTE], label="late").empty


@pytest.mark.parametrize("count", [count_cells, lambda joined, segments, **_: add_segments(joined, segments)])
def test_a_column_that_is_not_there_is_named(count):
    """A segment of a column that the log does not have is an error with the nearest name."""
    wrong = SegmentSpec(name="shop", columns=("shopp",))

    with pytest.raises(DataError, match="segment 'shop' needs a column 'shopp'.*\n.*Did you mean 'shop'"):
        count(make_joined(), [wrong], label="late")


def test_a_segment_overwrites_no_column():
    """A made-up segment with the name of a column would hide that column."""
    with pytest.raises(DataError, match="'shop' has the name of a column"):
        add_segments(make_joined(), [SegmentSpec(name="shop", columns=("from", "to"))])


def test_a_join_in_duckdb_is_the_join_in_pandas(tmp_path):
    """Log, scores and labels joined where they lie give the cells of the table that holds all of it."""
    joined = make_joined().assign(key=np.arange(500), thing=[f"t{number}" for number in range(500)])
    log = joined.rename(columns={"production_score": "score", "production_decision": "decision"})
    log.drop(columns=["late", "shadow_score", "shadow_decision"]).to_parquet(tmp_path / "log.parquet")
    scores = joined[["key", "shadow_score", "shadow_decision"]].sample(frac=1, random_state=0)
    scores.columns = ["key", "score", "decision"]
    scores.to_parquet(tmp_path / "scores.parquet")
    joined.loc[joined["late"].notna(), ["thing", "late"]].to_parquet(tmp_path / "labels.parquet")
    with duckdb.connect() as connection:
        tables = [connection.read_parquet(str(tmp_path / f"{name}.parquet")) for name in ("log", "scores", "labels")]
        found = count_cells(join_relations(*tables, entity="thing", label="late"), [SHOP, ROUTE], label="late")

    pd.testing.assert_frame_equal(count_cells(joined, [SHOP, ROUTE], label="late"), found)
