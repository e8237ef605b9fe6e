"""A bound is broken only when the whole interval lies beyond it, however often one looks."""

from __future__ import annotations

import numpy as np
import pytest

from sundial.declarations import WatchBounds
from sundial.monitoring.watch import (
    ERROR_RATE,
    Forecast,
    Seen,
    judge_watch,
    mean_interval,
    quantile_interval,
    share_interval,
)

BOUNDS = WatchBounds(min_rows=300)
FORECAST = Forecast(alert_change=0.01, score_change=0.0, rows=6000)


def make_seen(rows: int = 1000, *, alerts: float = 0.1, change: float = 0.01, ms: float = 5.0, failed: int = 0) -> Seen:
    """Make answers whose alert share changed by so much, in both directions a little."""
    rng = np.random.default_rng(0)
    changes = rng.choice([-1.0, 0.0, 1.0], rows, p=[0.01, 0.98 - change, 0.01 + change] if change >= 0 else None)
    return Seen(
        requests=rows,
        failed=failed,
        alerts=(rng.random(rows) < alerts).tolist(),
        latencies=rng.gamma(2.0, ms / 2, rows).tolist(),
        alert_changes=changes.tolist(),
        score_changes=rng.normal(0.0, 0.02, rows).tolist(),
    )


def broken(seen: Seen, look: int = 1, forecast: Forecast | None = FORECAST) -> list[str]:
    """Name the limits that are broken."""
    return [item.limit for item in judge_watch(seen, forecast, BOUNDS, look) if item.broken]


def test_a_model_as_forecast_breaks_nothing():
    """All five limits are judged, and hold."""
    assert 5 == len(judge_watch(make_seen(), FORECAST, BOUNDS, 1))
    assert [] == broken(make_seen())


@pytest.mark.parametrize(
    ("seen", "limit"),
    [
        (make_seen(alerts=0.9), "alert share"),
        (make_seen(change=0.3), "change of alert share against the version before"),
        (make_seen(ms=600.0), "99th percentile of latency, ms,"),
        (make_seen(failed=100), "share of failed requests"),
    ],
)
def test_what_is_really_bad_is_found(seen, limit):
    """Alerts on nearly all, alerts far more than forecast, slow, failing: each breaks its own limit, and only that."""
    assert [limit] == broken(seen)


def test_a_score_that_slid_is_found():
    """Scores that all moved up are found although no decision changed."""
    seen = make_seen()
    seen.score_changes = [change + 0.2 for change in seen.score_changes]

    assert ["change of mean score against the version before"] == broken(seen)


def test_too_few_answers_are_not_judged():
    """Below min_rows nothing is, and a first version is judged on what needs no other."""
    assert [] == judge_watch(make_seen(299, alerts=1.0), FORECAST, BOUNDS, 1)
    first = make_seen()
    first.alert_changes = first.score_changes = []
    assert 3 == len(judge_watch(first, None, BOUNDS, 1))


def test_the_sentence_names_number_interval_rows_and_bound():
    """It can be read in a notice."""
    finding = next(item for item in judge_watch(make_seen(alerts=0.9), FORECAST, BOUNDS, 1) if item.broken)

    assert finding.sentence.startswith("alert share 0.")
    assert finding.sentence.endswith("1,000 rows) is beyond 0.6")


def test_looking_often_finds_nothing_by_chance():
    """Exactly at its bounds and looked at 40 times, at most 5 % of 200 good models are put back (seed fixed)."""
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(200):
        seen = Seen()
        for look in range(1, 41):
            fresh = 100
            seen.requests += fresh
            seen.failed += int(rng.binomial(fresh, BOUNDS.error_share))
            seen.alerts += (rng.random(fresh) < BOUNDS.alert_share_at_most).tolist()
            seen.latencies += rng.exponential(BOUNDS.latency_p99_ms / np.log(100), fresh).tolist()
            if look % 4 == 0 and any(item.broken for item in judge_watch(seen, None, BOUNDS, look // 4)):
                wrong += 1
                break

    assert wrong <= ERROR_RATE * 200


def test_intervals_cover():
    """Of 400 samples each interval holds the truth in at least 95 % (seed fixed)."""
    rng = np.random.default_rng(3)
    held = np.zeros(3)
    for _ in range(400):
        uniform = rng.random(300)
        low, high = share_interval(int((uniform < 0.1).sum()), 300, 0.05)
        held[0] += low <= 0.1 <= high
        _, low, high = quantile_interval(uniform, 0.9, 0.05)
        held[1] += low <= 0.9 <= high
        _, low, high = mean_interval(2 * uniform - 1, 0.05)
        held[2] += low <= 0.0 <= high

    assert (held / 400 >= 0.93).all(), held  # 0.95 less two standard errors of 400 samples
