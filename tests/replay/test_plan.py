"""What waits for what: a year of made-up steps, done in every order that the plan allows."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sundial.pipeline import load_pipeline
from sundial.replay.plan import CHAIN, Step, find_promotion, find_ready, group_stages, list_steps
from sundial.replay.replays import Replay, find_weeks
from sundial.settings import load_settings


@pytest.fixture
def year() -> Replay:
    """Give ten weeks of the pipeline that ships, bad releases planted in two; nothing of it is on the disk."""
    weeks = find_weeks("2013-03-11", "2013-05-13")
    return Replay(Path("nowhere"), load_pipeline("flights"), weeks, "passing", 2, load_settings())


def record(step: Step, first: int = 0) -> dict[str, object]:
    """Make up what a step came to: the release of week `first` is the first, and all after it are promoted."""
    return {
        "first": step.kind == "judgement" and step.week == first,
        "promoted": "later" if step.kind == "decision" and step.week >= first else "",
    }


def test_the_stages_that_ship_are_divided_by_what_they_read():
    """Query, filter and features read nothing of other weeks; training reads reviews; evaluation reads production."""
    groups = group_stages(load_pipeline("flights"))

    assert ("01_query_data", "02_filter_data", "03_generate_features") == groups["data"]
    assert ("04_build_training_set", "05_build_evaluation_sets", "06_train_model") == groups["training"]
    assert ("07_evaluate_model", "08_evaluate_business") == groups["judgement"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("first", [0, 2])
def test_every_order_that_the_plan_allows_is_right(year, seed, first):
    """Whatever is done first among what may be done, nothing is done before what it reads, and all gets done."""
    rng, records, order = np.random.default_rng(seed), {}, []
    while ready := find_ready(year, records, []):
        step = ready[int(rng.integers(len(ready)))]
        order.append(step)
        records[step] = record(step, first)

    assert sorted(list_steps(year)) == sorted(order)
    place = {step: number for number, step in enumerate(order)}
    for week in range(1, len(year.weeks)):
        assert place[week - 1, "decision"] < place[week, "judgement"]
    for week in range(len(year.weeks)):
        chain = [place[week, kind] for kind in ("data", "training", *CHAIN)]
        assert sorted(chain) == chain
        for earlier in range(week):
            promoted = year.weeks[earlier] + (0 if earlier == first else 1) * timedelta(days=7)
            if promoted + timedelta(days=9) <= year.weeks[week] and earlier >= first:
                assert place[earlier, "review"] < place[week, "training"]
        if week > first and week + 1 < len(year.weeks):
            assert place[week + 1, "traffic"] < place[week, "review"]


def test_a_training_waits_for_no_review_of_a_later_date(year):
    """The review of the release before the last comes two days after Monday, and that Monday's training goes ahead."""
    done = [Step(week, kind) for week in range(5) for kind in ("data", "training", *CHAIN)]
    records = {step: record(step) for step in [*done, Step(5, "data"), *(Step(week, "review") for week in range(3))]}

    assert Step(5, "training") in find_ready(year, records, [])
    del records[2, "review"]
    assert Step(5, "training") not in find_ready(year, records, [])


def test_the_chain_comes_first(year):
    """With everything else also ready, the step that production waits for is handed out before it."""
    records = {step: record(step) for step in (Step(0, "data"), Step(0, "training"), Step(1, "data"))}

    assert Step(0, "judgement") == find_ready(year, records, [])[0]
    assert Step(0, "judgement") not in find_ready(year, records, [Step(0, "judgement")])


def test_which_release_is_the_first_is_known_once_it_was_judged(year):
    """Before that no date of a promotion is known; the first is promoted on its own Monday, others after the soak."""
    assert find_promotion(year, 0, {}) is None
    records = {(0, "judgement"): {"first": True}}
    assert pd.Timestamp("2013-03-11") == find_promotion(year, 0, records)
    assert pd.Timestamp("2013-04-01") == find_promotion(year, 2, records)
