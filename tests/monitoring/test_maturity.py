"""Only mature rows count, and the ledger shows what immature ones would have said."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd

from sundial.evaluation.gates import judge_gate
from sundial.monitoring.maturity import compare_with_hasty, cutoff, ledger, mature, stamp
from sundial.pipeline import Gate

TWO_DAYS = timedelta(days=2)


def make_week(rows: int = 700) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make events of a week whose bad outcomes (one in five) are known later than the good ones."""
    rng = np.random.default_rng(0)
    event_time = pd.Timestamp("2020-01-06") + pd.to_timedelta(np.sort(rng.uniform(0, 7, rows)), unit="D")
    bad = np.arange(rows) % 5 == 0
    known = event_time + pd.to_timedelta(np.where(bad, 1.8, 0.2), unit="D")
    events = pd.DataFrame({"thing": np.arange(rows), "event_time": event_time})
    return events, pd.DataFrame({"thing": np.arange(rows), "outcome": bad, "label_known_at": known})


def make_ledger(events: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Make the ledger of a week."""
    return ledger(events, labels, TWO_DAYS, entity="thing", label="outcome")


def test_mature_is_strictly_before_the_cutoff():
    """An event exactly two days old is not mature yet; one a second older is."""
    frame = pd.DataFrame(
        {"event_time": pd.to_datetime(["2020-01-11 23:59:59", "2020-01-12 00:00:00", "2020-01-13 00:00:00"])}
    )

    assert pd.Timestamp("2020-01-12") == cutoff("2020-01-14", TWO_DAYS)
    assert mature(frame, "2020-01-14", TWO_DAYS).index.tolist() == [0]


def test_naive_figure_is_too_kind():
    """While bad news is late, the share among known labels is below the true fifth; among mature ones it is not."""
    table = make_ledger(*make_week()).set_index("as_of")
    early = table.loc["2020-01-09"]

    assert early["label_share_known"] < 0.15
    assert early["label_share_guessed"] < early["label_share_known"]
    assert abs(early["label_share_mature"] - 0.2) < 0.01


def test_ledger_ends_when_all_is_mature():
    """On its last day all events are mature, all labels known, and the three shares are one."""
    last = make_ledger(*make_week()).iloc[-1]

    assert (last["events"], last["known"], last["mature"]) == (700, 700, 700)
    assert last["label_share_known"] == last["label_share_guessed"] == last["label_share_mature"] == 0.2


def test_later_labels_do_not_change_earlier_days():
    """What becomes known later, or never, leaves the lines of earlier days as they were."""
    events, labels = make_week()
    later = labels["label_known_at"] > pd.Timestamp("2020-01-10")

    expected = make_ledger(events, labels).query("as_of <= '2020-01-10'")
    shortened = make_ledger(events, labels[~later]).query("as_of <= '2020-01-10'")

    pd.testing.assert_frame_equal(expected, shortened)


def test_no_events_make_an_empty_ledger():
    """A week without events has no lines, and its columns."""
    events, labels = make_week()
    table = make_ledger(events.head(0), labels)

    assert table.empty
    assert "known_share" in table.columns


def test_every_estimate_says_up_to_when_labels_counted():
    """A stamp reaches estimates at any depth, changes nothing else, and gates read them as before."""
    recall = {"estimate": 0.5, "low": 0.4, "high": 0.6, "rows": 10}
    figures = {"last_week": {"recall": recall}, "list": [recall], "rows": 10, "note": "as is"}
    stamped = stamp(figures, pd.Timestamp("2020-01-12"))

    assert stamped["last_week"]["recall"] == {**recall, "labels_until": "2020-01-12T00:00:00"}
    assert stamped["list"][0]["labels_until"] == "2020-01-12T00:00:00"
    assert (stamped["rows"], stamped["note"]) == (10, "as is")
    assert "labels_until" not in recall
    gate = Gate(gate="recall", scrap="a.last_week.recall", at_least=0.4)
    assert judge_gate(gate, {"a": stamped}).passed


def test_hasty_figures_stand_beside_the_mature_ones():
    """For each model and their difference there is what one would have said, and on how many rows."""

    def figures(shift: float, rows: int) -> dict:
        models = {"production": 0.7, "shadow": 0.72, "difference": 0.02}
        return {"recall": {who: {"estimate": one + shift, "rows": rows} for who, one in models.items()}}

    table = compare_with_hasty(figures(0.1, 80), figures(0.0, 60))

    assert table.loc["recall", ("production", "hasty")] == 0.7 + 0.1
    assert table.loc["recall", ("difference", "mature")] == 0.02
    assert table.loc["recall", "rows"].tolist() == [80, 60]
