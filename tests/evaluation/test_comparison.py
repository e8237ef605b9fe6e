"""Shadow against production on a small joined frame, and on a simulated week."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from sundial.evaluation.comparison import (
    compare_alerts,
    compare_metrics,
    count_answers,
    count_errors,
    describe_health,
    describe_scores,
    join_answers,
    list_swaps,
    measure_agreement,
    summarize_latency,
    tabulate,
)


def value(label: np.ndarray, decision: np.ndarray) -> np.ndarray:
    """Gain 10 for a right alert, lose 3 for a wrong one."""
    return np.where(decision, np.where(label == 1, 10.0, -3.0), 0.0)


def make_log() -> pd.DataFrame:
    """Six answers of production, one of them to a request that was sent again."""
    return pd.DataFrame(
        {
            "request_id": ["a", "b", "c", "d", "e", "a"],
            "thing": [1, 2, 3, 4, 5, 1],
            "event_time": pd.to_datetime(
                ["2020-01-01", "2020-01-01", "2020-01-02", "2020-01-02", "2020-01-03", "2020-01-01"]
            ),
            "score": [0.9, 0.8, 0.2, 0.1, 0.3, 0.5],
            "decision": [True, True, False, False, False, True],
        }
    )


def make_scores() -> pd.DataFrame:
    """Three shadow scores and an error; nothing for request e, something for a request never logged."""
    return pd.DataFrame(
        {
            "request_id": ["d", "c", "b", "a", "z"],
            "score": [math.nan, 0.7, 0.3, 0.8, 0.5],
            "decision": [False, True, False, True, True],
            "error": ["ValueError: no such category", "", None, "", ""],
        }
    )


LABELS = pd.DataFrame({"thing": [1, 2, 3, 9], "outcome": [True, False, True, True]})


@pytest.fixture
def joined() -> pd.DataFrame:
    """Join the small tables."""
    return join_answers(make_log(), make_scores(), LABELS, entity="thing", label="outcome")


def make_week(rows: int = 1400, *, seed: int = 0) -> pd.DataFrame:
    """Simulate a week in which the shadow knows more than production."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(1, 4, rows)
    production = np.clip(chance + rng.normal(0, 0.15, rows), 0.001, 0.999)
    shadow = np.clip(chance + rng.normal(0, 0.05, rows), 0.001, 0.999)
    return pd.DataFrame(
        {
            "request_id": np.arange(rows).astype(str),
            "thing": np.arange(rows),
            "event_time": pd.Timestamp("2020-01-06") + pd.to_timedelta(rng.uniform(0, 7, rows), unit="D"),
            "place": np.where(np.arange(rows) % 10 == 0, "rare", "usual"),
            "production_score": production,
            "production_decision": production >= 0.4,
            "shadow_score": shadow,
            "shadow_decision": pd.array(shadow >= 0.4, dtype="boolean"),
            "shadow_error": "",
            "outcome": (rng.random(rows) < chance).astype(float),
        }
    )


def test_join_keeps_one_row_a_request(joined):
    """A request sent twice counts once, by its first answer; what production never answered is left out."""
    assert list("abcde") == joined["request_id"].tolist()
    assert joined["production_score"].tolist() == [0.9, 0.8, 0.2, 0.1, 0.3]


def test_join_says_where_the_shadow_has_no_decision(joined):
    """An error and a missing score leave the decision missing, not False."""
    assert joined["shadow_decision"].isna().tolist() == [False, False, False, True, True]
    assert joined["shadow_error"].tolist() == ["", "", "", "ValueError: no such category", ""]


def test_join_leaves_immature_labels_missing(joined):
    """An entity without a label stays NaN."""
    assert joined["outcome"].fillna(-1).tolist() == [1, 0, 1, -1, -1]
    assert join_answers(make_log(), make_scores(), entity="thing", label="outcome")["outcome"].isna().all()


def test_answers_are_counted(joined):
    """Three scores, one error and one request never scored make a completeness of three in five."""
    assert count_answers(joined) == {
        "requests": 5,
        "scored": 3,
        "errors": 1,
        "missing": 1,
        "completeness": 0.6,
        "error_share": 0.2,
    }


def test_no_requests_are_not_complete(joined):
    """Of nothing, no share is defined, so that no gate passes."""
    assert math.isnan(count_answers(joined.head(0))["completeness"])


def test_agreement(joined):
    """One decision of three is the same; the scores are off by 0.1, 0.5 and 0.5."""
    agreement = measure_agreement(joined)

    assert (agreement["rows"], pytest.approx(agreement["same_decision"])) == (3, 1 / 3)
    assert agreement["mean_absolute_difference"] == pytest.approx(1.1 / 3)
    assert agreement["largest_difference"] == pytest.approx(0.5)
    assert agreement["rank_correlation"] == pytest.approx(0.5)


def test_agreement_of_nothing_is_undefined(joined):
    """Without a row scored by both there is no agreement."""
    assert math.isnan(measure_agreement(joined.tail(1))["rank_correlation"])
    assert math.isnan(measure_agreement(joined.tail(1))["same_decision"])


def test_swaps_name_the_money(joined):
    """B is no longer alerted (wrongly before: 3 saved), c newly (rightly: 10 gained), a stays; per 1,000 of three."""
    swaps = list_swaps(joined, value, label="outcome")

    assert {name: found["rows"] for name, found in swaps.items()} == {
        "alerted by both": 1,
        "newly alerted": 1,
        "no longer alerted": 1,
        "alerted by neither": 0,
    }
    assert swaps["newly alerted"]["value"]["estimate"] == pytest.approx(10_000 / 3)
    assert swaps["no longer alerted"]["value"]["estimate"] == pytest.approx(1_000)
    assert "value" not in swaps["alerted by both"]
    assert swaps["no longer alerted"]["label_share"]["estimate"] == 0.0
    assert swaps["newly alerted"]["share"]["estimate"] == pytest.approx(1 / 3)


def test_swaps_without_labels_have_sizes(joined):
    """Before labels are mature the sets have sizes, and no outcome and no money."""
    swaps = list_swaps(joined.assign(outcome=np.nan), value, label="outcome")

    assert sum(found["rows"] for found in swaps.values()) == 3
    assert {found["mature"] for found in swaps.values()} == {0}
    assert all(math.isnan(found["label_share"]["estimate"]) for found in swaps.values())
    assert math.isnan(swaps["newly alerted"]["value"]["estimate"])


def test_swaps_have_intervals_and_add_up():
    """Shares, outcomes and money have intervals over days; both changes together are what the shadow is worth more."""
    week = make_week(7000)
    swaps = list_swaps(week, value, label="outcome")
    newly = swaps["newly alerted"]

    members = week["shadow_decision"].astype(bool) & ~week["production_decision"]
    assert newly["label_share"]["estimate"] == pytest.approx(week.loc[members, "outcome"].mean())
    for figure in ("share", "label_share", "value"):
        assert newly[figure]["low"] < newly[figure]["estimate"] < newly[figure]["high"]
    assert newly["label_share"]["method"] == "jackknife over 7 days, t with 6 degrees of freedom"
    assert newly["value"]["method"] == "paired jackknife over 7 days, t with 6 degrees of freedom"
    assert (members.sum(), 7000) == (newly["label_share"]["rows"], newly["share"]["rows"])
    together = sum(swaps[name]["value"]["estimate"] for name in ("newly alerted", "no longer alerted"))
    whole = compare_metrics(week, label="outcome", value=value, metrics=())["value"]["difference"]
    assert together == pytest.approx(whole["estimate"])


def test_the_interval_of_an_outcome_holds_the_truth():
    """Of 200 weeks with moods of days, at least 92 % of the 95 % intervals of an outcome hold the truth."""
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        week = make_week(700, seed=seed)
        mood = rng.normal(0, 0.3, 7)[(week["event_time"] - pd.Timestamp("2020-01-06")).dt.days]
        chance = 1 / (1 + np.exp(-(mood - 0.5)))
        week = week.assign(
            production_decision=False, shadow_decision=rng.random(700) < 0.3, outcome=(rng.random(700) < chance) * 1.0
        )
        found = list_swaps(week, value, label="outcome")["newly alerted"]["label_share"]
        truth = float(np.mean(1 / (1 + np.exp(-(np.random.default_rng(1).normal(0, 0.3, 100_000) - 0.5)))))
        hits += found["low"] <= truth <= found["high"]

    assert hits >= 184


def test_alert_share_change_is_paired():
    """The change is shadow minus production, on the same days, with an interval."""
    week = make_week()
    alerts = compare_alerts(week, resamples=50)

    assert alerts["change"]["estimate"] == pytest.approx(
        week["shadow_decision"].mean() - week["production_decision"].mean()
    )
    assert alerts["change"]["method"] == "paired jackknife over 7 days, t with 6 degrees of freedom"
    assert alerts["change"]["rows"] == 1400


def test_better_shadow_is_better_in_each_metric():
    """A shadow that knows more ranks better, loses less and earns more; differences are all positive."""
    compared = compare_metrics(make_week(7000), label="outcome", value=value)

    assert {"roc_auc", "log_loss", "brier", "value"} <= set(compared)
    for name in ("roc_auc", "average_precision", "log_loss", "brier"):
        assert compared[name]["difference"]["low"] > 0
    assert compared["value"]["difference"]["estimate"] > 0
    table = tabulate(compared)
    assert table.loc["roc_auc", "difference"] == pytest.approx(
        table.loc["roc_auc", "shadow"] - table.loc["roc_auc", "production"]
    )


def test_only_mature_rows_that_both_scored_count():
    """Rows without a label or without a shadow score are in no metric."""
    week = make_week()
    week.loc[:99, "outcome"] = np.nan
    week.loc[100:149, "shadow_score"] = np.nan

    assert compare_metrics(week, label="outcome", metrics=["brier"])["brier"]["difference"]["rows"] == 1250


def test_no_mature_rows_are_undefined():
    """Without a label nothing is known, and nothing raises."""
    week = make_week().assign(outcome=np.nan)

    assert math.isnan(compare_metrics(week, label="outcome", value=value)["value"]["difference"]["low"])


def test_errors_are_counted_by_what_they_say(joined):
    """One kind of error, once, with the request to look at; a shadow without errors has an empty table."""
    table = count_errors(joined)

    assert table.to_dict("index") == {"ValueError: no such category": {"requests": 1, "such as": "d"}}
    assert count_errors(joined.head(2)).empty


def test_health_says_how_far_the_shadow_is_behind():
    """The lag is the time from production's answer to the shadow's, in seconds."""
    log = make_log().assign(served_at=pd.Timestamp("2020-01-06", tz="UTC"), latency_ms=2.0)
    scores = make_scores().assign(scored_at=pd.Timestamp("2020-01-06 00:00:03", tz="UTC"), latency_ms=0.5)
    health = describe_health(join_answers(log, scores, LABELS, entity="thing", label="outcome"))

    assert health["median"].to_dict() == {
        "production, ms an answer": 2.0,
        "shadow, ms a row": 0.5,
        "shadow behind production, s": 3.0,
    }
    assert health["rows"].tolist() == [5, 4, 4]


def test_scores_and_latencies_are_summarized():
    """Distributions have a row a model; times one a column."""
    week = make_week().assign(answer_ms=1.0)

    assert describe_scores(week).index.tolist() == ["production", "shadow"]
    assert summarize_latency(week, ["answer_ms"]).loc["answer_ms", "99%"] == 1.0
