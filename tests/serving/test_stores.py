"""What every store of the prediction log promises: files under artifacts, and a real PostgreSQL, by the same tests."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from datetime import date, timedelta

import httpx
import numpy as np
import pandas as pd
import pytest
from database import Database, running_database
from folder_source import FolderSource, sample_rows
from logwriter import FEATURES, SCHEMA
from processes import running
from pydantic import SecretStr

from sundial.errors import PredictionLogError
from sundial.serving.predictions import log_position, read_log
from sundial.serving.records import Batch
from sundial.serving.replaying import replay_shadow
from sundial.serving.shadow import lag, read_shadow_scores, score_shadow, wait_until_caught_up
from sundial.serving.stores import open_log, read_recent
from sundial.settings import Settings

ROW = {"distance": 900.0, "minute": 600, "weekend": False, "carrier": "AA"}
_names = itertools.count()


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    """Run PostgreSQL for the tests of this module."""
    with running_database() as found:
        yield found


@pytest.fixture(params=["files", "postgres"])
def stored(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Give settings of an empty log, in files or on PostgreSQL."""
    if request.param == "files":
        return settings
    database: Database = request.getfixturevalue("database")
    return settings.model_copy(update={"predictions_url": SecretStr(database.make(f"log{next(_names)}"))})


def environment(settings: Settings) -> dict[str, str]:
    """Give what a process needs to use the same log."""
    url = settings.predictions_url
    return {} if url is None else {"SUNDIAL_PREDICTIONS_URL": url.get_secret_value()}


def make_batch(start: int, rows: int) -> Batch:
    """Make a batch of rows that are all different, with every kind of entity and missing values."""
    frame = sample_rows(rows, seed=start)
    return Batch(
        7,
        0.4,
        time.time_ns(),
        [str(start + number) for number in range(rows)],
        [[5, "b", None][number % 3] for number in range(rows)],
        [None if number % 4 == 0 else (start + number) * 3_600_000_000 + 1 for number in range(rows)],
        [frame[name].astype(object).tolist() for name in FEATURES],
        [0.1 + number / 1e9 for number in range(rows)],
        [number % 2 == 0 for number in range(rows)],
        [1 / 3] * rows,
    )


def write(settings: Settings, start: int, rows: int, a_batch: int = 7) -> None:
    """Write rows as a server would, and commit them."""
    log = open_log("demo", settings)
    try:
        for first in range(start, start + rows, a_batch):
            log.append(make_batch(first, min(a_batch, start + rows - first)), SCHEMA)
        log.sync()
    finally:
        log.close()


@pytest.mark.slow
def test_what_is_written_is_read(stored: Settings) -> None:
    """Every column of every row comes back as it was, bit for bit, in the order in which it was served."""
    batch = make_batch(0, 50)
    log = open_log("demo", stored)
    assert log.find("3") is None
    log.append(batch, SCHEMA)
    log.sync()
    log.close()

    table = read_log("demo", settings=stored)

    assert batch.request_ids == table["request_id"].tolist()
    assert batch.entities == [None if pd.isna(value) else value for value in table["entity"]]
    for name, values in zip(FEATURES, batch.features, strict=True):
        assert np.array_equal(np.array(values), table[name].to_numpy(), equal_nan=name == "distance")
    assert batch.scores == table["score"].tolist()
    assert batch.decisions == table["decision"].tolist()
    assert {batch.served_at} == {moment.value for moment in table["served_at"]}
    assert [value is None for value in batch.event_times] == table["event_time"].isna().tolist()
    assert pd.Timestamp("1970-01-01T01:00:00.000001") == table["event_time"][1]
    assert (7, 0.4, 1 / 3) == tuple(table.loc[0, ["model_version", "threshold", "latency_ms"]])
    assert table["key"].is_unique
    assert ["45", "46", "47", "48", "49"] == read_recent("demo", 5, stored)["request_id"].tolist()
    inside = read_log("demo", "1970-01-01T02:00:00", "1970-01-01T11:00:00", settings=stored)
    assert ["2", "3", "5", "6", "7", "9", "10"] == inside["request_id"].tolist()


@pytest.mark.slow
def test_a_repeated_id_is_one_row(stored: Settings) -> None:
    """Of an id that is there twice the first row is read, and a new process remembers its answer."""
    write(stored, 0, 20)
    write(stored, 10, 20)

    log = open_log("demo", stored)
    answer = log.find("12")
    log.close()

    table = read_log("demo", settings=stored).set_index("request_id")
    assert 30 == len(table)
    assert answer is not None
    assert (table.loc["12", "score"], 7) == (answer.score, answer.version)


@pytest.mark.slow
def test_a_repeat_finds_the_answer_of_another_process(stored: Settings) -> None:
    """What one process answered, another knows when it is asked the same, and a name that nobody gave it does not."""
    first, second = open_log("demo", stored), open_log("demo", stored)
    first.append(make_batch(0, 4), SCHEMA)
    first.sync()
    assert second.find("3") is None

    second.catch_up([["3", "nobody's"], ["2"]])

    assert (first.find("3"), first.find("2")) == (second.find("3"), second.find("2"))
    assert first.find("3") is not None
    assert second.find("nobody's") is None
    first.close()
    second.close()


@pytest.mark.slow
def test_the_scorer_scores_every_row_once(models: FolderSource, stored: Settings) -> None:
    """Over processes and restarts a shadow has each row once, its lag counts the rest, and the past can be replayed."""
    write(stored, 0, 40)
    models.point("shadow", 2, shadow_from=log_position("demo", stored))
    write(stored, 40, 33)
    assert (33, False) == (
        lag("demo", 2, stored).rows - 40,
        lag("demo", 2, stored).started,
    )
    assert 33 == score_shadow("demo", stored, once=True, source=models)
    write(stored, 73, 5)
    assert 5 == lag("demo", 2, stored).rows
    assert 5 == score_shadow("demo", stored, once=True, source=models)
    assert 40 == replay_shadow("demo", timedelta(days=1), stored, source=models).rows
    days = replay_shadow("demo", date(1970, 1, 2), stored, version=1, source=models)

    scores, logged = read_shadow_scores("demo", 2, stored), read_log("demo", settings=stored)
    assert logged["key"].tolist() == scores["key"].tolist()
    assert np.array_equal(models.load(models.version(2)).score(logged), scores["score"])
    assert [True] * 40 + [False] * 38 == scores["replayed"].tolist()
    moment = logged["event_time"].fillna(pd.Timestamp("2100-01-01"))
    assert int((moment >= pd.Timestamp("1970-01-02")).sum()) == days.rows


@pytest.mark.slow
def test_a_killed_server_loses_no_answer(models: FolderSource, settings: Settings, database: Database) -> None:
    """After kill -9 every answer that a caller got is in PostgreSQL, and a new server gives it again."""
    stored = settings.model_copy(update={"predictions_url": SecretStr(database.make("killed"))})
    answers: dict[str, float] = {}
    models.point("shadow", 2)
    for attempt in range(2):
        with running("server", stored.artifacts, models.root, **environment(stored)) as process:
            process.wait_ready()
            with httpx.Client(base_url=process.url, trust_env=False, timeout=60) as client:
                for number in range(40):
                    body = {"dataframe_records": [{**ROW, "minute": number}], "request_ids": [f"{attempt}-{number}"]}
                    answers[f"{attempt}-{number}"] = client.post("/invocations", json=body).json()["predictions"][0]
                again = client.post("/invocations", json={"dataframe_records": [ROW], "request_ids": ["0-7"]}).json()
            process.kill()
        assert answers["0-7"] == again["predictions"][0]
    with running("scorer", stored.artifacts, models.root, **environment(stored)):
        wait_until_caught_up("demo", 2, timeout=120, settings=stored)

    logged = read_log("demo", settings=stored).set_index("request_id")["score"]
    assert answers == logged.to_dict()
    assert set(answers) == set(read_shadow_scores("demo", 2, stored)["request_id"])


@pytest.mark.slow
def test_postgres_that_is_down_refuses_and_recovers(
    models: FolderSource, settings: Settings, database: Database
) -> None:
    """While PostgreSQL is away requests get 503; once it is back the same server answers, and loses no answer."""
    stored = settings.model_copy(update={"predictions_url": SecretStr(database.make("down"))})
    with running("server", stored.artifacts, models.root, **environment(stored)) as process:
        process.wait_ready()

        def ask(request_id: str) -> int:
            body = {"dataframe_records": [ROW], "request_ids": [request_id]}
            return httpx.post(f"{process.url}/invocations", json=body, trust_env=False, timeout=60).status_code

        assert 200 == ask("before")
        database.stop()
        try:
            assert [503, 503] == [ask("during-0"), ask("during-1")]
            with pytest.raises(PredictionLogError, match="PostgreSQL"):
                read_log("demo", settings=stored)
        finally:
            database.start()
        deadline = time.monotonic() + 60
        while ask("after") != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    found = read_log("demo", settings=stored)["request_id"].tolist()
    assert {"before", "after"} <= set(found)
    assert found[0] == "before"


def test_the_password_is_not_told(settings: Settings) -> None:
    """Neither settings nor errors show what is secret."""
    url = "postgresql://sundial:hunter2@127.0.0.1:1/none"
    told = settings.model_copy(update={"predictions_url": SecretStr(url)})

    with pytest.raises(PredictionLogError) as refused:
        open_log("demo", told)

    assert "hunter2" not in f"{told!r} {refused.value} {told.model_dump_json()}"
