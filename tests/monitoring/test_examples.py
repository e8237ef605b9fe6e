"""Hard examples are few, have a reason each, and only rows with a label can be one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sundial.monitoring.examples import (
    EASY,
    FALSE_ALARM,
    KINDS,
    TOSS_UP,
    UNFORESEEN,
    choose_examples,
    measure_help,
)

NAMES = {"entity": "thing", "label": "outcome", "score": "score", "threshold": 0.4}


def make_answers(rows: int = 1000) -> pd.DataFrame:
    """Make a week of answers; every tenth label is not mature."""
    rng = np.random.default_rng(0)
    score = rng.beta(1, 3, rows)
    outcome = (rng.random(rows) < score).astype(float)
    outcome[::10] = np.nan
    place = np.where(np.arange(rows) % 50 == 1, "new", "old")
    return pd.DataFrame({"thing": np.arange(rows), "place": place, "score": score, "outcome": outcome})


def test_each_kind_has_its_fifth():
    """Of 900 labelled rows 5 % are 45: nine of each kind, each entity once, hard ones heavier and easy ones lighter."""
    examples = choose_examples(make_answers(), new_values={"place": ["new"]}, **NAMES)

    assert dict.fromkeys(KINDS, 9) == examples["reason"].value_counts().to_dict()
    assert examples["thing"].is_unique
    assert examples["weight"].eq(np.where(examples["reason"] == EASY, 0.5, 2.0)).all()


def test_easy_ones_are_sure_and_right():
    """From the highest scores that happened and the lowest that did not, in turn."""
    easy = choose_examples(make_answers(), **NAMES).query("reason == @EASY")

    assert {0.0, 1.0} == set(easy["outcome"])
    assert easy.query("outcome == 1")["score"].min() > 0.6
    assert easy.query("outcome == 0")["score"].max() < 0.05
    assert 1 >= abs(easy["outcome"].eq(1).sum() - easy["outcome"].eq(0).sum())


def test_help_is_measured_with_its_interval():
    """Scores that know more are better with an interval clear of zero; the same scores make no difference at all."""
    rng = np.random.default_rng(1)
    label, days = rng.integers(0, 2, 700), np.repeat(np.arange(14), 50)
    plain = np.clip(0.5 + 0.1 * (label - 0.5) + rng.normal(0, 0.2, 700), 0.01, 0.99)
    better = np.clip(plain + 0.2 * (label - 0.5), 0.01, 0.99)

    helped = measure_help(label, better, plain, clusters=days)
    assert {"roc_auc", "log_loss"} == set(helped)
    assert all(estimate["low"] > 0 for estimate in helped.values())
    assert all(0 == estimate["estimate"] for estimate in measure_help(label, plain, plain, clusters=days).values())


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


def test_a_feature_called_weight_is_not_overwritten():
    """The weight of an example goes under another name where the model has a feature of that name."""
    examples = choose_examples(make_answers().assign(weight=7.5), **NAMES)

    assert examples["weight"].eq(7.5).all()
    assert {0.5, 2.0} == set(examples["example_weight"])
