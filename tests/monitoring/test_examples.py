"""Hard examples are few, have a reason each, and only rows with a label can be one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sundial.monitoring.examples import FALSE_ALARM, NEW, TOSS_UP, UNFORESEEN, choose_examples

NAMES = {"entity": "thing", "label": "outcome", "score": "score", "threshold": 0.4}


def make_answers(rows: int = 1000) -> pd.DataFrame:
    """Make a week of answers; every tenth label is not mature."""
    rng = np.random.default_rng(0)
    score = rng.beta(1, 3, rows)
    outcome = (rng.random(rows) < score).astype(float)
    outcome[::10] = np.nan
    place = np.where(np.arange(rows) % 50 == 1, "new", "old")
    return pd.DataFrame({"thing": np.arange(rows), "place": place, "score": score, "outcome": outcome})


def test_each_kind_has_its_quarter():
    """Of 900 labelled rows 5 % are 45: eleven of each kind, each entity once."""
    examples = choose_examples(make_answers(), new_values={"place": ["new"]}, **NAMES)

    assert examples["reason"].value_counts().to_dict() == {UNFORESEEN: 11, FALSE_ALARM: 11, NEW: 11, TOSS_UP: 11}
    assert examples["thing"].is_unique
    assert examples["weight"].eq(2.0).all()


def test_hardest_come_first():
    """What happened is led by its lowest score, what did not by its highest."""
    answers = make_answers().dropna()
    examples = choose_examples(answers, **NAMES)
    first = examples.drop_duplicates("reason").set_index("reason")["score"]

    assert answers.query("outcome == 1")["score"].min() == first[UNFORESEEN]
    assert answers.query("outcome == 0")["score"].max() == first[FALSE_ALARM]
    assert first[TOSS_UP] == pytest.approx(0.4, abs=0.01)


def test_outcomes_fit_their_reason():
    """The unforeseen happened, false alarms did not, and nothing immature is in."""
    examples = choose_examples(make_answers(), **NAMES)

    assert examples["outcome"].notna().all()
    assert examples.loc[examples["reason"] == UNFORESEEN, "outcome"].eq(1).all()
    assert examples.loc[examples["reason"] == FALSE_ALARM, "outcome"].eq(0).all()


@pytest.mark.parametrize("answers", [make_answers(0), make_answers(30), make_answers().assign(outcome=np.nan)])
def test_too_few_rows_make_no_examples(answers):
    """Of no, few or immature rows nothing is chosen, and the columns are there."""
    examples = choose_examples(answers, **NAMES)

    assert examples.empty
    assert {"weight", "reason"} <= set(examples.columns)


def test_an_entity_asked_about_twice_counts_once():
    """Two answers about one thing are one example."""
    twice = pd.concat([make_answers(), make_answers()], ignore_index=True)

    assert choose_examples(twice, **NAMES)["thing"].is_unique
