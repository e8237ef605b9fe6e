"""Stage 08: where the line is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sundial.evaluation.policy import share_threshold
from sundial.execution.runner import run_stage
from sundial.formats import hash_file, read_json, write_value
from sundial.runs import Run, create_run

pytestmark = pytest.mark.slow
ROWS = 600


@pytest.fixture
def evaluated(artifacts: Path) -> Run:
    """Make a release whose candidate scores everything higher than production does."""
    random = np.random.default_rng(0)
    flights = pd.DataFrame(
        {
            "flight_id": [f"flight-{index}" for index in range(ROWS)],
            "scheduled_departure": pd.Timestamp("2013-09-01") + pd.to_timedelta(np.arange(ROWS), unit="h"),
            "carrier": random.choice(["AA", "UA"], ROWS),
            "origin": random.choice(["JFK", "LGA"], ROWS),
            "dest": random.choice(["BOS", "ORD", "SFO"], ROWS),
        }
    )
    production = random.random(ROWS)
    scores = flights[["flight_id"]].assign(
        late=(random.random(ROWS) < production).astype("int64"), production=production, candidate=production**0.5
    )
    members = pd.concat([flights[["flight_id"]].assign(set=name) for name in ("rolling_month", "last_week")])
    run = create_run("flights", "2013-10-07")
    for stage, outputs in {
        "05_build_evaluation_sets": {"evaluation_set": flights, "evaluation_members": members},
        "07_evaluate_model": {"scores": scores},
    }.items():
        for name, value in outputs.items():
            path = write_value(run.stage_folder(stage) / "outputs", name, value)
            entry = {"path": str(path.relative_to(run.folder)), "sha256": hash_file(path)}
            run.update_stage(stage, status="succeeded", as_of=run.as_of.isoformat(), outputs={name: entry})
    run.update_stage("07_evaluate_model", scraps={"production": {"version": 1, "threshold": 0.7}})
    return run


def test_the_share_of_alerts_is_kept_where_a_person_asks_for_it(evaluated: Run):
    """With keep_alert_share the policy's threshold alerts as often as production, and says what it rests on."""
    run_stage(evaluated, "08_evaluate_business", parameters={"keep_alert_share": True})
    policy = read_json(evaluated.verify_output("08_evaluate_business", "policy"))
    scores = pd.read_parquet(evaluated.verify_output("07_evaluate_model", "scores"))

    share = (scores["production"] >= 0.7).mean()
    assert share_threshold(scores["candidate"], share) == policy["threshold"]
    assert share == (scores["candidate"] >= policy["threshold"]).mean() == policy["alert_share"]
    assert f"production's share of alerts, {100 * share:.1f} % of 600 rows" == policy["basis"]
    assert policy["basis"] == evaluated.scraps()["08_evaluate_business"]["basis"]
