"""The shadow scorer: every logged row once, whatever is killed, and errors where they belong."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pandas as pd
import pytest
from folder_source import FolderSource
from logwriter import Writer
from processes import running

from sundial.errors import PredictionLogError, ServiceError
from sundial.serving.predictions import log_position, production_folder, read_log
from sundial.serving.scorer import StoppedError, VersionScorer
from sundial.serving.shadow import lag, read_shadow_scores, score_shadow, wait_until_caught_up
from sundial.serving.shadowlog import read_totals, shadow_folder
from sundial.serving.status import read_status
from sundial.settings import Settings


def scores_of(settings: Settings, version: int = 2) -> pd.DataFrame:
    """Read a shadow's scores, and check that they are one a logged row, in order."""
    scores, logged = read_shadow_scores("demo", version, settings), read_log("demo", settings=settings)
    assert logged["key"].tolist() == scores["key"].tolist()
    assert logged["request_id"].tolist() == scores["request_id"].tolist()
    return scores


def test_every_row_is_scored_as_the_model_scores(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """The shadow's answer to a logged row is what the model gives for it alone, decision included."""
    writer.write(30)
    writer.write(300, a_batch=100)
    models.point("shadow", 2)

    assert score_shadow("demo", settings, once=True, source=models) == 330

    scores, logged = scores_of(settings), read_log("demo", settings=settings)
    version = models.alias("shadow")
    assert version is not None
    model = models.load(version)
    assert np.array_equal(model.score(logged), scores["score"])
    assert (model.decide(scores["score"]) == scores["decision"]).all()
    assert (scores["error"] == "").all()
    assert (scores["latency_ms"] > 0).all()
    assert str(scores["scored_at"].dt.tz) == "UTC"


def test_scoring_again_scores_what_is_new(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """A second run goes on where the first ended, over segments and restarts of either side."""
    models.point("shadow", 2)
    found = []
    for rows in (50, 0, 170, 1):
        if rows:
            writer.write(rows)
        found.append(score_shadow("demo", settings, once=True, source=models))
    writer.log.close()
    again = Writer(settings)
    again.rows = writer.rows
    again.write(9)
    again.log.close()
    found.append(score_shadow("demo", settings, once=True, source=models))

    assert [50, 0, 170, 1, 9] == found
    assert len(scores_of(settings)) == 230


def test_a_shadow_begins_where_it_was_deployed(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """Tag shadow_from is where a version begins; another version without it begins with the log."""
    writer.write(10)
    models.point("shadow", 2, shadow_from=log_position("demo", settings))
    writer.write(5)

    assert score_shadow("demo", settings, once=True, source=models) == 5
    assert [str(number) for number in range(10, 15)] == read_shadow_scores("demo", 2, settings)["request_id"].tolist()
    models.point("shadow", 1)
    assert score_shadow("demo", settings, once=True, source=models) == 15


def test_only_bad_rows_have_errors(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """Rows that make a candidate raise are stored with its error; the others of their batch have scores."""
    carriers = np.array(["AA", "B6"] * 100, object)
    carriers[[3, 77, 78, 199]] = "??"
    writer.write(200, a_batch=200, carrier=carriers)
    models.point("shadow", 3)

    score_shadow("demo", settings, once=True, source=models)

    scores = scores_of(settings, 3)
    bad = scores[scores["error"] != ""]
    assert [3, 77, 78, 199] == bad.index.tolist()
    assert bad["error"].str.contains("unknown categories").all()
    assert bad["score"].isna().all()
    assert scores["score"].notna().sum() == 196


def test_a_column_that_was_not_logged_is_an_error_a_row(
    models: FolderSource, settings: Settings, writer: Writer
) -> None:
    """A candidate that needs what was never sent says so for each row, and is not stuck."""
    writer.write(12)
    models.point("shadow", 4)

    assert score_shadow("demo", settings, once=True, source=models) == 12

    assert {"the log holds no column 'wind'"} == set(scores_of(settings, 4)["error"])


def test_lost_rows_are_counted(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """Rows of the log that cannot be read are counted, and the others are scored."""
    writer.write(20)
    path = next(iter(sorted(production_folder("demo", settings).glob("*.seg"))))
    data = bytearray(path.read_bytes())
    data[data.index(b"\xa17") + 1] ^= 0x01  # in the row with id 7
    path.write_bytes(data)
    models.point("shadow", 2)

    assert score_shadow("demo", settings, once=True, source=models) == 19

    assert 19 == len(read_shadow_scores("demo", 2, settings))
    totals = read_totals(shadow_folder("demo", 2, settings))
    assert totals is not None
    assert (19, 0, 1) == (totals.rows, totals.errors, totals.lost_rows)


def test_lag_counts_what_is_left(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """Lag is the rows that are logged and not scored, and the age of the oldest."""
    assert (0, 0.0, False) == lag("demo", 2, settings)
    writer.write(7)
    time.sleep(0.05)

    before = lag("demo", 2, settings)
    models.point("shadow", 2)
    score_shadow("demo", settings, once=True, source=models)
    writer.write(3)

    assert (7, False) == (before.rows, before.started)
    assert before.seconds > 0.04
    after = lag("demo", 2, settings)
    assert (3, True) == (after.rows, after.started)


def test_waiting_says_why_it_is_in_vain(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """Waiting for a scorer that does not run ends with how much is left and how to start one."""
    writer.write(4)

    with pytest.raises(ServiceError, match="4 logged rows to score.*no shadow scorer is running"):
        wait_until_caught_up("demo", 2, timeout=0.1, settings=settings)


def test_without_a_shadow_there_is_nothing_to_do(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """With no version in shadow nothing is scored, and the status says so."""
    writer.write(4)

    assert score_shadow("demo", settings, once=True, source=models) == 0
    assert not shadow_folder("demo", 1, settings).exists()
    assert read_status("demo", settings)["state"] == "stopped"


def test_two_scorers_never_write_one_log(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """A second scorer is refused while the first one runs."""
    writer.write(4)
    models.point("shadow", 2)
    first = VersionScorer("demo", models.shadows()["shadow"], models, settings)

    with pytest.raises(PredictionLogError, match="already being written"):
        score_shadow("demo", settings, once=True, source=models)

    assert first.step() == 4
    first.close()


def test_a_stop_in_the_middle_of_a_batch_scores_it_again(
    models: FolderSource, settings: Settings, writer: Writer
) -> None:
    """A batch that a stop interrupts leaves no half of itself."""
    writer.write(40, a_batch=40)
    models.point("shadow", 2)
    stop = threading.Event()
    scorer = VersionScorer("demo", models.shadows()["shadow"], models, settings, stop=stop)
    stop.set()
    with pytest.raises(StoppedError):
        scorer.step()
    scorer.close()

    assert score_shadow("demo", settings, once=True, source=models) == 40
    assert len(scores_of(settings)) == 40


@pytest.mark.slow
def test_kills_score_every_row_exactly_once(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """A scorer that is killed again and again while rows come in scores each of them exactly once."""
    models.point("shadow", 2)
    for _ in range(2):
        with running("scorer", settings.artifacts, models.root) as process:
            done = len(read_shadow_scores("demo", 2, settings))
            deadline = time.monotonic() + 120
            while len(read_shadow_scores("demo", 2, settings)) < done + 50:
                assert time.monotonic() < deadline
                writer.write(20)
                time.sleep(0.01)
            process.kill()
    writer.write(100)

    with running("scorer", settings.artifacts, models.root) as process:
        wait_until_caught_up("demo", 2, timeout=120, settings=settings)
        deadline = time.monotonic() + 120
        while (status := read_status("demo", settings))["rows"] < writer.rows:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.stop() == 0

    scores = scores_of(settings)
    assert len(scores) == writer.rows
    assert scores["key"].is_unique
    assert (status["running"], status["errors"], status["version"]) == (True, 0, 2)
    assert read_status("demo", settings)["running"] is False


def test_the_status_file_is_json(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """What the scorer says of itself can be read by anybody."""
    writer.write(4)
    models.point("shadow", 2)
    score_shadow("demo", settings, once=True, source=models)

    status = json.loads((settings.predictions / "demo" / "shadow" / "status.json").read_text())

    assert {"state", "version", "rows", "errors", "lost_rows", "position", "latency_ms", "error", "pid"} <= set(status)
