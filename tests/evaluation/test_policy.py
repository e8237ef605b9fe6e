"""The threshold that keeps the share of alerts, and the map that keeps it everywhere; ranks stay as they were."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sundial.evaluation.guardrail import compare_groups
from sundial.evaluation.policy import choose_threshold, compare_shares, fit_score_map, largest_shift, share_threshold
from sundial.evaluation.segments import count_cells
from tests.benchmarks.simulation import PLACE, THRESHOLD, simulate_week, value

scores = st.lists(st.integers(0, 50).map(lambda number: number / 50), min_size=1, max_size=60)


@given(scores, st.floats(0, 1))
def test_no_other_threshold_is_nearer_to_the_share(values, share):
    """Among all thresholds that differ, the one found keeps the share best, ties or not."""
    values = np.array(values)
    off = abs((values >= share_threshold(values, share)).mean() - share)
    others = [(values >= one).mean() for one in [*np.unique(values), 2.0]]

    assert off <= min(abs(other - share) for other in others) + 1e-12


def test_without_scores_there_is_no_threshold():
    """Nothing can be chosen on nothing."""
    with pytest.raises(ValueError, match="no scores"):
        share_threshold([], 0.1)


def test_a_threshold_is_chosen_and_says_what_it_rests_on():
    """The pipeline's own, unless one is given or production's share is to be kept; both at once is refused."""
    random = np.random.default_rng(0)
    found, decisions = random.random(1000), random.random(1000) < 0.123
    kept, basis = choose_threshold(0.4, "break even", found, keep_share_of=decisions)

    assert (0.4, "break even") == choose_threshold(0.4, "break even", found)
    assert (0.7, "parameter") == choose_threshold(0.4, "break even", found, given=0.7)
    assert decisions.mean() == pytest.approx((found >= kept).mean())
    assert f"production's share of alerts, {100 * decisions.mean():.1f} % of 1,000 rows" == basis
    with pytest.raises(ValueError, match="choose one"):
        choose_threshold(0.4, "break even", found, given=0.7, keep_share_of=decisions)


@given(scores, scores, st.floats(0.02, 0.98))
@settings(max_examples=80)
def test_the_map_never_changes_a_rank(before, after, threshold):
    """Whatever the scores, the map increases strictly, within 0 and 1."""
    score_map = fit_score_map(before, after, threshold)
    mapped = score_map(np.unique(after))

    assert (np.diff(score_map.scores) > 0).all()
    assert (np.diff(score_map.mapped) > 0).all()
    assert (np.diff(mapped) > 0).all()
    assert ((mapped >= 0) & (mapped <= 1)).all()


def test_squared_scores_are_mapped_back():
    """Squaring moves the alert share by over 5 points; mapped, a fresh week by less than 0.1, and ranks by nothing."""
    week, other = (simulate_week(seed, places=20, rows=30_000) for seed in (0, 1))
    score_map = fit_score_map(week["production_score"], week["production_score"] ** 2, THRESHOLD)
    before = other["production_score"].to_numpy()
    squared = before**2
    mapped = score_map(squared)

    share = (before >= THRESHOLD).mean()
    assert abs((squared >= THRESHOLD).mean() - share) > 0.05
    assert abs((mapped >= THRESHOLD).mean() - share) < 0.001
    assert (np.argsort(mapped, kind="stable") == np.argsort(before, kind="stable")).all()


def test_shares_of_segments_are_kept_where_scores_only_changed_their_scale():
    """The threshold for the overall share undoes a squaring in every segment, and the table says so."""
    week = simulate_week(2, places=20, rows=30_000)
    week["shadow_score"] = week["production_score"] ** 2
    week["shadow_decision"] = week["shadow_score"] >= THRESHOLD
    offered = share_threshold(week["shadow_score"], week["production_decision"].mean())
    compared, kept = (
        compare_groups(count_cells(week, PLACE, label="late", shadow_threshold=threshold), value)
        for threshold in (None, offered)
    )
    shares = compare_shares(week, PLACE, compared, kept)

    assert largest_shift(shares, "change") > 0.05
    assert largest_shift(shares, "residual") < 0.001
    assert set(shares["verdict"].value_counts().index[:1]) == {"changed"}
    assert shares["own_residual"].abs().max() < 0.001
    assert (shares.dropna(subset="own_threshold")["own_threshold"] - offered).abs().max() < 0.01
    assert shares["kept"].tolist() == pytest.approx(shares["before"].tolist(), abs=0.001)


def test_no_group_to_judge_has_no_shift():
    """Where all groups are small, the largest shift is undefined."""
    week = simulate_week(3, places=200, rows=500)
    compared = compare_groups(count_cells(week, PLACE, label="late"), value, small=10_000)

    assert np.isnan(largest_shift(compare_shares(week, PLACE, compared, compared, small=10_000), "change"))
    assert isinstance(compare_shares(week, PLACE, compared, compared, small=10_000), pd.DataFrame)
