"""Many comparisons at once: the level is kept, what is there is found, and small groups borrow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sundial.evaluation.multiple import finest_level, shrink, sign_patterns, step_down


def test_all_patterns_are_different_and_none_is_anothers_opposite():
    """Of five days there are sixteen ways to swap, the first swaps nothing; of thirty days they are drawn."""
    patterns = sign_patterns(5)

    assert (16, 5) == patterns.shape
    assert len(np.unique(np.vstack([patterns, -patterns]), axis=0)) == 32
    assert (patterns[0] == 1).all()
    assert sign_patterns(30, 100, seed=1).shape == (100, 30)
    assert (sign_patterns(30, 100, seed=1) == sign_patterns(30, 100, seed=1)).all()


@pytest.mark.parametrize(("days", "level"), [(5, 0.0625), (6, 0.05), (7, 0.05), (28, 0.05)])
def test_few_days_allow_no_finer_level(days, level):
    """With five days one pattern of sixteen is the least that can happen by chance."""
    assert finest_level(days, 0.05) == level


@pytest.mark.parametrize("days", [5, 7, 14])
def test_false_verdicts_are_as_rare_as_promised(days):
    """Of 400 families of 40 overlapping comparisons without a difference at most the promised share has a verdict."""
    random = np.random.default_rng(days)
    level = finest_level(days, 0.05)
    false = 0
    for _ in range(400):
        moods = random.standard_t(3, days)  # what all comparisons of a day share, with a heavy tail
        found = step_down(moods + random.standard_t(3, (40, days)), level, patterns=500)
        false += bool((found.p_values <= level).any())

    # three standard errors of 400 runs
    assert false / 400 <= level + 3 * np.sqrt(level * (1 - level) / 400)


def test_what_is_there_is_found_and_named():
    """Three strong differences among 200 are found, whichever their direction, and no other is."""
    random = np.random.default_rng(0)
    terms = random.normal(0, 1 / np.sqrt(7), (200, 7))
    terms[[3, 50, 199]] += np.array([3.0, -2.5, 2.5])[:, np.newaxis]
    found = step_down(terms, 0.05)

    assert np.flatnonzero(found.p_values <= 0.05).tolist() == [3, 50, 199]
    rest = np.abs(np.delete(terms.sum(axis=1), [3, 50, 199])).max()
    assert rest <= found.critical < np.abs(terms.sum(axis=1)[[3, 50, 199]]).min()


@given(st.integers(5, 13), st.integers(1, 30), st.integers(0, 10_000), st.floats(0, 4))
@settings(max_examples=60, deadline=None)
def test_verdict_and_interval_agree(days, comparisons, seed, effect):
    """A p-value is below the level exactly when the statistic exceeds the critical value."""
    random = np.random.default_rng(seed)
    terms = random.normal(0, 1, (comparisons, days))
    terms[0] += effect
    level = finest_level(days, 0.05)
    found = step_down(terms, level, patterns=300, seed=seed)
    statistic = np.abs(terms.sum(axis=1))
    far = np.abs(statistic - found.critical) > 1e-6

    assert ((found.p_values <= level * (1 + 1e-9)) == (statistic > found.critical))[far].all()


def test_one_comparison_more_makes_nothing_surer():
    """Corrected p-values grow with the number of comparisons."""
    random = np.random.default_rng(1)
    terms = random.normal(0, 1, (100, 7))
    few, many = step_down(terms[:10], 0.05), step_down(terms, 0.05)

    assert (many.p_values[:10] >= few.p_values).all()


def test_small_groups_borrow_more():
    """A rough estimate is drawn nearer to the common one than a precise one, and its interval is shorter."""
    difference = np.array([0.0, 0.1, 0.5, 0.5, -0.1, 0.0, 0.2, -0.2, np.nan])
    error = np.array([0.05, 0.05, 0.05, 0.5, 0.1, 0.1, 0.1, 0.1, np.nan])
    pooled, low, high = shrink(difference, error, np.ones(9, dtype=bool)).T

    assert abs(pooled[2] - 0.5) < 0.1 < abs(pooled[3] - 0.5)
    assert high[3] - low[3] < 2 * 1.96 * 0.5
    assert low[8] < pooled[8] < high[8]


def test_pooled_intervals_hold_the_truth():
    """Over 200 simulated kinds of 30 groups, 95 % intervals of single groups hold their true difference."""
    random = np.random.default_rng(2)
    held = []
    for _ in range(200):
        truth = random.normal(0.02, 0.1, 30)
        error = random.uniform(0.02, 0.3, 30)
        _, low, high = shrink(random.normal(truth, error), error, np.ones(30, dtype=bool)).T
        held.append(((low <= truth) & (truth <= high)).mean())

    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_alike_groups_become_one():
    """Groups that differ no more than chance lets them get the same estimate."""
    pooled = shrink(np.full(5, 0.1), np.array([0.1, 0.2, 0.3, 0.1, 0.2]), np.ones(5, dtype=bool))[:, 0]

    assert pooled == pytest.approx([0.1] * 5)


def test_a_group_alone_keeps_its_estimate():
    """With fewer than four of its kind a group has nobody to borrow from."""
    assert shrink(np.array([0.3, 0.0, 0.1]), np.full(3, 0.1), np.ones(3, dtype=bool))[0, 0] == 0.3
