"""What the page of the gates says of bounds that are chosen on one half of the year and tried on the other."""

from __future__ import annotations

from typing import Any

import pandas as pd

from sundial.evaluation.backtest import Case, point_gates
from sundial.pipeline import Gate
from sundial.replay.gates_page import describe_choice, sweep_gates
from sundial.replay.plantings import PLANTINGS

FIRST = pd.Timestamp("2013-01-04")
FAULT = next(iter(PLANTINGS))
DECLARED = [
    Gate(gate="no worse", scrap="07_evaluate_model.difference", allowed_drop=0.02),
    Gate(gate="enough rows", scrap="04_build_training_set.rows", at_least=100),
]
PLAIN = point_gates("07_evaluate_model.difference", "07_evaluate_model.difference", lowest=0.5, drop=0.01)


def release(week: int, low: float, planted: str = "") -> Case:
    """Make a release that turned out neither better nor worse, or a planted one."""
    difference = {"estimate": low + 0.03, "low": low, "high": low + 0.06, "rows": 100}
    scraps: dict[str, Any] = {"07_evaluate_model": {"difference": difference}, "04_build_training_set": {"rows": 500}}
    later = None if planted else {"estimate": 0.0, "low": -0.01, "high": 0.01}
    return Case(f"{FIRST + pd.Timedelta(weeks=week):%Y-%m-%d}", scraps, planted, later=later)


def test_bounds_are_chosen_on_the_first_half_and_tried_on_the_second():
    """The widest of the first half gives the bound; later one release is wider, and one of the planted is stopped."""
    lows = (-0.01, -0.05, -0.03, -0.04, -0.01, -0.06, -0.02, -0.04)
    cases = [release(week, low) for week, low in enumerate(lows)]
    cases += [release(1, -0.5, FAULT), release(5, -0.5, FAULT), release(6, -0.03, FAULT)]

    (bounds, together), lines = describe_choice({"declared": DECLARED, "plain": PLAIN}, cases)

    assert ["no worse", "allowed_drop", 0.02, 0.05, "1 of 4", "1 of 2"] == bounds["table"]["rows"][0]
    assert ["declared gates, bounds as declared", "3 of 4", "1 of 1", "2 of 4", "2 of 2"] == together["table"]["rows"][
        0
    ]
    assert ["declared gates, bounds as chosen", "0 of 4", "1 of 1", "1 of 4", "1 of 2"] == together["table"]["rows"][1]
    assert "before 2013-02-01" in bounds["prose"][0]
    assert "1 in 5" in bounds["prose"][0]
    assert "enough rows" not in set(lines["gate"])


def test_a_year_of_few_weeks_chooses_nothing():
    """On three weeks a bound would mean nothing; the page goes without."""
    sections, lines = describe_choice({"declared": DECLARED, "plain": []}, [release(week, 0.0) for week in range(7)])

    assert [] == sections
    assert lines.empty


def test_each_bound_of_each_gate_has_a_curve_of_its_own():
    """A range has two, and two gates of one name are told apart by where they stand."""
    both = Gate(gate="about as often", scrap="07_evaluate_model.difference", at_least=-1.0, at_most=1.0)
    cases = [release(week, -0.01 * week) for week in range(4)]

    swept = sweep_gates({"release": DECLARED[:1], "comparison": [*DECLARED[:1], both]}, cases)

    assert [
        "no worse (release)",
        "no worse (comparison)",
        "about as often (at_least)",
        "about as often (at_most)",
    ] == list(swept)
    assert all(1 == table["moved"].nunique() for table in swept.values())
