"""Intervals hold the truth about as often as they say, and pairing makes them narrow."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sundial.evaluation.intervals import bootstrap, paired_bootstrap, unpaired_difference
from sundial.evaluation.metrics import METRICS, value_at


def make_week(seed: int, *, days: int = 7, rows: int = 60, effect: float = 0.5) -> tuple[np.ndarray, ...]:
    """Simulate days that differ in how many rows are label 1 and in how well a score tells them."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), rows)
    level, skill = rng.normal(0, effect, (2, days))
    signal = rng.normal(size=day.size)
    label = (0.8 * signal + level[day] + rng.normal(size=day.size) > 1.1).astype(float)
    score = 1 / (1 + np.exp(-((1 + 0.4 * skill[day]) * signal + rng.normal(0, 0.8, day.size))))
    return day, label, score


def test_rows_interval_holds_the_truth():
    """Of 150 simulated 95 % intervals of a Brier score with independent rows, 88 % or more hold the truth."""
    hits = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        score = rng.random(200)
        label = (rng.random(200) < score).astype(float)
        estimate = bootstrap(label, score, "brier", resamples=200, seed=seed)
        # E[p(1 - p)] for p uniform
        hits += estimate["low"] <= 1 / 6 <= estimate["high"]

    assert hits >= 0.88 * 150


def test_few_clusters_hold_the_truth_where_rows_do_not():
    """With seven unequal days, the interval over days covers; the one that takes rows for independent does not."""
    truth = METRICS["roc_auc"](*make_week(1_000, days=4_000, rows=20)[1:])
    hits = {"days": 0, "rows": 0}
    for seed in range(120):
        day, label, score = make_week(seed, effect=0.9)
        for name, clusters in (("days", day), ("rows", None)):
            estimate = bootstrap(label, score, "roc_auc", clusters=clusters, resamples=100)
            hits[name] += estimate["low"] <= truth <= estimate["high"]

    assert hits["days"] >= 0.90 * 120
    assert hits["rows"] < hits["days"]


@pytest.mark.parametrize("clustered", [False, True])
def test_pairing_is_narrower(clustered):
    """Two models that err on the same rows differ by less than their two intervals suggest."""
    day, label, score = make_week(3, rows=200)
    rival = np.clip(score + np.random.default_rng(0).normal(0, 0.03, len(score)), 0, 1)
    clusters = day if clustered else None

    paired = paired_bootstrap(label, score, rival, "roc_auc", clusters=clusters, resamples=200)
    alone = bootstrap(label, score, "roc_auc", clusters=clusters, resamples=200)

    assert paired["high"] - paired["low"] < 0.5 * (alone["high"] - alone["low"])
    assert paired["low"] <= paired["estimate"] <= paired["high"]


@pytest.mark.parametrize("name", ["roc_auc", "log_loss", "brier", "average_precision"])
def test_better_candidate_is_positive(name):
    """The difference is positive for the better candidate, whether the metric is a gain or a loss."""
    _, label, score = make_week(1, rows=300)
    blurred = np.full_like(score, label.mean()) * 0.5 + score * 0.5 * np.random.default_rng(0).random(len(score))

    assert paired_bootstrap(label, label * 0.6 + score * 0.4, blurred, name, resamples=50)["low"] > 0
    assert paired_bootstrap(label, blurred, label * 0.6 + score * 0.4, name, resamples=50)["high"] < 0


def test_alert_share_is_candidate_minus_production():
    """Where neither direction is better, the difference says which model alerts more."""
    estimate = paired_bootstrap([0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 1, 0], "alert_share", resamples=20)

    assert estimate["estimate"] == 0.5


def test_same_model_differs_by_nothing():
    """A model compared with itself has a difference of exactly 0, with an interval of no width."""
    _, label, score = make_week(2)
    estimate = paired_bootstrap(label, score, score, "roc_auc", resamples=50)

    assert (estimate["estimate"], estimate["low"], estimate["high"]) == (0.0, 0.0, 0.0)


def test_same_seed_same_interval():
    """The seed decides the interval, and is named."""
    _, label, score = make_week(5)
    first, again, other = (bootstrap(label, score, "brier", resamples=60, seed=seed) for seed in (1, 1, 2))

    assert first == again
    assert (first["low"], first["high"]) != (other["low"], other["high"])
    assert first["method"] == "bootstrap, 60 resamples of rows, seed 1"


def test_chunks_do_not_change_the_interval(monkeypatch):
    """How many resamples are computed at a time is not visible in the result."""
    day, label, score = make_week(5, days=25)
    whole = bootstrap(label, score, "roc_auc", clusters=day, resamples=50)
    monkeypatch.setattr("sundial.evaluation.intervals.CHUNK_BYTES", 8 * len(label) * 7)

    assert whole == bootstrap(label, score, "roc_auc", clusters=day, resamples=50)


def test_method_follows_the_number_of_clusters():
    """Twenty clusters are drawn, seven are left out one by one, and the estimate says so."""
    many = make_week(0, days=20, rows=30)
    few = make_week(0, days=7, rows=30)

    assert bootstrap(many[1], many[2], "brier", clusters=many[0])["method"] == (
        "bootstrap, 1000 resamples of days, seed 0"
    )
    assert bootstrap(few[1], few[2], "brier", clusters=few[0], unit="weeks")["method"] == (
        "jackknife over 7 weeks, t with 6 degrees of freedom"
    )
    assert paired_bootstrap(few[1], few[2], few[2], "brier", clusters=few[0])["method"].startswith("paired jackknife")


def test_clusters_may_be_dates():
    """Days can be given as they come from a frame."""
    day, label, score = make_week(0)
    dates = np.datetime64("2013-10-07") + day

    assert bootstrap(label, score, "brier", clusters=day) == bootstrap(label, score, "brier", clusters=dates)


def test_rows_are_counted():
    """The estimate says how many rows it rests on, and is the metric on all of them."""
    _, label, score = make_week(4)
    estimate = bootstrap(label, score, "roc_auc", resamples=30)

    assert len(label) == estimate["rows"]
    assert METRICS["roc_auc"](label, score) == estimate["estimate"]


@pytest.mark.parametrize(
    ("label", "score", "reason"),
    [
        ([], [], "no rows"),
        ([0, 0, 0], [0.1, 0.2, 0.3], "one class only"),
        ([0, 1, 1], [0.1, np.nan, 0.3], "missing value"),
    ],
)
def test_undefined_is_nan_and_says_why(label, score, reason):
    """No rows, one class or a missing score: NaN everywhere, and a reason in the method."""
    estimate = bootstrap(label, score, "roc_auc")

    assert reason in estimate["method"]
    assert all(math.isnan(estimate[key]) for key in ("estimate", "low", "high"))


def test_interval_of_a_share_is_a_share():
    """Days that differ wildly make a wide interval, and never one beyond 0 or 1."""
    day = np.repeat(np.arange(3), 10)
    decision = np.where(day == 0, 1.0, 0.0)
    estimate = bootstrap(decision, decision, "alert_share", clusters=day)

    assert (0.0, 1.0) == (estimate["low"], estimate["high"])


def test_one_cluster_has_no_interval():
    """One day says nothing about the next: the figure stands, its interval is undefined."""
    estimate = bootstrap([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], "roc_auc", clusters=[1, 1, 1, 1])

    assert estimate["estimate"] == 1.0
    assert math.isnan(estimate["low"])
    assert "interval undefined" in estimate["method"]


def test_mostly_undefined_resamples_have_no_interval():
    """With one positive, a third of the resamples have none: the rest may not speak for all."""
    estimate = bootstrap([0, 0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.5], "roc_auc", resamples=200)

    assert estimate["estimate"] == 1.0
    assert math.isnan(estimate["high"])


def test_money_is_estimated_like_any_metric():
    """A metric made from the pipeline's own value has an interval too."""
    value = value_at(lambda label, decision: np.where(decision, label * 10.0 - 2.0, 0.0))
    day, label, score = make_week(6)
    estimate = paired_bootstrap(label, score >= 0.5, score >= 0.9, value, clusters=day)

    assert value(label, score >= 0.5) - value(label, score >= 0.9) == pytest.approx(estimate["estimate"])


def test_confidence_must_be_a_share():
    """95 is not 0.95."""
    with pytest.raises(ValueError, match="not between 0 and 1"):
        bootstrap([0, 1], [0.1, 0.9], "brier", confidence=95)


def test_wider_confidence_is_wider():
    """A 99 % interval holds the 90 % one."""
    day, label, score = make_week(7)
    wide, narrow = (bootstrap(label, score, "brier", clusters=day, confidence=level) for level in (0.99, 0.9))

    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_cluster_names_must_match_rows():
    """A cluster for each row, or an error."""
    with pytest.raises(ValueError, match="1 cluster names for 2 rows"):
        bootstrap([0, 1], [0.1, 0.9], "brier", clusters=[1])


def test_two_weeks_differ_by_what_their_intervals_allow():
    """A difference of independent estimates is as uncertain as the two together, whichever way is good."""
    later = {"estimate": 0.7, "low": 0.67, "high": 0.73, "confidence": 0.95, "rows": 90}
    earlier = {"estimate": 0.6, "low": 0.56, "high": 0.64, "confidence": 0.95, "rows": 80}
    found = unpaired_difference(later, earlier)
    turned = unpaired_difference(later, earlier, higher_is_better=False)

    assert (found["estimate"], found["low"], found["high"]) == pytest.approx((0.1, 0.05, 0.15))
    assert (turned["estimate"], turned["low"], turned["high"]) == pytest.approx((-0.1, -0.15, -0.05))
    assert found["rows"] == 80
    known = {"estimate": 0.6, "low": math.nan, "high": math.nan}
    assert unpaired_difference(later, known)["low"] == pytest.approx(0.07)


def test_intervals_of_differences_hold_the_truth():
    """Over 300 pairs of simulated weeks the interval of the difference of two shares holds the true one."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        weeks = [(random.random(400) < share).astype(float) for share in (0.3, 0.2)]
        estimates = [bootstrap(np.zeros(400), week, "alert_share", resamples=200) for week in weeks]
        found = unpaired_difference(*estimates, higher_is_better=None)
        held += found["low"] <= 0.1 <= found["high"]

    assert held / 300 == pytest.approx(0.95, abs=0.04)
