"""Gates tried on releases whose end is known."""

from __future__ import annotations

import numpy as np
import pytest

from sundial.evaluation.backtest import Case, choose_bounds, judge_case, point_gates, sweep_gate, tabulate_gates
from sundial.evaluation.gates import NO_PRODUCTION
from sundial.pipeline import Gate

DROP = Gate(gate="no worse", scrap="07_evaluate_model.difference", allowed_drop=0.02)


def estimate(low: float, point: float, high: float) -> dict[str, object]:
    """Make an estimate as notebooks record it."""
    return {"estimate": point, "low": low, "high": high, "confidence": 0.95, "rows": 100, "method": "made up"}


def case(low: float, point: float, later: tuple[float, float] | None = None, planted: str = "", **more: object) -> Case:
    """Make a release with a recorded difference, and what came of it."""
    ends = None if later is None else estimate(later[0], sum(later) / 2, later[1])
    return Case("a week", {"07_evaluate_model": {"difference": estimate(low, point, 0.1)}}, planted, later=ends, **more)


CASES = [
    case(-0.01, 0.0, (-0.01, 0.01)),
    case(-0.03, 0.0, (0.01, 0.02)),
    case(-0.05, -0.03, (-0.04, -0.01)),
    case(-0.01, 0.0, (-0.03, -0.01)),
    case(-0.09, -0.07, planted="a fault"),
    case(-0.01, 0.01, planted="a fault"),
    case(-0.01, 0.01, planted="a fault", failed_stage="05_build_evaluation_sets"),
]


def test_what_came_of_a_release_is_what_its_interval_says():
    """Below zero is worse, above is better, across it nothing was shown, and without a week after it nobody knows."""
    assert ["no difference shown", "better", "worse", "worse", "unknown"] == [item.truth for item in CASES[:5]]


def test_a_gate_is_counted_against_what_came_of_it():
    """Of two stopped real releases one was worse; of two planted that reached it, one was stopped."""
    line = tabulate_gates([DROP], CASES).iloc[0]

    assert (4, 2, 2, 1, 1) == tuple(line[["judged", "stopped", "worse", "stopped_worse", "false_stops"]])
    assert (1, 2) == (line["a fault"], line["a fault of"])


def test_all_gates_together_stop_what_any_of_them_stops():
    """The last row is of the whole set, and cannot stop less than one of them."""
    strict = Gate(gate="strict", scrap="07_evaluate_model.difference", at_least=0.5)
    table = tabulate_gates([DROP, strict], CASES)

    assert "all of them together" == table.iloc[-1]["gate"]
    assert (4, 2) == (table.iloc[-1]["stopped"], table.iloc[-1]["a fault"])


def test_what_was_skipped_or_never_ran_is_not_judged():
    """A release without a production, and one whose stage did not run, count for nothing."""
    skipped = Case("first", {"07_evaluate_model": {"difference": NO_PRODUCTION}})
    unreached = Case("broken", {})

    assert ("skipped", "not reached") == (judge_case(DROP, skipped), judge_case(DROP, unreached))
    assert 0 == tabulate_gates([DROP], [skipped, unreached]).iloc[0]["judged"]


def test_a_sweep_runs_from_stopping_nothing_to_stopping_all():
    """At the loosest bound nothing is stopped; the declared bound is among those tried, and counts as before."""
    swept = sweep_gate(DROP, CASES).sort_values("bound")

    assert (0, 0) == tuple(swept.iloc[-1][["false_stops", "caught"]])
    declared = swept[swept["declared"]].iloc[0]
    assert (0.02, 1, 1) == tuple(declared[["bound", "false_stops", "caught"]])
    assert swept["caught"].is_monotonic_decreasing


def test_plain_gates_read_the_point_and_not_its_interval():
    """The wide release that our gate stops passes the plain one, and the one whose point is low does not."""
    change = point_gates("07_evaluate_model.difference", "07_evaluate_model.difference", lowest=0.5, drop=0.01)[1]

    assert ["passed", "passed", "stopped", "passed", "stopped"] == [judge_case(change, item) for item in CASES[:5]]
    assert "stopped" == judge_case(DROP, CASES[1])


@pytest.mark.parametrize(("bound", "stopped"), [("at_most", 0), ("at_least", 4)])
def test_a_bound_is_moved_in_its_own_direction(bound, stopped):
    """At the loosest end of each direction nothing is stopped, whatever the declared bound stops."""
    gate = Gate(gate="bound", scrap="07_evaluate_model.difference", **{bound: 0.2})
    swept = sweep_gate(gate, CASES)

    assert 0 == swept["caught"].min()
    declared = swept[swept["declared"]].iloc[0]
    assert stopped == declared["false_stops"] + declared["stopped_worse"]


def test_the_harm_that_is_allowed_is_moved_too():
    """Allowing none stops the release whose worst segment is surely worse off; allowing enough stops nothing."""
    gate = Gate(gate="worse for no shop", scrap="08_evaluate_business.guardrail", allowed_harm=0.0)

    def harmed(high: float) -> Case:
        groups = {"shop books": estimate(-0.3, -0.2, high), "shop toys": estimate(-0.01, 0.0, 0.01)}
        figure = {"judged": 2, "too_small": 0, "rows": 100, "method": "made up", "groups": groups}
        return Case("a week", {"08_evaluate_business": {"guardrail": {"recall": figure}}}, "a fault")

    swept = sweep_gate(gate, [harmed(-0.1), harmed(0.005)]).sort_values("bound")

    assert (0.0, 1) == tuple(swept[swept["declared"]].iloc[0][["bound", "caught"]])
    assert 0 == swept.iloc[-1]["caught"]


def test_a_chosen_bound_is_the_tightest_that_stops_no_sound_release():
    """The worse and the planted have no say; one step tighter and a sound release is stopped."""
    (chosen,) = choose_bounds([DROP], CASES)
    tighter = chosen.model_copy(update={"allowed_drop": 0.0299})

    assert 0.03 == chosen.allowed_drop
    assert [0, 1] == [tabulate_gates([gate], CASES).iloc[0]["false_stops"] for gate in (chosen, tighter)]


def test_both_bounds_of_a_range_are_chosen_by_their_own_end_of_the_interval():
    """The low ends for at_least, the high ends for at_most, since these are what the gate judges."""
    both = Gate(gate="about as often", scrap="07_evaluate_model.difference", at_least=-1.0, at_most=1.0)
    (chosen,) = choose_bounds([both], CASES)

    assert (-0.03, 0.1) == (chosen.at_least, chosen.at_most)


def test_a_plain_gate_is_chosen_by_its_point():
    """It reads the estimate without its interval, and is still a bound on an estimate."""
    absolute, change = choose_bounds(point_gates(DROP.scrap, DROP.scrap, lowest=0.5, drop=0.01), CASES)

    assert (0.0, 0.0) == (absolute.at_least, change.at_least)


def test_bounds_on_counts_and_bounds_without_a_number_stay():
    """A count of rows has no uncertainty to leave room for, and of a stage that never ran nothing is known."""
    rows = Gate(gate="enough rows", scrap="04_build_training_set.rows", at_least=100)
    unseen = Gate(gate="never ran", scrap="10_compare_shadow.difference", allowed_drop=0.5)
    cases = [
        Case(item.name, {**item.scraps, "04_build_training_set": {"rows": 5000}}, later=item.later) for item in CASES
    ]

    assert [rows, unseen] == choose_bounds([rows, unseen], cases)


def test_an_allowed_harm_is_never_chosen_below_zero():
    """Segments that are all better off allow no harm, and a negative one is none."""
    groups = {"shop books": estimate(0.1, 0.2, 0.3), "shop toys": estimate(0.01, 0.05, 0.06)}
    figure = {"judged": 2, "too_small": 0, "rows": 100, "method": "made up", "groups": groups}
    guard = Gate(gate="worse for no shop", scrap="08_evaluate_business.guardrail", allowed_harm=0.5)
    one = Case("a week", {"08_evaluate_business": {"guardrail": {"recall": figure}}}, later=estimate(-0.01, 0.0, 0.01))

    assert 0.0 == choose_bounds([guard], [one])[0].allowed_harm


def test_chosen_on_a_half_a_bound_stops_the_next_as_often_as_said():
    """1 of 20 when chosen on 19 exchangeable releases: 2,000 simulated years, seed 0, within four standard errors."""
    random = np.random.default_rng(0)
    stopped = 0
    for _ in range(2000):
        lows = random.normal(size=20)
        year = [case(low, low, (-0.01, 0.01)) for low in lows]
        (chosen,) = choose_bounds([DROP], year[:-1])
        stopped += judge_case(chosen, year[-1]) == "stopped"

    assert abs(stopped / 2000 - 1 / 20) < 4 * (0.05 * 0.95 / 2000) ** 0.5
